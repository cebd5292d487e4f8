"""Storms on the whole system, and proof that the machinery can fail.

``make test-storm`` begins with these, then plays as many as asked for and shrinks what fails.
``make test`` has what needs no lab of it (``test_machinery.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

import pytest

from tests.storms.script import Event, dumped, loaded

pytestmark = [pytest.mark.root, pytest.mark.storm]
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


async def test_storms_pass_and_what_is_planted_is_found() -> None:
    """All at once: a lab mostly waits. A busy machine gets more time than the product should need
    (``make test-storm`` asks for that)."""
    generous = ("--settle", "5", "--limit", "80", "--patience", "80")
    planted = dumped([HARMLESS, LEAK, ORPHAN])
    (passed, all_well), (failed, found) = await asyncio.gather(
        storms("--seeds", "0-1", "--seconds", "12", *generous),
        storms("--events", planted, "--patience", "15"),
    )
    assert passed == 0, all_well
    assert failed == 1
    assert "wrong address: 1 udp packets of a0 from 192.0.2." in found
    assert "left ['table inet egress_gateway_orphan']" in found


@pytest.mark.timeout(3600)  # seven labs, one after the other
async def test_a_wrong_address_is_shrunk_to_the_event_that_sent_it() -> None:
    rotated = Event(0.8, "keys_rotated", "c1")
    script = dumped([HARMLESS, rotated, LEAK])
    code, said = await storms("--events", script, "--shrink", "6", "--quick")
    assert code == 1
    few = said.rpartition("--events '")[2].partition("'")[0]
    assert [event.kind for event in loaded(few)] == ["planted_leak"]
