"""Who may send through a configuration: every way in which a claim can be wrong."""

from __future__ import annotations

import base64
import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.api import keys, names, types
from egress_gateway.api.types import ObjectMeta, OwnerReference, PodEndpoint, PodEndpointSpec
from egress_gateway.datapath.addresses import IPNetwork, parse_network
from egress_gateway.gateway import refusals
from egress_gateway.gateway.peers import rules
from egress_gateway.gateway.peers.book import (
    ANNOTATION_GRACE,
    ClaimCaches,
    PeerBook,
    by_pod_cidrs,
)
from egress_gateway.gateway.peers.rules import (
    AcceptedClaim,
    ClaimRejection,
    Evidence,
    difference,
    judge,
    resolve,
)
from egress_gateway.gateway.refusals import Refusals
from egress_gateway.kube import kept, wire
from egress_gateway.kube.resources import (
    POD_ENDPOINTS,
    PODS,
    Key,
    Node,
    NodeSpec,
    Pod,
    PodIP,
    PodSpec,
    PodStatus,
)

MOST_BYTES = 2_350
"""A tenth more than on Python 3.11 today."""

KEY = keys.generate().public
OTHER_KEY = keys.generate().public
OLD, NEW = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def endpoint(
    name: str = "a", *, owner: str | None = None, created: str = OLD, uid: str = "", **spec: object
) -> PodEndpoint:
    values = {
        "static_gateway_configuration": "one",
        "pod_ips": ["10.244.1.2"],
        "pod_public_key": KEY,
        "pod_uid": f"uid-{name}",
        "node_name": "w1",
    } | spec
    owner = f"uid-{name}" if owner is None else owner
    reference = OwnerReference(api_version="v1", kind="Pod", name=name, uid=owner)
    return PodEndpoint(
        metadata=ObjectMeta(
            name=name,
            namespace="ns",
            uid=uid or f"endpoint-{name}",
            creation_timestamp=created,
            owner_references=[reference] if owner else [],
        ),
        spec=PodEndpointSpec(**values),  # type: ignore[arg-type]
    )


def pod(
    name: str = "a",
    *,
    ips: Iterable[str] = ("10.244.1.2",),
    node: str = "w1",
    phase: str = "Running",
    deleted: str | None = None,
    host_network: bool = False,
    annotation: str = "one",
    mirror: bool = False,
    uid: str = "",
) -> Pod:
    annotations = {names.POD_ANNOTATION: annotation} if annotation else {}
    if mirror:
        annotations[names.MIRROR_ANNOTATION] = "hash"
    return Pod(
        metadata=ObjectMeta(
            name=name,
            namespace="ns",
            uid=uid or f"uid-{name}",
            deletion_timestamp=deleted,
            annotations=annotations,
        ),
        spec=PodSpec(node_name=node, host_network=host_network),
        status=PodStatus(phase=phase, pod_ips=[PodIP(ip=ip) for ip in ips]),
    )


def nets(*texts: str) -> tuple[IPNetwork, ...]:
    return tuple(parse_network(text) for text in texts)


def judged(
    claim: PodEndpoint, known: Pod | None, *others: Pod, **more: Any
) -> AcceptedClaim | ClaimRejection:
    def having(address: str) -> list[Pod]:
        everybody = (*others, *([known] if known else []))
        return [p for p in everybody if address in p.ips and not p.spec.host_network]

    named = {rules.annotated(known)} if known else set()
    return judge(claim, Evidence(pod=known, having=having, **{"named": named, **more}))


