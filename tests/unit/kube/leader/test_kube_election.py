"""Two participants never believe at once that they lead; a silent leader is replaced."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.kube.leader.election import Election, Write
from egress_gateway.kube.resources import Lease

WALL = datetime(2026, 1, 1, tzinfo=UTC)


class Server:
    """One Lease with optimistic concurrency."""

    def __init__(self) -> None:
        self.version = 0
        self.spec: dict[str, Any] | None = None

    def read(self) -> Lease | None:
        if self.spec is None:
            return None
        meta = {"name": "l", "resourceVersion": str(self.version)}
        return msgspec.convert({"metadata": meta, "spec": self.spec}, Lease)

    def write(self, write: Write) -> Lease | None:
        """None: conflict."""
        current = str(self.version) if self.spec is not None else ""
        if write.resource_version != current:
            return None
        self.version += 1
        self.spec = {**(self.spec or {}), **write.spec}
        return self.read()


def attempt(server: Server, election: Election, now: float) -> bool:
    election.saw(server.read(), now)
    if election.wait(now) > 0:
        return False
    lease = server.write(election.claim(WALL))
    if lease is None:
        return False
    election.wrote(lease, now)
    return True


def election(name: str) -> Election:
    return Election(name, duration=15, renew=10)


def test_the_first_takes_a_lease_that_is_not_there() -> None:
    server, a = Server(), election("a")
    assert attempt(server, a, 0)
    assert a.leading(9.9)
    assert not a.leading(10)
    assert server.spec is not None
    assert server.spec["leaseDurationSeconds"] == 15
    assert server.spec["leaseTransitions"] == 0


def test_a_silent_leader_is_replaced_after_the_duration_counted_from_its_last_sighting() -> None:
    server, a, b = Server(), election("a"), election("b")
    attempt(server, a, 0)
    assert not attempt(server, b, 5)
    assert not attempt(server, b, 19.9)
    assert attempt(server, b, 20)
    assert server.spec is not None
    assert server.spec["holderIdentity"] == "b"
    assert server.spec["leaseTransitions"] == 1


def test_a_renewing_leader_is_not_replaced() -> None:
    server, a, b = Server(), election("a"), election("b")
    for now in range(0, 100, 5):
        assert attempt(server, a, now)
        assert not attempt(server, b, now + 1)


def test_a_released_lease_is_free_at_once() -> None:
    server, a, b = Server(), election("a"), election("b")
    attempt(server, a, 0)
    release = a.release(WALL)
    assert release is not None
    server.write(release)
    assert attempt(server, b, 0.1)


def test_seeing_another_holder_ends_leading_at_once() -> None:
    server, a = Server(), election("a")
    attempt(server, a, 0)
    assert server.spec is not None
    server.write(Write(resource_version="1", spec={"holderIdentity": "b"}))
    a.saw(server.read(), 1)
    assert not a.leading(1)
    assert a.release(WALL) is None


def test_a_longer_lease_of_another_is_respected() -> None:
    server, b = Server(), election("b")
    server.write(
        Write(resource_version="", spec={"holderIdentity": "a", "leaseDurationSeconds": 60})
    )
    assert not attempt(server, b, 0)
    assert not attempt(server, b, 59)
    assert attempt(server, b, 60)


@pytest.mark.parametrize(("duration", "renew"), [(10, 10), (10, 0), (5, 8)])
def test_timings_without_a_margin_are_refused(duration: float, renew: float) -> None:
    with pytest.raises(ValueError, match="must be below"):
        Election("a", duration=duration, renew=renew)


@given(seed=st.integers(0, 2**32), outages=st.lists(st.integers(0, 400), max_size=6))
def test_never_two_leaders_whatever_is_delayed_or_lost(seed: int, outages: list[int]) -> None:
    """Requests take up to 4 s, answers get lost, participants sleep, the server goes away."""
    rand = random.Random(seed)
    server = Server()
    members = [election(name) for name in "abc"]
    next_try = [0.0, 0.0, 0.0]
    now = 0.0
    pending: list[tuple[float, int, Write, float]] = []
    while now < 400:
        now += 0.5
        down = any(start <= now < start + 20 for start in outages)
        for at, index, write, started in [p for p in pending if p[0] <= now]:
            pending.remove((at, index, write, started))
            lease = None if down else server.write(write)
            if lease is not None and rand.random() > 0.2:  # else: the answer is lost
                members[index].wrote(lease, started)
            next_try[index] = now + rand.choice([1, 2, 2, 12])
        for index, member in enumerate(members):
            if down or now < next_try[index] or any(p[1] == index for p in pending):
                continue
            member.saw(server.read(), now)
            if member.wait(now) > 0:
                next_try[index] = now + 2
                continue
            pending.append((now + rand.uniform(0, 4), index, member.claim(WALL), now))
        assert sum(m.leading(now) for m in members) <= 1
