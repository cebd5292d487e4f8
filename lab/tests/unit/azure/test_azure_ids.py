from __future__ import annotations

import pytest

from egress_gateway_lab.azure.arm import ids

GROUP = "/subscriptions/S/resourceGroups/Rg"


@pytest.mark.parametrize(
    ("path", "kind", "text"),
    [
        (
            "/subscriptions/S/resourcegroups/Rg",
            "Microsoft.Resources/subscriptions/resourceGroups",
            GROUP,
        ),
        (
            "/subscriptions/S/resourcegroups/Rg/providers/microsoft.network/publicipprefixes/Pip",
            "Microsoft.Network/publicIPPrefixes",
            f"{GROUP}/providers/Microsoft.Network/publicIPPrefixes/Pip",
        ),
        (
            f"{GROUP}/providers/microsoft.Compute/virtualMachineScaleSets/V/virtualMachines/0",
            "Microsoft.Compute/virtualMachineScaleSets/virtualMachines",
            f"{GROUP}/providers/Microsoft.Compute/virtualMachineScaleSets/V/virtualMachines/0",
        ),
    ],
)
def test_words_of_arm_are_normalized_and_names_kept(path: str, kind: str, text: str) -> None:
    parsed = ids.parse(path)
    assert parsed.type == kind
    assert parsed.text == text
    assert parsed.is_resource
    assert parsed.group == "Rg"


def test_an_extension_resource_has_its_resource_as_scope() -> None:
    prefix = f"{GROUP}/providers/Microsoft.Network/publicIPPrefixes/pip"
    parsed = ids.parse(f"{prefix}/providers/microsoft.authorization/roleassignments/x")
    assert parsed.scope == prefix
    assert parsed.type == "Microsoft.Authorization/roleAssignments"
    assert parsed.parent is None


def test_a_collection_is_not_a_resource() -> None:
    parsed = ids.parse(f"{GROUP}/providers/Microsoft.Network/virtualNetworks/v/subnets")
    assert not parsed.is_resource
    assert parsed.type == "Microsoft.Network/virtualNetworks/subnets"


def test_within_respects_whole_names() -> None:
    assert ids.within(f"{GROUP}/providers/x", GROUP.upper())
    assert ids.within(GROUP, GROUP)
    assert not ids.within(f"{GROUP}2", GROUP)


@pytest.mark.parametrize("path", ["", "/", "/subscriptions/S/providers"])
def test_broken_paths_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"id|namespace"):
        ids.parse(path)
