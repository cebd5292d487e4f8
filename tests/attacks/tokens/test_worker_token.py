"""Actor: whoever stole the token of a worker's node agent (and, where said, its kubelet's).

He writes PodEndpoints for pods of his node with whatever content, and may listen to nobody. Victims
are on another node. In all of these a real gateway agent carries real packets.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway.gateway.peers import rules
from egress_gateway.kube import errors
from egress_gateway.kube.resources import EVENTS, POD_ENDPOINTS, PODS
from tests.datapath.box import boxed
from tests.datapath.gateway.test_gateway_agent import SECONDARY, Story, agent, attach, begin
from tests.datapath.topology import Pod, World, until
from tests.unit.gateway.test_gateway_peers import KEY, NEW, OTHER_KEY, Book, endpoint, pod

EVIL_NODE = "w2"


class Thief:
    """Writes what he likes about pods of his own node."""

    def __init__(self, story: Story, place: Pod) -> None:
        self.story = story
        self.place = place
        self.name = place.place.name

    def pod(self, *, annotation: str = "one", ips: list[str] | None = None) -> str:
        """A pod that really is on his node; returns its UID."""
        client, call = self.story.api.client, self.story.api.call
        meta: dict[str, Any] = {"name": self.name, "namespace": "default"}
        if annotation:
            meta["annotations"] = {names.POD_ANNOTATION: annotation}
        spec = {"nodeName": EVIL_NODE, "containers": [{"name": "main", "image": "nginx"}]}
        made = call(client.create(PODS.untyped(), {"metadata": meta, "spec": spec}))
        found = [str(self.place.address)] if ips is None else ips
        status = {"phase": "Running", "podIPs": [{"ip": ip} for ip in found]}
        document = {"metadata": {"name": self.name, "namespace": "default"}, "status": status}
        call(client.apply(PODS.untyped(), document, subresource="status"))
        return str(made["metadata"]["uid"])

    def endpoint(self, uid: str, *, owned: bool = True, **spec: object) -> None:
        owner = {"apiVersion": "v1", "kind": "Pod", "name": self.name, "uid": uid}
        document = {
            "metadata": {
                "name": self.name,
                "namespace": "default",
                "ownerReferences": [owner] if owned else [],
            },
            "spec": {
                "staticGatewayConfiguration": "one",
                "podIpAddress": str(self.place.address),
                "podIps": [str(self.place.address)],
                "podPublicKey": self.place.pair.public,
                "podUid": uid,
                "nodeName": EVIL_NODE,
                **spec,
            },
        }
        self.story.api.call(self.story.api.client.apply(POD_ENDPOINTS.untyped(), document))

    def told(self, reason: str) -> None:
        """Waits until an Event, and the gateway's status, tell of him."""
        client, call = self.story.api.client, self.story.api.call

        def event() -> bool:
            found = call(client.list(EVENTS, "default")).items
            return any(
                e.reason == "EgressClaimRefused"
                and e.involved_object.name == self.name
                and reason in e.message
                for e in found
            )

        until(event, f"an Event on {self.name} about {reason}", seconds=60)

        def line() -> bool:
            lines = self.story.status().get("refusedClaims", [])
            return any(
                one["pod"] == f"default/{self.name}" and one["reason"] == reason for one in lines
            )

        until(line, f"a line in the GatewayStatus about {reason}", seconds=60)


@contextlib.contextmanager
def scene() -> Iterator[tuple[Story, Callable[[], str | None], Pod, Thief]]:
    """A victim that is served, and a thief with a pod."""
    world, gateway, story = begin()
    victim, evil = world.pod("victim"), world.pod("evil")
    story.secret()
    story.listed()
    with agent(gateway, story.api):
        story.pod(victim)
        seen = attach(story, victim)
        until(lambda: seen() == SECONDARY, "the victim is served")
        yield story, seen, victim, Thief(story, evil)
        for _ in range(5):
            assert victim.seen_as() == SECONDARY, "the victim goes on"


def silent(story: Story, thief: Thief) -> None:
    """The thief's tunnel, with the key that he has, gets nothing through."""
    seen = attach(story, thief.place, listen=20001)
    for _ in range(3):
        assert seen() is None


@boxed
def test_a_copied_key_cuts_nobody_off() -> None:
    with scene() as (_, _, victim, thief):
        thief.endpoint(thief.pod(), podPublicKey=victim.pair.public)
        thief.told(rules.KEY_TAKEN)


@boxed
def test_a_key_is_not_slipped_into_an_older_claim() -> None:
    """The age of a PodEndpoint is the age of its claim only if its key never changes."""
    with scene() as (story, _, victim, thief):
        uid = thief.pod()
        thief.endpoint(uid)
        with pytest.raises(errors.Invalid, match="podPublicKey never changes"):
            thief.endpoint(uid, podPublicKey=victim.pair.public)
        with pytest.raises(errors.Invalid, match="podPublicKey never changes"):
            story.api.call(
                story.api.client.merge_patch(
                    POD_ENDPOINTS, thief.name, {"spec": {"podPublicKey": None}}, "default"
                )
            )


