"""The processes of one lab as the host sees them: ours by component and machine, pods' by address.

The lab is the first process of namespaces of its own, so all of it descends from that one; nothing
else on this machine is looked at or signalled.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COMPONENTS = ("node", "gateway", "controller", "wireguard")
PROGRAMS = ("kubelet", "containerd")
"""Of real nodes."""
_OURS = re.compile(rb"(?:\0egress_gateway\.cli\.main|/bin/egress-gateway)\0([a-z]+)")
"""From the checkout, or as an image's entry point."""


@dataclass(frozen=True, slots=True)
class Process:
    """``pid``: the host's. ``network``: identity of its network namespace."""

    pid: int
    command: bytes
    network: str

    @property
    def component(self) -> str:
        """Which of ours it is, or of a real node's ``PROGRAMS``; empty if it is none."""
        found = _OURS.search(self.command)
        if found is None:
            name = os.path.basename(self.command.partition(b"\0")[0]).decode(errors="replace")
            return name if name in PROGRAMS else ""
        name = found[1].decode()
        return name if name in COMPONENTS else ""


@dataclass(frozen=True, slots=True)
class Holding:
    """What a process holds: bytes, descriptors, threads."""

    memory: int
    descriptors: int
    threads: int


def of_lab(first: int) -> list[Process]:
    """All descendants of the lab's first process."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            parents[int(entry.name)] = int(
                (entry / "stat").read_text().rpartition(")")[2].split()[1]
            )
    return [found for pid in parents if _descends(pid, first, parents) for found in _process(pid)]


def _descends(pid: int, first: int, parents: dict[int, int]) -> bool:
    while pid > 1 and pid != first:
        pid = parents.get(pid, 0)
    return pid == first


def _process(pid: int) -> Iterator[Process]:
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        yield Process(pid, command, os.readlink(f"/proc/{pid}/ns/net"))


def holding(pid: int) -> Holding | None:
    """None if the process is gone."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        values = {k: v for k, _, v in (line.partition(":") for line in status)}
        memory = int(values["RssAnon"].split()[0]) * 1024
        return Holding(memory, len(os.listdir(f"/proc/{pid}/fd")), int(values["Threads"]))
    return None
