"""``egress-gateway inspect``: what this node's kernel has of ours. ``bundle`` runs it in agents.

It changes nothing, reads no key (WireGuard's are shown as the public half that the kernel derives),
and of foreign tables of nftables nothing at all.
"""

from __future__ import annotations

import dataclasses
import os
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from egress_gateway.cli.agents.namespaces import namespaces
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.gateway.ruleset import GATEWAY_TABLE, NODE_TABLE
from egress_gateway.datapath.linux.link import Links
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.linux.nft import Nftables
from egress_gateway.datapath.pod import linkguard, sources
from egress_gateway.datapath.pod.ruleset import TABLE
from egress_gateway.datapath.wireguard import backends
from egress_gateway.datapath.wireguard.model import Backend, Interface
from egress_gateway.node.attachment.model import Attachment

_TABLES: Final = tuple({GATEWAY_TABLE, NODE_TABLE, TABLE, sources.TABLE, linkguard.TABLE})


@click.command()
def inspect() -> None:
    """Print links, routes, rules, nftables and tunnels of this node as JSON; of ours alone."""
    click.echo(msgspec.json.format(msgspec.json.encode(_everything(), enc_hook=str)).decode())


def _everything() -> dict[str, Any]:
    found: dict[str, Any] = {"uname": " ".join(os.uname()), "metrics": _tried(_metrics)}
    backend = _tried(backends.detect)
    if not isinstance(backend, str):
        found["wireguard"] = {"kind": backend.kind, "version": _tried(backend.version)}
    for name, (path, attached) in namespaces().items():
        found[name] = _tried(partial(_looked_into, path, attached, backend))
    return found


def _tried(look: Callable[[], Any]) -> Any:
    """What it answers, or why not: this program must say what it can wherever it runs."""
    try:
        return look()
    except (DatapathError, OSError, ValueError) as error:
        return f"not seen: {error}"


def _looked_into(path: Path, attached: Attachment | None, backend: Backend | str) -> dict[str, Any]:
    with NetNS.open(path) as where, Links(where) as links:
        nftables = Nftables(where)
        there = links.links()
        rules = {family: links.rules(family) for family in (4, 6)}
        tables = {254} | {rule.table for found in rules.values() for rule in found}
        found: dict[str, Any] = {
            "links": [dataclasses.asdict(link) for link in there.values()],
            "addresses": sorted(f"{address} {name}" for name, address in links.every_address()),
            "rules": [dataclasses.asdict(r) for found in rules.values() for r in found],
            "routes": [
                dataclasses.asdict(route)
                for table in sorted(tables - {255})
                for family in (4, 6)
                for route in links.routes(table, family)
            ],
            "nftables": {t: _tried(partial(nftables.table, "inet", t)) for t in _TABLES},
        }
        if not isinstance(backend, str):
            found["tunnels"] = {
                link.name: _tried(partial(_tunnel, backend, _handle(where, link.name, attached)))
                for link in there.values()
                if link.kind in ("wireguard", "tun")
            }
        return found


def _handle(where: NetNS, link: str, attached: Attachment | None) -> Interface:
    return Interface(attached.birth_name(link) if attached else link, where, link)


def _tunnel(backend: Backend, handle: Interface) -> Any:
    device = backend.status(handle)
    return None if device is None else dataclasses.asdict(device)


def _metrics() -> str:
    """Of the component that this container runs."""
    port = os.environ.get("EGRESS_GATEWAY_METRICS_PORT", "0")
    if port == "0":
        raise ValueError("this component serves no metrics")
    with urllib.request.urlopen(f"http://127.0.0.1:{int(port)}/metrics", timeout=5) as answer:
        return str(answer.read().decode())