@boxed
def test_a_pod_that_is_not_annotated_gets_no_address() -> None:
    with scene() as (story, _, _, thief):
        thief.endpoint(thief.pod(annotation=""))
        thief.told(rules.NOT_ANNOTATED)
        silent(story, thief)


@boxed
def test_a_pod_of_another_configuration_gets_no_address() -> None:
    with scene() as (story, _, _, thief):
        thief.endpoint(thief.pod(annotation="two"))
        thief.told(rules.NOT_ANNOTATED)
        silent(story, thief)


@boxed
def test_a_claim_without_its_pods_reference_does_not_count() -> None:
    with scene() as (story, _, _, thief):
        thief.endpoint(thief.pod(), owned=False)
        thief.told(rules.NOT_OWNED)
        silent(story, thief)


@boxed
def test_a_victims_address_is_not_claimed() -> None:
    with scene() as (story, _, victim, thief):
        thief.endpoint(thief.pod(), podIps=[str(victim.address)])
        thief.told(rules.ADDRESS_TAKEN)
        silent(story, thief)


@boxed
def test_a_victims_address_is_not_claimed_with_a_kubelets_help() -> None:
    """The kubelet's credential may write any address into the status of pods of its node."""
    with scene() as (story, _, victim, thief):
        address = [str(victim.address)]
        thief.endpoint(thief.pod(ips=address), podIps=address)
        thief.told(rules.ADDRESS_TAKEN)
        silent(story, thief)


@pytest.mark.parametrize(
    "spelling", ["2001:DB8::2", "2001:db8:0::2", "2001:0db8::0002", "2001:db8::2/128"]
)
def test_an_address_that_is_claimed_early_is_given_up_however_it_is_spelled(spelling: str) -> None:
    """His own pod has no address yet, so nothing contradicts him until the victim's status does."""
    book = Book()
    book.pods.put(pod("evil", ips=(), node=EVIL_NODE))
    book.endpoints.put(
        endpoint("evil", pod_public_key=OTHER_KEY, pod_ips=[spelling], node_name=EVIL_NODE)
    )
    assert book.peers() == {OTHER_KEY}
    book.pods.put(pod("a", ips=()))
    book.endpoints.put(endpoint("a", created=NEW, pod_ips=["2001:db8::2"]))
    book.pods.put(pod("a", ips=["2001:db8::2"]))
    assert book.why("evil") == rules.ADDRESS_TAKEN
    assert book.peers() == {KEY}


@boxed
def test_a_mirror_pod_gets_no_address() -> None:
    """The kubelet's credential makes mirror pods in any namespace, with any annotation."""
    with scene() as (story, _, _, thief):
        uid = thief.pod()
        patch = {"metadata": {"annotations": {names.MIRROR_ANNOTATION: "hash"}}}
        story.api.call(story.api.client.merge_patch(PODS, thief.name, patch, "default"))
        thief.endpoint(uid)
        thief.told(rules.MIRROR_POD)
        silent(story, thief)


@boxed
def test_many_addresses_are_refused() -> None:
    with scene() as (_, _, _, thief):
        addresses = [f"10.{99 + i // 65536}.{i // 256 % 256}.{i % 256}" for i in range(20000)]
        uid = thief.pod()
        with pytest.raises(errors.Invalid, match="at most 8"):
            thief.endpoint(uid, podIps=addresses)
        # Where the definition is an older one, the agent has the same bound (rules.judge).
        assert rules.MOST_ADDRESSES == 8


@boxed
def test_a_sandbox_that_is_made_again_is_served_before_its_status_says_so() -> None:
    """No attack, but what claims must not get in the way of."""
    world: World
    world, gateway, story = begin()
    pod, again = world.pod("pod-a"), world.pod("again")
    story.secret()
    story.listed()
    with agent(gateway, story.api):
        story.pod(pod)
        first = attach(story, pod)
        until(lambda: first() == SECONDARY, "served")
        client, call = story.api.client, story.api.call
        found = call(client.get(PODS, "pod-a", "default"))
        call(client.delete(POD_ENDPOINTS, "pod-a", "default"))  # CNI DEL
        owner = {"apiVersion": "v1", "kind": "Pod", "name": "pod-a", "uid": found.metadata.uid}
        document = {
            "metadata": {"name": "pod-a", "namespace": "default", "ownerReferences": [owner]},
            "spec": {
                "staticGatewayConfiguration": "one",
                "podIps": [str(again.address)],
                "podPublicKey": again.pair.public,
                "podUid": found.metadata.uid,
                "nodeName": "w1",
            },
        }
        call(client.create(POD_ENDPOINTS.untyped(), document))  # CNI ADD
        assert call(client.get(PODS, "pod-a", "default")).ips == [str(pod.address)]
        seen = attach(story, again, listen=20001)
        until(lambda: seen() == SECONDARY, "the new sandbox is served")
