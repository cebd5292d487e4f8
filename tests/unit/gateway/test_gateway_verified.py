"""What the Internet sees of a gateway, and when that makes it ask to be left."""

from __future__ import annotations

import socket
import struct
import threading
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from egress_gateway.api.types import SeenAddress
from egress_gateway.api.validation import host_and_port
from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.gateway import reach, stun
from egress_gateway.datapath.gateway.reach import Answer, ProbeTarget
from egress_gateway.datapath.linux.echo import checksum
from egress_gateway.gateway.health.verified import (
    Expected,
    ServerAddresses,
    Sight,
    judged,
    own_servers,
    probe_targets,
    reported,
    saw,
)

A, B = IPv4Address("10.0.0.8"), IPv4Address("10.0.0.9")
GOOD, OTHER = ip_address("203.0.113.1"), ip_address("203.0.113.9")
SERVERS = [ProbeTarget(IPv4Address(f"198.51.100.{n}"), 3478, stun=True) for n in (1, 2, 3)]
EXPECTED = {"shop/a": Expected(secondary=A, public=str(GOOD))}


def after(*rounds: list[object], expected: str = str(GOOD)) -> Sight:
    sight = Sight()
    for answers in rounds:
        sight.round(answers, expected)  # type: ignore[arg-type]
    return sight


def reasons(sight: Sight) -> list[str]:
    return [v.reason for v in judged(EXPECTED, {A: sight})]


def test_what_most_of_those_that_answer_say_counts() -> None:
    assert after([GOOD, OTHER, GOOD]).shown == str(GOOD)
    assert after([GOOD]).shown == str(GOOD)
    assert reasons(after([GOOD, OTHER, GOOD])) == []


def test_silence_is_told_after_two_rounds_and_only_of_who_was_answered_before() -> None:
    assert reasons(after([GOOD], [])) == []
    assert reasons(after([GOOD], [], [])) == ["InternetUnreachable"]
    assert reasons(after([GOOD], [], [], [GOOD])) == []
    assert reasons(after([], [], [])) == [], "these servers may be out of reach for everybody"
    assert after([GOOD], [], []).shown == ""


def test_another_address_is_told_after_two_rounds() -> None:
    assert reasons(after([GOOD], [OTHER])) == []
    assert reasons(after([GOOD], [OTHER], [OTHER])) == ["AddressNotVerified"]
    assert reasons(after([GOOD], [OTHER], [GOOD], [OTHER])) == []
    (veto,) = judged(EXPECTED, {A: after([OTHER], [OTHER])})
    assert "sees 203.0.113.9 in place of 203.0.113.1" in veto.message


def sized(*answered: bool, small: bool = True) -> Sight:
    sight = after([GOOD])
    for one in answered:
        sight.large(one)
    if not small:
        sight.round([], str(GOOD))
        sight.round([], str(GOOD))
    return sight


def test_large_packets_that_are_lost_are_told_after_two_and_only_if_they_once_were_not() -> None:
    assert reasons(sized(True, False)) == []
    assert reasons(sized(True, False, False)) == ["LargePacketsLost"]
    assert reasons(sized(True, False, False, True)) == []
    assert reasons(sized(False, False, False)) == [], "these servers may answer none of that size"
    lost = sized(True, False, False, small=False)
    assert reasons(lost) == ["InternetUnreachable"], "the graver thing"


def test_a_new_address_is_asked_for_at_once_and_a_doubt_is_cleared_up() -> None:
    assert sized().large_pressing
    assert not sized(True).large_pressing
    assert sized(True, False).large_pressing
    assert not sized(True, False, False).large_pressing
    assert not sized(False, False).large_pressing


@pytest.mark.parametrize("size", [0, 100, 1340, 1440, 1441, 8940])
def test_a_question_has_the_size_that_it_should(size: int) -> None:
    packet = reach.question(A, SERVERS[0], 1, size=size)
    assert size - 4 < len(packet) <= max(size, 48)
    assert stun.response(packet[28:], GOOD, 900) is not None


