"""``excludeCidrs:`` with nothing behind it, as a template leaves it, on both servers."""

from __future__ import annotations

from typing import Any

import pytest

from lab.tests.apiserver.conftest import Cluster
from lab.tests.apiserver.test_custom_resources import configuration, install
from lab.tests.apiserver.test_objects import refusal


@pytest.mark.parametrize(
    ("empty", "kept"),
    [
        ({"excludeCidrs": None}, {}),
        ({"publicIpPrefixId": None}, {}),
        ({"gatewayVmssProfile": None}, {}),
        ({"gatewayVmssProfile": {"vmssName": None}}, {"gatewayVmssProfile": {}}),
        ({"defaultRoute": None, "provisionPublicIps": None}, {}),
    ],
)
async def test_a_field_with_nothing_behind_it_is_no_field(
    cluster: Cluster, empty: dict[str, Any], kept: dict[str, Any]
) -> None:
    await install(cluster)
    body = configuration(gatewayNodepoolName="npegress", **empty)
    made = await cluster.admin.create("staticgatewayconfigurations", body)
    assert made["spec"] == {
        "gatewayNodepoolName": "npegress",
        "defaultRoute": "staticEgressGateway",
        "provisionPublicIps": True,
        **kept,
    }
    body = configuration(gatewayNodepoolName="npegress", excludeCidrs=[None])
    body["metadata"]["name"] = "another"
    error = await refusal(cluster.admin.create("staticgatewayconfigurations", body))
    assert error.code == 422
