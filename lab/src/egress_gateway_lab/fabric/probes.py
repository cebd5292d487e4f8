"""Health probes of load balancers, from 168.63.129.16, at the pace the resources ask for.

A target is down until its first probe has succeeded. HTTP probes want status 200 within the
timeout, TCP probes a handshake; ``threshold`` consecutive results in a row change the verdict.
https://learn.microsoft.com/azure/load-balancer/load-balancer-custom-probe-overview
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from egress_gateway_lab.fabric.desired import Target
from egress_gateway_lab.fabric.network import Probe
from egress_gateway_lab.fabric.settings import WIRE_SERVER

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the balancer thinks of a target: ``streak`` results in a row speak against it."""

    healthy: bool = False
    streak: int = 0

    def after(self, success: bool, threshold: int) -> Verdict:
        """The verdict after one more result. Coming up takes one success, as a restarted
        backend in Azure; going down takes ``threshold`` failures in a row."""
        if success:
            return Verdict(healthy=True)
        streak = self.streak + 1
        return Verdict(healthy=self.healthy and streak < threshold, streak=streak)


class Probes:
    """Runs one task per target. ``changed`` is called after each change of health."""

    def __init__(self, changed: Callable[[], None], *, timeout: float) -> None:
        self._changed = changed
        self._timeout = timeout
        self._verdicts: dict[Target, Verdict] = {}
        self._tasks: dict[Target, tuple[Probe, asyncio.Task[None]]] = {}

    @property
    def health(self) -> Mapping[Target, bool]:
        return {target: verdict.healthy for target, verdict in self._verdicts.items()}

    def watch(self, targets: Mapping[Target, Probe]) -> None:
        """Probes exactly these targets from now on."""
        for target in self._tasks.keys() - targets.keys():
            self._stop(target)
            self._verdicts.pop(target, None)
        for target, probe in targets.items():
            running = self._tasks.get(target)
            if running is not None and running[0] == probe:
                continue
            self._stop(target)
            task = asyncio.create_task(self._run(target, probe), name=f"probe {probe.id}")
            self._tasks[target] = (probe, task)

    async def close(self) -> None:
        tasks = [task for _, task in self._tasks.values()]
        for target in list(self._tasks):
            self._stop(target)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _stop(self, target: Target) -> None:
        running = self._tasks.pop(target, None)
        if running is not None:
            running[1].cancel()

    async def _run(self, target: Target, probe: Probe) -> None:
        while True:
            started = asyncio.get_running_loop().time()
            success = await self._probe(target, probe)
            before = self._verdicts.get(target, Verdict())
            after = before.after(success, probe.threshold)
            self._verdicts[target] = after
            if before.healthy != after.healthy:
                log.info("probe changed its mind", extra={"probe": probe.id, "up": after.healthy})
                self._changed()
            spent = asyncio.get_running_loop().time() - started
            await asyncio.sleep(max(0.0, probe.interval - spent))

    async def _probe(self, target: Target, probe: Probe) -> bool:
        try:
            async with asyncio.timeout(min(self._timeout, probe.interval)):
                return await check(str(target[1]), probe)
        except (OSError, TimeoutError):
            return False


async def check(address: str, probe: Probe) -> bool:
    """One probe. Raises ``OSError`` when the connection fails."""
    reader, writer = await asyncio.open_connection(
        address, probe.port, local_addr=(str(WIRE_SERVER), 0)
    )
    try:
        if not probe.protocol.startswith("http"):
            return True
        request = (
            f"GET {probe.path} HTTP/1.1\r\nHost: {address}:{probe.port}\r\n"
            "User-Agent: Load Balancer Agent\r\nConnection: close\r\n\r\n"
        )
        writer.write(request.encode())
        status = (await reader.readline()).split()
        return len(status) > 1 and status[1] == b"200"
    finally:
        writer.transport.abort()
