"""Reads what ``check --pre`` judges: the cluster with this person's rights, and this machine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from egress_gateway.api import names
from egress_gateway.cli import cluster
from egress_gateway.cli.diagnosis.checks.preflight import LEVEL_LABEL, RIGHTS, Before, Machine
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.linux.link import Links
from egress_gateway.datapath.linux.netns import NetNS, enter_new
from egress_gateway.datapath.linux.nft import Nftables
from egress_gateway.datapath.wireguard.mtu import default_route_mtu
from egress_gateway.kube import wire
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import ApiError
from egress_gateway.kube.resources import DAEMON_SETS, NAMESPACES, NODES, Node
from egress_gateway.kube.review import allowed

_CHAIN: Final = Path("/etc/cni/net.d")
_TRY: Final = """
table inet probe {
  set s { type ipv4_addr . inet_service; flags dynamic, timeout; }
  chain c {
    type nat hook postrouting priority srcnat;
    ct state established ct mark 1 accept
    meta mark set 1 masquerade
  }
}
"""
"""Of each thing that our tables are made of, one."""


class _Version(msgspec.Struct):
    name: str = msgspec.field(name="gitVersion")


async def read(kubeconfig: str | None, system: str) -> tuple[Before, list[str]]:
    """The cluster before an installation. Raises ``ApiError`` if the API server does not answer."""
    unseen: list[str] = []
    async with cluster.connect(kubeconfig, "egress-gateway-cli") as client:
        answer = await client.request("GET", "/version")
        version = wire.decode_answer(_Version, answer, "the API server's version").name

        async def listed(resource: Any, where: str | None = None) -> list[Mapping[str, Any]] | None:
            try:
                return list((await client.list(resource.untyped(), where)).items)
            except ApiError as error:
                unseen.append(str(error))
                return None

        nodes, namespaces, workloads, refused = await asyncio.gather(
            listed(NODES), listed(NAMESPACES), listed(DAEMON_SETS), _refused(client, system)
        )
    facts = Before(
        version=version,
        nodes=None if nodes is None else [msgspec.convert(n, Node) for n in nodes],
        runtimes={n["metadata"]["name"]: _runtime(n) for n in nodes or ()},
        levels={
            n["metadata"]["name"]: label
            for n in namespaces or ()
            if (label := (n["metadata"].get("labels") or {}).get(LEVEL_LABEL))
        },
        refused=refused,
        others=[f"DaemonSet {_key(w)}" for w in workloads or () if _of_go_project(w)],
    )
    return facts, unseen


def _runtime(node: Mapping[str, Any]) -> str:
    return str(node.get("status", {}).get("nodeInfo", {}).get("containerRuntimeVersion", ""))


def _key(obj: Mapping[str, Any]) -> str:
    return f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"


def _of_go_project(workload: Mapping[str, Any]) -> bool:
    return str(workload["metadata"]["name"]).startswith(names.GO_DAEMON_PREFIX)


async def _refused(client: Client, system: str) -> list[str]:
    """Of ``RIGHTS``, by SelfSubjectAccessReview, which everybody may create."""
    missing = []
    for group, resource, namespace in RIGHTS:
        asked = {"group": group, "resource": resource, "verb": "create"}
        if namespace:
            asked["namespace"] = system
        if not await allowed(client, {"resourceAttributes": asked}, "SelfSubjectAccessReview"):
            missing.append(f"{resource} in {system}" if namespace else resource)
    return missing


async def machine() -> Machine:
    """This machine, as root. Leaves no change: each trial runs in a namespace of its own that is
    then deleted."""
    return await asyncio.to_thread(_machine)


def _machine() -> Machine:
    try:
        mtu = default_route_mtu()
    except DatapathError:
        mtu = 0
    return Machine(
        name=os.uname().nodename,
        wireguard=not _tried(_add_wireguard),
        tun=Path("/dev/net/tun").exists(),
        nftables=_tried(lambda netns: Nftables(netns).apply(_TRY)),
        mtu=mtu,
        chain={f.name: f.read_bytes() for f in _CHAIN.iterdir() if f.is_file()}
        if _CHAIN.is_dir()
        else None,
    )


def _add_wireguard(netns: NetNS) -> None:
    # NB: not the back ends' own look: they need the cryptography of keys, which a person lacks.
    with Links(netns) as links:
        links.add("probe", "wireguard")


def _tried(step: Callable[[NetNS], None]) -> str:
    """Why the kernel refuses ``step`` in a namespace that is thrown away; empty: it does not."""

    def attempt() -> str:
        enter_new()
        try:
            step(NetNS.current())
        except (DatapathError, OSError) as error:
            return str(error)
        return ""

    with NetNS.current() as here:
        return here.start(attempt)()
