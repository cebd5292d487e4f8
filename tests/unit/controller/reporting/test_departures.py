"""How long the status goes on listing a gateway that is to be dropped."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest

from egress_gateway.controller.observed.departures import LEAVE_SECONDS, Departures


class World:
    def __init__(self) -> None:
        self.now = 0.0
        self.departures = Departures(clock=lambda: self.now)

    def look(
        self,
        *,
        going: Collection[str] = ("a",),
        staying: Collection[str] = ("b",),
        ready: Collection[str] = ("a", "b"),
        used: Collection[str] = ("a",),
    ) -> Mapping[str, bool]:
        return self.departures.look(
            "uid", going=going, staying=staying, ready=frozenset(ready), used=used
        )


def test_pods_are_asked_to_leave_and_waited_for() -> None:
    world = World()
    assert world.look() == {"a": True}
    world.now = LEAVE_SECONDS - 1
    assert world.look(used=("a", "b")) == {"a": True}
    assert world.departures.due("uid") == 1
    assert world.look(used=("b",)) == {}
    assert world.departures.due("uid") is None


def test_nobody_is_asked_to_leave_before_there_is_somewhere_to_go() -> None:
    world = World()
    assert world.look(ready=("a",)) == {"a": False}
    assert world.look(ready=("a",), used=()) == {"a": False}
    assert world.look() == {"a": True}


@pytest.mark.parametrize("ready", [("a",), ("a", "b")])
def test_pods_that_do_not_leave_are_not_waited_for_longer(ready: tuple[str, ...]) -> None:
    world = World()
    world.look(ready=ready)
    world.now = LEAVE_SECONDS
    assert world.look(ready=ready) == {}


def test_each_gateway_has_its_own_time() -> None:
    world = World()
    world.look(going=("a",))
    world.now = LEAVE_SECONDS - 1
    assert world.look(going=("a", "c"), used=("a", "c")) == {"a": True, "c": True}
    world.now = LEAVE_SECONDS
    assert world.look(going=("a", "c"), used=("a", "c")) == {"c": True}


def test_without_a_gateway_that_stays_none_is_kept() -> None:
    assert World().look(staying=()) == {}


def test_what_is_forgotten_is_not_due() -> None:
    world = World()
    world.look()
    world.departures.forget("uid")
    assert world.departures.due("uid") is None
