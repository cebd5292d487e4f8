"""A tenant who may create StaticGatewayConfigurations wants the address of another."""

from __future__ import annotations

import pytest

from egress_gateway.api import names
from egress_gateway_lab.azure.emulator import SUBSCRIPTION
from tests.contract.controller.conftest import world
from tests.contract.controller.migration.test_migrate_command import let, old_agents
from tests.contract.controller.migration.test_moving_over import old_deployment
from tests.contract.controller.test_controller import SGCS, World, condition, reason

__all__ = ["world"]

VERSION = "2024-05-01"


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
    await world.event("PrefixNotAllowed")
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


async def test_a_reservation_that_is_written_wrongly_still_holds_and_is_told(world: World) -> None:
    """Nobody else would notice that it reserves nothing."""
    prefix = await world.azure.add_prefix("pa")
    await world.azure.grant(prefix)
    written = f"https://portal.azure.com/#@example/resource{prefix}/overview"
    owner = {"name": "tenant-a", "annotations": {names.ALLOWED_PREFIXES_ANNOTATION: written}}
    await world.kube.create(
        "namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": owner}
    )
    await world.event("AllowedPrefixesUnclear")
    await world.write("steal", publicIpPrefixId=prefix)
    await world.until("steal", lambda s: reason(s) == "PrefixNotAllowed")


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
            timeout=120,
        )


@pytest.mark.parametrize(
    "namespace", ["mallory", names.AKS_ADDON_NAMESPACE], ids=["own", "of-AKS-by-name"]
)
async def test_what_poses_as_the_former_controller_stops_nobody(
    world: World, namespace: str
) -> None:
    """Two controllers must not act at once, so ours waits for the Go project's to end. A tenant who
    may make namespaces makes those that look like it, and a role in them for his account."""
    await world.kube.create(
        "namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    )
    rights = {"apiGroups": [names.GROUP], "resources": ["*"], "verbs": ["*"]}
    for kind, posing in (("deployments", old_deployment()), ("daemonsets", old_agents(namespace))):
        posing["metadata"]["namespace"] = namespace
        await world.kube.create(kind, posing)
    await let(world.kube, namespace, "Role", rights)
    await world.write("honest")
    await world.until("honest", lambda s: condition(s, "Provisioned").get("status") == "True")


async def test_what_a_tenant_hangs_on_a_configuration_is_kept_there_alone(world: World) -> None:
    """The controller does not hold it, and gives back what it finds."""
    await world.write("hung")
    await world.until("hung", lambda s: condition(s, "Provisioned").get("status") == "True")
    hung = {"labels": {f"l{n}": "" for n in range(1000)}, "finalizers": ["example.com/mine"]}
    await world.kube.patch(SGCS, "hung", {"metadata": hung}, namespace="default")
    both = [*hung["finalizers"], names.FINALIZER]
    found = await world.until("hung", lambda s: s["metadata"]["finalizers"] == both)
    assert found["metadata"]["labels"] == hung["labels"]
    await world.kube.delete(SGCS, "hung", namespace="default")
    found = await world.until("hung", lambda s: names.FINALIZER not in s["metadata"]["finalizers"])
    assert found["metadata"]["finalizers"] == hung["finalizers"]
    await world.kube.patch(SGCS, "hung", {"metadata": {"finalizers": None}}, namespace="default")


async def workers(world: World, *, joined: bool) -> str:
    """The scale set of AKS's ``nodepool1``; ``joined``: its machines are Nodes."""
    if joined:
        for machine in [m for m in world.azure.machines.machines.values() if m.pool == "nodepool1"]:
            await world.add_node(machine)
    found = await world.azure.person.list(sets(world), VERSION)
    (name,) = [s["name"] for s in found if s["tags"].get(names.POOL_NAME_TAG) == "nodepool1"]
    return str(name)


def sets(world: World) -> str:
    group = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{world.azure.node_group}"
    return f"{group}/providers/Microsoft.Compute/virtualMachineScaleSets"


@pytest.mark.parametrize("joined", [True, False], ids=["nodes", "scaled-to-none"])
async def test_workers_do_not_become_gateways_because_a_tenant_names_their_scale_set(
    world: World, joined: bool
) -> None:
    """The controller may write it: it is in the node resource group."""
    name = await workers(world, joined=joined)
    before = await world.azure.person.get(f"{sets(world)}/{name}", VERSION)
    resources = await world.azure.resources()
    for number, (group, spelled) in enumerate(
        ((world.azure.node_group, name), (world.azure.node_group.upper(), name.upper()))
    ):
        profile = {"vmssResourceGroup": group, "vmssName": spelled, "publicIpPrefixSize": 31}
        await world.write(f"steal-{number}", gatewayNodepoolName="", gatewayVmssProfile=profile)
        found = await world.until(f"steal-{number}", lambda s: reason(s) == "GatewayPoolNotAllowed")
        assert condition(found, "Accepted")["status"] == "False"
        assert "kubectl label node" in condition(found, "Ready")["message"]
    await world.event("GatewayPoolNotAllowed")
    # An honest configuration beside it is not held up.
    await world.write("honest")
    await world.until("honest", lambda s: condition(s, "Provisioned").get("status") == "True")
    after = await world.azure.person.get(f"{sets(world)}/{name}", VERSION)
    assert after["properties"] == before["properties"]
    assert after["etag"] == before["etag"], "nothing was written"
    made = await world.azure.resources() - resources
    assert not [r for r in made if "steal" in r]
    for number in range(2):
        await world.kube.delete(SGCS, f"steal-{number}", namespace="default")
        await world.until_gone(f"steal-{number}")


async def test_an_administrator_makes_a_scale_set_of_ordinary_nodes_a_gateway_pool(
    world: World,
) -> None:
    name = await workers(world, joined=True)
    profile = {
        "vmssResourceGroup": world.azure.node_group,
        "vmssName": name,
        "publicIpPrefixSize": 31,
    }
    await world.write("own", gatewayNodepoolName="", gatewayVmssProfile=profile)
    await world.until("own", lambda s: reason(s) == "GatewayPoolNotAllowed")
    for node in await world.kube.list("nodes"):
        label = {"metadata": {"labels": {names.GATEWAY_NODE_LABEL: "true"}}}
        await world.kube.patch("nodes", node["metadata"]["name"], label)
    found = await world.until("own", lambda s: condition(s, "Provisioned").get("status") == "True")
    assert condition(found, "Accepted")["status"] == "True"
    # A pool that is scaled to none keeps who lives there; one whose marks go says so, and goes on.
    (address,) = [g["node"] for g in found["status"]["gateways"]]
    await world.kube.delete("nodes", address)
    await world.write(
        "own", gatewayNodepoolName="", gatewayVmssProfile=profile, excludeCidrs=["10.0.0.0/8"]
    )
    await world.until(
        "own",
        lambda s: condition(s, "Accepted").get("observedGeneration") == s["metadata"]["generation"],
    )
    found = await world.kube.get(SGCS, "own", namespace="default")
    assert condition(found, "Accepted")["status"] == "True"
