"""The parts of the machinery that need no lab: scripts, the ledger, shrinking."""

from __future__ import annotations

import asyncio
import struct
from ipaddress import IPv4Address, IPv4Network
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.storms.judge.calm import gist, settled
from tests.storms.judge.edge import Edge, push
from tests.storms.judge.ledger import Ledger, Seen
from tests.storms.processes import COMPONENTS, PROGRAMS, Process
from tests.storms.script import KINDS, SECONDS, Event, Script, dumped, loaded, written
from tests.storms.shrink import shrunk
from tests.storms.soak import grown
from tests.storms.storm import ACTS

A, B = IPv4Network("203.0.113.0/30"), IPv4Network("203.0.113.4/30")
CLUSTER = IPv4Network("192.0.2.0/24")


@given(st.integers(0, 10_000), st.sampled_from(list(KINDS)))
def test_a_seed_is_a_storm_and_always_the_same(seed: int, kubernetes: str) -> None:
    script = written(seed, kubernetes=kubernetes)
    assert script == written(seed, kubernetes=kubernetes) == loaded(dumped(script))
    assert len(script) >= 15
    assert [e.at for e in script] == sorted(e.at for e in script)
    assert all(e.at + e.how.get("seconds", 0) <= SECONDS for e in script if "times" not in e.how)


@given(st.integers(0, 10_000))
def test_users_act_on_what_is_there(seed: int) -> None:
    pods = {"a0", "a1", "b0", "b1", "n0", "n1"}
    for event in written(seed):
        if event.kind == "pod_created":
            assert event.subject not in pods
            pods.add(event.subject)
        elif event.kind in ("pod_deleted", "pod_annotated", "pod_damaged", "sandbox_lost"):
            assert event.subject in pods
            pods -= {event.subject} if event.kind == "pod_deleted" else set()


@pytest.mark.parametrize("kubernetes", KINDS)
def test_every_kind_of_event_is_written_and_can_be_acted(kubernetes: str) -> None:
    written_so_far = [e for seed in range(100) for e in written(seed, kubernetes=kubernetes)]
    seen = {event.kind for event in written_so_far}
    assert seen == set(KINDS[kubernetes])
    assert seen <= set(ACTS)
    struck = {e.how["component"] for e in written_so_far if e.kind == "agent_killed"}
    assert struck == {*COMPONENTS, *(PROGRAMS if kubernetes == "real" else ())}


@pytest.mark.parametrize(
    ("command", "component"),
    [
        ("/x/bin/python -m egress_gateway.cli.main node --log debug", "node"),
        ("/opt/python/bin/python3 -IS /opt/egress-gateway/bin/egress-gateway gateway", "gateway"),
        ("/opt/egress-gateway/bin/python3 -I /usr/bin/egress-gateway wireguard", "wireguard"),
        ("/x/bin/python -m egress_gateway.cli.main migrate --dry-run", ""),
        ("/x/kubernetes/kubelet --config=/etc/kubernetes/kubelet.json", "kubelet"),
        ("/x/kubernetes/containerd --config /etc/containerd/config.toml", "containerd"),
        ("/x/kubernetes/containerd-shim-runc-v2 -namespace k8s.io", ""),
        ("sh -c exec containerd", ""),
        ("", ""),
    ],
)
def test_a_process_is_known_by_its_command_line(command: str, component: str) -> None:
    assert Process(1, command.replace(" ", "\0").encode() + b"\0", "").component == component


def packet(source: str, at: float) -> Seen:
    return Seen("p", IPv4Address(source), "udp", at, 1)


def ledger() -> Ledger:
    """A pod on ``w0`` that was plain until 10 and of A from then on."""
    made = Ledger(settle=2.0)
    made.begins("p", "w0")
    made.allow("p", [CLUSTER], 0.0)
    made.allow("p", [A], 10.0)
    made.keep("p", [A], 10.5)
    return made


@pytest.mark.parametrize(
    ("source", "at", "wrong"),
    [
        ("192.0.2.1", 5.0, False),
        ("192.0.2.1", 12.4, False),  # within the two seconds
        ("192.0.2.1", 12.6, True),
        ("203.0.113.1", 9.9, True),  # before anybody asked for it
        ("203.0.113.1", 10.0, False),
        ("203.0.113.1", 99.0, False),
        ("203.0.113.5", 11.0, True),  # somebody else's
        ("10.244.0.7", 11.0, True),  # not translated at all
    ],
)
def test_a_change_has_to_be_acted_on_in_time(source: str, at: float, wrong: bool) -> None:
    assert bool(ledger().judged([packet(source, at)])) is wrong


def test_who_cannot_hear_has_the_time_from_then_on() -> None:
    book = ledger()
    deafness = book.deaf("w0", 12.0)
    assert not book.judged([packet("192.0.2.1", 40.0)])
    book.hears(deafness, 20.0)
    assert not book.judged([packet("192.0.2.1", 21.9)])
    assert book.judged([packet("192.0.2.1", 22.1)])


@pytest.mark.parametrize(("begins", "ends"), [(13.0, 20.0), (1.0, 9.0)])
def test_who_was_deaf_at_another_time_has_no_excuse(begins: float, ends: float) -> None:
    book = ledger()
    book.hears(book.deaf("w0", begins), ends)
    assert book.judged([packet("192.0.2.1", 13.5)])


def test_anothers_deafness_is_no_excuse_and_nobodys_excuses_what_was_never_allowed() -> None:
    book = ledger()
    book.deaf("w1", 10.0)
    assert book.judged([packet("192.0.2.1", 13.0)])
    book.deaf("w0", 0.0)
    assert book.judged([packet("203.0.113.5", 11.0)])


