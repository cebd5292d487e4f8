"""``test``, ``trace`` and ``bundle`` on real Kubernetes: exec and Pod Security are its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from egress_gateway.api.names import SYSTEM_NAMESPACE as SYSTEM
from egress_gateway.cli.proof.plan import RUN_LABEL
from egress_gateway_lab.demo.world import World, until
from tests.lab.commands.test_bundle import bundled, read
from tests.lab.conftest import configured
from tests.lab.test_bad_input import remove
from tests.lab.test_running_pods import becomes, command

pytestmark = [pytest.mark.root, pytest.mark.kube]


async def gateways_are_back(world: World) -> bool:
    """Tests before this one kill and cut gateways."""
    agents = await world.kube.get("daemonsets", "egress-gateway-gateway", namespace=SYSTEM)
    sgc = await world.kube.get("staticgatewayconfigurations", "proof", namespace="default")
    ready: bool = agents["status"].get("numberReady") == agents["status"]["desiredNumberScheduled"]
    return ready and len(sgc["status"]["gateways"]) == 2


async def test_a_live_cluster_is_proven_traced_and_packed(world: World, tmp_path: Path) -> None:
    await configured(world, "proof")
    strict = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    (pod,) = await world.deploy("proof", configuration="proof", replicas=1)
    await becomes(world, pod, "Connected")
    await until(lambda: gateways_are_back(world), timeout=180, what="all gateways to be back")
    await world.kube.patch("namespaces", "default", strict)
    try:
        code, said = await command(world, "test", "--nodes", "1", "--failover", "--output", "json")
    finally:
        relaxed = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": None}}}
        await world.kube.patch("namespaces", "default", relaxed)
    assert code == 0, said
    found = {one["check"]: one["passed"] for one in json.loads(said.splitlines()[-1])}
    assert {found[check] for check in ("egress", "full size", "dns", "failover")} == {True}
    assert await world.kube.list("pods", labels=RUN_LABEL) == []
    code, said = await command(world, "trace", pod)
    assert "✓ mtu" in said, said
    code, said = await bundled(world.lab.kubeconfig, "--output", str(tmp_path / "b.tar.gz"))
    assert code == 0, said
    files = read(tmp_path / "b.tar.gz")
    assert any(name.startswith("nodes/") for name in files), files["not-read.txt"]
    assert any(name.startswith("logs/") for name in files)
    await world.kube.delete("deployments", "proof", namespace="default")
    await remove(world, "proof")
