"""A pod's pause process is killed by containerd's own client, whatever sandboxes it had before."""

from __future__ import annotations

from types import MappingProxyType, SimpleNamespace
from typing import cast

import pytest

from egress_gateway_lab.realcluster.nodes import RealMachines
from egress_gateway_lab.runtime.nodes.node import Completed


class Machine:
    """A machine whose containerd lists these sandboxes, of which some run."""

    def __init__(self, listed: str, *running: str) -> None:
        self._listed = listed
        self._running = running
        self.killed: list[str] = []
        self.asked = ""

    async def run(self, argv: list[str]) -> Completed:
        if "containers" in argv:
            self.asked = argv[-1]
            return Completed(0, self._listed.encode(), b"")
        assert argv[1:] == ["tasks", "kill", "--signal", "SIGKILL", argv[-1]]
        if argv[-1] not in self._running:
            return Completed(1, b"", b"ctr: process already finished")
        self.killed.append(argv[-1])
        return Completed(0, b"", b"")


async def lost(machine: Machine, name: str = "worker-0") -> None:
    known = MappingProxyType({"worker-0": SimpleNamespace(node=machine)})
    machines = SimpleNamespace(_running=known, _ctr=["/x/ctr"])
    await RealMachines.lose_sandbox(cast("RealMachines", machines), name, "uid-1")


async def test_the_sandbox_that_runs_is_killed() -> None:
    await lost(machine := Machine("earlier\nlater\n", "later"))
    assert machine.killed == ["later"]
    assert 'labels."io.kubernetes.pod.uid"==uid-1' in machine.asked
    assert 'labels."io.cri-containerd.kind"==sandbox' in machine.asked


@pytest.mark.parametrize(
    ("listed", "said"), [("", "containerd lists none"), ("earlier\n", "already finished")]
)
async def test_a_pod_without_one_is_told_of(listed: str, said: str) -> None:
    with pytest.raises(LookupError, match=said):
        await lost(Machine(listed))


async def test_a_machine_that_is_off_is_told_of() -> None:
    with pytest.raises(LookupError, match="machine worker-1 is off"):
        await lost(Machine("one\n", "one"), "worker-1")
