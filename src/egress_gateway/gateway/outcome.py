"""What one pass comes to: what is served, what is in the way, what people are told. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from egress_gateway.api import keys
from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.gateway.plan import OVERHEAD, Surroundings
from egress_gateway.datapath.gateway.served import ServedConfiguration, zones
from egress_gateway.datapath.gateway.side import Converged
from egress_gateway.datapath.wireguard.mtu import IPV6_MTU
from egress_gateway.gateway.connectionlog import Logged
from egress_gateway.gateway.serving import Listed, ServingPlan


def ipv6_warnings(wanted: Iterable[Listed], mtu: int, around: Surroundings) -> dict[str, str]:
    """By name: why this gateway does not carry the requested IPv6."""
    if mtu - OVERHEAD < IPV6_MTU:
        why = f"the node's MTU is {mtu}, and tunnels need {IPV6_MTU + OVERHEAD} for IPv6"
    elif not around.ipv6:
        why = "the node's kernel has no IPv6"
    elif not around.default6:
        why = "the node has no IPv6 default route; give its network interface an IPv6 address"
    else:
        return {}
    return {one.name: f"IPv6 is held back here: {why}" for one in wanted if one.secondary6}


def zoned(outcome: ServingPlan, known: Mapping[IPv4Address, int]) -> ServingPlan:
    """The same with the conntrack zones that secondary addresses have in the kernel (``known``)."""
    uids, configurations = list(outcome.configurations), outcome.configurations.values()
    found = dict(zip(uids, zones(configurations, known), strict=True))
    return replace(outcome, configurations=found)


def logged(
    wanted: Iterable[Listed], served: Mapping[str, ServedConfiguration]
) -> dict[int, Logged]:
    """By conntrack zone: the configurations whose connections are to be logged."""
    return {
        served[one.uid].in_zone: Logged(one.name, _public(one, served[one.uid]))
        for one in wanted
        if one.connection_log and one.uid in served
    }


def _public(one: Listed, served: ServedConfiguration) -> dict[IPAddress, str]:
    """What the Internet sees, by what leaves."""
    found: dict[IPAddress, str] = {served.secondary: one.public}
    if served.secondary6 is not None:
        found[served.secondary6] = one.public6
    return found


def problems_of(outcome: ServingPlan, converged: Converged) -> dict[str, str]:
    """By name: what is wrong with objects, and what the kernel refused."""
    by_port = {c.port: c.name for c in outcome.configurations.values()}
    failed = {by_port[port]: why for port, why in converged.problems.items() if port in by_port}
    return {**outcome.problems, **failed}


def ready_of(
    outcome: ServingPlan, converged: Converged, problems: Mapping[str, str]
) -> tuple[dict[str, ServedConfiguration], dict[str, str]]:
    """What is served now, and with which public key; both by uid. A configuration whose key
    cannot be read is served if its interface was there already."""
    ready: dict[str, ServedConfiguration] = {}
    public: dict[str, str] = {}
    for uid, one in outcome.configurations.items():
        device = converged.found.get(one.interface)
        if one.private_key is None:
            if device is not None and one.port not in converged.problems:
                ready[uid], public[uid] = one, device.public_key
        elif one.name not in problems:
            ready[uid], public[uid] = one, keys.public_key(one.private_key)
    return ready, public
