"""The webhook in place of the policy, installed by helm, on real nodes."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway_lab.apiserver.wire.client import KubeError
from egress_gateway_lab.demo.world import World, until
from tests.kube.lab.conftest import SYSTEM, Operator
from tests.lab.conftest import configured
from tests.lab.test_bad_input import annotated, remove

pytestmark = [pytest.mark.root, pytest.mark.kube]
WEBHOOK = "egress-gateway-webhook"


async def selector(world: World, pod: dict[str, Any], namespace: str = "default") -> Any:
    """What the API server would make of the pod's node selector."""
    made = await world.kube.call(
        "POST", f"/api/v1/namespaces/{namespace}/pods", body=pod, query={"dryRun": "All"}
    )
    return made["spec"].get("nodeSelector")


def plain(name: str) -> dict[str, Any]:
    pod: dict[str, Any] = annotated(name, "hooked")
    del pod["metadata"]["annotations"]
    return pod


async def test_annotated_pods_are_admitted_by_the_webhook_and_others_without_it(
    lab: Operator,
) -> None:
    world = lab.world
    prefix = await configured(world, "hooked")
    await lab.upgrade("admission.mode=webhook")
    policies = await world.kube.list("mutatingadmissionpolicies.admissionregistration.k8s.io/v1")
    assert policies == []

    async def asked() -> bool:
        found = await selector(world, annotated("asked", "hooked"))
        return bool(found == {names.NODE_READY_LABEL: "true"})

    await until(asked, timeout=180, what="the API server to ask the webhook")
    assert await selector(world, plain("plain")) is None
    (pod,) = await world.deploy("hooked", configuration="hooked", replicas=1)
    seen = ipaddress.ip_address(await world.curl(pod, "http://ifconfig.me"))
    assert seen in ipaddress.ip_network(prefix)
    await world.kube.delete("deployments", "hooked", namespace="default")
    # All of its pods go.
    scale = {"spec": {"replicas": 0}}
    await world.kube.patch("deployments", WEBHOOK, scale, namespace=SYSTEM)

    async def gone() -> bool:
        return not await world.kube.list("pods", namespace=SYSTEM, labels=f"app={WEBHOOK}")

    await until(gone, timeout=180, what="the webhook's pods to be gone")
    with pytest.raises(KubeError, match="failed calling webhook"):
        await selector(world, annotated("asked", "hooked"))
    await world.kube.create("pods", plain("unhindered"))
    await world.pod_ready("unhindered")
    await world.kube.delete("pods", "unhindered", namespace="default", grace_seconds=0)
    await lab.upgrade("admission.mode=auto")
    await until(asked, timeout=180, what="the policy to be in force again")
    await remove(world, "hooked")
