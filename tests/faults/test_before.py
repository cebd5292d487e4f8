"""Each fault of what an installation comes upon is named, with what mends it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from egress_gateway.cli.diagnosis.checks.preflight import Before, Machine, before, on_machine
from tests.faults.before import BEFORE, MACHINE, MACHINES, READY


@pytest.mark.parametrize(
    ("how", "code", "where", "words"), [f[1:] for f in BEFORE], ids=[f[0] for f in BEFORE]
)
def test_what_is_in_the_way_is_named(
    how: Callable[[Before], Before], code: str, where: str, words: str
) -> None:
    (found,) = before(how(READY))
    assert (found.code, found.object) == (code, where)
    assert words in f"{found.evidence} {found.mend}"


@pytest.mark.parametrize(
    ("machine", "code", "words"), [f[1:] for f in MACHINES], ids=[f[0] for f in MACHINES]
)
def test_what_a_machine_lacks_is_named(machine: Machine, code: str, words: str) -> None:
    (found,) = on_machine(machine)
    assert found.code == code
    assert words in f"{found.evidence} {found.mend}"


def test_nothing_is_said_of_what_is_ready() -> None:
    assert before(READY) == []
    assert on_machine(MACHINE) == []
    assert on_machine(replace(MACHINE, wireguard=False)) == []
    assert on_machine(replace(MACHINE, tun=False)) == []


def test_what_may_not_be_read_is_no_finding() -> None:
    assert before(Before(version="v1.34.0", nodes=None)) == []
    assert before(replace(READY, version="unheard of")) == []
