"""Which configurations this node serves, and with what. Pure.

A node serves the configurations whose status lists it, until somebody deletes them: from then on
the controller gives their addresses back, and whoever gets them next must not find another one's
packets on them. What cannot be served becomes a problem in words; a configuration that was served
goes on as it was while its new state is incomplete.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from egress_gateway.api import keys, names
from egress_gateway.api.types import StaticGatewayConfiguration, StaticGatewayConfigurationSpec
from egress_gateway.datapath.addresses import IPAddress, parse_address, parse_networks
from egress_gateway.datapath.gateway.served import ServedConfiguration, WireGuardServer


@dataclass(frozen=True, slots=True)
class Listed:
    """A configuration that lists this node, with its key pair's private half once known."""

    uid: str
    name: str
    """``namespace/name``."""
    public_key: str
    """As the status has it; empty if it has none yet."""
    port: int
    secondary: str
    frontend: str
    destinations: tuple[str, ...] = ()
    """CIDRs that it sends through the gateway by name: with ``azureNetworking`` alone."""
    public: str = ""
    """What the Internet sees of this node's address; empty if nothing else."""
    connection_log: bool = False
    verify_targets: tuple[str, ...] = ()
    secondary6: str = ""
    """Empty: IPv6 is not carried."""
    public6: str = ""
    second: Second | None = None


@dataclass(frozen=True, slots=True)
class Second:
    """The other server, while the key pair is being changed."""

    port: int
    public_key: str
    answers: bool
    """False: nothing leaves by it any more; it is about to go."""


@dataclass(frozen=True, slots=True)
class ServingPlan:
    """The outcome: what to serve (by uid), and what is in the way (by name)."""

    configurations: Mapping[str, ServedConfiguration]
    """Those without a private key have a problem too, and only go on if they run already."""
    problems: Mapping[str, str]


def listed(objects: Iterable[StaticGatewayConfiguration], node: str) -> list[Listed]:
    """Those that list ``node`` and are not being deleted, in the order of their uids."""
    found = []
    for sgc in objects:
        entry = next((g for g in sgc.status.gateways if g.node == node), None)
        if entry is None or sgc.metadata.deletion_timestamp:
            continue
        profile = sgc.status.gateway_server_profile
        found.append(
            Listed(
                uid=sgc.metadata.uid,
                name=f"{sgc.metadata.namespace}/{sgc.metadata.name}",
                public_key=profile.public_key,
                port=profile.port,
                secondary=entry.secondary_ip,
                frontend=profile.ip,
                destinations=_destinations(sgc.spec),
                public=entry.public_ip,
                connection_log=sgc.spec.connection_log,
                verify_targets=tuple(sgc.spec.verify_targets),
                secondary6=entry.secondary_ip_v6,
                public6=entry.public_ip_v6,
                second=_second(sgc),
            )
        )
    return sorted(found, key=lambda one: one.uid)


def _second(sgc: StaticGatewayConfiguration) -> Second | None:
    rotation = sgc.status.key_rotation
    if not names.PORT_FIRST <= rotation.port <= names.PORT_LAST:
        return None
    return Second(rotation.port, rotation.public_key, rotation.phase != "Closing")


def serving(
    wanted: Iterable[Listed],
    private_keys: Mapping[str, str],
    key_problems: Mapping[str, str],
    second_keys: Mapping[str, str] = {},
) -> ServingPlan:
    """Joins configurations with their private keys (by uid). Of two that claim one port or one
    address the first by uid is served: the controller never makes such a pair. ``second_keys`` are
    those of second servers, by uid too."""
    configurations: dict[str, ServedConfiguration] = {}
    problems: dict[str, str] = {}
    taken: dict[int | ipaddress.IPv4Address, str] = {}
    for one in wanted:
        problem = _problem(one)
        if problem:
            problems[one.name] = problem
            continue
        secondary = ipaddress.IPv4Address(one.secondary)
        rival = taken.get(one.port) or taken.get(secondary)
        if rival:
            problems[one.name] = (
                f"port {one.port} or address {secondary} is that of {rival} too; "
                "the controller's status is inconsistent"
            )
            continue
        private = private_keys.get(one.uid)
        if private is None:
            # Kept among the configurations: an interface from before need not stop for it.
            problems[one.name] = key_problems.get(one.uid, "its key is not known yet")
        taken[one.port] = taken[secondary] = one.name
        configurations[one.uid] = ServedConfiguration(
            name=one.name,
            port=one.port,
            private_key=private,
            secondary=secondary,
            secondary6=_ipv6(one),
            frontend=_address(one.frontend),
            destinations=parse_networks(one.destinations),  # their author was told of the others
        )
    for one in wanted:
        if one.second and one.uid in configurations and one.second.port not in taken:
            taken[one.second.port] = one.name
            second = WireGuardServer(port=one.second.port, private_key=second_keys.get(one.uid))
            configurations[one.uid] = dataclasses.replace(
                configurations[one.uid], second=second, second_answers=one.second.answers
            )
    return ServingPlan(configurations, problems)


def _problem(one: Listed) -> str | None:
    if not names.PORT_FIRST <= one.port <= names.PORT_LAST:
        return (
            f"status.gatewayServerProfile.port is {one.port or 'not set'}, not one of "
            f"{names.PORT_FIRST} to {names.PORT_LAST}; the controller writes it"
        )
    if not isinstance(_address(one.secondary), ipaddress.IPv4Address):
        return (
            f"status.gateways lists this node with secondaryIp {one.secondary!r}, "
            "which is no IPv4 address; the controller writes it"
        )
    return None


def _ipv6(one: Listed) -> ipaddress.IPv6Address | None:
    found = _address(one.secondary6)
    return found if isinstance(found, ipaddress.IPv6Address) else None


def without_ipv6(found: ServingPlan) -> ServingPlan:
    """The same on a node that cannot carry IPv6."""
    configurations = {
        uid: dataclasses.replace(one, secondary6=None) for uid, one in found.configurations.items()
    }
    return ServingPlan(configurations, found.problems)


def _destinations(spec: StaticGatewayConfigurationSpec) -> tuple[str, ...]:
    return tuple(spec.exclude_cidrs) if spec.default_route == "azureNetworking" else ()


def _address(text: str) -> IPAddress | None:
    try:
        return parse_address(text)
    except ValueError:
        return None


def keys_of(one: Listed, found: Iterable[str]) -> tuple[str | None, str | None]:
    """The private keys of ``one``'s servers among those that its Secret holds; the first of them
    is the usual one. A status may be older or newer than the Secret."""
    ordered = {keys.public_key(private): private for private in found}
    usual = next(iter(ordered.values()), None)
    first = ordered.get(one.public_key, usual)
    return first, ordered.get(one.second.public_key) if one.second else None


def key_mismatch(one: Listed, first: str | None, second: str | None) -> bool:
    """Whether a key is missing, or the status names another public key than it has."""
    lacking = one.second is not None and (
        second is None or keys.public_key(second) != one.second.public_key
    )
    other = first is None or (bool(one.public_key) and keys.public_key(first) != one.public_key)
    return other or lacking
