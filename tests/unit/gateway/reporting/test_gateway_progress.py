"""A pass that stalls is told; passes that notices ask for leave time to others; nobody waits for a
configuration whose kernel does not answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import Any, cast

from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.gateway.served import ServedConfiguration
from egress_gateway.gateway.peers.sync import PeerSync
from egress_gateway.gateway.progress import PassProgress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_pass_that_does_not_end_is_told() -> None:
    clock = Clock()
    progress = PassProgress(30, clock)
    with progress:
        clock.now += 50
        assert progress.stalled(60) is None
        clock.now += 11
        assert "has run for 61 s" in str(progress.stalled(60))
        assert progress.stalled(300) is None
    assert progress.stalled(60) is None


def test_passes_that_do_not_begin_are_told() -> None:
    clock = Clock()
    progress = PassProgress(30, clock)
    clock.now += 90
    assert progress.stalled(60) is None
    clock.now += 1
    assert "has begun for 91 s" in str(progress.stalled(60))


def test_a_pass_that_fails_has_ended() -> None:
    clock = Clock()
    progress = PassProgress(30, clock)
    try:
        with progress:
            raise DatapathError("no")
    except DatapathError:
        pass
    clock.now += 60
    assert progress.stalled(60) is None


def test_passes_take_their_share_of_the_time_and_no_more() -> None:
    clock = Clock()
    progress = PassProgress(30, clock)
    assert progress.rest(10, 5) == 0, "nothing has taken any time yet"
    with progress:
        clock.now += 0.1
        assert abs(progress.rest(10, 5) - 0.9) < 1e-9
    assert abs(progress.rest(10, 5) - 0.9) < 1e-9
    clock.now += 0.5
    assert abs(progress.rest(10, 5) - 0.4) < 1e-9
    clock.now += 1
    assert progress.rest(10, 5) == 0
    with progress:
        clock.now += 100
    assert progress.rest(10, 5) == 5


class StuckSide:
    """A kernel that does not answer about one interface."""

    def __init__(self) -> None:
        self.free = threading.Event()

    def sync_peers(self, server: ServedConfiguration, wanted: Mapping[str, Any]) -> bool:
        if server.port == 6000:
            self.free.wait(60)
        if server.port == 6002:
            raise DatapathError("refused")
        return True

    def change_peers(self, server: ServedConfiguration, **_: Any) -> None:
        if server.port == 6000:
            self.free.wait(60)


class PlayedBook:
    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def peers(self, name: str) -> dict[str, Any]:
        return dict(self.found)


def configuration(port: int) -> ServedConfiguration:
    address = IPv4Address("10.1.1.0") + port - 6000
    return ServedConfiguration(name=f"ns/c{port}", port=port, private_key=None, secondary=address)


async def test_one_configurations_peers_keep_no_other_waiting() -> None:
    side, book = StuckSide(), PlayedBook()
    peers = PeerSync(cast(Any, side), cast(Any, book))
    served = [configuration(port) for port in (6000, 6001, 6002)]
    peers.serve(served)
    # The others' threads start when the machine lets them.
    problems = await peers.sync_all(served, patience=2)
    async with asyncio.timeout(50):  # the stuck one lasts longer
        while problems.keys() != {"ns/c6000", "ns/c6002"}:
            problems = await peers.sync_all(served, patience=2)
    assert "takes more than" in problems["ns/c6000"]
    assert problems["ns/c6002"] == "refused"
    # A pod of another configuration comes; its gateway knows it at once.
    book.found = {"key": ()}
    assert await peers.change("ns/c6001")
    # The next pass waits no longer for the one that is stuck, nor does it start it twice.
    assert (await peers.sync_all(served[:2], patience=2)).keys() == {"ns/c6000"}
    side.free.set()
    async with asyncio.timeout(60):
        while await peers.sync_all(served[:1], patience=1):
            pass
    assert await peers.sync_all(served[:2], patience=30) == {}
    assert peers.total == 2
    peers.close()
