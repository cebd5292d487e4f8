"""An installation that lacks a policy says so in the controller's log."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from egress_gateway.controller.reporting import posture
from egress_gateway.kube import config
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import Forbidden
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


async def test_who_may_not_look_says_so_and_why(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await installed(cluster)
    token = await account_token(cluster, "egress-gateway-node", SYSTEM)
    document = yaml.safe_load(cluster.kubeconfig)
    document["users"][0]["user"] = {"token": token}
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(document))
    async with Client(config.load(str(path)), "test") as client:
        with pytest.raises(Forbidden):
            await posture.absent(client)
        await posture.warn(client)
    assert "unknown which policies are bound, because: " in caplog.text
    assert "egress-gateway-node" in caplog.text


async def test_the_controller_may_look(cluster: Cluster) -> None:
    await installed(cluster)
    token = await account_token(cluster, "egress-gateway-controller", SYSTEM)
    async with cluster.as_token(token) as client:
        for name in posture.POLICIES:
            await client.get(BINDINGS, name)
