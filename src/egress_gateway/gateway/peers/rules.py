"""Which pods may send through a configuration: claims judged by what the API server knows. Pure.

A PodEndpoint is a *claim*. The agent of the pod's node writes it, and a compromised agent writes
anything. So a claim counts only if it agrees with everything that others wrote: the Pod's UID,
node, annotation and owner reference; the addresses of other nodes' pods; the Node's podCIDRs; the
claims that were there before.

``status.podIPs`` may confirm an address, but its silence refuses none. The kubelet writes it after
the network is up, and the network waits for this verdict. That is so for a new pod, and for a
sandbox that the kubelet makes again, whose old address the status still shows. Among pods of one
node the status decides nothing either: that node assigns the addresses, and reuses them.

*First holder*: of two claims of one key, the older PodEndpoint gets it, by the API server's own
``creationTimestamp``, and inside of its second by ``resourceVersion``, as it was when this gateway
heard of it first (a number that grows, KEP-5504). The definition of the kind lets nobody put
another key into a PodEndpoint that exists, so its age is the age of its claim.

An address has a first holder too. But a claim that its own pod's status contradicts yields to any
other: with it a node would keep addresses from pods that are yet to come.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from egress_gateway.api import keys, names
from egress_gateway.api.types import PodEndpoint
from egress_gateway.datapath.addresses import IPNetwork, parse_network, within
from egress_gateway.kube.resources import Key, Pod

PodsByAddress = Callable[[str], Iterable[Pod]]

MOST_ADDRESSES: Final = 8
"""Of one pod: two for each of four networks. A claim of more is refused before any is looked at."""

POD_MISSING: Final = "PodMissing"
POD_REPLACED: Final = "PodReplaced"
POD_FINISHED: Final = "PodFinished"
NOT_OWNED: Final = "NotOwned"
WRONG_NODE: Final = "WrongNode"
HOST_NETWORK: Final = "HostNetwork"
MIRROR_POD: Final = "MirrorPod"
NOT_ANNOTATED: Final = "NotAnnotated"
INVALID_KEY: Final = "InvalidKey"
INVALID_ADDRESS: Final = "InvalidAddress"
FOREIGN_ADDRESS: Final = "ForeignAddress"
ADDRESS_TAKEN: Final = "AddressTaken"
KEY_TAKEN: Final = "KeyTaken"

PASSING: Final = frozenset({POD_MISSING, POD_REPLACED, POD_FINISHED})
"""Reasons that every pod's end has for a moment: its PodEndpoint goes a little later."""


@dataclass(frozen=True, slots=True)
class AcceptedClaim:
    """A peer: its key, its addresses (one-address networks), its node, and its age among claims."""

    public_key: str
    networks: tuple[IPNetwork, ...]
    node: str
    rank: tuple[str, int, str]
    """Creation time, first known version and UID of the PodEndpoint; the least is the first
    holder."""
    contradicted: bool = False
    """The pod's status has addresses, and not these."""
    pod: str = ""
    """``namespace/name``; empty: that of the PodEndpoint."""


@dataclass(frozen=True, slots=True)
class ClaimRejection:
    """``reason`` is one of the names above; ``message`` says in words what does not agree."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the API server knows that bears on one claim."""

    pod: Pod | None
    """The Pod of the claim's name."""
    having: PodsByAddress = lambda _: ()
    """Pods whose status has an address, except those on their node's network."""
    named: Collection[str] = ()
    """Configurations that the pod's annotation names, or named a moment ago."""
    networks: Sequence[IPNetwork] = ()
    """``podCIDRs`` of the claim's Node; empty: it has none, or this cluster does not use them."""
    mirror_pods: bool = False
    """Whether mirror pods may be peers."""


def annotated(pod: Pod) -> str:
    """The configuration that the pod's annotation names; empty: none. A namespace's default is
    written into this annotation when the pod is admitted."""
    return pod.metadata.annotations.get(names.POD_ANNOTATION, "")


def addresses_of(endpoint: PodEndpoint) -> list[str]:
    """The addresses that the endpoint claims, as it spells them, one more than it may at most;
    endpoints of older agents carry a single one."""
    spec = endpoint.spec
    claimed = spec.pod_ips or ([spec.pod_ip_address] if spec.pod_ip_address else [])
    return claimed[: MOST_ADDRESSES + 1]


