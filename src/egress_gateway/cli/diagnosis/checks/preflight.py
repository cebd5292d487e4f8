"""What would be in the way of an installation: before there is anything of ours. Pure.

Same findings as ``check``'s, with codes of their own. What the API does not tell of a machine (its
kernel, its CNI folder, its MTU) is looked at on the machine itself: ``check --pre --here``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from egress_gateway.api import names
from egress_gateway.cli.diagnosis.checks.findings import Finding
from egress_gateway.cni.conflist import EXTENSIONS, ConflistError, entry, with_plugin
from egress_gateway.kube.resources import Node

LEAST_KUBERNETES: Final = (1, 30)
"""Of ValidatingAdmissionPolicy in v1 (kubernetes.io/docs, Validating Admission Policy)."""
LEAST_CONTAINERD: Final = (1, 7)
"""Hands pod annotations to plugins from there on (containerd 1.7's release notes)."""
LEAST_MTU: Final = 1280 + 80
"""Bytes: IPv6's least (RFC 8200, 5) within WireGuard over IPv6."""
LEVEL_LABEL: Final = "pod-security.kubernetes.io/enforce"
RIGHTS: Final = (
    ("apiextensions.k8s.io", "customresourcedefinitions", ""),
    ("rbac.authorization.k8s.io", "clusterroles", ""),
    ("rbac.authorization.k8s.io", "clusterrolebindings", ""),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", ""),
    ("", "namespaces", ""),
    ("apps", "daemonsets", names.SYSTEM_NAMESPACE),
    ("apps", "deployments", names.SYSTEM_NAMESPACE),
)
"""What an installation creates: group, resource, namespace."""


class Before(msgspec.Struct, frozen=True, kw_only=True):
    """What was read. ``nodes`` None: not this person's to read."""

    version: str
    """As /version has it: ``v1.33.4``."""
    nodes: Sequence[Node] | None = ()
    runtimes: dict[str, str] = {}
    """Of each node: ``containerd://1.7.28``."""
    levels: dict[str, str] = {}
    """Pod Security level that each namespace enforces."""
    refused: Sequence[str] = ()
    """Of ``RIGHTS``, those that this person does not have."""
    others: Sequence[str] = ()
    """Workloads of the Go project, as ``Kind namespace/name``."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The machine that the command runs on."""

    name: str
    wireguard: bool
    tun: bool
    nftables: str = ""
    """Why it does not work; empty: it does."""
    mtu: int = 0
    """Of the default route's link; 0: there is none."""
    chain: dict[str, bytes] | None = None
    """CNI configurations by name; None: the folder does not exist."""


def before(facts: Before) -> list[Finding]:
    """What is in the way, as the API tells it."""
    return sorted(
        [*_version(facts), *_nodes(facts), *_surroundings(facts)], key=lambda f: (f.code, f.object)
    )


def _version(facts: Before) -> Iterator[Finding]:
    if (found := _numbers(facts.version)) and found[:2] < LEAST_KUBERNETES:
        yield Finding(
            code="EG401",
            object="Cluster",
            evidence=f"it is Kubernetes {facts.version}; 1.30 is the first that has the policies",
            mend="az aks upgrade --kubernetes-version 1.30, or newer",
        )


def _nodes(facts: Before) -> Iterator[Finding]:
    if facts.nodes is None:
        return
    gateways = [n for n in facts.nodes if names.marks_gateway(n.metadata.labels)]
    if len(gateways) < 2:
        there = ", ".join(n.metadata.name for n in gateways) or "none"
        yield Finding(
            code="EG402",
            object="Cluster",
            evidence=f"gateway nodes: {there}; a failover needs two",
            mend="az aks nodepool add --mode gateway --node-count 2 --gateway-prefix-size 30, or "
            f"nodes with the label {names.GATEWAY_NODE_LABEL}=true",
        )
    for node in gateways:
        where = f"Node {node.metadata.name}"
        if not any(t.effect in ("NoSchedule", "NoExecute") for t in node.spec.taints):
            yield Finding(
                code="EG403",
                object=where,
                evidence="it is a gateway without a taint: other pods come there, and go with it",
                mend=f"kubectl taint node {node.metadata.name} "
                f"{names.GATEWAY_NODE_LABEL}=true:NoSchedule",
            )
        if not node.spec.provider_id.lower().startswith("azure:///"):
            yield Finding(
                code="EG404",
                object=where,
                evidence=f"its providerID is {node.spec.provider_id!r}, which names no machine of "
                "Azure",
                mend="run Azure's cloud provider; it writes spec.providerID of new Nodes",
            )
    for name, runtime in sorted(facts.runtimes.items()):
        kind, _, version = runtime.partition("://")
        if kind == "containerd" and (found := _numbers(version)) and found < LEAST_CONTAINERD:
            yield Finding(
                code="EG405",
                object=f"Node {name}",
                evidence=f"{runtime} hands no annotations to CNI plugins",
                mend="upgrade to containerd 1.7: az aks nodepool upgrade --node-image-only",
            )


def _surroundings(facts: Before) -> Iterator[Finding]:
    for missing in facts.refused:
        yield Finding(
            code="EG406",
            object="User",
            evidence=f"you must not create {missing}",
            mend="install as cluster-admin (az aks get-credentials --admin), or ask for the right",
        )
    level = facts.levels.get(names.SYSTEM_NAMESPACE, "privileged")
    if level != "privileged":
        yield Finding(
            code="EG407",
            object=f"Namespace {names.SYSTEM_NAMESPACE}",
            evidence=f"it enforces the Pod Security level {level}, which refuses the agents",
            mend=f"kubectl label namespace {names.SYSTEM_NAMESPACE} --overwrite "
            f"{LEVEL_LABEL}=privileged",
        )
    for other in facts.others:
        yield Finding(
            code="EG408",
            object=other,
            evidence="the Go project runs here: two controllers would undo each other's work",
            mend="take it over with egress-gateway migrate (docs/install/migration.md)",
        )


def on_machine(machine: Machine) -> list[Finding]:
    """What is in the way on one machine."""
    return list(_machine(machine, f"Machine {machine.name}"))


def _machine(machine: Machine, where: str) -> Iterator[Finding]:
    if not machine.wireguard and not machine.tun:
        yield Finding(
            code="EG411",
            object=where,
            evidence="its kernel makes neither WireGuard links nor TUN devices",
            mend="modprobe wireguard (Linux 5.6 or later), or modprobe tun",
        )
    if machine.nftables:
        yield Finding(
            code="EG412",
            object=where,
            evidence=f"nftables does not work: {machine.nftables}",
            mend="modprobe nf_tables nft_ct nft_chain_nat, or a kernel with CONFIG_NF_TABLES_INET",
        )
    if machine.mtu < LEAST_MTU:
        shown = f"{machine.mtu} bytes" if machine.mtu else "unknown: it has no default route"
        yield Finding(
            code="EG413",
            object=where,
            evidence=f"the MTU of its way out is {shown}; tunnels with IPv6 need {LEAST_MTU}",
            mend="raise the MTU of the node's link, or set nodeMtu",
        )
    if problem := _chain(machine.chain):
        yield Finding(
            code="EG414",
            object=where,
            evidence=problem,
            mend="install a CNI that takes chained plugins (docs/install/self-managed.md)",
        )


def _chain(files: dict[str, bytes] | None) -> str:
    """Why the plugin cannot be added to the chain; empty: it can."""
    if files is None:
        return "/etc/cni/net.d does not exist"
    first = min((name for name in files if name.endswith(EXTENSIONS)), default="")
    if not first:
        return "/etc/cni/net.d has no network configuration"
    try:
        with_plugin(files[first], entry(run_dir="/run/egress-gateway", agent_timeout=1.0))
    except ConflistError as error:
        return f"/etc/cni/net.d/{first}: {error}"
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"v?(\d+)\.(\d+)", version)
    return tuple(map(int, found.groups())) if found else ()
