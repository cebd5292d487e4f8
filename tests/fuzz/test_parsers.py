"""No foreign bytes make a parser answer with anything but what its callers expect.

A bounded run here; ``make fuzz`` goes on for longer, with other inputs each time.
"""

from __future__ import annotations

import contextlib

import pytest

from tests.fuzz import targets
from tests.fuzz.targets import TARGETS, Target, surprises

RUNS = 1500


@pytest.mark.parametrize("name", TARGETS)
def test_a_seed_is_understood(name: str) -> None:
    """Else the mutations below would be of nonsense."""
    target, refusals = TARGETS[name], []
    for seed in target.seeds:
        try:
            target.parse(seed)
            return
        except target.answers as error:
            refusals.append(error)
    raise AssertionError(refusals)


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_is_answered_with_a_surprise(name: str) -> None:
    for error, content in surprises(name, RUNS, seed=1):
        raise AssertionError(f"{name}: {error!r} for {content[:300]!r}") from error


def test_a_surprise_is_seen_and_an_answer_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(content: bytes) -> None:
        raise (ValueError if len(content) % 2 else KeyError)(content)

    target = Target(parse, (ValueError,), [b"some seed"])
    monkeypatch.setattr(targets, "TARGETS", {"odd": target})
    found = list(surprises("odd", 200, seed=1))
    assert 0 < len(found) < 200
    assert all(isinstance(error, KeyError) for error, _ in found)


@pytest.mark.parametrize("name", TARGETS)
def test_what_nests_without_end_surprises_no_caller(name: str) -> None:
    target = TARGETS[name]
    for begin, end in ((b"[", b"]"), (b'{"a":', b"}"), (b'{"error":', b"}")):
        for whole in (*target.seeds, begin * 5_000 + b"1" + end * 5_000, begin * 5_000):
            with contextlib.suppress(*target.answers):
                target.parse(whole)