def places_of(endpoint: PodEndpoint) -> list[str]:
    """The same in the one spelling that Pods' addresses have here, without what is none."""
    found = []
    for text in addresses_of(endpoint):
        with contextlib.suppress(ValueError):
            found.append(str(parse_network(text).network_address))
    return found


def judge(endpoint: PodEndpoint, known: Evidence) -> AcceptedClaim | ClaimRejection:
    """The verdict on one claim, other claims left aside; see ``resolve`` for those."""
    pod = known.pod
    if pod is None:
        return ClaimRejection(POD_MISSING, "there is no such pod")
    refused = _other_pod(endpoint, pod) or _not_entitled(endpoint, pod, known)
    if refused:
        return refused
    if not keys.valid(endpoint.spec.pod_public_key):
        return ClaimRejection(
            INVALID_KEY, "podPublicKey is not a WireGuard key, or not as `wg pubkey` spells it"
        )
    claimed = addresses_of(endpoint)
    if len(claimed) > MOST_ADDRESSES:
        return ClaimRejection(INVALID_ADDRESS, f"it claims more than {MOST_ADDRESSES} addresses")
    try:
        networks = tuple(parse_network(address) for address in claimed)
    except ValueError as error:
        return ClaimRejection(INVALID_ADDRESS, f"podIps: {str(error)[:100]}")
    if not networks or not all(_of_a_pod(n) for n in networks):
        return ClaimRejection(INVALID_ADDRESS, "it claims no address that a pod can have")
    refused = _not_its_address(pod, networks, known)
    if refused:
        return refused
    meta = endpoint.metadata
    version = meta.resource_version
    rank = (meta.creation_timestamp or "", int(version) if version.isdecimal() else 0, meta.uid)
    return AcceptedClaim(
        endpoint.spec.pod_public_key,
        networks,
        pod.spec.node_name,
        rank,
        contradicted=bool(pod.ips) and any(str(n.network_address) not in pod.ips for n in networks),
        pod="" if meta.name == pod.metadata.name else str(Key(meta.namespace, pod.metadata.name)),
    )


def first_known(claim: AcceptedClaim, before: AcceptedClaim | None) -> AcceptedClaim:
    """The claim, as old as when it was first heard of."""
    if before is None or (before.rank[0], before.rank[2]) != (claim.rank[0], claim.rank[2]):
        return claim
    return replace(claim, rank=min(claim.rank, before.rank))


def _other_pod(endpoint: PodEndpoint, pod: Pod) -> ClaimRejection | None:
    """The Pod is not the one that the claim is about."""
    spec, meta = endpoint.spec, pod.metadata
    if meta.uid != spec.pod_uid:
        return ClaimRejection(POD_REPLACED, "the pod has another UID: it was replaced")
    if pod.finished:
        return ClaimRejection(POD_FINISHED, "the pod has finished")
    if not spec.node_name or pod.spec.node_name != spec.node_name:
        return ClaimRejection(
            WRONG_NODE, f"the pod runs on {pod.spec.node_name!r}, not on {spec.node_name[:253]!r}"
        )
    owners = endpoint.metadata.owner_references
    if not any((o.kind, o.name, o.uid) == ("Pod", meta.name, meta.uid) for o in owners):
        return ClaimRejection(NOT_OWNED, "the PodEndpoint has no owner reference to the pod")
    return None


def _not_entitled(endpoint: PodEndpoint, pod: Pod, known: Evidence) -> ClaimRejection | None:
    """The Pod is the right one, and must not use the configuration."""
    if pod.spec.host_network:
        return ClaimRejection(HOST_NETWORK, "the pod is on its node's network")
    if names.MIRROR_ANNOTATION in pod.metadata.annotations and not known.mirror_pods:
        return ClaimRejection(
            MIRROR_POD,
            "the pod comes from a file of its node (a static pod), so nobody admitted its "
            "annotation; set mirrorPods of the gateway agents to allow such pods",
        )
    claimed = endpoint.spec.static_gateway_configuration
    if not claimed or claimed not in known.named:
        return ClaimRejection(
            NOT_ANNOTATED,
            f"the pod's annotation {names.POD_ANNOTATION} is {annotated(pod)[:100]!r}, "
            f"not {claimed[:100]!r}",
        )
    return None


