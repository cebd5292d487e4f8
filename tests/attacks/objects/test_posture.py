"""An installation that lacks a policy says so in the controller's log."""

from __future__ import annotations

from pathlib import Path

from egress_gateway.controller.reporting import posture
from egress_gateway.kube import config
from egress_gateway.kube.client import Client
from lab.tests.apiserver.conftest import Cluster
from lab.tests.apiserver.test_admission import SYSTEM, account_token, installed

BINDINGS = "validatingadmissionpolicybindings.admissionregistration.k8s.io/v1"


async def test_what_is_not_bound_is_told(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_bytes(cluster.kubeconfig)
    async with Client(config.load(str(path)), "test") as client:
        assert len(await posture.absent(client)) == len(posture.POLICIES)
        await installed(cluster)
        assert await posture.absent(client) == []
        await cluster.admin.delete(BINDINGS, "egress-gateway-mode")
        (said,) = await posture.absent(client)
        assert "egress-gateway-mode" in said
        assert "kubelet" in said


async def test_the_controller_may_look(cluster: Cluster) -> None:
    await installed(cluster)
    token = await account_token(cluster, "egress-gateway-controller", SYSTEM)
    async with cluster.as_token(token) as client:
        for name in posture.POLICIES:
            await client.get(BINDINGS, name)
