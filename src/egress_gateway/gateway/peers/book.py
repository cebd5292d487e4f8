"""The peers that each configuration should have, kept up to date event by event.

One event costs the judgement of one endpoint (or of those that share an address with a pod), not a
pass over all of them: a new pod waits for its gateway.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from sys import intern
from typing import Final

from egress_gateway.api import names
from egress_gateway.api.types import PodEndpoint
from egress_gateway.datapath.addresses import IPAddress, IPNetwork, parse_network, within
from egress_gateway.gateway.peers.rules import (
    AcceptedClaim,
    ClaimRejection,
    Evidence,
    Resolved,
    annotated,
    first_known,
    judge,
    places_of,
    resolve,
)
from egress_gateway.kube.informer.cache import Cache
from egress_gateway.kube.resources import Key, Node, Pod

ANNOTATION_GRACE: Final = 30.0
"""Seconds that a pod may still use the configuration that its annotation named before: its node
agent hears of the change on its own, and moves the pod then."""
_ELECTION: Final = 30.0
"""Seconds between two looks at whether pods' addresses come from podCIDRs."""

_REMEMBERED: Final = 4096
"""Addresses of pods that are gone, whose last connections may still end."""

_ADDRESS: Final = "address"
_POD: Final = "pod"
_NODE: Final = "node"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimCaches:
    """What claims are, and what they are judged by."""

    endpoints: Cache[PodEndpoint]
    pods: Cache[Pod]
    nodes: Cache[Node]


