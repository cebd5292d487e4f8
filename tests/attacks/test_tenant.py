"""A tenant who may create StaticGatewayConfigurations wants the address of another."""

from __future__ import annotations

import asyncio

from egress_gateway.api import names
from tests.contract.controller.conftest import world
from tests.contract.controller.test_controller import World, condition, reason

__all__ = ["world"]


async def test_a_reserved_prefix_is_not_joined_for_another_until_it_is_granted(
    world: World,
) -> None:
    prefix = await world.azure.add_prefix("pa")
    await world.azure.grant(prefix)
    owner = {"name": "tenant-a", "annotations": {names.ALLOWED_PREFIXES_ANNOTATION: prefix}}
    await world.kube.create(
        "namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": owner}
    )
    await world.write("steal", publicIpPrefixId=prefix.upper().replace("/PA", "/pa"))
    found = await world.until("steal", lambda s: reason(s) == "PrefixNotAllowed")
    assert condition(found, "Accepted")["status"] == "False"
    message = condition(found, "Ready")["message"]
    assert "kubectl annotate namespace default" in message
    assert "tenant-a" not in message
    async with asyncio.timeout(60):
        while not any(
            e["reason"] == "PrefixNotAllowed" and e["type"] == "Warning"
            for e in await world.kube.list("events", namespace="default")
        ):
            await asyncio.sleep(0.05)
    # An honest configuration beside it is not held up.
    await world.write("honest")
    await world.until("honest", lambda s: condition(s, "Provisioned").get("status") == "True")
    found = await world.kube.get("staticgatewayconfigurations", "steal", namespace="default")
    assert not found["status"].get("gateways")
    assert not found["status"].get("egressIpPrefix")
    key, _, value = message.rpartition("'")[0].rpartition("'")[2].partition("=")
    grant = {"metadata": {"annotations": {key: value}}}
    await world.kube.patch("namespaces", "default", grant)
    await world.until("steal", lambda s: condition(s, "Provisioned").get("status") == "True")


async def test_a_prefix_that_was_made_for_another_is_not_joined(world: World) -> None:
    """Its id is no secret: it is in Azure's portal, and made of the configuration's UID."""
    await world.write("owner")
    owner = await world.until(
        "owner", lambda s: condition(s, "Provisioned").get("status") == "True"
    )
    managed = world.azure.cloud.managed_prefix_id(names.managed(owner["metadata"]["uid"]))
    await world.kube.create(
        "namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mallory"}}
    )
    for name, stolen in (("steal", managed), ("again", managed.upper())):
        document = {
            "apiVersion": names.API_VERSION,
            "kind": "StaticGatewayConfiguration",
            "metadata": {"name": name, "namespace": "mallory"},
            "spec": {"gatewayNodepoolName": "npegress", "publicIpPrefixId": stolen},
        }
        await world.kube.apply(document, resource="staticgatewayconfigurations")
        await world.kube.wait_for(
            "staticgatewayconfigurations",
            name,
            lambda s: s is not None and reason(s) == "PrefixNotAllowed",
            namespace="mallory",
            timeout=30,
        )