def respelled(key: str) -> list[str]:
    """Other texts of the same 32 bytes: two bits of the last letter mean nothing."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    at = letters.index(key[42])
    return [f"{key[:42]}{letters[at + more]}=" for more in (1, 2, 3)]


@pytest.mark.parametrize("spelling", range(3))
def test_a_key_in_another_spelling_is_no_key(spelling: int) -> None:
    """To WireGuard it is its owner's peer, which would get the thief's addresses."""
    stolen = respelled(KEY)[spelling]
    assert base64.b64decode(stolen) == base64.b64decode(KEY)
    verdict = judged(endpoint(pod_public_key=stolen), pod())
    assert isinstance(verdict, ClaimRejection)
    assert verdict.reason == rules.INVALID_KEY


@pytest.mark.parametrize(
    "spelling", ["2001:DB8::2", "2001:db8:0::2", "2001:0db8::0002", "2001:db8::0.0.0.2"]
)
def test_an_address_is_taken_however_a_kubelet_spells_it(spelling: str) -> None:
    claim = endpoint(pod_ips=["2001:db8::2"])
    victim = pod("victim", ips=[spelling], node="w2")
    verdict = judged(claim, pod(ips=()), victim)
    assert isinstance(verdict, ClaimRejection)
    assert verdict.reason == rules.ADDRESS_TAKEN
    own = judged(claim, pod(ips=[spelling]))
    assert isinstance(own, AcceptedClaim)
    assert not own.contradicted


@pytest.mark.parametrize(
    "claimed", ["fe80::5%eth0", "2001:db8::5%1", "2001:db8::5% }\n flush ruleset"]
)
def test_an_address_with_a_zone_is_refused(claimed: str) -> None:
    """Where the definition in the cluster is an older one, without a form."""
    verdict = judged(endpoint(pod_ips=[claimed]), pod(ips=[claimed]))
    assert isinstance(verdict, ClaimRejection)
    assert verdict.reason == rules.INVALID_ADDRESS


def test_an_address_of_any_length_is_refused_in_few_words() -> None:
    verdict = judged(endpoint(pod_ips=["x" * 9000]), pod())
    assert isinstance(verdict, ClaimRejection)
    assert verdict.reason == rules.INVALID_ADDRESS
    assert 0 < len(verdict.message) < 400


def claim(key: str, *addresses: str, node: str = "w1", since: str = OLD) -> AcceptedClaim:
    return AcceptedClaim(key, nets(*addresses), node, (since, 0, f"uid-{key}-{node}"))


def test_a_key_belongs_to_its_first_holder() -> None:
    victim = claim(KEY, "10.244.1.2")
    thief = claim(KEY, "10.244.2.3", node="w2", since=NEW)
    for order in ([("v", victim), ("t", thief)], [("t", thief), ("v", victim)]):
        found = resolve({Key("ns", name): one for name, one in order})
        assert found.peers == {KEY: nets("10.244.1.2")}
        assert found.refused[Key("ns", "t")].reason == rules.KEY_TAKEN
        assert "ns/v" in found.refused[Key("ns", "t")].message


def test_an_address_belongs_to_its_first_holder_among_nodes() -> None:
    victim = claim(KEY, "10.244.1.2", "2001:db8::2")
    thief = claim(OTHER_KEY, "10.244.2.9", "2001:db8::2", node="w2", since=NEW)
    found = resolve({Key("ns", "t"): thief, Key("ns", "v"): victim})
    assert found.peers == {KEY: nets("10.244.1.2", "2001:db8::2")}
    assert found.refused[Key("ns", "t")].reason == rules.ADDRESS_TAKEN


def test_an_address_that_its_node_gives_again_belongs_to_the_youngest() -> None:
    old, new = claim(KEY, "10.244.1.2"), claim(OTHER_KEY, "10.244.1.2", since=NEW)
    found = resolve({Key("ns", "old"): old, Key("ns", "new"): new})
    assert found.peers == {OTHER_KEY: nets("10.244.1.2")}
    assert found.refused[Key("ns", "old")].reason == rules.ADDRESS_TAKEN
    dual = claim(KEY, "10.244.1.2", "2001:db8::2")
    found = resolve({Key("ns", "old"): dual, Key("ns", "new"): new})
    assert found.peers == {OTHER_KEY: nets("10.244.1.2"), KEY: nets("2001:db8::2")}
    assert found.refused == {}


SEVERAL = st.dictionaries(
    st.builds(Key, st.just("ns"), st.sampled_from("abcdefgh")),
    st.builds(
        AcceptedClaim,
        st.sampled_from(["k1", "k2", "k3"]),
        st.lists(st.sampled_from(nets("10.0.0.1", "10.0.0.2", "2001:db8::1")), min_size=1).map(
            lambda found: tuple(dict.fromkeys(found))
        ),
        st.sampled_from(["w1", "w2"]),
        st.tuples(st.sampled_from([OLD, NEW]), st.uuids().map(str)),
    ),
)


@given(SEVERAL)
def test_whatever_is_claimed_each_key_and_address_has_one_owner(
    accepted: dict[Key, AcceptedClaim],
) -> None:
    found = resolve(accepted)
    given_out = [n for networks in found.peers.values() for n in networks]
    assert len(given_out) == len(set(given_out))
    assert all(networks for networks in found.peers.values())
    assert found.refused.keys() <= accepted.keys()
    for key, one in accepted.items():
        if key not in found.refused:
            assert set(found.peers[one.public_key]) <= set(one.networks)
    assert len(found.peers) == len(accepted) - len(found.refused)
    # The order in which they became known decides nothing.
    again = resolve(dict(reversed(accepted.items())))
    assert {k: set(v) for k, v in again.peers.items()} == {
        k: set(v) for k, v in found.peers.items()
    }
    assert again.refused.keys() == found.refused.keys()


@given(SEVERAL, st.sampled_from(["k1", "k2", "k3"]), st.sampled_from(["w1", "w2", "w3"]))
def test_a_later_claim_of_another_node_takes_nothing_from_anybody(
    accepted: dict[Key, AcceptedClaim], key: str, node: str
) -> None:
    before = resolve(accepted)
    everything = nets("10.0.0.1", "10.0.0.2", "2001:db8::1")
    thief = AcceptedClaim(key, everything, f"evil-{node}", ("2026-02-01T00:00:00Z", 0, "z"))
    after = resolve({**accepted, Key("ns", "thief"): thief})
    for public_key, networks in before.peers.items():
        assert after.peers[public_key] == networks


def test_a_difference_names_what_changed() -> None:
    two, three = nets("10.244.1.2"), nets("10.244.1.3")
    change = difference({"k": two, "gone": three}, {"k": three, "new": two})
    assert change.added == {"k": three, "new": two}
    assert change.removed == {"gone": three}
    assert not difference({"k": two}, {"k": two})


class FakeCache:
    """Like ``kube.cache.Cache``, fed by hand."""

    def __init__(self) -> None:
        self.objects: dict[Key, Any] = {}
        self.indices: dict[str, Callable[..., Iterable[str]]] = {}
        self.callbacks: list[Callable[..., None]] = []

    def set_index(self, name: str, values: Callable[..., Iterable[str]]) -> None:
        self.indices[name] = values

    def on_change(self, callback: Callable[..., None]) -> None:
        self.callbacks.append(callback)

    def get(self, namespace: str, name: str) -> Any:
        return self.objects.get(Key(namespace, name))

    def values(self) -> list[Any]:
        return list(self.objects.values())

    def by_index(self, name: str, value: str) -> list[object]:
        return [o for o in self.objects.values() if value in self.indices[name](o)]

    def put(self, obj: Pod | PodEndpoint | Node) -> None:
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
        self.endpoints, self.pods, self.nodes = FakeCache(), FakeCache(), FakeCache()
        self.dirty: list[str] = []
        self.now = 1000.0
        caches = ClaimCaches(
            endpoints=cast(Any, self.endpoints),
            pods=cast(Any, self.pods),
            nodes=cast(Any, self.nodes),
        )
        self.book = PeerBook(caches, self.dirty.append, now=lambda: self.now)

    def peers(self, name: str = "ns/one") -> set[str]:
        return set(self.book.peers(name))

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.book.tick()

    def why(self, name: str) -> str:
        return self.book.refused[Key("ns", name)].reason


def node(name: str, *cidrs: str) -> Node:
    return Node(metadata=ObjectMeta(name=name), spec=NodeSpec(pod_cidrs=list(cidrs)))


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
    assert after(lambda w: w.pods.put(pod(uid="uid-of-its-successor"))) == set()
    assert after(lambda w: w.pods.put(pod("b", node="w2"))) == set()


def test_a_sandbox_that_is_made_again_has_its_new_address_at_once() -> None:
    world = Book()
    world.pods.put(pod())
    world.endpoints.put(endpoint())
    world.endpoints.remove("a")
    again = keys.generate().public
    world.endpoints.put(endpoint(pod_ips=["10.244.1.9"], pod_public_key=again, created=NEW))
    assert world.book.peers("ns/one") == {again: nets("10.244.1.9")}
    # The kubelet may give the old address to another pod before it says so of the first.
    world.pods.put(pod("b", ips=()))
    world.endpoints.put(endpoint("b", pod_public_key=OTHER_KEY, created=NEW))
    assert world.peers() == {again, OTHER_KEY}
    assert world.book.refused == {}


def test_an_endpoint_that_changes_configuration_leaves_the_old_one() -> None:
    world = Book()
    world.pods.put(pod())
    world.endpoints.put(endpoint())
    world.pods.put(pod(annotation="two"))
    world.dirty.clear()
    world.endpoints.put(endpoint(static_gateway_configuration="two"))
    assert sorted(world.dirty) == ["ns/one", "ns/two"]
    assert (world.peers(), world.peers("ns/two")) == (set(), {KEY})


@pytest.mark.parametrize("after", ["two", ""], ids=["another one", "none"])
def test_a_changed_annotation_counts_after_a_grace(after: str) -> None:
    """The node agent hears of it by itself and moves the pod; meanwhile nothing is cut."""
    world = Book()
    world.pods.put(pod())
    world.endpoints.put(endpoint())
    world.pods.put(pod(annotation=after))
    assert world.peers() == {KEY}
    world.later(ANNOTATION_GRACE - 1)
    assert world.peers() == {KEY}
    world.later(2)
    assert world.peers() == set()
    assert world.why("a") == rules.NOT_ANNOTATED


def test_what_a_namesake_was_annotated_with_gives_no_grace() -> None:
    world = Book()
    world.pods.put(pod())
    world.pods.put(pod(uid="uid-new", annotation=""))
    world.endpoints.put(endpoint(pod_uid="uid-new", owner="uid-new"))
    assert world.why("a") == rules.NOT_ANNOTATED


def test_an_address_that_becomes_free_lets_its_claimant_in() -> None:
    world = Book()
    world.pods.put(pod("b", node="w2"))
    world.pods.put(pod(ips=()))
    world.endpoints.put(endpoint())
    assert world.peers() == set()
    assert "ns/b's" in world.book.refused[Key("ns", "a")].message
    world.pods.put(pod("b", node="w2", phase="Failed"))
    assert world.peers() == {KEY}
    assert world.book.refused == {}


def test_a_copied_key_is_refused_and_the_first_holders_end_frees_it() -> None:
    world = Book()
    world.pods.put(pod())
    world.endpoints.put(endpoint())
    world.pods.put(pod("thief", ips=["10.244.2.2"], node="w2"))
    world.endpoints.put(endpoint("thief", pod_ips=["10.244.2.2"], node_name="w2", created=NEW))
    assert world.book.peers("ns/one") == {KEY: nets("10.244.1.2")}
    assert world.why("thief") == rules.KEY_TAKEN
    world.endpoints.remove("a")
    assert world.book.peers("ns/one") == {KEY: nets("10.244.2.2")}
    assert world.book.refused == {}


def test_a_forged_status_takes_no_address_away() -> None:
    """With a kubelet's credential a node may write any address into its own pods' status."""
    world = Book()
    world.pods.put(pod())
    world.endpoints.put(endpoint())
    world.pods.put(pod("thief", node="w2"))
    thief = endpoint("thief", pod_public_key=OTHER_KEY, node_name="w2", created=NEW)
    world.endpoints.put(thief)
    assert world.book.peers("ns/one") == {KEY: nets("10.244.1.2")}
    assert world.why("thief") == rules.ADDRESS_TAKEN


def test_podcidrs_count_where_most_pods_have_their_addresses_from_them() -> None:
    world = Book()
    world.nodes.put(node("w1", "10.244.1.0/24"))
    world.nodes.put(node("w2", "10.244.2.0/24"))
    world.pods.put(pod(ips=()))
    world.endpoints.put(endpoint(pod_ips=["10.9.9.9"]))
    world.book.complete()
    assert world.peers() == {KEY}, "nothing says that this cluster uses podCIDRs"
    world.pods.put(pod("dns", ips=["10.244.2.8"], node="w2"))
    world.later(60)
    assert world.why("a") == rules.FOREIGN_ADDRESS
    world.nodes.put(node("w1", "10.9.9.0/24"))
    assert world.peers() == {KEY}


def test_pods_vote_whether_podcidrs_are_used() -> None:
    cidrs = {"w1": nets("10.244.1.0/24"), "w2": ()}
    inside, outside = pod("i"), pod("o", ips=["10.9.9.9"])
    assert by_pod_cidrs([inside], cidrs)
    assert not by_pod_cidrs([], cidrs)
    assert not by_pod_cidrs([inside, outside], cidrs)
    for silent in (
        pod("o", ips=["10.9.9.9"], node="w2"),
        pod("o", ips=["10.9.9.9"], host_network=True),
        pod("o", ips=["10.9.9.9"], phase="Failed"),
        pod("o", ips=[]),
        pod("o", ips=["nonsense"]),
    ):
        assert by_pod_cidrs([inside, silent], cidrs)


def test_a_node_has_one_vote_however_many_pods_it_reports() -> None:
    """With its kubelet's credential anybody makes pods of a node by the thousand, and gives them
    addresses. Else one node would turn the check off, or turn it against all pods of a cluster
    that does not use podCIDRs."""
    cidrs = {name: nets(f"10.244.{i}.0/24") for i, name in enumerate(("w0", "w1", "w2"))}
    evil = [pod(f"e{n}", ips=["10.9.9.9"], node="w2") for n in range(500)]
    honest = [pod(f"p{i}", ips=[f"10.244.{i}.7"], node=f"w{i}") for i in range(2)]
    assert by_pod_cidrs([*honest, *evil], cidrs)
    evil = [pod(f"e{n}", ips=["10.244.2.9"], node="w2") for n in range(500)]
    honest = [pod(f"p{i}", ips=[f"10.9.{i}.7"], node=f"w{i}") for i in range(2)]
    assert not by_pod_cidrs([*honest, *evil], cidrs)


class Told:
    """Whom ``Refusals`` told."""

    def __init__(self, world: Book, served: set[str]) -> None:
        self.events: list[tuple[str, str]] = []
        self.lines: list[types.RefusedClaim] = []
        self.refusals = Refusals(
            world.book,
            served=lambda: served,
            tell=lambda key, one: self.events.append((str(key), one.reason)),
            publish=self.publish,
            now=lambda: world.now,
        )

    async def publish(self, lines: list[types.RefusedClaim]) -> None:
        self.lines = lines

    async def look(self) -> None:
        await self.refusals.look()


async def test_a_claim_that_stays_refused_is_told_once() -> None:
    world = Book()
    told = Told(world, {"ns/one"})
    world.endpoints.put(endpoint())
    world.pods.put(pod(annotation=""))
    await told.look()
    assert told.events == [], "a cache may merely be late"
    world.later(refusals.GRACE)
    await told.look()
    await told.look()
    assert told.events == [("ns/a", rules.NOT_ANNOTATED)]
    (line,) = told.lines
    assert (line.pod, line.static_gateway_configuration) == ("ns/a", "ns/one")
    assert line.reason == rules.NOT_ANNOTATED
    world.pods.put(pod())
    await told.look()
    assert told.lines == []


async def test_ordinary_ends_of_pods_and_foreign_configurations_are_no_news() -> None:
    world = Book()
    told = Told(world, {"ns/one"})
    world.endpoints.put(endpoint())  # its pod is gone, and the collector comes
    world.endpoints.put(endpoint("b", static_gateway_configuration="elsewhere"))
    world.pods.put(pod("b", annotation=""))
    await told.look()
    world.later(refusals.GRACE)
    await told.look()
    assert (told.events, told.lines) == ([], [])
    world.later(refusals.PASSING_GRACE)
    await told.look()
    assert told.events == [("ns/a", rules.POD_MISSING)], "nobody collects it: a squatter's"


async def test_a_flood_of_refused_claims_makes_a_short_report() -> None:
    world = Book()
    told = Told(world, {"ns/one"})
    for number in range(100):
        world.endpoints.put(endpoint(f"p{number:03}"))
        world.pods.put(pod(f"p{number:03}", annotation=""))
    await told.look()
    world.later(refusals.GRACE)
    await told.look()
    assert len(told.lines) == refusals.REPORTED


def at(revision: int, made: PodEndpoint) -> PodEndpoint:
    meta = msgspec.structs.replace(made.metadata, resource_version=str(revision))
    return msgspec.structs.replace(made, metadata=meta)


@pytest.mark.parametrize("thief_first", [False, True], ids=["in order", "listed after a restart"])
@pytest.mark.parametrize("uid", ["a-less", "z-more"])
def test_a_key_copied_in_the_same_second_stays_with_its_holder(thief_first: bool, uid: str) -> None:
    """Creation times have whole seconds, and UIDs are anybody's luck."""
    world = Book()
    world.pods.put(pod())
    world.pods.put(pod("t", ips=["10.244.2.2"], node="w2"))
    victim = at(99, endpoint(uid="m"))
    thief = at(100, endpoint("t", uid=uid, pod_ips=["10.244.2.2"], node_name="w2"))
    for one in (thief, victim) if thief_first else (victim, thief):
        world.endpoints.put(one)
    assert world.book.peers("ns/one") == {KEY: nets("10.244.1.2")}
    assert world.why("t") == rules.KEY_TAKEN
    # What its own agent writes later makes nobody younger.
    world.endpoints.put(at(200, endpoint(uid="m", gateway_public_key=OTHER_KEY)))
    assert world.why("t") == rules.KEY_TAKEN


