"""Warnings before the last port, and a log that cannot run away. Values in, values out."""

from __future__ import annotations

import ipaddress
import itertools
import logging
import struct
import threading
from collections import Counter
from ipaddress import IPv4Address, IPv6Address
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.gateway.served import ServedConfiguration
from egress_gateway.datapath.linux.connections import PORTS, Connection, Survey, Use, summarize
from egress_gateway.datapath.linux.netlink import Overrun
from egress_gateway.gateway import connectionlog
from egress_gateway.gateway.connectionlog import ConnectionLog, LineBudget, Logged
from egress_gateway.gateway.connections.ports import full, judge
from egress_gateway.kube.resources import Key

ONE = ServedConfiguration(
    name="ns/one", port=6000, private_key=None, secondary=IPv4Address("10.1.1.101")
)


def use(ports: int) -> Survey:
    there = IPv4Address("198.51.100.10")
    few, most = IPv4Address("10.244.0.7"), IPv4Address("10.244.1.3")
    return Survey(
        {6000: Use(ports, there, 443, "tcp", connections=ports + 5)},
        {(6000, few): 5, (6000, most): ports, (6001, few): 99_999},
    )


def test_a_warning_says_where_by_whom_and_what_to_do() -> None:
    (text,) = judge({6000: ONE}, use(60000), {}, percent=80).values()
    assert text.startswith("60000 of 64512 ports of 10.1.1.101 towards 198.51.100.10:443/tcp")
    assert text.endswith("(of 2 pods, 10.244.1.3 has most connections: 60000)")
    assert "more gateway nodes" in text


@pytest.mark.parametrize(
    ("share", "before", "warned"),
    [(0.79, False, False), (0.81, False, True), (0.79, True, True), (0.69, True, False)],
)
def test_a_warning_comes_at_eighty_percent_and_goes_at_seventy(
    share: float, before: bool, warned: bool
) -> None:
    earlier = {"ns/one": "before"} if before else {}
    assert bool(judge({6000: ONE}, use(int(PORTS * share)), earlier, percent=80)) is warned
    assert judge({6000: ONE}, Survey({}, {}), earlier, percent=80) == {}


def test_the_whole_table_counts_too() -> None:
    assert full(80, 100, percent=80)
    assert not full(79, 100, percent=80)
    assert not full(5, 0, percent=80)


@given(st.dictionaries(st.tuples(st.integers(6000, 6003), st.integers(0, 5)), st.integers(1, 9)))
def test_most_used_destination_and_sum_by_zone(counts: dict[tuple[int, int], int]) -> None:
    packed = Counter(
        {
            struct.pack("!HBHI", zone, 6, 443, 0xC6336400 + host): number
            for (zone, host), number in counts.items()
        }
    )
    found = summarize(packed)
    assert found.keys() == {zone for zone, _ in counts}
    for zone, one in found.items():
        mine = {host: n for (z, host), n in counts.items() if z == zone}
        assert one.ports == max(mine.values())
        assert one.connections == sum(mine.values())
        assert mine[int(one.destination) - 0xC6336400] == one.ports
        assert (one.port, one.protocol) == (443, "tcp")


class PlayedEvents:
    """Hands out batches (an exception is raised), then nothing; ``done`` when all are out."""

    def __init__(self, *batches: list[Connection] | Exception) -> None:
        self._batches = list(batches)
        self.done = threading.Event()
        self.closed = False

    def read(self, seconds: float) -> list[Connection]:
        if not self._batches:
            self.done.set()
            threading.Event().wait(0.01)
            return []
        batch = self._batches.pop(0)
        if isinstance(batch, Exception):
            raise batch
        return batch

    def close(self) -> None:
        self.closed = True


def connection(*, zone: int = 6000, ended: bool = False) -> Connection:
    return Connection(
        zone=zone,
        protocol="tcp",
        source=IPv4Address("10.244.1.2"),
        source_port=40000,
        destination=IPv4Address("198.51.100.10"),
        destination_port=443,
        translated=IPv4Address("10.1.1.101"),
        translated_port=1025,
        ended=ended,
    )


def lines(
    caplog: pytest.LogCaptureFixture, events: PlayedEvents, wanted: dict[int, Logged]
) -> list[logging.LogRecord]:
    def owner(name: str, address: IPv4Address | IPv6Address) -> Key | None:
        known = ipaddress.IPv4Address("10.244.1.2")
        return Key("ns", "web-0") if (name, address) == ("ns/one", known) else None

    caplog.set_level(logging.INFO)
    log = ConnectionLog(lambda: events, owner, rate=1000)
    log.set(wanted)
    assert events.done.wait(60)
    log.set({})
    assert events.closed, "an open socket would keep the gateway's namespace"
    return [r for r in caplog.records if r.name.endswith("connectionlog")]