def test_an_address_that_is_being_exchanged_is_no_strange_one() -> None:
    sight = after([GOOD])
    sight.round([GOOD], str(OTHER))
    assert sight.shown == ""
    assert judged({"shop/a": Expected(secondary=A, public=str(OTHER))}, {A: sight}) == []
    sight.round([OTHER], str(OTHER))
    assert sight.shown == str(OTHER)


@pytest.mark.parametrize("public", ["", "203.0.113.77"])
def test_nothing_is_judged_by_an_expectation_of_before(public: str) -> None:
    expected = {"shop/a": Expected(secondary=A, public=public)}
    assert judged(expected, {A: after([GOOD], [], [])}) == []


def test_a_server_has_one_word() -> None:
    answers = [
        Answer(A, SERVERS[0], 900, 0, OTHER),
        Answer(A, SERVERS[0], 901, 0, GOOD),
        Answer(A, SERVERS[1], 900, 0, GOOD),
        Answer(B, SERVERS[2], 900, 0, OTHER),
    ]
    assert saw(answers, A) == [GOOD, GOOD]


def test_the_report_names_who_was_asked() -> None:
    assert reported(EXPECTED, {}) == []
    told = SeenAddress(
        static_gateway_configuration="shop/a", expected_ip=str(GOOD), seen_ip=str(GOOD)
    )
    assert reported(EXPECTED, {A: after([GOOD])}) == [told]


A6, GOOD6 = IPv6Address("fd00::8"), IPv6Address("2001:db8::1")
SERVER6 = ProbeTarget(IPv6Address("2001:db8:ffff::30"), 3478, stun=True)
BOTH = {"shop/a": replace(EXPECTED["shop/a"], secondary6=A6, public6=str(GOOD6))}


@pytest.mark.parametrize(
    ("rounds", "reason"),
    [
        ([[GOOD6]], ""),
        ([[], [], []], ""),  # never answered: the cluster may have no IPv6 Internet
        ([[GOOD6], [], []], "InternetUnreachable"),
        ([[GOOD6], [ip_address("2001:db8::2")], [ip_address("2001:db8::2")]], "AddressNotVerified"),
    ],
)
def test_ipv6_is_judged_as_ipv4_is(rounds: list[list[object]], reason: str) -> None:
    sights: dict[IPAddress, Sight] = {A: after([GOOD]), A6: after(*rounds, expected=str(GOOD6))}
    assert [v.reason for v in judged(BOTH, sights)] == ([reason] if reason else [])
    both: dict[IPAddress, Sight] = {
        A: after([GOOD], [], []),
        A6: after([GOOD6], [], [], expected=str(GOOD6)),
    }
    assert len(judged(BOTH, both)) == 1, "one reason a configuration"


def test_ipv6_is_reported_where_a_server_ever_answered_it() -> None:
    never = after([], [], expected=str(GOOD6))
    (told,) = reported(BOTH, {A: after([GOOD]), A6: never})
    assert (told.seen_ip, told.expected_ip_v6, told.as_expected) == (str(GOOD), "", True)
    lost = after([GOOD6], [], [], expected=str(GOOD6))
    (told,) = reported(BOTH, {A: after([GOOD]), A6: lost})
    assert (told.expected_ip_v6, told.seen_ip_v6, told.as_expected) == (str(GOOD6), "", False)


def test_a_configurations_own_servers_count_for_it_alone_and_are_outside() -> None:
    own = replace(EXPECTED["shop/a"], servers=(("mine.example.com", 1), ("inside", 2), ("meta", 3)))
    refused = [ip_network("10.0.0.0/8")]
    known = {
        ("s", 3478): (ip_address("198.51.100.1"),),
        ("mine.example.com", 1): (ip_address("198.51.100.2"), ip_address("2001:db8::3")),
        ("inside", 2): (ip_address("10.0.0.7"),),
        ("meta", 3): (ip_address("169.254.169.254"), ip_address("::1")),
    }
    for one, expected in (
        (own, ["198.51.100.2", "2001:db8::3"]),
        (EXPECTED["shop/a"], ["198.51.100.1"]),
    ):
        targets = probe_targets(one, [("s", 3478)], known, refused)
        assert [str(t.address) for t in targets] == expected
    assert own_servers(["[2001:db8::1]:99", "nonsense"]) == (("2001:db8::1", 99),)


