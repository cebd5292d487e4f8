"""Key pairs that move to a namespace of their own, under a controller that runs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from egress_gateway.api import names
from egress_gateway.cli.commands import cli
from egress_gateway_lab.apiserver.server import ApiServer
from egress_gateway_lab.apiserver.wire.client import KubeClient
from tests.contract.controller.azure_lab import azure_lab
from tests.contract.controller.test_controller import (
    SYSTEM,
    World,
    api_server,
    controller,
    reason,
)

KEYS = "kube-egress-gateway-keys"


async def grant(kube: KubeClient) -> None:
    """What the chart grants there, and nothing of Secrets in the system namespace."""
    await kube.create(
        "namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": KEYS}}
    )
    for kind in ("roles", "rolebindings"):
        name = "egress-gateway-controller-keys"
        found = await kube.get(kind, name, namespace=SYSTEM)
        meta = {"name": name, "namespace": KEYS}
        await kube.create(kind, {**found, "metadata": meta})
        await kube.delete(kind, name, namespace=SYSTEM)


def ref(sgc: dict[str, Any]) -> str:
    profile = sgc["status"]["gatewayServerProfile"]
    return str(profile["privateKeySecretRef"]["namespace"])


@pytest.mark.parametrize("copied_first", [True, False], ids=["copied first", "copied later"])
async def test_no_key_changes_whatever_the_order(tmp_path: Path, copied_first: bool) -> None:
    async with azure_lab(tmp_path) as azure, api_server(tmp_path) as (server, kube, path):
        (tmp_path / "azure.json").write_text(json.dumps(azure.config))
        await azure.add_pool("npegress")
        world = World(azure, kube)
        await world.add_gateway_nodes()
        async with controller(tmp_path, path):
            await world.write("a")
            before = await world.until("a", lambda s: reason(s, "Provisioned") == "Provisioned")
        assert ref(before) == SYSTEM
        secret = names.key_secret(before["metadata"]["uid"])
        pair = (await kube.get("secrets", secret, namespace=SYSTEM))["data"]
        await grant(kube)
        writes = len(azure.emulator.requests)
        if copied_first:
            await copy(tmp_path, server, path)
        async with controller(tmp_path, path, keys_namespace=KEYS, drift_interval=1.0):
            if not copied_first:
                said = await world.until("a", lambda s: "--keys-namespace" in told(s))
                assert said["status"]["gatewayServerProfile"] == profile(before)
                assert await kube.list("secrets", namespace=KEYS) == []
                await copy(tmp_path, server, path)
            after = await world.until("a", lambda s: ref(s) == KEYS)
            assert profile(after) | {"privateKeySecretRef": 0} == profile(before) | {
                "privateKeySecretRef": 0
            }
            assert (await kube.get("secrets", secret, namespace=KEYS))["data"] == pair
            role = await kube.wait_for(
                "roles", "egress-gateway-keys", lambda found: bool(found), namespace=KEYS
            )
            assert role
            assert role["rules"][0]["resourceNames"] == [secret]
            seen = list(azure.emulator.requests)[writes:]
            assert [r.path for r in seen if r.method in ("PUT", "DELETE")] == []
            await kube.delete("secrets", secret, namespace=SYSTEM)
            await kube.delete("staticgatewayconfigurations", "a", namespace="default")
            await world.until_gone("a")
        assert await kube.list("secrets", namespace=KEYS) == []


def profile(sgc: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = sgc["status"]["gatewayServerProfile"]
    return found


def told(sgc: dict[str, Any]) -> str:
    return " ".join(c["message"] for c in sgc["status"]["conditions"])


async def copy(folder: Path, server: ApiServer, kubeconfig: Path) -> None:
    """The command, with a person's rights."""
    url = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    path = folder / "person"
    path.write_bytes(server.kubeconfig(url))
    command = ["migrate", "--kubeconfig", str(path), "--keys-namespace", KEYS]
    result = await asyncio.to_thread(CliRunner().invoke, cli, command)
    assert result.exit_code == 0, result.output
