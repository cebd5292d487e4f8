"""Bad input gets one clear line or a condition and an Event, and nothing else breaks."""

from __future__ import annotations

from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway_lab.apiserver.wire.client import KubeError
from egress_gateway_lab.demo.world import SUBSCRIPTION, World, until
from tests.lab.conftest import POOL, configured

pytestmark = pytest.mark.root
OTHER = "11111111-1111-1111-1111-111111111111"


async def said(world: World, name: str, reason: str, words: str) -> None:
    """The configuration carries the reason in a condition and the words in an Event."""
    found = await world.configuration_condition(
        name, lambda c: c["reason"] == reason and c["status"] == "False", timeout=120
    )
    ready = next(c for c in found["status"]["conditions"] if c["type"] == "Ready")
    assert ready["status"] == "False"
    message = await world.event(name, reason)
    assert words in message, message


async def remove(world: World, *configurations: str) -> None:
    for name in configurations:
        await world.kube.delete("staticgatewayconfigurations", name, namespace="default")
        await world.kube.wait_for(
            "staticgatewayconfigurations",
            name,
            lambda found: found is None,
            namespace="default",
            timeout=180,  # a killed leader's Lease must run out first
        )


async def test_an_unknown_pool_is_named(world: World) -> None:
    await world.configure("no-pool", {"gatewayNodepoolName": "nowhere"})
    await said(world, "no-pool", "GatewayPoolNotFound", "nowhere")
    await remove(world, "no-pool")


async def test_a_prefix_of_the_wrong_size_is_named_with_both_sizes(world: World) -> None:
    await world.create_prefix("pip-31", length=31)
    cluster = await world.arm.get(world.cluster_id, "2026-06-01")
    scope = world.prefix_id("pip-31")
    await world.grant(
        cluster["identity"]["principalId"], "4d97b98b-1d4f-4787-a291-c67834d212e7", scope
    )
    await world.configure("small", {"gatewayNodepoolName": POOL, "publicIpPrefixId": scope})
    await said(world, "small", "PublicIPPrefixSizeMismatch", "length 31")
    await remove(world, "small")
    await world.arm.delete(scope, "2025-09-01")


async def test_a_prefix_of_another_subscription_is_refused(world: World) -> None:
    foreign = world.prefix_id("pip-x").replace(SUBSCRIPTION, OTHER)
    await world.configure("foreign", {"gatewayNodepoolName": POOL, "publicIpPrefixId": foreign})
    await said(world, "foreign", "PublicIPPrefixWrongSubscription", OTHER)
    await remove(world, "foreign")


async def test_a_prefix_that_does_not_exist_is_named(world: World) -> None:
    cluster = await world.arm.get(world.cluster_id, "2026-06-01")
    await world.grant(
        cluster["identity"]["principalId"],
        "4d97b98b-1d4f-4787-a291-c67834d212e7",
        world.group_id,
    )
    scope = world.prefix_id("pip-none")
    await world.configure("missing", {"gatewayNodepoolName": POOL, "publicIpPrefixId": scope})
    await said(world, "missing", "PublicIPPrefixNotFound", "pip-none")
    await remove(world, "missing")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, "gatewayNodepoolName"),
        (
            {
                "gatewayNodepoolName": "a",
                "gatewayVmssProfile": {
                    "vmssResourceGroup": "rg",
                    "vmssName": "v",
                    "publicIpPrefixSize": 30,
                },
            },
            "gatewayVmssProfile",
        ),
        ({"gatewayNodepoolName": "a", "excludeCidrs": ["10.0.0.0/99"]}, "excludeCidrs"),
        ({"gatewayNodepoolName": "a", "excludeCidrs": ["ten"]}, "excludeCidrs"),
        ({"gatewayNodepoolName": "a", "defaultRoute": "elsewhere"}, "defaultRoute"),
        ({"gatewayNodepoolName": "a", "publicIpPrefixId": "/x"}, "publicIpPrefixId"),
    ],
)
async def test_what_the_schema_can_refuse_is_refused_at_apply(
    world: World, spec: dict[str, Any], words: str
) -> None:
    with pytest.raises(KubeError) as refusal:
        await world.configure("refused", spec)
    assert refusal.value.code == 422
    assert words in str(refusal.value)


def annotated(name: str, configuration: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "annotations": {names.POD_ANNOTATION: configuration},
        },
        "spec": {"containers": [{"name": "main", "image": "nginx"}], **spec},
    }


async def test_a_configuration_that_does_not_exist_in_the_pods_namespace(world: World) -> None:
    """The pod waits and its Event says why; it starts by itself once the mend is made."""
    await world.kube.create("pods", annotated("early", "later"))

    async def told() -> str | None:
        events = await world.kube.list(
            "events", namespace="default", fields="involvedObject.name=early"
        )
        return next((e["message"] for e in events if "later" in e.get("message", "")), None)

    message = await until(told, timeout=120, what="an Event that names the configuration")
    assert "default" in message
    await configured(world, "later")
    await world.pod_ready("early", timeout=120)
    await world.kube.delete("pods", "early", namespace="default", grace_seconds=0)
    await remove(world, "later")


async def test_a_host_network_pod_is_refused_with_an_event(world: World) -> None:
    await world.kube.create("pods", annotated("bare", "any", hostNetwork=True))

    async def told() -> str | None:
        events = await world.kube.list(
            "events", namespace="default", fields="involvedObject.name=bare"
        )
        return next((e["message"] for e in events if "hostNetwork" in e["message"]), None)

    await until(told, timeout=120, what="an Event about hostNetwork")
    await world.kube.delete("pods", "bare", namespace="default", grace_seconds=0)