class PeerBook:
    """``dirty(name)`` is called with a configuration's ``namespace/name`` whose peers changed.
    ``mirror_pods``: whether they may be peers. Call ``tick`` about once a second."""

    def __init__(
        self,
        caches: ClaimCaches,
        dirty: Callable[[str], None],
        *,
        mirror_pods: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._caches = caches
        self._dirty = dirty
        self._mirror_pods = mirror_pods
        self._now = now
        self._accepted: dict[str, dict[Key, AcceptedClaim]] = {}
        self._resolved: dict[str, Resolved] = {}
        self._where: dict[Key, str] = {}
        self._refused: dict[Key, ClaimRejection] = {}
        self._owners: dict[tuple[str, IPAddress], Key] = {}
        self._former: dict[tuple[str, IPAddress], Key] = {}
        self._before: dict[Key, tuple[str, float]] = {}
        """What pods' annotations named before, and until when that counts."""
        self._by_pod_cidrs = False
        self._election_due = float("inf")
        caches.pods.set_index(_ADDRESS, lambda pod: [] if pod.spec.host_network else pod.ips)
        caches.endpoints.set_index(_ADDRESS, places_of)
        caches.endpoints.set_index(_POD, lambda endpoint: [str(_pod_key(endpoint))])
        caches.endpoints.set_index(_NODE, lambda endpoint: [endpoint.spec.node_name])
        caches.nodes.on_change(self._on_node)
        caches.endpoints.on_change(self._on_endpoint)
        caches.pods.on_change(self._on_pod)

    def peers(self, name: str) -> dict[str, tuple[IPNetwork, ...]]:
        """What the configuration's interfaces should know: public key -> networks."""
        return self._claims(name).peers

    def owner(self, name: str, address: IPAddress) -> Key | None:
        """The pod that has, or had last, an address under a configuration. From any thread."""
        place = (name, address)
        return self._owners.get(place) or self._former.get(place)

    @property
    def refused(self) -> dict[Key, ClaimRejection]:
        """Claims that do not count, and why."""
        found = dict(self._refused)
        for name in self._accepted:
            found |= self._claims(name).refused
        return found

    def claimed(self, key: Key) -> str:
        """The configuration that an endpoint claims; empty if there is no such endpoint."""
        endpoint = self._caches.endpoints.get(*key)
        return endpoint.configuration if endpoint else ""

    def complete(self) -> None:
        """The caches have their first lists."""
        self._elect()

    def tick(self) -> None:
        """Ends what only time ends."""
        now = self._now()
        for key in [key for key, (_, until) in self._before.items() if until <= now]:
            del self._before[key]
            self._judge_pods(key)
        if now >= self._election_due:
            self._elect()

    def _claims(self, name: str) -> Resolved:
        if name not in self._resolved:
            self._resolved[name] = resolve(self._accepted.get(name, {}))
        return self._resolved[name]

    def _elect(self) -> None:
        """Some network plugins assign addresses of their own and leave podCIDRs unused, and no API
        says so. The majority of Nodes decides, whatever a single one says of its pods."""
        self._election_due = self._now() + _ELECTION
        cidrs = {n.metadata.name: pod_networks(n) for n in self._caches.nodes.values()}
        used = by_pod_cidrs(self._caches.pods.values(), cidrs)
        if used != self._by_pod_cidrs:
            self._by_pod_cidrs = used
            for endpoint in self._caches.endpoints.values():
                self._judge(_key(endpoint), endpoint)

    def _on_node(self, key: Key, old: Node | None, new: Node | None) -> None:
        if (old.spec.pod_cidrs if old else []) != (new.spec.pod_cidrs if new else []):
            for endpoint in self._caches.endpoints.by_index(_NODE, key.name):
                self._judge(_key(endpoint), endpoint)

    def _on_endpoint(self, key: Key, old: PodEndpoint | None, new: PodEndpoint | None) -> None:
        self._judge(key, new)

    def _on_pod(self, key: Key, old: Pod | None, new: Pod | None) -> None:
        if old is not None and new is not None and _same(old, new):
            return
        if old is not None and new is not None and old.metadata.uid == new.metadata.uid:
            if (name := annotated(old)) and name != annotated(new):
                self._before[key] = (name, self._now() + ANNOTATION_GRACE)
        else:
            self._before.pop(key, None)
        self._judge_pods(key)
        for address in {a for pod in (old, new) if pod for a in pod.ips}:
            for other in self._caches.endpoints.by_index(_ADDRESS, address):
                if _pod_key(other) != key:
                    self._judge(_key(other), other)

    def _judge_pods(self, pod: Key) -> None:
        """What is claimed for the pod."""
        for endpoint in self._caches.endpoints.by_index(_POD, str(pod)):
            self._judge(_key(endpoint), endpoint)

    def _judge(self, key: Key, endpoint: PodEndpoint | None) -> None:
        verdict = judge(endpoint, self._evidence(endpoint)) if endpoint is not None else None
        before = self._where.pop(key, None)
        had = self._accepted[before].pop(key, None) if before else None
        name = intern(endpoint.configuration) if endpoint else None
        changed = {before} if before else set()
        if before and had:
            self._part(before, key, had)
        if isinstance(verdict, AcceptedClaim) and name is not None and endpoint is not None:
            verdict = first_known(verdict, had)
            self._accepted.setdefault(name, {})[key] = verdict
            self._where[key] = name
            pod = _pod_key(endpoint)
            pod = key if pod == key else pod  # one value, for most
            self._owners.update({(name, n.network_address): pod for n in verdict.networks})
            changed = set() if (before, had) == (name, verdict) else {*changed, name}
        if isinstance(verdict, ClaimRejection):
            self._refused[key] = verdict
        else:
            self._refused.pop(key, None)
        for one in changed:
            self._resolved.pop(one, None)
            self._dirty(one)

    def _part(self, name: str, key: Key, claim: AcceptedClaim) -> None:
        """Whose addresses they were is known for a while: a pod's last connections end after it."""
        for network in claim.networks:
            place = (name, network.network_address)
            pod = self._owners.get(place)
            if pod is not None and str(pod) == (claim.pod or str(key)):
                del self._owners[place]
                self._former.pop(place, None)
                self._former[place] = pod
        while len(self._former) > _REMEMBERED:
            del self._former[next(iter(self._former))]

    def _evidence(self, endpoint: PodEndpoint) -> Evidence:
        key = _pod_key(endpoint)
        pod = self._caches.pods.get(*key)
        named = {annotated(pod)} if pod else set()
        if key in self._before:
            named.add(self._before[key][0])
        node = self._caches.nodes.get("", endpoint.spec.node_name) if self._by_pod_cidrs else None
        return Evidence(
            pod=pod,
            having=self._having,
            named=named,
            networks=pod_networks(node) if node else (),
            mirror_pods=self._mirror_pods,
        )

    def _having(self, address: str) -> Iterable[Pod]:
        return self._caches.pods.by_index(_ADDRESS, address)


def pod_networks(node: Node) -> tuple[IPNetwork, ...]:
    """The Node's podCIDRs, without texts that are none."""
    found: list[IPNetwork] = []
    for text in node.spec.pod_cidrs:
        with contextlib.suppress(ValueError):
            found.append(parse_network(text))
    return tuple(found)


def by_pod_cidrs(pods: Iterable[Pod], cidrs: dict[str, tuple[IPNetwork, ...]]) -> bool:
    """Whether on most Nodes most pods have their first address from the Node's podCIDRs. Each Node
    has one vote, because its kubelet makes as many pods as it likes. Nodes without podCIDRs or
    without pods have none; without a vote it is not so. Pure."""
    votes: Counter[str] = Counter()
    for pod in pods:
        around = cidrs.get(pod.spec.node_name)
        if not around or pod.spec.host_network or pod.finished or not pod.ips:
            continue
        with contextlib.suppress(ValueError):
            address = parse_network(pod.ips[0])
            votes[pod.spec.node_name] += 1 if any(within(address, n) for n in around) else -1
    return sum((v > 0) - (v < 0) for v in votes.values()) > 0


def _key(endpoint: PodEndpoint) -> Key:
    return Key(endpoint.metadata.namespace, endpoint.metadata.name)


def _pod_key(endpoint: PodEndpoint) -> Key:
    return Key(endpoint.metadata.namespace, endpoint.pod_name)


def _same(old: Pod, new: Pod) -> bool:
    """Whether a pod's change is none for us."""
    return (
        old.metadata.uid == new.metadata.uid
        and old.spec == new.spec
        and old.ips == new.ips
        and old.finished == new.finished
        and annotated(old) == annotated(new)
        and (names.MIRROR_ANNOTATION in old.metadata.annotations)
        == (names.MIRROR_ANNOTATION in new.metadata.annotations)
    )