def _of_a_pod(network: IPNetwork) -> bool:
    address = network.network_address
    special = (
        address.is_unspecified
        or address.is_loopback
        or address.is_multicast
        or address.is_link_local
        or (address.version == 6 and address.ipv4_mapped is not None)
    )
    return network.prefixlen == network.max_prefixlen and not special


def _not_its_address(
    pod: Pod, networks: Iterable[IPNetwork], known: Evidence
) -> ClaimRejection | None:
    for network in networks:
        address = str(network.network_address)
        around = [n for n in known.networks if n.version == network.version]
        if around and not any(within(network, n) for n in around):
            cidrs = ", ".join(map(str, around))
            return ClaimRejection(
                FOREIGN_ADDRESS, f"address {address} is not in the podCIDRs of its node ({cidrs})"
            )
        if address in pod.ips:
            continue  # who else has it is no better placed; the first claim has it
        for other in known.having(address):
            if not other.finished and other.spec.node_name != pod.spec.node_name:
                owner = f"{other.metadata.namespace}/{other.metadata.name}"
                return ClaimRejection(
                    ADDRESS_TAKEN,
                    f"address {address} is pod {owner}'s, on node {other.spec.node_name}",
                )
    return None


@dataclass(frozen=True, slots=True)
class PeerChange:
    """What to tell one interface. ``removed`` carries the addresses whose connections end."""

    added: Mapping[str, tuple[IPNetwork, ...]]
    removed: Mapping[str, tuple[IPNetwork, ...]]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)


@dataclass(slots=True)
class Resolved:
    """One configuration's claims, made to agree with each other."""

    peers: dict[str, tuple[IPNetwork, ...]] = field(default_factory=dict)
    """Public key -> addresses. No key and no address is there twice."""
    refused: dict[Key, ClaimRejection] = field(default_factory=dict)
    """Claims that others have precedence over."""


def resolve(accepted: Mapping[Key, AcceptedClaim]) -> Resolved:
    """A key belongs to its first holder. So does an address, but among pods of one node the
    youngest claim has it: their node gave the address anew."""
    found = Resolved()
    holders: dict[str, Key] = {}
    owners: dict[IPNetwork, AcceptedClaim] = {}
    for key, one in sorted(accepted.items(), key=lambda item: item[1].rank):
        if one.public_key in holders:
            holder = _pod(holders[one.public_key], accepted)
            found.refused[key] = ClaimRejection(
                KEY_TAKEN, f"its key is that of pod {holder}, which claimed it first"
            )
            continue
        holders[one.public_key] = key
    in_turn = sorted(holders.values(), key=lambda k: (accepted[k].contradicted, accepted[k].rank))
    for key in in_turn:
        one = accepted[key]
        taken = next((n for n in one.networks if n in owners and owners[n].node != one.node), None)
        if taken is not None:
            holder = _pod(holders[owners[taken].public_key], accepted)
            found.refused[key] = ClaimRejection(
                ADDRESS_TAKEN,
                f"address {taken.network_address} is that of pod {holder}, which claimed it first",
            )
            continue
        owners.update(dict.fromkeys(one.networks, one))
    for network, one in owners.items():
        found.peers[one.public_key] = (*found.peers.get(one.public_key, ()), network)
    for public_key, key in holders.items():
        if public_key not in found.peers and key not in found.refused:
            found.refused[key] = ClaimRejection(
                ADDRESS_TAKEN, "another pod of its node claimed its address later"
            )
    return found


def _pod(key: Key, accepted: Mapping[Key, AcceptedClaim]) -> str:
    return accepted[key].pod or str(key)


def difference(
    before: Mapping[str, tuple[IPNetwork, ...]], after: Mapping[str, tuple[IPNetwork, ...]]
) -> PeerChange:
    """From the peers an interface has to those it should have."""
    return PeerChange(
        added={key: n for key, n in after.items() if before.get(key) != n},
        removed={key: n for key, n in before.items() if key not in after},
    )
