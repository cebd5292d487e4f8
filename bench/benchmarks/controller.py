"""What the controller costs Azure: requests and seconds for new configurations, and at rest.

Configurations with managed prefixes appear at once; a run ends when every one is Provisioned.
Azure's operations take one second, and every poll is counted.
"""

from __future__ import annotations

import asyncio
import collections
import re
import tempfile
import time
from collections.abc import Collection
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

from bench.errors import BenchError
from bench.figures import table
from bench.machine import say
from bench.options import Options
from bench.place.paper import SGCS, Paper, paper
from bench.place.process import Usage
from egress_gateway.api import names
from tests.contract.controller.azure_lab import report_ready

OPERATION_SECONDS: Final = 1.0
_LIMIT: Final = 600.0
"""Seconds after which a run is given up."""
_AT_ONCE: Final = 16
_AZURE_SECONDS: Final = 3.0
"""How long Azure takes for a write of a scale set, an instance or a load balancer (recorded: 0.1 to
11 s)."""


async def run(options: Options) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    idle: dict[str, Any] = {}
    last = len(options.configurations) - 1
    for number, (configurations, pools) in enumerate(options.configurations):
        rest = options.idle_seconds if number == min(2, last) else 0
        with tempfile.TemporaryDirectory(prefix="egress-gateway-bench-") as folder:
            try:
                measured, at_rest = await _run(
                    Path(folder), configurations, pools, rest, azure=options.azure_headers
                )
            except BenchError as error:  # what was measured before is worth keeping
                say(f"controller: {error}")
                measured, at_rest = _failed(configurations, pools, error), {}
        found.append(measured)
        idle = idle or at_rest
    result = {
        "runs": found,
        "operation_seconds": _AZURE_SECONDS if options.azure_headers else OPERATION_SECONDS,
        "idle_requests_per_hour": idle.get("per_configuration"),
        "idle": idle,
    }
    if options.azure_headers:
        with tempfile.TemporaryDirectory(prefix="egress-gateway-bench-") as folder:
            result["hanging_instance"] = await _hanging(Path(folder))
    return result


def _failed(configurations: int, pools: int, error: BenchError) -> dict[str, Any]:
    asked = {"configurations": configurations, "pools": pools}
    return {**asked, "seconds": None, "requests": None, "error": str(error)}


async def _run(
    folder: Path, configurations: int, pools: int, rest: int, *, azure: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    seconds_each = _AZURE_SECONDS if azure else OPERATION_SECONDS
    async with paper(folder, operation_seconds=seconds_each, azure_headers=azure) as world:
        named = [f"npegress{n}" for n in range(pools)]
        await asyncio.gather(*(world.add_pool(name) for name in named))
        async with world.controller() as process:
            await _quiet(world)
            say(f"controller: {configurations} configurations on {pools} pool(s)")
            before, started = world.requests(), time.monotonic()
            created = await _create(world, configurations, named)
            settled = await _settled(world, configurations, process)
            seconds, used = settled - started, Usage.of(process.pid)
            requests = world.requests() - before
            measured = {
                "configurations": configurations,
                "pools": pools,
                "seconds": round(seconds, 2),
                "requests": requests,
                **asdict(used),
                "creating_seconds": round(created - started, 2),
                "by_kind": _by_kind(world, before),
            }
            say(f"controller: {seconds:.1f} s, {requests} requests")
            if azure:
                all_of_them = [f"c{number}" for number in range(configurations)]
                deleted = await _deleted(world, all_of_them, process)
                throttled = sum(one.status == 429 for one in world.emulator.requests)
                measured |= {"deleting_seconds": round(deleted, 2), "throttled": throttled}
                say(f"controller: deleted after {deleted:.1f} s, {throttled} times 429")
            return measured, await _idle(world, configurations, rest) if rest else {}


async def _create(world: Paper, count: int, pools: list[str]) -> float:
    """Creates them; when the last one was there."""
    turn = asyncio.Semaphore(_AT_ONCE)

    async def create(number: int) -> None:
        async with turn:
            document = _configuration(f"c{number}", pools[number % len(pools)])
            await world.kube.create(SGCS, document)

    await asyncio.gather(*(create(number) for number in range(count)))
    return time.monotonic()


def _configuration(name: str, pool: str) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "StaticGatewayConfiguration",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"gatewayNodepoolName": pool},
    }


async def _settled(world: Paper, count: int, process: asyncio.subprocess.Process) -> float:
    """The moment when the last configuration became Provisioned."""
    waiting = {f"c{number}" for number in range(count)}
    shown = time.monotonic()
    deadline = shown + _LIMIT
    while waiting:
        for item in await world.kube.list(SGCS, namespace="default"):
            if _condition(item, "Provisioned"):
                waiting.discard(item["metadata"]["name"])
        now = time.monotonic()
        if waiting and now - shown > 5:
            say(f"controller: {count - len(waiting)} of {count} provisioned")
            shown = now
        if process.returncode is not None or now > deadline:
            tail = (world.directory / "controller.log").read_text().splitlines()[-3:]
            raise BenchError(f"{len(waiting)} configurations are not provisioned: {tail}")
        if waiting:
            # Looking costs this process, which also plays Azure: rarer the more there are.
            await asyncio.sleep(0.05 + count / 1000)
    return time.monotonic()


