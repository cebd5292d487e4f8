"""Captures of real packets: tcpdump reads them, and they hold no others' packets and no more than
was asked for."""

from __future__ import annotations

import contextlib
import ipaddress
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.datapath.errors import KernelRefused
from egress_gateway.datapath.linux import bpf, netns
from egress_gateway.datapath.linux.capture import Captured, CaptureLimits, capture
from tests.datapath.box import boxed
from tests.datapath.test_packets import SECONDARIES, attach, serve
from tests.datapath.topology import INTERNET, Pod, World

LIMITS = CaptureLimits(seconds=120, packets=4, size=1 << 20, snaplen=128)


def read(found: Captured) -> list[str]:
    """The packets, as tcpdump tells them."""
    file = Path("/run/capture.pcap")  # the box's own
    file.write_bytes(found.pcap)
    done = subprocess.run(
        ["tcpdump", "-n", "-r", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "link-type RAW" in done.stderr
    return done.stdout.splitlines()


@contextlib.contextmanager
def talking(pods: list[Pod]) -> Iterator[None]:
    """All pods make connections all the time, however late somebody listens."""
    ended, seen = threading.Event(), set[str | None]()

    def talk() -> None:
        while not ended.is_set():
            seen.update(pod.seen_as() for pod in reversed(pods))

    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(120)
    assert seen == {SECONDARIES[0]}


@boxed
def test_packets_of_a_pod_are_seen_before_and_behind_the_translation() -> None:
    world = World()
    pods = [world.pod(name) for name in ("pod-a", "pod-b")]
    pair, _ = serve(world, *pods)
    for number, pod in enumerate(pods):
        attach(pod, pair, world.gateways[0], listen=20000 + number)
    own, other = (str(pod.address) for pod in pods)
    gateway = netns.NetNS.open(f"/run/netns/egress-{world.gateways[0].name}")
    inside = pods[0].place.netns.start(partial(capture, ["wg0"], (), LIMITS))
    arriving = gateway.start(partial(capture, ["wg-6000"], [ipaddress.ip_address(own)], LIMITS))
    leaving = gateway.start(
        partial(capture, ["host0"], [ipaddress.ip_address(SECONDARIES[0])], LIMITS)
    )
    with talking(pods):
        captured = inside(), arriving(), leaving()
    for found, mine in zip(captured, (own, own, SECONDARIES[0]), strict=True):
        lines = read(found)
        assert (found.packets, found.ended, len(lines)) == (4, "packets", 4)
        assert all(f" {mine}." in line and INTERNET in line for line in lines), lines
        assert not any(f" {other}." in line for line in lines)
    with pytest.raises(KernelRefused, match="nowhere0"):
        pods[0].place.netns.run(lambda: capture(["nowhere0"], (), LIMITS))
    short = CaptureLimits(seconds=0.1, packets=9, size=1 << 20, snaplen=64)
    nobody = ipaddress.ip_address("203.0.113.1")
    timed = pods[0].place.netns.run(lambda: capture(["wg0"], [nobody], short))
    assert (timed.packets, timed.ended) == (0, "time")
    assert read(timed) == []


def verdict(program: bpf.Program, packet: bytes) -> int:
    """As the kernel evaluates it (bpf(4))."""
    at = accumulator = 0
    while True:
        code, yes, no, constant = program[at]
        at += 1
        if code == bpf.RETURN:
            return constant
        if code == bpf.EQUAL:
            at += yes if accumulator == constant else no
        elif code == bpf.AND:
            accumulator &= constant
        else:
            width = 4 if code == bpf.LOAD else 1
            if constant + width > len(packet):
                return 0
            accumulator = int.from_bytes(packet[constant : constant + width], "big")


@given(st.lists(st.ip_addresses(), max_size=6), st.ip_addresses(), st.ip_addresses(), st.data())
def test_a_filter_lets_through_what_has_one_of_its_addresses(
    addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address],
    source: ipaddress.IPv4Address | ipaddress.IPv6Address,
    target: ipaddress.IPv4Address | ipaddress.IPv6Address,
    data: st.DataObject,
) -> None:
    own: bool = data.draw(st.booleans())
    if addresses and own:
        source = data.draw(st.sampled_from(addresses))
    same = [a for a in (*addresses, target) if a.version == source.version]
    target = data.draw(st.sampled_from(same)) if same else source
    head = bytes([0x45]) + bytes(11) if source.version == 4 else bytes([0x60]) + bytes(7)
    packet = head + source.packed + target.packed + bytes(8)
    wanted = not addresses or source in addresses or target in addresses
    assert bool(verdict(bpf.hosts(addresses), packet)) == wanted
