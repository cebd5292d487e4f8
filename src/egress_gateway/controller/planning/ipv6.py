"""What stands in the way of a configuration's IPv6. Pure.

IPv6 never costs IPv4 anything: a fault in IPv6 becomes a problem of its own, and existing parts of
IPv6 stay as they are. Azure gives a network interface one IPv6 address at most
(https://learn.microsoft.com/azure/virtual-network/ip-services/virtual-network-network-interface-addresses),
so one configuration of a pool can have IPv6, and only while nobody else has put one there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv6Address, IPv6Network

from egress_gateway.api.conditions import Reason
from egress_gateway.api.validation import IPV6_LONGER
from egress_gateway.cloud.protocol import Advice, Instance, PoolState, Prefix
from egress_gateway.controller.planning.prefixes import judge_prefix
from egress_gateway.controller.planning.problem import Problem
from egress_gateway.controller.planning.wanted import Wanted


def judge6(
    everyone: Iterable[Wanted], state: PoolState, advice: Advice, refused: Collection[str]
) -> Mapping[str, Problem]:
    """By UID, why those of ``everyone`` who want IPv6 cannot have it now. ``refused``: those who
    have a problem as a whole."""
    wanting = [
        w
        for w in everyone
        if w.prefix_id6 and not w.leaving and not w.private and w.uid not in refused
    ]
    problems = {w.uid: p for w in wanting if (p := _prefix(w, state, advice))}
    sound = [w for w in wanting if w.uid not in problems]
    for w in sound if state.ipv6 is False else ():
        if not _has(w, state):
            problems[w.uid] = _no_subnet(state, advice)
    sound = [w for w in sound if w.uid not in problems]
    problems |= _crowd(sound, [w for w in everyone if _has(w, state)], state)
    return problems


def network6(wanted: Wanted, state: PoolState) -> IPv6Network | None:
    """The addresses of its IPv6 prefix, if they are known."""
    found = state.prefixes.get(wanted.prefix_id6.lower())
    network = found.network if isinstance(found, Prefix) else None
    return network if isinstance(network, IPv6Network) else None


def addresses6(instance: Instance, wanted: Wanted) -> tuple[IPv6Address | None, IPv6Address | None]:
    """What a machine has of its IPv6: the private and the public address."""
    found = instance.addresses.get(wanted.names.ip_config6) if wanted.prefix_id6 else None
    if found is None or not isinstance(found.secondary, IPv6Address):
        return None, None
    return found.secondary, found.public if isinstance(found.public, IPv6Address) else None


def _has(wanted: Wanted, state: PoolState) -> bool:
    """Whether anything of its IPv6 is there."""
    documents = (state.model, *(i.interface for i in state.instances))
    return any(wanted.names.ip_config6 in d.configs for d in documents)


def _prefix(wanted: Wanted, state: PoolState, advice: Advice) -> Problem | None:
    size = wanted.prefix_size + IPV6_LONGER
    return wanted.problem6 or judge_prefix(
        wanted.prefix_id6, state, size=size, ipv6=True, advice=advice
    )


def _no_subnet(state: PoolState, advice: Advice) -> Problem:
    return Problem(
        reason=Reason.SUBNET_WITHOUT_IPV6,
        message=f"the gateway nodes' subnet {state.ref.subnet} has no IPv6 address prefix; "
        f"{advice.add_ipv6()}, or remove spec.publicIpPrefixIdV6",
    )


def _crowd(
    wanting: Collection[Wanted], having: Collection[Wanted], state: PoolState
) -> dict[str, Problem]:
    """One address of IPv6 is all that a network interface has room for."""
    documents = (state.model, *(i.interface for i in state.instances))
    foreign = any(d.others6 for d in documents)
    holder = next(iter(having), None) or next(iter(wanting), None)
    found = {}
    for w in wanting:
        if foreign and w not in having:
            whose = "an ipConfig of the gateway nodes' own"
        elif holder is not None and holder.uid != w.uid:
            whose = f"the configuration with UID {holder.uid}"
        else:
            continue
        found[w.uid] = Problem(
            reason=Reason.IPV6_TAKEN,
            message="a network interface in Azure has at most one IPv6 address, and in this "
            f"gateway pool {whose} has it; use a gateway pool for this configuration whose network "
            "interfaces have none",
        )
    return found
