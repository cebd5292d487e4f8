"""Faults of a cluster, or of a machine, that nothing of ours is installed on yet."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from msgspec.structs import replace

from egress_gateway.api import names
from egress_gateway.cli.diagnosis.checks.azure import (
    IN_GROUP,
    AzureBefore,
    FoundPrefix,
    Permission,
    Room,
    Usage,
)
from egress_gateway.cli.diagnosis.checks.preflight import Before, Machine
from egress_gateway.kube.resources import Node, NodeSpec, Taint
from tests.faults.table import GATEWAY, node

TAINT: Final = Taint(key=names.GATEWAY_NODE_LABEL, value="true", effect="NoSchedule")


def gateway(name: str, *taints: Taint, machine: str = "azure:///subscriptions/s/vm/0") -> Node:
    spec = NodeSpec(provider_id=machine, taints=list(taints))
    return replace(node(name, GATEWAY), spec=spec)


READY: Final = Before(
    version="v1.33.4",
    nodes=[gateway("gw0", TAINT), gateway("gw1", TAINT), node("n0", {})],
    runtimes={"gw0": "containerd://1.7.28", "gw1": "containerd://2.1.0", "n0": "cri-o://1.33.0"},
    levels={"shop": "restricted"},
)
CHAIN: Final = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}]}
MACHINE: Final = Machine(
    name="n0",
    wireguard=True,
    tun=True,
    mtu=1500,
    chain={"10-net.conflist": json.dumps(CHAIN).encode(), "README": b""},
)


def with_(**changes: Any) -> Callable[[Before], Before]:
    return lambda facts: replace(facts, **changes)


def gateways(*nodes: Node) -> Callable[[Before], Before]:
    return with_(nodes=[*nodes, node("n0", {})])


def files(**chain: bytes) -> Machine:
    return replace(MACHINE, chain={f"10-{name}.conflist": text for name, text in chain.items()})


BEFORE: Final[list[tuple[str, Callable[[Before], Before], str, str, str]]] = [
    ("Kubernetes 1.29", with_(version="v1.29.9"), "EG401", "Cluster", "1.30"),
    ("Kubernetes 1.27 of AKS", with_(version="v1.27.102"), "EG401", "Cluster", "az aks upgrade"),
    ("no gateway node", gateways(), "EG402", "Cluster", "--mode gateway"),
    ("one gateway node", gateways(gateway("gw0", TAINT)), "EG402", "Cluster", "gw0"),
    (
        "a gateway without a taint",
        gateways(gateway("gw0", TAINT), gateway("gw1")),
        "EG403",
        "Node gw1",
        "kubectl taint",
    ),
    (
        "a taint that only asks",
        gateways(gateway("gw0", TAINT), gateway("gw1", replace(TAINT, effect="PreferNoSchedule"))),
        "EG403",
        "Node gw1",
        "NoSchedule",
    ),
    (
        "no cloud provider",
        gateways(gateway("gw0", TAINT), gateway("gw1", TAINT, machine="")),
        "EG404",
        "Node gw1",
        "cloud provider",
    ),
    (
        "another cloud's machine",
        gateways(gateway("gw0", TAINT), gateway("gw1", TAINT, machine="aws:///x/i-1")),
        "EG404",
        "Node gw1",
        "aws:///x/i-1",
    ),
    (
        "containerd 1.6",
        with_(runtimes={"n0": "containerd://1.6.36"}),
        "EG405",
        "Node n0",
        "to containerd 1.7",
    ),
    (
        "no right to create roles",
        with_(refused=["clusterroles"]),
        "EG406",
        "User",
        "clusterroles",
    ),
    (
        "a namespace that enforces baseline",
        with_(levels={names.SYSTEM_NAMESPACE: "baseline"}),
        "EG407",
        f"Namespace {names.SYSTEM_NAMESPACE}",
        "privileged",
    ),
    (
        "the Go project's daemon",
        with_(others=["DaemonSet x/kube-egress-gateway-daemon-manager"]),
        "EG408",
        "DaemonSet x/kube-egress-gateway-daemon-manager",
        "migrate",
    ),
]
MACHINES: Final[list[tuple[str, Machine, str, str]]] = [
    (
        "neither WireGuard nor TUN",
        replace(MACHINE, wireguard=False, tun=False),
        "EG411",
        "modprobe",
    ),
    ("no nftables", replace(MACHINE, nftables="Operation not supported"), "EG412", "nf_tables"),
    ("an MTU of 1,280", replace(MACHINE, mtu=1280), "EG413", "1360"),
    ("no default route", replace(MACHINE, mtu=0), "EG413", "default route"),
    ("no CNI folder", replace(MACHINE, chain=None), "EG414", "does not exist"),
    ("an empty CNI folder", replace(MACHINE, chain={}), "EG414", "no network configuration"),
    ("a CNI file that is cut off", files(net=b'{"plugins": ['), "EG414", "10-net.conflist"),
    (
        "a chain of an old CNI version",
        files(net=json.dumps(CHAIN | {"cniVersion": "0.2.0"}).encode()),
        "EG414",
        "0.2.0",
    ),
]
ID: Final = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/publicIPPrefixes/p"
GROUP_ID: Final = "/subscriptions/s/resourceGroups/nodes"


def document(**properties: object) -> dict[str, object]:
    known: dict[str, object] = {"prefixLength": 30, "publicIPAddressVersion": "IPv4"}
    return {"location": "Sweden Central", "properties": known | properties}


CONTRIBUTOR: Final = Permission(["*"], ["Microsoft.Authorization/*/write"])
ACCOUNT: Final = AzureBefore(
    who="you",
    subscription="s",
    location="swedencentral",
    rights=[(GROUP_ID, IN_GROUP, [CONTRIBUTOR])],
    usages=[Usage(name="PublicIPAddresses", used=10, limit=1000)],
    rooms=[Room(subnet="/subnet", used=10, size=251)],
    pools={"np": 30},
    nodes=2,
    prefixes=[FoundPrefix(id=ID, document=document())],
)


def _usage(name: str, used: int, limit: int) -> AzureBefore:
    return replace(ACCOUNT, usages=[Usage(name=name, used=used, limit=limit)])


def _prefix(document: dict[str, object] | None, of: str = ID) -> AzureBefore:
    return replace(ACCOUNT, prefixes=[FoundPrefix(id=of, document=document)])


def _used(number: int) -> AzureBefore:
    return replace(ACCOUNT, rooms=[Room(subnet="/subnet", used=number, size=251)])


def _rights(*permissions: Permission) -> AzureBefore:
    return replace(ACCOUNT, rights=[(GROUP_ID, IN_GROUP, permissions)])


ACCOUNTS: Final[list[tuple[str, AzureBefore, str, str]]] = [
    ("an expired secret", replace(ACCOUNT, refused="AADSTS7000222"), "EG420", "az login"),
    ("half of the roles", _rights(Permission(["Microsoft.Network/*"])), "EG421", "Machine"),
    ("no role", _rights(), "EG421", "loadBalancers/read"),
    ("three addresses left", _usage("PublicIPAddresses", 997, 1000), "EG422", "takes 4"),
    ("no static address left", _usage("StaticPublicIPAddresses", 20, 20), "EG422", "20 of 20"),
    ("a subnet with two addresses", _used(249), "EG423", "2 of 251"),
    ("an overfull subnet", _used(300), "EG423", "0 of 251"),
    ("no id of a prefix", _prefix(None, "nonsense"), "EG424", "no id"),
    ("a prefix that is not there", _prefix(None), "EG424", "not exist"),
    ("a foreign prefix", _prefix(document(), ID.replace("/s/", "/t/")), "EG424", "subscription t"),
    ("a larger prefix", _prefix(document(prefixLength=28)), "EG424", "ask for /30"),
    ("another region", replace(ACCOUNT, location="westeurope"), "EG424", "westeurope"),
]
