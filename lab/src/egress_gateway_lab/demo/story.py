"""Plays the eight steps, in order, on a lab of its own.

Whatever happens the lab ends with the story (unless asked to keep it), and the host is compared
with what it was before.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from egress_gateway_lab import host
from egress_gateway_lab.apiserver.wire.client import KubeError
from egress_gateway_lab.azure.client import RequestFailed
from egress_gateway_lab.control import ControlError
from egress_gateway_lab.demo import steps
from egress_gateway_lab.demo.report import Report, StepFailed
from egress_gateway_lab.demo.world import VERSIONS, World

_EXPECTED = (
    StepFailed,
    host.LabError,
    RequestFailed,
    KubeError,
    ControlError,
    TimeoutError,
    OSError,
)


async def play(*, as_json: bool, keep: bool = False, kubernetes: str = "embedded") -> int:
    """Runs the story; returns the exit code."""
    host.require_host(kubernetes)
    report = Report(as_json=as_json)
    footprint = host_footprint()
    ok = True
    with _own_lab(keep=keep, kubernetes=kubernetes) as lab:
        try:
            await _steps(lab, report)
        except _EXPECTED:
            ok = False
        if keep:
            lab.keep(report)
    if ok and not keep:
        ok = _host_untouched(report, footprint)
    report.finish(ok=ok)
    return 0 if ok else 1


class _Lab:
    """The story's lab: made in the first step, ended in the last."""

    def __init__(self, *, detach: bool, kubernetes: str) -> None:
        self.detach = detach
        self.kubernetes = kubernetes
        self.handle: host.LabHandle | None = None
        self.kept = False

    def start(self) -> host.LabHandle:
        # NB: not in a thread: the lab dies with the thread that started it.
        options = {"kubernetes": self.kubernetes}
        self.handle = host.start(f"demo-{os.getpid()}", options=options, detach=self.detach)
        return self.handle

    def stop(self) -> None:
        if self.handle is not None and not self.kept:
            host.stop(self.handle)
            self.handle = None

    def keep(self, report: Report) -> None:
        if self.handle is not None:
            self.kept = True
            report.see(
                f'the lab is kept: eval "$(egress-gateway lab env --name {self.handle.name})"; '
                "egress-gateway status shows it, egress-gateway lab down ends it"
            )


@contextlib.contextmanager
def _own_lab(*, keep: bool, kubernetes: str) -> Iterator[_Lab]:
    lab = _Lab(detach=keep, kubernetes=kubernetes)
    try:
        yield lab
    finally:
        lab.stop()


async def _steps(lab: _Lab, report: Report) -> None:
    async with contextlib.AsyncExitStack() as stack:
        with report.step("lab", "A cluster, as anybody has it"):
            real = lab.kubernetes == "real"
            report.command(f"egress-gateway lab up{' --kubernetes real' if real else ''}")
            handle = lab.start()
            world = await stack.enter_async_context(World(handle))
            await steps.cluster(world, report, version=VERSIONS[lab.kubernetes])
        with report.step("problem", "The problem: all pods leave from one address"):
            await steps.problem(world, report)
        with report.step("gateway-pool", "A pool of gateway nodes"):
            await steps.gateway_pool(world, report)
            azure, nodes = await world.fingerprint(), await world.inventory()
        with report.step("configuration", "A prefix, and a configuration that names it"):
            await steps.configuration(world, report)
        with report.step("application", "Annotated pods leave from the prefix"):
            await steps.application(world, report)
        with report.step("second-application", "A second application, a second prefix"):
            await steps.second_application(world, report)
        with report.step("failover", "A gateway node is lost"):
            await steps.failover(world, report)
        if lab.detach:
            return
        with report.step("clean-up", "Everything goes, nothing is left"):
            await steps.clean_up(world, report, azure, nodes)
            await stack.aclose()
            report.command("egress-gateway lab down")
            await asyncio.to_thread(lab.stop)


def host_footprint() -> dict[str, Any]:
    """What a lab could leave on the host: links, routes, rules, namespaces, mounts."""
    shown = {}
    for command in (["ip", "-o", "link"], ["ip", "route"], ["ip", "rule"], ["ip", "netns"]):
        output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        shown[" ".join(command)] = sorted(line.split(" state ")[0] for line in output.splitlines())
    shown["mounts"] = sorted(Path("/proc/self/mounts").read_text().splitlines())
    return shown


def _host_untouched(report: Report, before: dict[str, Any]) -> bool:
    after = host_footprint()
    changed = [name for name in before if before[name] != after[name]]
    if changed:
        report.steps[-1].ok = False
        report.steps[-1].error = f"the host changed: {', '.join(changed)}"
        return False
    report.see("host: links, routes, rules, namespaces and mounts are what they were")
    return True
