"""Managed identity, asked of the metadata service of the machine that the controller runs on."""

from __future__ import annotations

import base64
import json
import sys

import pytest

from egress_gateway.api import names
from egress_gateway_lab.demo.world import World
from tests.lab.conftest import POOL

pytestmark = pytest.mark.root
ASK = """
import asyncio, json, sys
from egress_gateway.cloud.azure.cloud import AzureCloud
from egress_gateway.cloud.azure.account.config import parse

async def main():
    cloud = AzureCloud(parse(json.loads(sys.argv[1])))
    try:
        print(json.dumps(sorted(pool.name for pool in await cloud.pools())))
    finally:
        await cloud.close()

asyncio.run(main())
"""


async def test_the_machines_identity_lets_the_controller_in(world: World) -> None:
    system = names.SYSTEM_NAMESPACE
    secret = await world.kube.get("secrets", "egress-gateway-azure", namespace=system)
    config = json.loads(base64.b64decode(secret["data"]["azure.json"]))
    config |= {
        "useFederatedWorkloadIdentityExtension": False,
        "useManagedIdentityExtension": True,
        "userAssignedIdentityID": config.pop("aadClientId"),
    }
    pods = await world.kube.list("pods", namespace=system)
    pod = next(p["metadata"]["name"] for p in pods if "controller" in p["metadata"]["name"])
    command = [sys.executable, "-c", ASK, json.dumps(config)]
    result = await world.kube.exec(system, pod, command)
    assert result.code == 0, result.stderr.decode()
    assert POOL in json.loads(result.stdout.decode())
