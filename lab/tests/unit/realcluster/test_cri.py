"""A containerd without CRI answers all but kubelets: it is started again, and why is said."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

import pytest

from egress_gateway_lab.realcluster import cri, nodes
from egress_gateway_lab.realcluster.nodes import RealMachines, Running
from egress_gateway_lab.runtime.nodes.node import Completed, MachineError

SERVED = "Type:         io.containerd.grpc.v1\nID:           cri\nRequires:    \n    x.y.v1\n"
"""What ``ctr plugins list --detailed`` prints (of containerd 2.4)."""
INOTIFY = (
    "failed to create CRI service: failed to create cni conf monitor for default: failed to "
    "create fsnotify watcher: couldn't initialize inotify: too many open files"
)
NOTHING = "no response"


def refused(message: str) -> str:
    return f"{SERVED}Error:       \n    Code:        Unknown\n    Message:     {message}\n"


class Machine:
    """A machine whose containerd gives one answer a start; counts its starts."""

    name = "worker-0"
    log = "the last line of its log"

    def __init__(self, *starts: str) -> None:
        self.stopped = asyncio.Event()
        self._starts = iter(starts)
        self._answer = next(self._starts)
        self.killed = 0

    async def run(self, argv: list[str]) -> Completed:
        assert argv[-len(cri.QUERY) :] == list(cri.QUERY)
        if self._answer == NOTHING:
            self._answer = next(self._starts, NOTHING)
            return Completed(1, b"", b"connection refused")
        return Completed(0, self._answer.encode(), b"")

    async def send_signal(self, number: int) -> None:
        self.killed += 1
        self._answer = next(self._starts, self._answer)

    async def wait(self) -> int:
        return 137

    def path(self, inside: str) -> Any:
        return SimpleNamespace(read_text=lambda **_: f"{self.log}\n")


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[Machine], None]:
    """Waits as a booting node does, in a time that passes with every look at the clock."""
    clock = itertools.count(0.0, 5.0)
    monkeypatch.setattr(nodes, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(nodes, "_CRI_PAUSES", (0.0,))

    def run(machine: Machine) -> None:
        settings = SimpleNamespace(programs={"ctr": "/x/ctr"})
        machines = cast("RealMachines", SimpleNamespace(_settings=settings, _ctr=["/x/ctr"]))
        running = cast(
            "Running",
            SimpleNamespace(node=machine, processes=MappingProxyType({"containerd": machine})),
        )
        asyncio.run(RealMachines.wait_for_cri(machines, running))

    return run


def test_one_that_serves_is_left_alone(wait: Callable[[Machine], None]) -> None:
    wait(machine := Machine(NOTHING, NOTHING, SERVED))
    assert machine.killed == 0


@pytest.mark.parametrize("message", [INOTIFY, "no space left on device", "unable to load CRI x"])
def test_one_without_is_started_again(wait: Callable[[Machine], None], message: str) -> None:
    wait(machine := Machine(NOTHING, refused(message), refused(message), NOTHING, SERVED))
    assert machine.killed == 2


def test_what_is_never_there_is_said_with_cause_and_mend(wait: Callable[[Machine], None]) -> None:
    with pytest.raises(MachineError) as said:
        wait(machine := Machine(*[refused(INOTIFY)] * 100))
    assert machine.killed > 2
    text = str(said.value)
    assert text.startswith("containerd of worker-0 serves no kubelet: failed to create CRI service")
    assert "sysctl -w fs.inotify.max_user_instances=" in text


def test_the_cause_stays_known_while_it_starts_again(wait: Callable[[Machine], None]) -> None:
    with pytest.raises(MachineError, match=r"serves no kubelet: disk full$"):
        wait(Machine(refused("disk full"), *[NOTHING] * 100))


def test_one_that_never_answers_is_quoted(wait: Callable[[Machine], None]) -> None:
    with pytest.raises(MachineError, match="does not answer: the last line of its log"):
        wait(Machine(*[NOTHING] * 100))


def test_a_program_that_ends_for_what_is_used_up_is_told_with_the_mend(
    wait: Callable[[Machine], None],
) -> None:
    """As kubelet does beside a second lab; it says so in its log alone."""
    machine = Machine(*[NOTHING] * 100)
    machine.log = '"Failed to start cAdvisor" err="inotify_init: too many open files"'
    with pytest.raises(MachineError, match=r"cAdvisor.*; .*sysctl -w fs\.inotify\."):
        wait(machine)


def test_a_machine_that_goes_down_is_not_waited_for(wait: Callable[[Machine], None]) -> None:
    machine = Machine(NOTHING)
    machine.stopped.set()
    with pytest.raises(MachineError):
        wait(machine)


@pytest.mark.parametrize("listed", ["", "Type: x\nID:   introspection\n", refused("x"), "ID: cric"])
def test_nothing_else_counts_as_served(listed: str) -> None:
    assert not cri.is_served(listed)
