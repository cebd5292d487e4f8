"""Which scale sets ``gatewayVmssProfile`` may name: those that an administrator has marked."""

from __future__ import annotations

import pytest

from egress_gateway.api.conditions import Reason
from egress_gateway.api.names import marks_gateway
from egress_gateway.api.types import GatewayVmssProfile
from egress_gateway.controller.planning.pools import Joined
from tests.unit.controller.test_reconcile import World

GATEWAYS, WORKERS, MIXED, NONE = Joined(2, 0), Joined(0, 3), Joined(1, 1), Joined()
AKS = {"aks-managed-poolName": "np"}


def own(world: World, tags: dict[str, str]) -> GatewayVmssProfile:
    """A pool with these tags alone, as a configuration names it."""
    world.arm.add_pool("np")
    world.arm.sets["aks-np-vmss"]["tags"] = tags
    group = world.arm.sets["aks-np-vmss"]["id"].split("/")[4]
    return GatewayVmssProfile(
        vmss_resource_group=group, vmss_name="aks-np-vmss", public_ip_prefix_size=31
    )


async def named(world: World, profile: GatewayVmssProfile, joined: Joined) -> str | None:
    """Why the configuration ``a`` is not served."""
    world.cluster.nodes["aks-np-vmss"] = joined
    world.cluster.write("a", gateway_nodepool_name="", gateway_vmss_profile=profile)
    for _ in range(2):
        await world.settle()
    return world.reason("a")


@pytest.mark.parametrize(
    ("tags", "joined", "strict", "served"),
    [
        ({}, GATEWAYS, False, True),
        ({}, GATEWAYS, True, True),
        ({}, MIXED, True, True),
        ({}, WORKERS, False, False),
        ({}, NONE, False, True),
        ({}, NONE, True, False),
        ({"owner": "web"}, NONE, False, True),
        (AKS, GATEWAYS, True, True),
        (AKS, WORKERS, False, False),
        (AKS, NONE, False, False),
        ({"AKS-Managed-Orchestrator": "Kubernetes:1.36"}, NONE, False, False),
        (AKS | {"aks-managed-gatewayIPPrefixSize": "30"}, NONE, True, True),
        (AKS | {"aks-managed-gatewayIPPrefixSize": "30"}, WORKERS, True, True),
        (AKS | {"aks-managed-gatewayIPPrefixSize": "7"}, WORKERS, False, False),
    ],
)
async def test_a_scale_set_is_written_for_a_tenant_if_an_administrator_made_it_a_gateway_pool(
    world: World, tags: dict[str, str], joined: Joined, strict: bool, served: bool
) -> None:
    profile = own(world, tags)
    world.cluster.strict_pools = strict
    told = await named(world, profile, joined)
    written = [w for w in world.arm.writes if "aks-np-vmss" in w]
    assert bool(written) is served, world.arm.writes
    assert (told == Reason.POOL_NOT_ALLOWED) is not served
    assert ("egressgateway-a" in world.arm.made) is served


async def test_a_pool_that_is_scaled_to_none_keeps_who_lives_there_and_takes_nobody_else(
    world: World,
) -> None:
    profile = own(world, AKS)
    await named(world, profile, GATEWAYS)
    assert world.verdict("a").settled
    world.cluster.nodes["aks-np-vmss"] = NONE
    world.cluster.write("b", gateway_nodepool_name="", gateway_vmss_profile=profile)
    await world.settle()
    assert world.verdict("a").problem is None
    assert world.reason("b") == Reason.POOL_NOT_ALLOWED
    world.cluster.nodes["aks-np-vmss"] = GATEWAYS
    await world.settle()
    assert world.verdict("b").settled


async def test_who_lives_in_a_pool_that_is_marked_no_more_keeps_his_addresses_and_can_leave(
    world: World,
) -> None:
    profile = own(world, AKS)
    await named(world, profile, GATEWAYS)
    world.cluster.nodes["aks-np-vmss"] = WORKERS
    await world.settle()
    assert world.reason("a") == Reason.POOL_NOT_ALLOWED
    assert "egressgateway-a" in world.arm.made
    world.cluster.delete("a")
    await world.settle()
    assert "a" not in world.cluster.objects
    assert world.arm.made == {}


@pytest.mark.parametrize(
    ("labels", "gateway"),
    [
        ({"kubeegressgateway.azure.com/mode": "true"}, True),
        ({"kubernetes.azure.com/mode": "gateway"}, True),
        ({"kubeegressgateway.azure.com/mode": "false"}, False),
        ({"kubernetes.azure.com/mode": "user"}, False),
        ({}, False),
    ],
)
def test_which_labels_make_a_gateway(labels: dict[str, str], gateway: bool) -> None:
    assert marks_gateway(labels) is gateway