def test_an_address_is_not_kept_from_pods_that_are_yet_to_come() -> None:
    """A running pod claims, beside its own, addresses that nobody has yet."""
    world = Book()
    world.pods.put(pod("t", ips=["10.244.2.2"], node="w2"))
    squat = endpoint(
        "t", node_name="w2", pod_ips=["10.244.2.2", "10.244.1.2"], pod_public_key=OTHER_KEY
    )
    world.endpoints.put(squat)
    world.pods.put(pod(ips=()))
    world.endpoints.put(endpoint(created=NEW))
    assert world.book.peers("ns/one")[KEY] == nets("10.244.1.2")
    assert world.why("t") == rules.ADDRESS_TAKEN


def test_a_squatted_name_is_no_peer_and_hides_none() -> None:
    world = Book()
    world.pods.put(pod())
    world.endpoints.put(endpoint(node_name="w2", pod_public_key=OTHER_KEY))
    assert (world.peers(), world.why("a")) == (set(), rules.WRONG_NODE)
    own = endpoint(created=NEW)
    meta = msgspec.structs.replace(own.metadata, name="a.w1", uid="own")
    world.endpoints.put(msgspec.structs.replace(own, metadata=meta))
    assert world.peers() == {KEY}
    assert world.book.owner("ns/one", nets("10.244.1.2")[0].network_address) == Key("ns", "a")
    world.pods.put(pod(phase="Succeeded"))
    assert world.peers() == set(), "it ends with its pod"
    world.pods.put(pod(annotation="two"))
    world.later(ANNOTATION_GRACE + 1)
    assert world.peers() == set()


