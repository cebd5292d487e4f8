"""Which pods may send through a configuration: PodEndpoints judged by Pods. Pure.

A PodEndpoint is written by the pod's node; a Pod is what Kubernetes knows. The endpoint counts when
a live Pod has its name, UID and node, and its addresses are that Pod's. The kubelet writes
``status.podIPs`` only after the network is up, which waits for us: until then an address counts if
no other running pod has it. Finished pods own no address; neither do terminating ones of the same
node, whose kubelet has just given the address away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from egress_gateway.api import keys
from egress_gateway.api.types import PodEndpoint
from egress_gateway.datapath.addresses import IPNetwork, parse_network
from egress_gateway.kube.resources import Key, Pod

PodsByAddress = Callable[[str], Iterable[Pod]]


@dataclass(frozen=True, slots=True)
class AcceptedClaim:
    """A peer: its key, its addresses (one-address networks), and its rank among rivals."""

    public_key: str
    networks: tuple[IPNetwork, ...]
    rank: tuple[bool, str, str]


@dataclass(frozen=True, slots=True)
class RefusedClaim:
    why: str


def configuration_of(endpoint: PodEndpoint) -> str:
    """``namespace/name`` of the configuration; it always is in the pod's namespace."""
    return f"{endpoint.metadata.namespace}/{endpoint.spec.static_gateway_configuration}"


def addresses_of(endpoint: PodEndpoint) -> list[str]:
    """Every address that the endpoint claims; older ones carry a single one."""
    spec = endpoint.spec
    return spec.pod_ips or ([spec.pod_ip_address] if spec.pod_ip_address else [])


def judge(
    endpoint: PodEndpoint, pod: Pod | None, having: PodsByAddress
) -> AcceptedClaim | RefusedClaim:
    """``pod`` is the Pod of the endpoint's name; ``having`` answers who has an address."""
    spec = endpoint.spec
    if pod is None:
        return RefusedClaim("there is no such pod")
    if pod.metadata.uid != spec.pod_uid:
        return RefusedClaim("the pod has another UID: it was replaced")
    if not spec.node_name or pod.spec.node_name != spec.node_name:
        return RefusedClaim(f"the pod runs on {pod.spec.node_name!r}, not on {spec.node_name!r}")
    if pod.finished:
        return RefusedClaim("the pod has finished")
    if not keys.valid(spec.pod_public_key):
        return RefusedClaim("podPublicKey is no WireGuard key")
    claimed = addresses_of(endpoint)
    try:
        networks = tuple(parse_network(address) for address in claimed)
    except ValueError as error:
        return RefusedClaim(f"podIps: {error}")
    if not networks or any(n.num_addresses != 1 for n in networks):
        return RefusedClaim("it claims no address")
    problem = _foreign(pod, claimed, having)
    if problem:
        return RefusedClaim(problem)
    meta = pod.metadata
    rank = (meta.deletion_timestamp is None, meta.creation_timestamp or "", meta.uid)
    return AcceptedClaim(spec.pod_public_key, networks, rank)


def _foreign(pod: Pod, claimed: Iterable[str], having: PodsByAddress) -> str | None:
    if pod.ips:
        strange = [address for address in claimed if address not in pod.ips]
        return f"the pod's addresses are {pod.ips}, not {strange}" if strange else None
    for address in claimed:
        for other in having(address):
            gone = other.finished or other.spec.host_network
            leaving = (
                other.metadata.deletion_timestamp is not None
                and other.spec.node_name == pod.spec.node_name
            )
            if other.metadata.uid != pod.metadata.uid and not gone and not leaving:
                owner = f"{other.metadata.namespace}/{other.metadata.name}"
                return f"address {address} is pod {owner}'s"
    return None


@dataclass(frozen=True, slots=True)
class PeerChange:
    """What to tell one interface. ``removed`` carries the addresses whose connections end."""

    added: Mapping[str, tuple[IPNetwork, ...]]
    removed: Mapping[str, tuple[IPNetwork, ...]]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)


def resolve(accepted: Mapping[Key, AcceptedClaim]) -> dict[str, tuple[IPNetwork, ...]]:
    """Peers by public key. An address, and a key, belongs to one peer: to the endpoint of the
    highest rank (not terminating, youngest)."""
    peers: dict[str, tuple[IPNetwork, ...]] = {}
    owned: set[IPNetwork] = set()
    for one in sorted(accepted.values(), key=lambda a: a.rank, reverse=True):
        if one.public_key in peers:
            continue
        mine = tuple(n for n in one.networks if n not in owned)
        if mine:
            peers[one.public_key] = mine
            owned.update(mine)
    return peers


def difference(
    before: Mapping[str, tuple[IPNetwork, ...]], after: Mapping[str, tuple[IPNetwork, ...]]
) -> PeerChange:
    """From the peers an interface has to those it should have."""
    return PeerChange(
        added={key: n for key, n in after.items() if before.get(key) != n},
        removed={key: n for key, n in before.items() if key not in after},
    )
