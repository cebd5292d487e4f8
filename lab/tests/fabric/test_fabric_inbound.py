"""From the Internet to the virtual network: only where a resource says so."""

from __future__ import annotations

import asyncio
import socket

import pytest

from lab.tests.fabric.fabric_world import (
    GATEWAY_POOL,
    OUTBOUND_POOL,
    TARGET,
    WAIT,
    World,
    in_fabric,
)

pytestmark = pytest.mark.root

PUBLIC = "203.0.113.16"


def visitor(world: World, kind: socket.SocketKind) -> socket.socket:
    """A socket of a host on the Internet."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, kind)
        made.setblocking(False)
        made.bind((TARGET, 0))
        return made

    return world.fabric.internet.namespace.run(make)


async def visit(world: World) -> bytes:
    loop = asyncio.get_running_loop()
    with visitor(world, socket.SOCK_STREAM) as client:
        async with asyncio.timeout(WAIT):
            await loop.sock_connect(client, (PUBLIC, 8082))
            await loop.sock_sendall(client, b"GET / HTTP/1.1\r\n\r\n")
            return await loop.sock_recv(client, 15)


@in_fabric
async def test_a_machine_is_reached_by_its_public_address_while_it_has_one(world: World) -> None:
    nic = world.resources.nic("g0", "10.224.0.4", public=world.resources.public(PUBLIC))
    machine = await world.machine("g0", nic)
    world.open.append(await machine.serve_health())
    assert await visit(world) == b"HTTP/1.1 200 OK"
    world.resources.nic("g0", "10.224.0.4")
    await world.fabric.settle()
    with visitor(world, socket.SOCK_DGRAM) as client:

        async def knock() -> None:
            client.sendto(b"x", (PUBLIC, 8082))

        await world.dropped_for("unsolicited", knock)


@pytest.mark.parametrize("floating", [True, False])
@in_fabric
async def test_a_public_balancing_rule_lets_in(floating: bool, world: World) -> None:
    nic = world.resources.nic("g0", "10.224.0.4", pools=(GATEWAY_POOL,))
    machine = await world.machine("g0", nic)
    if floating:
        machine.own(PUBLIC)
    world.open.append(await machine.serve_health())
    public = world.resources.public(PUBLIC)
    world.resources.balancer(
        protocol="Tcp", port=8082, floating=floating, probe=False, public=public
    )
    await world.fabric.settle()
    assert await visit(world) == b"HTTP/1.1 200 OK"


@in_fabric
async def test_an_outbound_address_lets_nobody_in(world: World) -> None:
    world.resources.outbound(world.resources.public(PUBLIC))
    nic = world.resources.nic("n0", "10.224.0.4", pools=(OUTBOUND_POOL,))
    machine = await world.machine("n0", nic)
    assert await machine.fetch() == PUBLIC
    with visitor(world, socket.SOCK_DGRAM) as client:

        async def knock() -> None:
            client.sendto(b"x", (PUBLIC, 8082))

        await world.dropped_for("unsolicited", knock)
