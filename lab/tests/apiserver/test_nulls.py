"""A field with nothing behind it, as templates write it, counts as left out."""

from __future__ import annotations

from typing import Any

from egress_gateway.api import names
from lab.tests.apiserver.conftest import Cluster
from lab.tests.apiserver.test_admission import installed
from lab.tests.apiserver.test_objects import refusal


def configuration(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "StaticGatewayConfiguration",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"gatewayNodepoolName": "np", **spec},
    }


async def test_a_null_is_pruned_or_defaulted(cluster: Cluster) -> None:
    await installed(cluster)
    made = await cluster.admin.create(
        "staticgatewayconfigurations",
        configuration(
            "a",
            excludeCidrs=None,
            publicIpPrefixId=None,
            defaultRoute=None,
            gatewayVmssProfile={"vmssName": None},
        ),
    )
    assert made["spec"] == {
        "gatewayNodepoolName": "np",
        "defaultRoute": "staticEgressGateway",
        "provisionPublicIps": True,
        "gatewayVmssProfile": {},
    }
    item = configuration("b", excludeCidrs=[None])
    error = await refusal(cluster.admin.create("staticgatewayconfigurations", item))
    assert error.code == 422
