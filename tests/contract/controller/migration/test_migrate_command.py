"""`egress-gateway migrate` on the recorded cluster: says first, acts then, and only once."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from egress_gateway.api import names
from egress_gateway.cli.commands import cli
from egress_gateway_lab.apiserver.wire.client import KubeClient
from tests.contract.controller.migration.moved_cluster import SYSTEM, Moved, moved_cluster
from tests.contract.controller.migration.test_moving_over import DEPLOYMENT, MODES, old_deployment


async def migrate(moved: Moved, *flags: str) -> Result:
    """The command as an administrator runs it, in a thread beside the two servers."""
    kubeconfig = moved.kubeconfig.parent / "admin"
    kubeconfig.write_bytes(moved.server.kubeconfig(_url(moved)))
    arguments = ["migrate", "--kubeconfig", str(kubeconfig), *flags]
    return await asyncio.to_thread(CliRunner().invoke, cli, arguments)


def _url(moved: Moved) -> str:
    text = moved.kubeconfig.read_text()
    return text.partition("server: ")[2].split()[0]


def document(result: Result) -> dict[str, Any]:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    found: dict[str, Any] = json.loads(result.output)
    return found


async def kubernetes(kube: KubeClient) -> list[Any]:
    """Everything that the command could have changed."""
    kinds = ["secrets", "staticgatewayconfigurations", "deployments"]
    return [await kube.list(kind) for kind in kinds]


async def test_a_dry_run_names_every_object_and_changes_none(tmp_path: Path) -> None:
    async with moved_cluster(tmp_path) as moved:
        before = await kubernetes(moved.kube)
        result = await migrate(
            moved, "--dry-run", "--output", "json", "--azure-config", str(moved.azure_json)
        )
        found = document(result)
        assert result.exit_code == 0
        assert found["blockers"] == []
        assert found["azure"] == {"writes": [], "problems": {}}
        assert {c["configuration"] for c in found["configurations"]} == {
            f"default/{name}" for name in MODES
        }
        for entry in found["configurations"]:
            name = entry["configuration"].partition("/")[2]
            rule = moved.recorded_of("GatewayLBConfiguration", name)["metadata"]["uid"]
            assert entry["state"] == "to be taken over"
            assert entry["names"]["loadBalancerRule"] == rule
            assert [(a["action"], a["object"].split()[0]) for a in entry["actions"]] == [
                ("annotate", "Secret"),
                ("release", "GatewayVMConfiguration"),
                ("delete", "GatewayVMConfiguration"),
                ("release", "GatewayLBConfiguration"),
                ("delete", "GatewayLBConfiguration"),
            ]
        assert await kubernetes(moved.kube) == before
        assert len(await moved.old_objects()) == 2 * len(MODES)
        assert moved.writes() == []


async def test_it_refuses_while_the_old_controller_runs_and_can_stop_it(tmp_path: Path) -> None:
    async with moved_cluster(tmp_path) as moved:
        await moved.kube.create("deployments", old_deployment())
        result = await migrate(moved, "--output", "json")
        found = document(result)
        assert result.exit_code == 1
        assert DEPLOYMENT in found["blockers"][0]["what"]
        assert "--replicas=0" in found["blockers"][0]["mend"]
        assert not found["acted"]
        assert len(await moved.old_objects()) == 2 * len(MODES)

        result = await migrate(moved, "--output", "json", "--stop")
        assert document(result)["acted"]
        assert result.exit_code == 0
        assert await moved.old_objects() == []
        deployment = await moved.kube.get("deployments", DEPLOYMENT, namespace=SYSTEM)
        assert deployment["spec"]["replicas"] == 0
        assert moved.writes() == []

        again = document(await migrate(moved, "--output", "json"))
        assert {c["state"] for c in again["configurations"]} == {"taken over before"}
        assert all(not c["actions"] for c in again["configurations"])


@pytest.mark.parametrize("rotation", ["", '{"request": "1"}'])
async def test_keys_move_to_a_namespace_of_their_own_with_what_is_recorded(
    tmp_path: Path, rotation: str
) -> None:
    """The same pairs, names and change of keys; what is not ours to know stays behind."""
    async with moved_cluster(tmp_path) as moved:
        assert (await migrate(moved, "--output", "json")).exit_code == 0
        here = await moved.kube.list("secrets", namespace=SYSTEM)
        keys = [s for s in here if s["metadata"]["name"].startswith("sgw-")]
        assert keys
        written = {"example.com/note": "mine"}
        written |= {names.KEY_ROTATION_ANNOTATION: rotation} if rotation else {}
        for secret in keys:
            patch = {"metadata": {"annotations": written}}
            await moved.kube.patch("secrets", secret["metadata"]["name"], patch, namespace=SYSTEM)
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "keys"}}
        await moved.kube.create("namespaces", namespace)
        there = ("--output", "json", "--keys-namespace", "keys")

        planned = document(await migrate(moved, "--dry-run", *there))
        names_before = {c["configuration"]: c["names"] for c in planned["configurations"]}
        assert await moved.kube.list("secrets", namespace="keys") == []
        result = await migrate(moved, *there, "--azure-config", str(moved.azure_json))
        found = document(result)
        assert result.exit_code == 0
        assert found["azure"] == {"writes": [], "problems": {}}
        assert {c["configuration"]: c["names"] for c in found["configurations"]} == names_before
        copies = await moved.kube.list("secrets", namespace="keys")
        assert {s["metadata"]["name"]: s["data"] for s in copies} == {
            s["metadata"]["name"]: s["data"] for s in keys
        }
        for copy in copies:
            annotations = copy["metadata"]["annotations"]
            assert annotations.keys() <= names.RECORDED
            assert annotations.get(names.KEY_ROTATION_ANNOTATION, "") == rotation
        for entry in document(await migrate(moved, *there))["configurations"]:
            assert entry["actions"] == []


@pytest.mark.parametrize(("seconds_ago", "runs"), [(1, True), (3600, False)])
async def test_a_controller_without_its_deployment_shows_by_a_lease_that_is_renewed(
    tmp_path: Path, seconds_ago: int, runs: bool
) -> None:
    async with moved_cluster(tmp_path) as moved:
        renewed = datetime.now(UTC) - timedelta(seconds=seconds_ago)
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": names.GO_CONTROLLER_LEASE, "namespace": SYSTEM},
            "spec": {
                "holderIdentity": "a-laptop",
                "leaseDurationSeconds": 600,
                "renewTime": renewed.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            },
        }
        await moved.kube.create("leases", lease)
        found = document(await migrate(moved, "--dry-run", "--output", "json"))
        assert ["a-laptop" in b["what"] for b in found["blockers"]] == [True] * runs


async def test_the_add_on_of_aks_is_left_to_aks_and_the_rest_of_the_go_project_is_listed(
    tmp_path: Path,
) -> None:
    async with moved_cluster(tmp_path) as moved:
        await moved.kube.create("daemonsets", old_agents(SYSTEM))
        found = document(await migrate(moved, "--dry-run", "--output", "json"))
        assert found["blockers"] == []
        assert f"kubectl delete daemonset -n {SYSTEM} {AGENTS}" in found["remains"]

        namespace = {"metadata": {"name": names.AKS_ADDON_NAMESPACE}}
        await moved.kube.create("namespaces", {"apiVersion": "v1", "kind": "Namespace"} | namespace)
        await moved.kube.create("daemonsets", old_agents(names.AKS_ADDON_NAMESPACE))
        reading = {
            "apiGroups": [names.GROUP],
            "resources": ["staticgatewayconfigurations"],
            "verbs": ["get", "list", "watch"],
        }
        await let(moved.kube, names.AKS_ADDON_NAMESPACE, "ClusterRole", reading)
        result = await migrate(moved, "--output", "json")
        assert result.exit_code == 1
        (blocker,) = document(result)["blockers"]
        assert "AKS" in blocker["what"]
        assert "--disable-static-egress-gateway" in blocker["mend"]
        assert len(await moved.old_objects()) == 2 * len(MODES)


AGENTS = "kube-egress-gateway-daemon-manager"


async def let(kube: KubeClient, namespace: str, kind: str, rule: dict[str, Any]) -> None:
    """The namespace's default account gets the right, everywhere or (a Role) there."""
    api = "rbac.authorization.k8s.io"
    where = {"namespace": namespace} if kind == "Role" else {}
    head = {"apiVersion": f"{api}/v1", "metadata": {"name": AGENTS} | where}
    await kube.apply(head | {"kind": kind, "rules": [rule]})
    account = {"kind": "ServiceAccount", "name": "default", "namespace": namespace}
    role = {"apiGroup": api, "kind": kind, "name": AGENTS}
    await kube.apply(head | {"kind": f"{kind}Binding", "roleRef": role, "subjects": [account]})


