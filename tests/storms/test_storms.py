"""Storms on the whole system, and proof that the machinery can fail.

``make test`` plays the first two, shorter ones, side by side; ``make test-storm`` plays as many as
asked for and shrinks what fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

import pytest

from tests.storms.script import Event, dumped, loaded

pytestmark = pytest.mark.root
HARMLESS = Event(0.5, "pod_annotated", "n0", {"configuration": "c0"})
LEAK = Event(1.0, "planted_leak", "a0")
ORPHAN = Event(1.5, "planted_orphan", "g1")


async def storms(*arguments: str) -> tuple[int, str]:
    """The command: its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.storms", *arguments), stdout=asyncio.subprocess.PIPE
    )
    try:
        said, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    print(said.decode())
    return process.returncode or 0, said.decode()


async def test_two_storms_pass_and_leave_nothing() -> None:
    code, said = await storms("--seeds", "0-1", "--seconds", "15", "--beside", "2")
    assert code == 0, said


async def test_a_wrong_address_and_an_orphan_are_found() -> None:
    code, said = await storms("--events", dumped([HARMLESS, LEAK, ORPHAN]))
    assert code == 1
    assert "wrong address: 1 udp packets of a0 from 192.0.2." in said
    assert "left ['table inet egress_gateway_orphan']" in said


@pytest.mark.storm
async def test_a_wrong_address_is_shrunk_to_the_event_that_sent_it() -> None:
    rotated = Event(0.8, "keys_rotated", "c1")
    script = dumped([HARMLESS, rotated, LEAK])
    code, said = await storms("--events", script, "--shrink", "6", "--quick")
    assert code == 1
    few = said.rpartition("--events '")[2].partition("'")[0]
    assert [event.kind for event in loaded(few)] == ["planted_leak"]