async def _deleted(
    world: Paper, going: Collection[str], process: asyncio.subprocess.Process
) -> float:
    """Deletes these; seconds until the last of them is gone."""
    started = time.monotonic()
    for name in going:
        await world.kube.delete(SGCS, name, namespace="default")
    while {i["metadata"]["name"] for i in await world.kube.list(SGCS, namespace="default")} & {
        *going
    }:
        if process.returncode is not None or time.monotonic() > started + _LIMIT:
            raise BenchError("configurations are not deleted")
        await asyncio.sleep(0.05 + len(going) / 1000)
    return time.monotonic() - started


async def _hanging(folder: Path) -> dict[str, Any]:
    """One of two instances whose writes Azure takes and never ends: seconds until a configuration
    that comes then is Ready by the other, and until one that goes then is gone."""
    async with paper(folder, operation_seconds=_AZURE_SECONDS, azure_headers=True) as world:
        await world.add_pool("npegress0")
        async with world.controller() as process:
            await _quiet(world)
            await _create(world, 1, ["npegress0"])
            await _settled(world, 1, process)
            world.emulator.faults.add("hang", method="PUT", path=r"virtualMachines/0$", times=None)
            say("controller: an instance hangs for ever")
            started = time.monotonic()
            await world.kube.create(SGCS, _configuration("beside", "npegress0"))
            ready = await _ready(world, "beside") - started
            deleted = await _deleted(world, ["c0"], process)
            throttled = sum(one.status == 429 for one in world.emulator.requests)
            say(f"controller: beside it a new one Ready after {ready:.1f} s, the old one deleted")
            say(f"controller: after {deleted:.1f} s, {throttled} times 429")
            return {
                "ready_seconds": round(ready, 2),
                "deleting_seconds": round(deleted, 2),
                "throttled": throttled,
            }


async def _ready(world: Paper, name: str) -> float:
    """The moment when it became Ready; gateway agents answer for each gateway at once."""
    deadline = time.monotonic() + _LIMIT
    while time.monotonic() < deadline:
        found = await world.kube.get(SGCS, name, namespace="default")
        if _condition(found, "Ready"):
            return time.monotonic()
        if found.get("status", {}).get("gateways"):
            await report_ready(world.kube, found)
        await asyncio.sleep(0.1)
    raise BenchError(f"{name} is not Ready")


def _condition(item: dict[str, Any], kind: str) -> bool:
    conditions = item.get("status", {}).get("conditions", [])
    return any(c["type"] == kind and c["status"] == "True" for c in conditions)


async def _quiet(world: Paper, seconds: float = 1.0) -> None:
    """Waits until the controller has made its first survey and asks nothing more."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        before = world.requests()
        await asyncio.sleep(seconds)
        if world.emulator.requests and world.requests() == before and _asked(world):
            return
    raise BenchError((world.directory / "controller.log").read_text()[-2000:])


def _asked(world: Paper) -> bool:
    return any(one.client_id == world.machines.identity for one in world.emulator.requests)


async def _idle(world: Paper, configurations: int, seconds: int) -> dict[str, Any]:
    """Requests while nothing happens: first what settling left over, then whole drift checks."""
    say(f"controller: {seconds} s at rest")
    await _quiet(world, 5.0)
    before, started = world.requests(), time.monotonic()
    await asyncio.sleep(seconds)
    requests, elapsed = world.requests() - before, time.monotonic() - started
    per_hour = requests * 3600 / elapsed
    return {
        "configurations": configurations,
        "seconds": round(elapsed),
        "requests": requests,
        "per_hour": round(per_hour, 1),
        "per_configuration": round(per_hour / configurations, 2),
        "by_kind": _by_kind(world, before),
    }


def _by_kind(world: Paper, since: int) -> dict[str, int]:
    """Requests by method and kind of resource, most frequent first."""
    counted: collections.Counter[str] = collections.Counter()
    for one in list(world.emulator.requests)[since:]:
        counted[f"{one.method} {kind_of(one.path)}"] += 1
    return dict(counted.most_common())


def kind_of(path: str) -> str:
    """``/…/providers/Microsoft.Network/loadBalancers/x`` as ``loadBalancers``; polls as
    ``operations``."""
    if re.search(r"/(operations|operationResults|operationStatuses)/", path, re.IGNORECASE):
        return "operations"
    tail = path.rpartition("/providers/")[2].split("/")[1:]
    kinds = tail[0::2]
    return "/".join(kinds) if kinds else path


def shown(result: dict[str, Any]) -> str:
    kinds = ["configurations", "pools", "seconds", "requests", "deleting_seconds", "throttled"]
    kinds += [field.name for field in fields(Usage)]
    head = [kind for kind in kinds if any(kind in run for run in result["runs"])]
    rows = [tuple(run.get(kind) for kind in head) for run in result["runs"]]
    text = table(head, rows)
    if hanging := result.get("hanging_instance"):
        text += (
            f"\n\nbeside an instance that hangs for ever: a new configuration Ready after "
            f"{hanging['ready_seconds']} s, another deleted after {hanging['deleting_seconds']} s"
        )
    idle = result["idle"]
    if idle:
        text += (
            f"\n\nat rest: {idle['requests']} requests in {idle['seconds']} s with "
            f"{idle['configurations']} configurations: {idle['per_hour']:,} an hour, "
            f"{idle['per_configuration']} for each configuration"
        )
    return text
