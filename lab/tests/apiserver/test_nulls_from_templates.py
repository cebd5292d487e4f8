"""``excludeCidrs:`` with nothing behind it, as a template leaves it, on both servers."""

from __future__ import annotations

from typing import Any

import pytest

from lab.tests.apiserver.conftest import Cluster
from lab.tests.apiserver.test_custom_resources import configuration, install


@pytest.mark.parametrize(
    "empty",
    [
        {"excludeCidrs": None},
        {"publicIpPrefixId": None},
        {"gatewayVmssProfile": None},
        {"defaultRoute": None, "provisionPublicIps": None},
    ],
)
async def test_a_field_with_nothing_behind_it_is_no_field(
    cluster: Cluster, empty: dict[str, Any]
) -> None:
    await install(cluster)
    body = configuration(gatewayNodepoolName="npegress", **empty)
    made = await cluster.admin.create("staticgatewayconfigurations", body)
    assert made["spec"] == {
        "gatewayNodepoolName": "npegress",
        "defaultRoute": "staticEgressGateway",
        "provisionPublicIps": True,
    }
