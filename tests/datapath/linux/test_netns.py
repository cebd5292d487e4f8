"""A thread inside one namespace enters another by itself, and always comes back."""

from __future__ import annotations

import threading

import pytest

from egress_gateway.datapath.linux import netns
from egress_gateway.datapath.linux.netns import NetNS
from tests.datapath.box import boxed


def where() -> tuple[int, int]:
    with NetNS.current() as current:
        return current.identity


def fails() -> None:
    raise ZeroDivisionError


@boxed
def test_steps_in_other_namespaces_take_the_thread_that_is_there_and_leave_it_where_it_was() -> (
    None
):
    started: list[str] = []
    start = threading.Thread.start

    def noted(thread: threading.Thread) -> None:
        started.append(thread.name)
        start(thread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", noted)
        with netns.create("one") as one, netns.create("other") as other:
            home = where()
            started.clear()

            def inside() -> None:
                assert other.run(where) == other.identity
                assert where() == one.identity
                with pytest.raises(ZeroDivisionError):
                    other.run(fails)
                assert where() == one.identity
                assert other.run(lambda: one.run(where)) == one.identity
                assert where() == one.identity

            one.run(inside)
            assert where() == home
            assert started == ["netns"]
            # A thread that lives on never goes elsewhere itself, whatever it is known to be in.
            netns.here()
            assert other.run(where) == other.identity
            assert where() == home
            assert started == ["netns", "netns"]
