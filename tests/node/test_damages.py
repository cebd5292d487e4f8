"""Damage in a pod's namespace is mended when the kernel tells of it."""

from __future__ import annotations

from tests.node import test_agent

pytestmark = test_agent.pytestmark


def test_damage_is_mended_although_no_routine_pass_is_near() -> None:
    test_agent.play("damage_is_mended_without_a_clock")
