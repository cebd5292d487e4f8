"""What a lab of real nodes leaves on the machine: nothing, and after SIGKILL empty cgroups only."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from egress_gateway_lab import host
from egress_gateway_lab.demo.story import host_footprint
from egress_gateway_lab.demo.world import VERSIONS, World
from egress_gateway_lab.realcluster import cgroups
from tests.kube.lab.conftest import require_programs

pytestmark = [pytest.mark.root, pytest.mark.kube]
_PROGRAMS = ("containerd", "kubelet", "kube-proxy", "kube-apiserver", "etcd", "sleep")


async def one_node(lab: host.LabHandle) -> None:
    async with World(lab) as world:
        await world.create_group()
        await world.create_cluster(nodes=1, version=VERSIONS["real"])
        await world.get_credentials()
        await world.run("tenant")


def namespaces_inside(lab: host.LabHandle) -> set[str]:
    """PID namespaces of the lab and of what it nests, as the host names them."""
    inside = set()
    waiting = [lab.pid]
    while waiting:
        pid = waiting.pop()
        try:
            inside.add(os.readlink(f"/proc/{pid}/ns/pid"))
            waiting += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        except OSError:
            continue
    return inside


def processes_in(namespaces: set[str]) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(folder / "ns/pid") in namespaces:
                found.append((folder / "comm").read_text().strip())
        except OSError:
            continue
    return found


def cgroups_of(name: str) -> list[Path]:
    points = [h.point / cgroups.ROOT / name for h in cgroups.hierarchies()]
    return [point for point in points if point.exists()]


async def test_down_leaves_nothing_and_sigkill_empty_cgroups_alone() -> None:
    require_programs()
    before = host_footprint()
    name = f"footprint-{os.getpid()}"
    lab = host.start(name, options={"kubernetes": "real"}, detach=False)
    try:
        await one_node(lab)
        inside = namespaces_inside(lab)
        assert set(_PROGRAMS) <= set(processes_in(inside))
        assert cgroups_of(name)
        os.kill(lab.pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while processes_in(inside) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert processes_in(inside) == []
        assert host_footprint() == before
        for top in cgroups_of(name):  # v1's folders have no owner who would remove them
            assert not any(f.read_text() for f in top.rglob("cgroup.procs"))
    finally:
        host.stop(lab)
    assert cgroups_of(name) == []


def test_the_next_lab_sweeps_the_cgroups_of_one_that_was_killed() -> None:
    require_programs()
    mounted = cgroups.hierarchies()
    cgroups.create("killed-long-ago/node/kubepods/pod1", mounted)
    name = f"sweeping-{os.getpid()}"
    lab = host.start(name, options={"kubernetes": "real"}, detach=False)
    host.stop(lab)
    assert cgroups_of("killed-long-ago") == []
