"""A key pair is changed by the command, in the whole system, under open connections."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import sys
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway_lab.demo.world import World, until
from tests.lab.conftest import configured
from tests.lab.test_bad_input import remove
from tests.lab.test_gateways import _CONNECTIONS, hold_open
from tests.lab.test_promises import WHATSMYIP, sources

pytestmark = pytest.mark.root
_NAME = "rotated"
_ASK = f"while :; do curl -sS --max-time 10 {WHATSMYIP}/{_NAME}/ || echo failed; sleep 0.05; done"


async def command(world: World, *arguments: str) -> tuple[int, Any]:
    """``egress-gateway rotate-keys`` as a person runs it: exit code, and what it printed."""
    program = [sys.executable, "-m", "egress_gateway.cli.main", "rotate-keys", "--output", "json"]
    process = await asyncio.create_subprocess_exec(
        *program,
        "--kubeconfig",
        str(world.lab.kubeconfig),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        said, _ = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        raise
    return process.returncode or 0, json.loads(said)


async def ask(world: World, pod: str, answers: list[str]) -> None:
    """One request after the other; ``answers`` gets the addresses that they came from."""
    heard = b""
    async for chunk in world.kube.exec_stream("default", pod, ["bash", "-c", _ASK]):
        heard += chunk
        answers[:] = heard.decode().split("\n")[:-1]


async def status(world: World) -> dict[str, Any]:
    found = await world.kube.get("staticgatewayconfigurations", _NAME, namespace="default")
    known: dict[str, Any] = found["status"]
    return known


def addresses(of: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What each gateway sends from; ``seenIp`` comes when the address was verified."""
    return [(g["node"], g["secondaryIp"], g["publicIp"]) for g in of["gateways"]]


async def replace_the_controller(world: World) -> None:
    """As soon as pods move."""

    def moving(found: dict[str, Any] | None) -> bool:
        phase = (found or {}).get("status", {}).get("keyRotation", {}).get("phase")
        return bool(phase == "Moving")

    # Watched, not polled: three pods that move at once leave little between two looks.
    await world.kube.wait_for("staticgatewayconfigurations", _NAME, moving, namespace="default")
    system = names.SYSTEM_NAMESPACE
    for pod in await world.kube.list("pods", namespace=system):
        if pod["metadata"]["name"].startswith("egress-gateway-controller"):
            await world.kube.delete("pods", pod["metadata"]["name"], namespace=system)


async def test_a_key_pair_changes_and_no_connection_notices(world: World) -> None:
    """Twenty open connections, one request after the other, and another controller midway."""
    prefix = ipaddress.ip_network(await configured(world, _NAME))
    pods = await world.deploy(_NAME, configuration=_NAME, replicas=3)
    before = await status(world)
    alive: list[int] = []
    answers: list[str] = []
    work = [
        asyncio.create_task(hold_open(world, pods[0], alive)),
        asyncio.create_task(ask(world, pods[1], answers)),
    ]

    async def busy() -> bool:
        return _CONNECTIONS in alive and len(answers) > 2

    try:
        await until(busy, timeout=120, what="connections to be open")
        (code, (told,)), _ = await asyncio.gather(
            command(world, _NAME), replace_the_controller(world)
        )
        assert (code, told["state"]) == (0, "done"), told
        seen, asked = len(alive), len(answers)

        async def looked_again() -> bool:
            return len(alive) > seen + 3 and len(answers) > asked + 3

        await until(looked_again, timeout=120, what="both to be asked again")
    finally:
        for task in work:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*work)
    after = await status(world)
    profiles = [s["gatewayServerProfile"] for s in (before, after)]
    assert profiles[0]["publicKey"] != profiles[1]["publicKey"] == told["public_key"]
    assert profiles[0]["port"] != profiles[1]["port"] == told["port"]
    assert addresses(after) == addresses(before)
    assert set(alive[alive.index(_CONNECTIONS) :]) == {_CONNECTIONS}
    assert len(set(answers)) == 1, "no failure, and one address all the time"
    for address in await sources(world, f"/{_NAME}/"):
        assert ipaddress.ip_address(address) in prefix
    await only_the_new_pair_is_left(world, profiles[1])
    await world.kube.delete("deployments", _NAME, namespace="default")
    await remove(world, _NAME)


async def only_the_new_pair_is_left(world: World, profile: dict[str, Any]) -> None:
    """On the Secret at once; gateways hear of it a moment later."""
    found = await world.kube.get("staticgatewayconfigurations", _NAME, namespace="default")
    system = names.SYSTEM_NAMESPACE
    secret = await world.kube.get(
        "secrets", names.key_secret(found["metadata"]["uid"]), namespace=system
    )
    assert sorted(secret["data"]) == [names.SECRET_PRIVATE_KEY, names.SECRET_PUBLIC_KEY]

    async def reported() -> bool:
        statuses = await world.kube.list("gatewaystatuses", namespace=system)
        entries = [
            entry
            for s in statuses
            for entry in s["spec"].get("readyGatewayConfigurations", [])
            if entry["staticGatewayConfiguration"] == f"default/{_NAME}"
        ]
        return bool(entries) and all(
            (e["publicKey"], e["interfaceName"], e.get("secondPublicKey", ""))
            == (profile["publicKey"], f"wg-{profile['port']}", "")
            for e in entries
        )

    await until(reported, timeout=120, what="gateways to report the new pair alone")
