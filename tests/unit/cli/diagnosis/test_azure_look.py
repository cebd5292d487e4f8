"""What Azure lists is read as the controller reads it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway.cli.diagnosis.checks.azure_look import AzureLook

SET = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachineScaleSets/p"


def configured(*, subnet: str = "") -> Any:
    return SimpleNamespace(
        endpoints=SimpleNamespace(resource_manager="https://azure.example"),
        subscription_id="s",
        resource_group="g",
        subnet=subnet,
        location="here",
    )


class Manager:
    def __init__(self, tags: Any) -> None:
        self._set = {"id": SET, "name": "p", "tags": tags, "sku": {"capacity": 3}}

    async def list(self, path: str, version: str) -> list[Any]:
        return [self._set] if "virtualMachineScaleSets" in path else []

    async def get(self, path: str, version: str) -> Any:
        raise AssertionError(path)


@pytest.mark.parametrize(
    ("tags", "pools", "nodes"),
    [
        ({names.POOL_PREFIX_SIZE_TAG: "30"}, {"p": 30}, 3),
        ({names.POOL_PREFIX_SIZE_TAG: "abc"}, {}, 0),
        ({names.POOL_PREFIX_SIZE_TAG: "0"}, {}, 0),
        ({names.POOL_PREFIX_SIZE_TAG: " 30"}, {}, 0),
        ({}, {}, 0),
        (None, {}, 0),
    ],
)
async def test_a_pool_is_what_its_tag_says_and_nonsense_is_none(
    tags: Any, pools: dict[str, int], nodes: int
) -> None:
    manager: Any = Manager(tags)
    found = await AzureLook(configured(), manager, []).everything("you", [])
    assert (found.pools, found.nodes) == (pools, nodes)


class Odd(Manager):
    """Azure's answers with a field of another type."""

    async def list(self, path: str, version: str) -> list[Any]:
        if "/usages" in path:
            return [{"name": "odd", "currentValue": [], "limit": {}}, {"name": {"value": 7}}]
        if "/permissions" in path:
            return [{"actions": "odd"}]
        odd = {"id": f"{SET}-odd", "tags": {names.POOL_PREFIX_SIZE_TAG: "31"}, "properties": []}
        return [*await super().list(path, version), odd]

    async def get(self, path: str, version: str) -> Any:
        return {"id": path, "properties": "odd"}


async def test_what_makes_no_sense_is_told_and_the_rest_is_read() -> None:
    prefix = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/publicIPPrefixes/x"
    unseen: list[str] = []
    manager: Any = Odd({names.POOL_PREFIX_SIZE_TAG: "30"})
    config = configured(subnet="/subscriptions/s/subnets/n")
    found = await AzureLook(config, manager, unseen).everything("you", [prefix])
    assert found.pools == {"p": 30}
    told = "\n".join(unseen)
    for each in ("p-odd", "subnet", "prefix", "quota", "rights"):
        assert each in told
