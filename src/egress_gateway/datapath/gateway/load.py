"""What a gateway carries, counted in the kernel; and who must not open further connections."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.gateway.namespace import GatewayNamespace
from egress_gateway.datapath.gateway.ruleset import (
    FULL_INTERFACES,
    FULL_PODS,
    GATEWAY_TABLE,
    HASTY_PODS,
)
from egress_gateway.datapath.linux import connections
from egress_gateway.datapath.linux.connections import ConnectionEvents, Survey
from egress_gateway.datapath.linux.link import Links, Traffic
from egress_gateway.datapath.linux.nft import Nftables


@dataclass(frozen=True, slots=True)
class Full:
    """Who must not open further connections: pods by interface and address, whole interfaces."""

    pods: frozenset[tuple[str, IPAddress]] = frozenset()
    interfaces: frozenset[str] = frozenset()


class GatewayLoad:
    """Methods block. They raise ``DatapathError``, and find nothing while nothing is served."""

    def __init__(self, namespace: GatewayNamespace) -> None:
        self._namespace = namespace

    def traffic(self) -> dict[str, Traffic]:
        """What each WireGuard interface has carried, by its name."""
        with self._namespace.if_there() as inside:
            if inside is None:
                return {}
            with Links(inside) as links:
                found = links.links()
        return {name: link.traffic for name, link in found.items() if name.startswith("wg-")}

    def survey(self) -> Survey:
        """All connections, counted: how near each address is to its last free port, and how many
        each pod has."""
        with self._namespace.if_there() as inside:
            return connections.survey(inside) if inside is not None else Survey({}, {})

    def hold_back(self, full: Full, seconds: int) -> None:
        """These pods can open no connection for ``seconds``; all others can again."""
        elements = {
            FULL_INTERFACES: [f'"{name}"' for name in sorted(full.interfaces)],
            **{
                name: [f'"{i}" . {a}' for i, a in sorted(full.pods, key=str) if a.version == family]
                for family, name in FULL_PODS.items()
            },
        }
        lines = [f"flush set inet {GATEWAY_TABLE} {name}" for name in elements]
        for name, found in elements.items():
            listed = ", ".join(f"{element} timeout {seconds}s" for element in found)
            if listed:
                lines.append(f"add element inet {GATEWAY_TABLE} {name} {{ {listed} }}")
        with self._namespace.open() as inside:
            Nftables(inside).apply("\n".join(lines))

    def hasty(self) -> frozenset[tuple[str, IPAddress]]:
        """Pods, by interface and address, that began connections too fast in the last minute."""
        with self._namespace.if_there() as inside:
            rules = Nftables(inside) if inside is not None else None
            found = (
                element["concat"]
                for name in HASTY_PODS.values()
                for element in (rules.elements("inet", GATEWAY_TABLE, name) if rules else ())
            )
            return frozenset((link, ip_address(address)) for link, address in found)

    def table(self) -> tuple[int, int]:
        """(entries, limit) of the connection table; zeros while nothing is served."""
        with self._namespace.if_there() as inside:
            return connections.table(inside) if inside is not None else (0, 0)

    def events(self) -> ConnectionEvents | None:
        """Connections as they begin and end; None while nothing is served."""
        with self._namespace.if_there() as inside:
            return ConnectionEvents(inside) if inside is not None else None
