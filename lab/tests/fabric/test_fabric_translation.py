from __future__ import annotations

import asyncio
import contextlib
import socket
from ipaddress import IPv4Address, IPv4Network

import pytest

from egress_gateway_lab.fabric.services.sites import ECHO_PORT
from lab.tests.fabric.fabric_world import (
    IFCONFIG_ME,
    OUTBOUND_POOL,
    TARGET,
    WAIT,
    WHOAMI,
    World,
    datagram,
    in_fabric,
)

pytestmark = pytest.mark.root


@in_fabric
async def test_a_node_leaves_by_the_outbound_rule_s_address(world: World) -> None:
    world.resources.outbound(world.resources.public("192.0.2.4"))
    nic = world.resources.nic("n0", "10.224.0.4", pools=(OUTBOUND_POOL,))
    machine = await world.machine("n0", nic)
    assert await machine.fetch() == "192.0.2.4"
    assert await machine.fetch(WHOAMI) == "10.224.0.4"
    assert world.fabric.internet.count_by_source() == {IPv4Address("192.0.2.4"): 1}


@in_fabric
async def test_without_outbound_rule_or_public_address_there_is_no_internet(world: World) -> None:
    machine = await world.machine("n0", world.resources.nic("n0", "10.224.0.4"))
    await world.dropped_for("no_outbound", lambda: datagram(machine, IFCONFIG_ME))
    assert world.fabric.internet.packets() == []


@in_fabric
async def test_an_outbound_rule_taken_away_ends_established_connections(world: World) -> None:
    world.resources.outbound(world.resources.public("192.0.2.4"))
    nic = world.resources.nic("n0", "10.224.0.4", pools=(OUTBOUND_POOL,))
    machine = await world.machine("n0", nic)
    loop = asyncio.get_running_loop()
    with machine.socket(socket.SOCK_DGRAM) as client:
        client.connect((TARGET, ECHO_PORT))
        await loop.sock_sendall(client, b"1")
        assert await loop.sock_recv(client, 9) == b"1"
        world.resources.outbound()
        await world.fabric.settle()
        seen = world.fabric.internet.packets(IPv4Address(TARGET))
        await world.dropped_for("no_outbound", lambda: loop.sock_sendall(client, b"2"))
        assert world.fabric.internet.packets(IPv4Address(TARGET)) == seen


@in_fabric
async def test_a_changed_outbound_address_is_used_by_the_next_packet_of_the_same_flow(
    world: World,
) -> None:
    old, new = world.resources.public("192.0.2.4"), world.resources.public("192.0.2.5")
    world.resources.outbound(old)
    nic = world.resources.nic("n0", "10.224.0.4", pools=(OUTBOUND_POOL,))
    machine = await world.machine("n0", nic)
    loop = asyncio.get_running_loop()
    with machine.socket(socket.SOCK_DGRAM) as client:
        client.connect((TARGET, ECHO_PORT))
        await loop.sock_sendall(client, b"1")
        assert await loop.sock_recv(client, 9) == b"1"
        world.resources.outbound(new)
        await world.fabric.settle()
        await loop.sock_sendall(client, b"2")
        async with asyncio.timeout(WAIT):
            assert await loop.sock_recv(client, 9) == b"2"
    sources = {str(one.source) for one in world.fabric.internet.packets(IPv4Address(TARGET))}
    assert sources == {"192.0.2.4", "192.0.2.5"}


@in_fabric
async def test_a_secondary_address_leaves_by_its_own_public_address(world: World) -> None:
    world.resources.outbound(world.resources.public("192.0.2.4"))
    nic = world.resources.nic(
        "g0",
        "10.224.0.4",
        pools=(OUTBOUND_POOL,),
        secondaries={
            "10.224.0.101": world.resources.public("203.0.113.16"),
            "10.224.0.102": world.resources.public("203.0.113.32"),
        },
    )
    machine = await world.machine("g0", nic)
    machine.own("10.224.0.101", "10.224.0.102")
    assert await machine.fetch() == "192.0.2.4"
    assert await machine.fetch(source="10.224.0.101") == "203.0.113.16"
    assert await machine.fetch(source="10.224.0.102") == "203.0.113.32"


@pytest.mark.parametrize("gone", ["ipConfig", "public IP address"])
@in_fabric
async def test_packets_stop_when_the_resource_goes(gone: str, world: World) -> None:
    public = world.resources.public("203.0.113.16")
    nic = world.resources.nic("g0", "10.224.0.4", secondaries={"10.224.0.101": public})
    machine = await world.machine("g0", nic)
    machine.own("10.224.0.101")
    loop = asyncio.get_running_loop()
    with machine.socket(socket.SOCK_DGRAM, "10.224.0.101") as client:
        client.connect((TARGET, ECHO_PORT))
        await loop.sock_sendall(client, b"1")
        assert await loop.sock_recv(client, 9) == b"1"
        if gone == "ipConfig":
            world.resources.nic("g0", "10.224.0.4")
        else:
            world.resources.delete(public)
        await world.fabric.settle()
        seen = world.fabric.internet.packets()
        reason = "spoofed" if gone == "ipConfig" else "no_outbound"
        await world.dropped_for(reason, lambda: loop.sock_sendall(client, b"2"))
        assert world.fabric.internet.packets() == seen


@in_fabric
async def test_the_resources_are_followed_without_being_asked(world: World) -> None:
    world.resources.outbound(world.resources.public("192.0.2.4"))
    nic = world.resources.nic("g0", "10.224.0.4", pools=(OUTBOUND_POOL,))
    machine = await world.machine("g0", nic)
    assert await machine.fetch() == "192.0.2.4"
    public = world.resources.public("203.0.113.16")
    world.resources.nic("g0", "10.224.0.4", pools=(OUTBOUND_POOL,), public=public)
    async with asyncio.timeout(WAIT):
        while True:
            # A connection that is open in the moment of the change is reset, as on Azure.
            with contextlib.suppress(ConnectionError):
                if await machine.fetch() == "203.0.113.16":
                    break
            await asyncio.sleep(0.005)


@in_fabric
async def test_several_outbound_addresses_share_the_flows(world: World) -> None:
    public = [world.resources.public(f"192.0.2.{n}") for n in (4, 5)]
    world.resources.outbound(*public)
    nic = world.resources.nic("n0", "10.224.0.4", pools=(OUTBOUND_POOL,))
    machine = await world.machine("n0", nic)
    answers = {await machine.fetch(port=20_000 + n) for n in range(32)}
    assert answers == {"192.0.2.4", "192.0.2.5"}


@in_fabric
async def test_the_observer_names_packets_from_unexpected_sources(world: World) -> None:
    world.resources.outbound(world.resources.public("192.0.2.4"))
    nic = world.resources.nic("n0", "10.224.0.4", pools=(OUTBOUND_POOL,))
    machine = await world.machine("n0", nic)
    await machine.fetch(TARGET)
    internet = world.fabric.internet
    assert internet.unexpected(IPv4Address(TARGET), [IPv4Network("192.0.2.4/32")]) == []
    wrong = internet.unexpected(IPv4Address(TARGET), [IPv4Network("203.0.113.0/24")])
    assert [(str(one.source), one.protocol) for one in wrong] == [("192.0.2.4", "tcp")]
    assert wrong[0].packets >= 4
