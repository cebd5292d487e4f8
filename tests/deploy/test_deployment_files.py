"""The shipped manifests fit the programs: commands, accounts, rights, settings."""

from __future__ import annotations

import importlib
from typing import Any

import msgspec
import pytest
import yaml

from egress_gateway.api import names
from egress_gateway.api.manifests import deploy_dir
from egress_gateway.controller.observed.keypairs import KEYS_ROLE

DOCUMENTS: list[dict[str, Any]] = [
    document
    for file in sorted((deploy_dir() / "manifests").glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text())
]
WORKLOADS = [d for d in DOCUMENTS if d["kind"] in ("Deployment", "DaemonSet")]
SETTINGS = {
    "controller": "egress_gateway.controller.settings",
    "gateway": "egress_gateway.gateway.settings",
    "node": "egress_gateway.node.settings",
    "wireguard": "egress_gateway.datapath.wireguard.host",
}


def pod(workload: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


def by_kind(kind: str, name: str) -> dict[str, Any]:
    return next(d for d in DOCUMENTS if d["kind"] == kind and d["metadata"]["name"] == name)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w["metadata"]["name"])
def test_every_setting_in_the_environment_exists(workload: dict[str, Any]) -> None:
    container = pod(workload)["containers"][0]
    component = container["command"][1]
    schema = importlib.import_module(SETTINGS[component]).Settings
    known = {f"EGRESS_GATEWAY_{f.name.upper()}" for f in msgspec.structs.fields(schema)}
    known |= {"EGRESS_GATEWAY_LOG_LEVEL", "EGRESS_GATEWAY_LOG_FORMAT"}  # of every command
    given = {e["name"] for e in container.get("env", ())}
    assert {name for name in given if name.startswith("EGRESS_GATEWAY_")} <= known


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w["metadata"]["name"])
def test_workloads_select_their_own_pods_and_mount_what_they_declare(
    workload: dict[str, Any],
) -> None:
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items()
    declared = {volume["name"] for volume in pod(workload)["volumes"]}
    mounted = {m["name"] for c in pod(workload)["containers"] for m in c["volumeMounts"]}
    assert mounted == declared


def test_every_account_exists_and_the_tunnel_host_has_none() -> None:
    accounts = {d["metadata"]["name"] for d in DOCUMENTS if d["kind"] == "ServiceAccount"}
    used = {pod(w).get("serviceAccountName") for w in WORKLOADS} - {None}
    assert used == accounts
    tunnels = pod(by_kind("DaemonSet", "egress-gateway-wireguard"))
    assert tunnels["automountServiceAccountToken"] is False
    assert by_kind("DaemonSet", "egress-gateway-wireguard")["spec"]["updateStrategy"] == {
        "type": "OnDelete"
    }


def test_nobody_reads_secrets_across_the_cluster_and_agents_only_named_ones() -> None:
    for role in (d for d in DOCUMENTS if d["kind"] == "ClusterRole"):
        for rule in role["rules"]:
            assert "secrets" not in rule["resources"]
            assert "*" not in (*rule["resources"], *rule["verbs"], *rule["apiGroups"])
    assert "rules" not in by_kind("Role", KEYS_ROLE)
    binding = by_kind("RoleBinding", KEYS_ROLE)
    assert binding["roleRef"]["name"] == KEYS_ROLE
    assert [s["name"] for s in binding["subjects"]] == ["egress-gateway-gateway"]


def test_gateway_agents_run_on_gateway_nodes_alone() -> None:
    spec = pod(by_kind("DaemonSet", "egress-gateway-gateway"))
    (required,) = spec["affinity"]["nodeAffinity"].values()
    terms = [term["matchExpressions"] for term in required["nodeSelectorTerms"]]
    assert [[(e["key"], e["operator"], e["values"]) for e in term] for term in terms] == [
        [(names.AKS_MODE_LABEL, "In", ["gateway"])],
        [(names.GATEWAY_NODE_LABEL, "In", ["true"])],
    ]
    (container,) = spec["containers"]
    ports = {port["name"]: port["hostPort"] for port in container["ports"]}
    assert ports["balancer"] == names.HEALTH_PORT
    probe = container["readinessProbe"]["httpGet"]
    assert (probe["port"], probe["host"]) == (ports["health"], "127.0.0.1")