async def test_names_of_one_configuration_keep_no_other_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = threading.Event()

    def look_up(host: str, port: int, **_: object) -> list[object]:
        if host.startswith("slow"):
            answered.wait(60)
        if ".." in host:
            host.encode("idna")  # as the real one does, which raises UnicodeError
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("198.51.100.9", port))]

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    monkeypatch.setattr("egress_gateway.gateway.health.verified._NAMES_SECONDS", 0.2)
    addresses = ServerAddresses([("zz", 3478)])
    slow = {(f"slow{n}", 1) for n in range(9)}
    servers = {("zz", 3478), ("a..b", 1), *slow}
    try:
        # Threads start when the machine lets them: not for ever, but perhaps after that time.
        while ("zz", 3478) not in addresses.known:
            await addresses.look_up(servers)
        await addresses.look_up(servers)
        assert addresses.known.keys() == {("zz", 3478)}
    finally:
        answered.set()
    while not slow <= addresses.known.keys():
        await addresses.look_up(servers)
    assert ("a..b", 1) not in addresses.known


@given(st.integers(0, 2**40), st.ip_addresses(v=6))
@example(0, ip_address("2001:db8::1"))
def test_a_question_by_ipv6_is_answered_with_what_was_seen(
    number: int, address: IPv6Address
) -> None:
    packet = reach.question(A6, SERVER6, number, size=1200)
    assert (packet[0] >> 4, packet[6], len(packet)) == (6, 17, 1200)
    ours, theirs, length, _ = struct.unpack_from("!HHHH", packet, 40)
    assert (theirs, length) == (3478, len(packet) - 40)
    pseudo = packet[8:40] + struct.pack("!IHBB", length, 0, 0, 17)  # RFC 8200, section 8.1
    assert checksum(pseudo + packet[40:]) in (0, 0xFFFF)
    answer = stun.response(packet[48:], address, ours)
    assert answer is not None
    back = packet[:8] + packet[24:40] + packet[8:24]
    back += struct.pack("!HHHH", theirs, ours, 8 + len(answer), 0) + answer
    assert reach.parse(back) == Answer(A6, SERVER6, ours, 0, address)
    for cut in range(0, len(back), 7):
        reach.parse(back[:cut])
    assert reach.parse(back[:6] + b"\x2c" + back[7:]) is None, "a fragment"


@given(st.integers(0, 2**40), st.ip_addresses(v=4))
def test_a_question_by_udp_is_answered_with_what_was_seen(
    number: int, address: IPv4Address
) -> None:
    target = SERVERS[0]
    packet = reach.question(A, target, number)
    assert packet[9] == 17
    ours, theirs, length, _ = struct.unpack_from("!HHHH", packet, 20)
    assert (theirs, length) == (3478, len(packet) - 20)
    pseudo = packet[12:20] + struct.pack("!BBH", 0, 17, length)
    assert checksum(pseudo + packet[20:]) in (0, 0xFFFF)
    answer = stun.response(packet[28:], address, ours)
    assert answer is not None
    back = packet[:9] + b"\x11" + packet[10:12] + packet[16:20] + packet[12:16]
    back += struct.pack("!HHHH", theirs, ours, 8 + len(answer), 0) + answer
    found = reach.parse(back)
    assert found == Answer(A, target, ours, 0, address)
    assert reach.farewell(found) is None


@pytest.mark.parametrize("text", ["stun.example.com", ":3478", "a:0", "a:65536", "a:b", ""])
def test_a_server_without_a_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        host_and_port(text)
    assert host_and_port(" stun.example.com:3478 ") == ("stun.example.com", 3478)
