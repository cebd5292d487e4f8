"""Who may send through a configuration: every way in which an endpoint can be wrong."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable

import pytest

from egress_gateway.api import keys
from egress_gateway.api.types import ObjectMeta, PodEndpoint, PodEndpointSpec
from egress_gateway.gateway.peers.book import PeerBook
from egress_gateway.gateway.peers.rules import (
    AcceptedClaim,
    RefusedClaim,
    difference,
    judge,
    resolve,
)
from egress_gateway.kube.resources import Key, Pod, PodIP, PodSpec, PodStatus

KEY = keys.generate().public
OTHER_KEY = keys.generate().public


def endpoint(name: str = "a", **spec: object) -> PodEndpoint:
    values = {
        "static_gateway_configuration": "one",
        "pod_ips": ["10.244.1.2"],
        "pod_public_key": KEY,
        "pod_uid": f"uid-{name}",
        "node_name": "w1",
    } | spec
    return PodEndpoint(
        metadata=ObjectMeta(name=name, namespace="ns"),
        spec=PodEndpointSpec(**values),  # type: ignore[arg-type]
    )


def pod(
    name: str = "a",
    *,
    ips: Iterable[str] = ("10.244.1.2",),
    node: str = "w1",
    phase: str = "Running",
    deleted: str | None = None,
    created: str = "2026-01-01T00:00:00Z",
    host_network: bool = False,
) -> Pod:
    return Pod(
        metadata=ObjectMeta(
            name=name,
            namespace="ns",
            uid=f"uid-{name}",
            deletion_timestamp=deleted,
            creation_timestamp=created,
        ),
        spec=PodSpec(node_name=node, host_network=host_network),
        status=PodStatus(phase=phase, pod_ips=[PodIP(ip=ip) for ip in ips]),
    )


def having(*pods: Pod) -> Callable[[str], list[Pod]]:
    return lambda address: [p for p in pods if address in p.ips]


def test_an_endpoint_of_a_live_pod_counts() -> None:
    verdict = judge(endpoint(), pod(), having())
    assert isinstance(verdict, AcceptedClaim)
    assert verdict.networks == (ipaddress.ip_network("10.244.1.2/32"),)


def test_an_older_writers_single_address_counts() -> None:
    verdict = judge(endpoint(pod_ips=[], pod_ip_address="10.244.1.2"), pod(), having())
    assert isinstance(verdict, AcceptedClaim)


def test_before_the_kubelet_has_written_addresses_an_unclaimed_one_counts() -> None:
    assert isinstance(judge(endpoint(), pod(ips=()), having()), AcceptedClaim)


@pytest.mark.parametrize(
    ("claim", "known", "others", "why"),
    [
        (endpoint(), None, [], "no such pod"),
        (endpoint(pod_uid="uid-old"), pod(), [], "another UID"),
        (endpoint(node_name="w2"), pod(), [], "runs on"),
        (endpoint(node_name=""), pod(node=""), [], "runs on"),
        (endpoint(), pod(phase="Succeeded"), [], "finished"),
        (endpoint(pod_public_key="nonsense"), pod(), [], "no WireGuard key"),
        (endpoint(pod_ips=["10.244.1.9"]), pod(), [], "not"),
        (endpoint(pod_ips=["10.244.1.2", "10.244.1.9"]), pod(), [], "10.244.1.9"),
        (endpoint(pod_ips=["10.244.0.0/16"]), pod(ips=()), [], "no address"),
        (endpoint(pod_ips=["x"]), pod(), [], "podIps"),
        (endpoint(pod_ips=[]), pod(), [], "no address"),
        (endpoint(), pod(ips=()), [pod("b")], "pod ns/b's"),
        (endpoint(), pod(ips=()), [pod("b", node="w2", deleted="x")], "pod ns/b's"),
    ],
)
def test_what_does_not_count_says_why(
    claim: PodEndpoint, known: Pod | None, others: list[Pod], why: str
) -> None:
    verdict = judge(claim, known, having(*others))
    assert isinstance(verdict, RefusedClaim)
    assert why in verdict.why


@pytest.mark.parametrize(
    "other",
    [pod("b", phase="Failed"), pod("b", deleted="x"), pod("b", host_network=True)],
    ids=["finished", "terminating on the same node", "on the host's network"],
)
def test_those_who_own_no_address_block_nobody(other: Pod) -> None:
    assert isinstance(judge(endpoint(), pod(ips=()), having(other)), AcceptedClaim)


def test_an_address_belongs_to_one_peer_the_youngest_that_stays() -> None:
    net = (ipaddress.ip_network("10.244.1.2/32"),)
    old = AcceptedClaim(KEY, net, (True, "2026-01-01T00:00:00Z", "1"))
    new = AcceptedClaim(OTHER_KEY, net, (True, "2026-01-02T00:00:00Z", "2"))
    leaving = AcceptedClaim(KEY, net, (False, "2026-01-03T00:00:00Z", "3"))
    assert resolve({Key("ns", "a"): old, Key("ns", "b"): new}) == {OTHER_KEY: net}
    assert resolve({Key("ns", "a"): leaving, Key("ns", "b"): new}) == {OTHER_KEY: net}


def test_a_key_belongs_to_one_peer() -> None:
    one = AcceptedClaim(KEY, (ipaddress.ip_network("10.244.1.2/32"),), (True, "1", "1"))
    two = AcceptedClaim(KEY, (ipaddress.ip_network("10.244.1.3/32"),), (True, "2", "2"))
    assert resolve({Key("ns", "a"): one, Key("ns", "b"): two}) == {KEY: two.networks}


def test_a_difference_names_what_changed() -> None:
    two = (ipaddress.ip_network("10.244.1.2/32"),)
    three = (ipaddress.ip_network("10.244.1.3/32"),)
    change = difference({"k": two, "gone": three}, {"k": three, "new": two})
    assert change.added == {"k": three, "new": two}
    assert change.removed == {"gone": three}
    assert not difference({"k": two}, {"k": two})


class FakeCache:
    """Like ``kube.cache.Cache``, fed by hand."""

    def __init__(self) -> None:
        self.objects: dict[Key, object] = {}
        self.indices: dict[str, Callable[..., Iterable[str]]] = {}
        self.callbacks: list[Callable[..., None]] = []

    def set_index(self, name: str, values: Callable[..., Iterable[str]]) -> None:
        self.indices[name] = values

    def on_change(self, callback: Callable[..., None]) -> None:
        self.callbacks.append(callback)

    def get(self, namespace: str, name: str) -> object:
        return self.objects.get(Key(namespace, name))

    def by_index(self, name: str, value: str) -> list[object]:
        return [o for o in self.objects.values() if value in self.indices[name](o)]

    def put(self, obj: Pod | PodEndpoint) -> None:
        key = Key(obj.metadata.namespace, obj.metadata.name)
        old = self.objects.get(key)
        self.objects[key] = obj
        for callback in self.callbacks:
            callback(key, old, obj)

    def remove(self, name: str) -> None:
        old = self.objects.pop(Key("ns", name))
        for callback in self.callbacks:
            callback(Key("ns", name), old, None)


class Book:
    def __init__(self) -> None:
        self.endpoints, self.pods = FakeCache(), FakeCache()
        self.dirty: list[str] = []
        self.book = PeerBook(self.endpoints, self.pods, self.dirty.append)  # type: ignore[arg-type]

    def peers(self, name: str = "ns/one") -> set[str]:
        return set(self.book.peers(name))


@pytest.mark.parametrize("pod_first", [True, False])
def test_the_order_of_events_does_not_matter(pod_first: bool) -> None:
    world = Book()
    if pod_first:
        world.pods.put(pod(ips=()))
    world.endpoints.put(endpoint())
    if not pod_first:
        world.pods.put(pod(ips=()))
    assert world.peers() == {KEY}
    assert world.dirty == ["ns/one"]


def test_whom_it_refuses_is_told_when_all_is_known(caplog: pytest.LogCaptureFixture) -> None:
    """At a start the endpoints are often read before their pods."""
    caplog.set_level("INFO")
    world = Book()
    for name, address in (("a", "10.244.1.2"), ("b", "10.244.1.3")):
        world.endpoints.put(endpoint(name, pod_ips=[address]))
    world.pods.put(pod("a"))
    assert caplog.records == []
    world.book.complete()
    world.endpoints.put(endpoint("c"))
    told = [(r.__dict__["pod"], r.__dict__["why"]) for r in caplog.records]
    assert told == [("ns/b", "there is no such pod"), ("ns/c", "there is no such pod")]


def test_the_kubelets_report_of_the_same_address_changes_nothing() -> None:
    world = Book()
    world.pods.put(pod(ips=()))
    world.endpoints.put(endpoint())
    world.dirty.clear()
    world.pods.put(pod())
    assert world.dirty == []


def test_a_peer_goes_with_its_endpoint_its_pod_and_its_truth() -> None:
    def after(act: Callable[[Book], None]) -> set[str]:
        world = Book()
        world.pods.put(pod(ips=()))
        world.endpoints.put(endpoint())
        world.dirty.clear()
        act(world)
        assert world.dirty == ["ns/one"]
        return world.peers()

    assert after(lambda w: w.endpoints.remove("a")) == set()
    assert after(lambda w: w.pods.remove("a")) == set()
    assert after(lambda w: w.pods.put(pod(phase="Succeeded"))) == set()
    assert after(lambda w: w.pods.put(pod(ips=["10.244.1.7"]))) == set()


def test_an_endpoint_that_changes_configuration_leaves_the_old_one() -> None:
    world = Book()
    world.pods.put(pod())
    world.endpoints.put(endpoint())
    world.dirty.clear()
    world.endpoints.put(endpoint(static_gateway_configuration="two"))
    assert sorted(world.dirty) == ["ns/one", "ns/two"]
    assert (world.peers(), world.peers("ns/two")) == (set(), {KEY})


def test_an_address_that_becomes_free_lets_its_claimant_in() -> None:
    world = Book()
    world.pods.put(pod("b"))
    world.pods.put(pod(ips=()))
    world.endpoints.put(endpoint())
    assert world.peers() == set()
    assert "ns/b's" in world.book.refused[Key("ns", "a")]
    world.pods.put(pod("b", phase="Failed"))
    assert world.peers() == {KEY}
    assert world.book.refused == {}
