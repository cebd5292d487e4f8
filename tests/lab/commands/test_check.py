"""``check`` and ``trace`` on a cluster that runs."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from egress_gateway.api.names import SYSTEM_NAMESPACE
from egress_gateway_lab.azure.emulator import TENANT
from egress_gateway_lab.demo.world import LOCATION, SUBSCRIPTION, World, until
from tests.lab.conftest import configured
from tests.lab.test_bad_input import annotated, remove
from tests.lab.test_running_pods import becomes, command, cut, gateways

pytestmark = pytest.mark.root


async def codes(world: World) -> set[str]:
    _, said = await command(world, "check", "--output", "json")
    found = json.loads(said)["findings"]
    print([f"{f['code']} {f['object']}: {f['evidence']}" for f in found])
    return {finding["code"] for finding in found}


async def narrowed(world: World, pod: str) -> bool:
    async with cut(world, "large", *await gateways(world)):
        code, text = await command(world, "trace", pod)
        print(text)
        return code == 1 and "✗ mtu" in text and "✓ internet" in text


async def test_a_healthy_cluster_has_no_finding_and_each_fault_its_own(world: World) -> None:
    await configured(world, "checked", exclude=["192.0.2.0/24"])
    (pod,) = await world.deploy("checked", configuration="checked", replicas=1)
    await becomes(world, pod, "Connected")

    async def nothing() -> bool:
        return not await codes(world)

    await until(nothing, timeout=120, what="a healthy cluster to have no finding")
    code, text = await command(world, "check", "--pre")
    assert code == 0, text
    assert "not seen: kernels" in text
    code, text = await command(world, "trace", pod, "198.51.100.10")
    assert code == 0, text
    assert "✗" not in text
    assert "✓ internet" in text
    assert "✓ mtu" in text
    assert await narrowed(world, pod), "large packets of the pod are lost, and trace says so"
    code, text = await command(world, "trace", pod, "192.0.2.1")
    assert "192.0.2.0/24 of excludeCidrs" in text
    wrong = annotated("wrong", "checked")
    meta = wrong["metadata"]
    meta["annotations"] = {f"{key}s": value for key, value in meta["annotations"].items()}
    await world.kube.create("pods", wrong)

    async def misspelt() -> bool:
        # Gateways that asked with a large packet while none passed say so until they ask again.
        return await codes(world) == {"EG101"}

    await until(misspelt, timeout=120, what="a misspelt annotation to be the only finding")
    await world.kube.delete("pods", "wrong", namespace="default", grace_seconds=0)
    async with cut(world, "tunnels", *await gateways(world)):
        await becomes(world, pod, "Lost")
        assert "EG108" in await codes(world)
        code, text = await command(world, "trace", pod)
        assert code == 1
        assert "✗ tunnel" in text
    await becomes(world, pod, "Connected")
    await world.kube.delete("deployments", "checked", namespace="default")
    await remove(world, "checked")


def azure_json(world: World, file: Path, **others: object) -> Path:
    """As a person has it: with a secret, and where the lab's Azure is."""
    content = {
        "cloud": "custom",
        "tenantId": TENANT,
        "subscriptionID": SUBSCRIPTION,
        "resourceGroup": others.pop("group"),
        "location": LOCATION,
        "aadClientId": "demo",
        "aadClientSecret": "any",
        "resourceManagerEndpoint": world.lab.azure,
        "activeDirectoryEndpoint": world.lab.azure,
        "caBundle": str(world.lab.ca),
    }
    file.write_text(json.dumps(content | others))
    return file


async def azures(world: World, file: Path, *prefixes: str) -> dict[str, str]:
    """Evidence by code."""
    options = [part for prefix in prefixes for part in ("--prefix", prefix)]
    _, said = await command(
        world, "check", "--pre", "--azure-config", str(file), *options, "--output", "json"
    )
    document = json.loads(said)
    print(document)
    return {f["code"]: f["evidence"] for f in document["findings"] if f["code"] >= "EG420"}


async def test_what_azure_has_in_the_way_is_told_before_an_installation(
    world: World, tmp_path: Path
) -> None:
    group = (await world.node_group_id()).rpartition("/")[2]
    file = azure_json(world, tmp_path / "azure.json", group=group)
    good, small = world.prefix_id("pip-good"), world.prefix_id("pip-small")
    await world.create_prefix("pip-good", length=30)
    await world.create_prefix("pip-small", length=31)
    assert await azures(world, file, good) == {}
    assert "/31" in (await azures(world, file, small))["EG424"]
    assert "not exist" in (await azures(world, file, world.prefix_id("none")))["EG424"]
    foreign = good.replace(SUBSCRIPTION, "11111111-1111-1111-1111-111111111111")
    assert "subscription" in (await azures(world, file, foreign))["EG424"]
    told = await world.control.call("quota")
    await world.control.call("quota", public_addresses=told["used"] + 3)
    try:
        assert "takes 4" in (await azures(world, file))["EG422"]
    finally:
        await world.control.call("quota", public_addresses=told["public_addresses"])
    # The lab knows no secret of the cluster's own identity.
    others = await world.kube.get("secrets", "egress-gateway-azure", namespace=SYSTEM_NAMESPACE)
    client = json.loads(base64.b64decode(others["data"]["azure.json"]))["aadClientId"]
    wrong = azure_json(world, tmp_path / "wrong.json", group=group, aadClientId=client)
    assert (await azures(world, wrong, good)).keys() == {"EG420"}
    for prefix in (good, small):
        await world.arm.delete(prefix, "2025-09-01")


async def test_what_azure_refuses_the_controller_is_told_before_it_needs_it(world: World) -> None:
    """By its own identity, which is in its pod alone; ``Degraded`` tells of it later."""
    await configured(world, "lost")
    found = await world.kube.get("staticgatewayconfigurations", "lost", namespace="default")
    brought = found["spec"]["publicIpPrefixId"]
    assert not await codes(world) & {"EG420", "EG421"}
    assignments = f"{brought}/providers/Microsoft.Authorization/roleAssignments"
    for one in await world.arm.list(assignments, "2022-04-01"):
        if one["id"].startswith(brought):
            await world.arm.delete(one["id"], "2022-04-01")
    _, said = await command(world, "check")
    assert f"--scope {brought}" in said
    assert "has no right to Microsoft.Network/publicIPPrefixes/read" in said
    fault = {"kind": "error", "status": 401, "code": "ExpiredAuthenticationToken", "times": None}
    await world.control.call("fault", **fault)
    try:
        assert "EG420" in await codes(world)
    finally:
        await world.control.call("fault", clear=True)
    await remove(world, "lost")


async def test_a_managed_identity_is_not_looked_for_on_a_persons_machine(
    world: World, tmp_path: Path
) -> None:
    """No packet to 169.254.169.254, which is another machine's on somebody else's network."""
    file = azure_json(world, tmp_path / "azure.json", group="rg", useManagedIdentityExtension=True)
    code, said = await command(world, "check", "--pre", "--azure-config", str(file))
    assert "yours are judged" in said, said
    assert "az" in said
    assert code == 0, said