def test_deafness_after_deafness_adds_up() -> None:
    book = ledger()
    book.hears(book.deaf("w0", 11.0), 15.0)
    book.hears(book.deaf("w0", 16.5), 20.0)
    assert not book.judged([packet("192.0.2.1", 21.9)])
    assert book.judged([packet("192.0.2.1", 22.1)])


def segment(source: str, destination: str, flags: int, *, port: int = 40400) -> bytes:
    addresses = IPv4Address(source).packed + IPv4Address(destination).packed
    header = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0) + addresses
    return header + struct.pack("!HHIIBBHHH", port, 8081, 1, 1, 5 << 4, flags, 0, 0, 0)


RESET, RESET_OF_A_SOCKET, PUSHED = 0x04, 0x14, 0x18


@pytest.mark.parametrize(
    ("flags", "port", "rebooted", "counted"),
    [
        (RESET, 40400, ["p"], False),  # the machine's answer about what it has forgotten
        (RESET, 40400, [], True),
        (RESET, 40400, ["another"], True),
        (RESET, 40401, ["p"], True),  # of a connection that nobody saw before
        (RESET_OF_A_SOCKET, 40400, ["p"], True),
        (PUSHED, 40400, ["p"], True),
    ],
)
def test_a_machine_that_lost_power_denies_old_connections_and_that_is_no_pods_packet(
    flags: int, port: int, rebooted: list[str], counted: bool
) -> None:
    edge = Edge("")
    to = str(edge.address("p"))
    edge.note(segment("192.0.2.1", to, PUSHED), 1.0)
    edge.rebooted(rebooted)
    before = edge.packets
    edge.note(segment("192.0.2.1", to, flags, port=port), 20.0)
    assert edge.packets - before == counted
    if counted:
        assert len(edge.segments("p", IPv4Address("192.0.2.1"), 20.0)) == 1


async def test_a_push_that_is_cancelled_with_its_last_byte_ends() -> None:
    async def drained() -> None:
        pushing.cancel()

    writer = SimpleNamespace(write=lambda _: None, drain=drained)
    pushing = asyncio.create_task(push(cast("Any", None), cast("Any", writer)))
    done, _ = await asyncio.wait([pushing], timeout=60)
    assert done


def test_what_arrives_for_nobody_is_wrong() -> None:
    seen = Seen("nobody", IPv4Address("192.0.2.1"), "udp", 1.0, 3)
    (wrong,) = ledger().judged([seen])
    assert wrong.packets == 3


def events(*numbers: int) -> Script:
    return tuple(Event(float(n), f"k{n}") for n in numbers)


@given(st.sets(st.integers(0, 24), min_size=1, max_size=3))
async def test_a_failing_storm_is_shrunk_to_what_it_takes(needed: set[int]) -> None:
    played = []

    async def fails(script: Script) -> bool:
        played.append(dumped(script))
        return needed <= {int(e.at) for e in script}

    few = await shrunk(events(*range(25)), fails, trials=200)
    assert {int(e.at) for e in few} == needed
    assert len(played) == len(set(played))


async def test_shrinking_ends_with_its_trials_and_answers_what_failed() -> None:
    trials = 0

    async def fails(script: Script) -> bool:
        nonlocal trials
        trials += 1
        return 3 in {int(e.at) for e in script}

    few = await shrunk(events(*range(25)), fails, trials=4)
    assert trials == 4
    assert 3 in {int(e.at) for e in few}
    assert len(few) < 25


def test_what_grows_from_round_to_round_is_told_and_what_comes_and_goes_is_not() -> None:
    leaking = [{"node descriptors": 30 + n, "node memory": 50 << 20} for n in range(12)]
    assert grown(leaking) == ["node descriptors grew from 32 to 39 in 10 rounds"]
    waving = [{"gateway conntrack": 9000 * (n % 2), "node threads": 5} for n in range(12)]
    assert grown(waving) == []
    # Whatever is made once is made in the first rounds.
    warming = [{"controller memory": (60 if n else 20) << 20} for n in range(12)]
    assert grown(warming) == []


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (
            "veth47f65ea5 UP ba:d2:8e:fd:d7:f1 <UP>",
            "vethfbb352f6  UP  d2:0e:fc:6a:62:bb <UP>",
            True,
        ),
        ("10.244.1.9 dev veth47f65ea5 scope host", "10.244.1.2 dev vethfbb352f6 scope host", True),
        ("cni-6bd50c71-4a73", "cni-df4637ee-b782", True),
        ("eth0@if7 UP 00:0d:3a:f9:4f:ca", "eth0@if9    UP  00:0d:3a:f9:4f:ca", True),
        ("table inet egress_gateway", "table inet egress_gateway_orphan", False),
        ("cni-6bd50c71-4a73", "ns-static-egress-gateway", False),
        ("default via 10.224.0.1 dev eth0", "default via 10.224.0.2 dev eth0", False),
        ("eth0 UP", "wg0 UP", False),
    ],
)
def test_what_is_another_one_after_a_restart_is_no_difference(
    before: str, after: str, same: bool
) -> None:
    assert (settled(before) == settled(after)) is same


def test_a_warning_repeats_when_it_is_of_one_object_whatever_numbers_it_has() -> None:
    def told(name: str, tries: int, at: str) -> str:
        said = {"time": at, "level": "warning", "msg": f"gave up after {tries}"}
        return gist(said | ({"object": f"default/{name}"} if name else {}))

    assert told("c0", 3, "12:00") == told("c0", 4, "12:01")
    assert told("", 3, "12:00") == told("", 4, "12:01")
    assert told("c0", 3, "12:00") != told("c1", 3, "12:00")