def test_a_line_names_pod_address_port_and_destination(caplog: pytest.LogCaptureFixture) -> None:
    events = PlayedEvents([connection(), connection(zone=6001)], [connection(ended=True)])
    logged = {6000: Logged("ns/one", {IPv4Address("10.1.1.101"): "203.0.113.7"})}
    began, ended = lines(caplog, events, logged)[1:]
    assert (began.getMessage(), ended.getMessage()) == ("connection began", "connection ended")
    said = began.__dict__
    assert said["configuration"] == "ns/one"
    assert said["pod"] == "ns/web-0"
    assert (said["address"], said["port"], said["via"]) == ("203.0.113.7", 1025, "10.1.1.101")
    assert (said["destination"], said["destination_port"]) == ("198.51.100.10", 443)


def test_each_address_has_its_own_public_one_also_when_it_is_a_former_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Connections of before go on, and end, after the addresses have changed."""
    told = threading.Event()

    class Late(PlayedEvents):
        def read(self, seconds: float) -> list[Connection]:
            assert told.wait(60)
            return super().read(seconds)

    new = replace(connection(), translated=IPv4Address("10.1.1.102"))
    events = Late([connection(ended=True), new])
    log = ConnectionLog(lambda: events, lambda name, address: None, rate=1000)
    caplog.set_level(logging.INFO)
    for secondary, public in (("10.1.1.101", "203.0.113.7"), ("10.1.1.102", "192.0.2.9")):
        log.set({6000: Logged("ns/one", {IPv4Address(secondary): public})})
    told.set()
    assert events.done.wait(60)
    log.set({})
    ended, began = [r.__dict__ for r in caplog.records if r.getMessage().startswith("connection")]
    assert (ended["address"], began["address"]) == ("203.0.113.7", "192.0.2.9")


def test_missing_lines_are_admitted(caplog: pytest.LogCaptureFixture) -> None:
    events = PlayedEvents(Overrun("full"), [connection()])
    said = [r.getMessage() for r in lines(caplog, events, {6000: Logged("ns/one", {})})]
    assert said[1:] == [
        "dropped lines of the connection log: too many connections a second",
        "connection began",
    ]


def test_reading_takes_half_of_a_processor_and_one_line_says_what_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever opens connections faster than they are read keeps the agent from nothing else."""
    rests: list[float | None] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            rests.append(timeout)
            return super().wait(0)

    batches: list[list[Connection] | Exception] = [Overrun("full"), [connection()]]
    events = PlayedEvents(*batches * 20)
    work = itertools.count()
    clock = mock.Mock(monotonic=lambda: 1.0, thread_time=lambda: next(work) / 4)
    threads = mock.Mock(Event=Stop, Thread=threading.Thread)
    with mock.patch.multiple(connectionlog, time=clock, threading=threads):
        said = [r.getMessage() for r in lines(caplog, events, {6000: Logged("ns/one", {})})]
    assert Counter(said)["dropped lines of the connection log: too many connections a second"] == 1
    assert Counter(said)["connection began"] == 20
    assert set(rests) == {0.25}, "as long as it worked"


def test_a_flood_of_one_keeps_no_connection_of_another_out_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    flood = [connection()] * 5000
    events = PlayedEvents(flood, [connection(zone=6001)], flood, [connection(zone=6001)])
    wanted = {6000: Logged("loud/one", {}), 6001: Logged("ns/one", {})}
    said = lines(caplog, events, wanted)
    logged = Counter(r.__dict__["configuration"] for r in said if "began" in r.getMessage())
    assert logged["ns/one"] == 2
    assert logged["loud/one"] < 5000
    gaps = {r.__dict__["configuration"] for r in said if "dropped" in r.getMessage()}
    assert gaps == {"loud/one"}


@given(st.lists(st.tuples(st.floats(0, 0.1), st.integers(0, 2)), max_size=300))
def test_lines_are_bounded_and_everybody_has_a_share(steps: list[tuple[float, int]]) -> None:
    budget, now = LineBudget(30.0), 0.0
    written: list[tuple[float, int]] = []
    for passed, zone in steps:
        now += passed
        last = max((at for at, z in written if z == zone), default=-1.0)
        if budget.has_line(zone, 3, now):
            written.append((now, zone))
        else:
            assert now < last + 0.2001, "five a second of its own"
    assert len(written) <= 30 + 3 + 30 * now


def test_nobody_listens_unless_a_configuration_asks() -> None:
    opened: list[PlayedEvents] = []

    def listen() -> PlayedEvents:
        opened.append(PlayedEvents())
        return opened[-1]

    log = ConnectionLog(listen, lambda name, address: None, rate=10)
    log.set({})
    assert opened == []
    log.set({6000: Logged("ns/one", {})})
    assert len(opened) == 1
    log.set({})
    assert opened[0].closed


def test_a_kernel_without_notices_stops_nothing_but_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What is served comes after it in a pass of the agent."""
    events = PlayedEvents()
    answers: list[PlayedEvents | DatapathError] = [DatapathError("no such protocol"), events]

    def listen() -> PlayedEvents:
        answer = answers.pop(0)
        if isinstance(answer, DatapathError):
            raise answer
        return answer

    log = ConnectionLog(listen, lambda name, address: None, rate=10)
    log.set({6000: Logged("ns/one", {})})
    assert [r.getMessage() for r in caplog.records] == ["cannot log connections: no such protocol"]
    log.set({6000: Logged("ns/one", {})})
    log.set({})
    assert events.closed
