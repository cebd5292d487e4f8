"""No foreign bytes make a parser answer with anything but what its callers expect.

A bounded run here; ``make fuzz`` goes on for longer, with other inputs each time.
"""

from __future__ import annotations

import pytest

from tests.fuzz.mutate import Mutator
from tests.fuzz.targets import TARGETS

RUNS = 1500


@pytest.mark.parametrize("name", TARGETS)
def test_good_input_is_understood(name: str) -> None:
    """Else the mutations below would be of nonsense."""
    target = TARGETS[name]
    for seed in target.seeds:
        try:
            target.parse(seed)
        except target.answers:
            continue


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_is_answered_with_a_surprise(name: str) -> None:
    target = TARGETS[name]
    mutator = Mutator(target.seeds, seed=1)
    for _ in range(RUNS // 10 if target.slow else RUNS):
        content = mutator.next()
        try:
            target.parse(content)
        except target.answers:
            continue
        except Exception as error:
            raise AssertionError(f"{name}: {error!r} for {content[:300]!r}") from error
