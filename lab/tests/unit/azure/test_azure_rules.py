from __future__ import annotations

import pytest

from egress_gateway_lab.azure.faults import Faults
from egress_gateway_lab.azure.identity import rbac
from egress_gateway_lab.azure.providers.aks.machines import provider_id
from egress_gateway_lab.azure.providers.compute.scalesets import base36, merge

SCOPE = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachineScaleSets/v"
NETWORK = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network"


def role(name: str) -> rbac.Role:
    return next(r for r in rbac.ROLES if r.name == name)


@pytest.mark.parametrize(
    ("name", "action", "allowed"),
    [
        ("Owner", "Microsoft.Authorization/roleAssignments/write", True),
        ("Contributor", "Microsoft.Authorization/roleAssignments/write", False),
        ("Contributor", "Microsoft.Authorization/roleAssignments/read", True),
        ("Contributor", "microsoft.network/publicipprefixes/JOIN/action", True),
        ("Reader", "Microsoft.Network/publicIPPrefixes/read", True),
        ("Reader", "Microsoft.Network/publicIPPrefixes/join/action", False),
        ("Network Contributor", "Microsoft.Network/publicIPPrefixes/join/action", True),
        ("Network Contributor", "Microsoft.Compute/virtualMachineScaleSets/read", False),
        ("Virtual Machine Contributor", "Microsoft.Compute/virtualMachineScaleSets/write", True),
        ("Virtual Machine Contributor", "Microsoft.Network/publicIPPrefixes/join/action", False),
        ("Virtual Machine Contributor", "Microsoft.Network/loadBalancers/write", False),
    ],
)
def test_built_in_roles(name: str, action: str, allowed: bool) -> None:
    assert role(name).allows(action) is allowed


def test_joins_are_what_leaves_the_resource_itself() -> None:
    body = {
        "subnet": {"id": f"{NETWORK}/virtualNetworks/n/subnets/s"},
        "pools": [{"id": f"{NETWORK}/loadBalancers/lb/backendAddressPools/p"}] * 2,
        "public": {"publicIPPrefix": {"id": f"{NETWORK}/publicIPPrefixes/p"}},
        "own": {"id": f"{SCOPE}/something/else"},
        "named": {"id": f"{NETWORK}/publicIPPrefixes/q", "name": "q"},
    }
    assert {action for _, action in rbac.joins(SCOPE, body)} == {
        "Microsoft.Network/virtualNetworks/subnets/join/action",
        "Microsoft.Network/loadBalancers/backendAddressPools/join/action",
        "Microsoft.Network/publicIPPrefixes/join/action",
    }
    assert len(list(rbac.joins(SCOPE, body))) == 3


def test_a_partial_put_leaves_what_it_omits_and_replaces_lists() -> None:
    old = {"sku": {"capacity": 2}, "properties": {"a": {"x": 1, "y": [1, 2]}, "b": 1}}
    new = merge(old, {"properties": {"a": {"y": [3]}, "b": None}})
    assert new == {"sku": {"capacity": 2}, "properties": {"a": {"x": 1, "y": [3]}}}
    assert old["properties"] == {"a": {"x": 1, "y": [1, 2]}, "b": 1}, "the old one is a value"


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (9, "9"), (10, "a"), (36, "10")])
def test_computer_names_count_in_base_36(number: int, text: str) -> None:
    assert base36(number) == text


def test_a_provider_id_has_its_group_in_lower_case() -> None:
    vm = "/subscriptions/S/resourceGroups/MC_x/providers/P/sets/V/virtualMachines/0"
    assert provider_id(vm) == "azure://" + vm.replace("MC_x", "mc_x")


def test_a_fault_acts_as_often_as_it_was_asked_to_and_spares_signing_in() -> None:
    faults = Faults()
    rule = faults.add("throttle", method="GET", times=2)
    assert faults.take("PUT", "/subscriptions/s") is None
    assert faults.take("GET", "/tenant/oauth2/token") is None
    assert [faults.take("GET", "/subscriptions/s") for _ in range(3)] == [rule, rule, None]
    faults.clear()
    assert faults.rules() == []
