"""What the chart brings when somebody asks for it, on real Kubernetes: live map and echo."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from egress_gateway.datapath.gateway import stun
from egress_gateway_lab.demo.world import World, until
from tests.kube.lab.conftest import SYSTEM, Operator, all_ready
from tests.lab.conftest import configured
from tests.lab.test_bad_input import remove

pytestmark = [pytest.mark.root, pytest.mark.kube]
ADDRESS = "192.0.2.200"
"""What a cloud's balancer would give the Service."""
_ASK = """
import socket, sys
asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asked.settimeout(2)
asked.sendto(bytes.fromhex(sys.argv[1]), (sys.argv[2], 3478))
print(asked.recv(2048).hex())
"""


@asynccontextmanager
async def forwarded(world: World, kubectl: Path, to: str, port: int) -> AsyncIterator[int]:
    """``kubectl port-forward`` to ``to``; inside, the port of this machine's loopback."""
    process = await asyncio.create_subprocess_exec(
        *(str(kubectl), "-n", SYSTEM, "port-forward", to, f":{port}"),
        env={**os.environ, "KUBECONFIG": str(world.lab.kubeconfig)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        said = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        found = re.match(r"Forwarding from 127\.0\.0\.1:(\d+) -> ", said)
        assert found, said
        yield int(found[1])
    finally:
        process.terminate()
        await process.wait()


async def with_an_address(lab: Operator, *values: str) -> None:
    """An upgrade that makes a Service of a balancer, which the lab's cloud has no part for."""
    upgraded = asyncio.create_task(lab.upgrade(*values))
    try:
        kube = lab.world.kube

        async def there() -> bool:
            return await kube.find("services", "egress-gateway-echo", namespace=SYSTEM) is not None

        await until(there, timeout=180, what="the Service of the echo")
        status = {"status": {"loadBalancer": {"ingress": [{"ip": ADDRESS}]}}}
        await kube.patch(
            "services", "egress-gateway-echo", status, namespace=SYSTEM, subresource="status"
        )
        await upgraded
    finally:
        upgraded.cancel()


async def test_kubectl_leads_to_the_live_map_and_the_echo_answers(
    lab: Operator, clients: Path
) -> None:
    world = lab.world
    await configured(world, "shown")
    await with_an_address(lab, "controller.settings.uiPort=8090", "echo.enabled=true")
    await all_ready(world)  # the former controller has ended
    async with (
        forwarded(world, clients / "kubectl", "deployment/egress-gateway-controller", 8090) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as browser,
    ):
        async with browser.get("/") as answer:
            assert answer.status == 200
            assert len(await answer.read()) <= 200_000

        async def shown() -> bool:
            async with browser.get("/state.json") as answer:
                state = await answer.json()
            return "default/shown" in [one["name"] for one in state["configurations"]]

        await until(shown, timeout=60, what="the configuration on the map")

    node = (await world.nodes(pool="nodepool1"))[0]["metadata"]["name"]

    async def seen() -> stun.Seen | None:
        script = f"python3 -c '{_ASK}' {stun.request(bytes(12)).hex()} {ADDRESS} || true"
        return stun.seen(bytes.fromhex((await lab.on(node, script)).strip()))

    answered = await until(seen, timeout=120, what="the echo to answer")
    assert ipaddress.ip_address(answered.address).is_private
    await lab.upgrade("controller.settings.uiPort=0", "echo.enabled=false")
    assert await world.kube.find("services", "egress-gateway-echo", namespace=SYSTEM) is None
    await remove(world, "shown")