def old_agents(namespace: str) -> dict[str, Any]:
    labels = {"app": AGENTS}
    container = {"name": "daemon", "image": "daemon:latest"}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": AGENTS, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


async def test_key_pairs_in_another_namespace_are_copied_not_replaced(tmp_path: Path) -> None:
    async with moved_cluster(tmp_path) as moved:
        result = await migrate(moved, "--output", "json", "--system-namespace", "default")
        found = document(result)
        assert {a["detail"] for c in found["configurations"] for a in c["actions"][:1]} == {
            "to default"
        }
        for was in moved.configurations():
            name = f"sgw-{was['metadata']['uid']}"
            copied = await moved.kube.get("secrets", name, namespace="default")
            assert copied["data"] == moved.recorded_of("Secret", name)["data"]


async def test_old_objects_deleted_by_force_are_seen_through(tmp_path: Path) -> None:
    async with moved_cluster(tmp_path, definitions=False) as moved:
        result = await migrate(
            moved, "--dry-run", "--output", "json", "--azure-config", str(moved.azure_json)
        )
        assert document(result)["azure"] == {"writes": [], "problems": {}}


async def test_people_read_what_stays_and_what_is_left_to_do(tmp_path: Path) -> None:
    async with moved_cluster(tmp_path) as moved:
        text = (await migrate(moved, "--dry-run")).output
        assert "default/managed-prefix: to be taken over" in text
        assert "keeps 203.0.113.4/30, server 10.224.0.14:6001" in text
        assert "would release GatewayLBConfiguration default/managed-prefix" in text
        assert "kubectl delete crd gatewaylbconfigurations" in text


async def test_a_cluster_that_never_had_the_go_project_has_nothing_to_move(tmp_path: Path) -> None:
    async with moved_cluster(tmp_path, definitions=False) as moved:
        for name in MODES:
            path = "staticgatewayconfigurations"
            finalizers = {"metadata": {"finalizers": None}}
            await moved.kube.patch(path, name, finalizers, namespace="default")
            await moved.kube.delete(path, name, namespace="default")
        result = await migrate(moved, "--output", "json")
        assert document(result)["configurations"] == []