def test_only_the_latest_of_gone_pods_are_remembered() -> None:
    world = Book()
    count = 5000
    addresses = [f"10.{200 + i // 65536}.{i // 256 % 256}.{i % 256}" for i in range(count)]
    world.pods.put(pod())
    world.endpoints.put(endpoint())
    for i, address in enumerate(addresses):
        name = f"p{i}"
        world.pods.put(pod(name, ips=[address]))
        key = base64.b64encode(i.to_bytes(32)).decode()
        world.endpoints.put(endpoint(name, pod_ips=[address], pod_public_key=key))
        world.endpoints.remove(name)
        world.pods.remove(name)

    def owner(address: str) -> Key | None:
        return world.book.owner("ns/one", nets(address)[0].network_address)

    assert owner(addresses[-1]) == Key("ns", f"p{count - 1}"), "its last connections end now"
    assert owner(addresses[0]) is None
    assert owner("10.244.1.2") == Key("ns", "a"), "who is there is known"


def test_what_a_gateway_knows_of_a_pod_is_small() -> None:
    """It knows ten thousand, each with a claim and a peer."""
    world, count = Book(), 100
    written = []
    for i in range(2 * count):
        name, address = f"p{i}", f"10.9.{i // 250}.{i % 250}"
        claim = endpoint(
            name,
            pod_ips=[address],
            pod_ip_address=address,
            pod_public_key=base64.b64encode(i.to_bytes(32)).decode(),
        )
        written.append([msgspec.json.encode(one) for one in (pod(name, ips=[address]), claim)])
    sizes = [0]
    tracemalloc.start()
    for half in (written[:count], written[count:]):  # a table may grow for others in one of them
        for one, claimed in half:
            world.pods.put(wire.decode_object(PODS.keeping(kept.pod), one))
            world.endpoints.put(wire.decode_object(POD_ENDPOINTS.keeping(kept.claim), claimed))
        world.dirty.clear()
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert len(world.peers()) == 2 * count
    assert min(sizes[1], sizes[2] - sizes[1]) / count < MOST_BYTES


@pytest.mark.parametrize("count", [9, 40_000])
def test_a_claim_of_many_addresses_costs_no_more_than_one_too_many(count: int) -> None:
    """Where the definition in the cluster is an older one, without bounds."""
    addresses = [f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}" for i in range(count)]
    world = Book()
    world.pods.put(pod())
    many = endpoint(pod_ips=addresses)
    world.endpoints.put(many)
    assert world.why("a") == rules.INVALID_ADDRESS
    assert world.peers() == set()
    assert len(list(world.endpoints.indices["address"](many))) == rules.MOST_ADDRESSES + 1
    assert len(world.book.refused[Key("ns", "a")].message) < 400
    world.endpoints.put(endpoint(pod_ips=addresses[: rules.MOST_ADDRESSES]))
    assert len(world.book.peers("ns/one")[KEY]) == rules.MOST_ADDRESSES, "so many are honest"
