from __future__ import annotations

import asyncio
import itertools
import socket

import pytest

from lab.tests.fabric.fabric_world import GATEWAY_POOL, VIP, WAIT, FakeMachine, World, in_fabric

pytestmark = pytest.mark.root


class Backends:
    """Two gateways behind the internal balancer that answer UDP with their name."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.machines: dict[str, FakeMachine] = {}
        self.health: dict[str, asyncio.Server] = {}

    async def add(self, name: str, address: str) -> None:
        nic = self.world.resources.nic(name, address, pools=(GATEWAY_POOL,))
        machine = self.machines[name] = await self.world.machine(name, nic)
        machine.own(VIP)  # floating IP: the backend has the frontend's address
        self.health[name] = await machine.serve_health()
        loop = asyncio.get_running_loop()
        listening = machine.socket(socket.SOCK_DGRAM, VIP, 6000)
        transport, _ = await loop.create_datagram_endpoint(lambda: _Namesake(name), sock=listening)
        self.world.open += [transport, self.health[name]]

    async def close_health(self, name: str) -> None:
        self.health[name].close()
        await self.health[name].wait_closed()


class _Namesake(asyncio.DatagramProtocol):
    def __init__(self, name: str) -> None:
        self._name = name.encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(self._name + b" " + data, addr)  # type: ignore[attr-defined]


_questions = itertools.count()


async def ask(client: socket.socket) -> str:
    """Which gateway answers; asks again when a packet is lost in a change. Answers that come late,
    to a question of before the change, say nothing about who is asked now."""
    loop = asyncio.get_running_loop()
    question = f"?{next(_questions)}".encode()
    async with asyncio.timeout(WAIT):
        while True:
            await loop.sock_sendall(client, question)
            try:
                async with asyncio.timeout(0.2):
                    answer = await loop.sock_recv(client, 99)
            except TimeoutError:
                continue
            name, _, asked = answer.partition(b" ")
            if asked == question:
                return name.decode()


def connected(machine: FakeMachine, port: int = 0) -> socket.socket:
    client = machine.socket(socket.SOCK_DGRAM, port=port)
    client.connect((VIP, 6000))
    return client


async def two_gateways(world: World, **balancer: object) -> tuple[Backends, FakeMachine]:
    backends = Backends(world)
    await backends.add("g0", "10.224.0.5")
    await backends.add("g1", "10.224.0.6")
    world.resources.balancer(**balancer)  # type: ignore[arg-type]
    worker = await world.machine("n0", world.resources.nic("n0", "10.224.0.4"))
    return backends, worker


@in_fabric
async def test_flows_spread_over_healthy_backends_and_stay_where_they_are(world: World) -> None:
    _, worker = await two_gateways(world)
    await world.until(lambda: world.health() == {"10.224.0.5": True, "10.224.0.6": True})
    await world.fabric.settle()
    clients = [connected(worker, 20_000 + n) for n in range(24)]
    first = [await ask(client) for client in clients]
    assert set(first) == {"g0", "g1"}
    assert [await ask(client) for client in clients] == first
    for client in clients:
        client.close()


@in_fabric
async def test_a_failed_probe_moves_the_flows_of_that_backend_and_no_other(world: World) -> None:
    backends, worker = await two_gateways(world)
    await world.until(lambda: world.health() == {"10.224.0.5": True, "10.224.0.6": True})
    await world.fabric.settle()
    clients = [connected(worker, 20_000 + n) for n in range(24)]
    first = [await ask(client) for client in clients]
    assert set(first) == {"g0", "g1"}
    await backends.close_health("g0")
    await world.until(lambda: world.health() == {"10.224.0.5": False, "10.224.0.6": True})
    await world.fabric.settle()
    assert {await ask(client) for client in clients} == {"g1"}
    world.open.append(await backends.machines["g0"].serve_health())
    await world.until(lambda: world.health() == {"10.224.0.5": True, "10.224.0.6": True})
    await world.fabric.settle()
    # Moved flows stay: a recovered backend takes only new ones.
    assert {await ask(client) for client in clients} == {"g1"}
    for client in clients:
        client.close()


@in_fabric
async def test_with_no_healthy_backend_packets_are_dropped(world: World) -> None:
    backends, worker = await two_gateways(world)
    await backends.close_health("g0")
    await backends.close_health("g1")
    await world.until(lambda: world.health() == {"10.224.0.5": False, "10.224.0.6": False})
    await world.fabric.settle()
    with connected(worker) as client:
        loop = asyncio.get_running_loop()
        await world.dropped_for("no_backend", lambda: loop.sock_sendall(client, b"?"))


@in_fabric
async def test_a_rule_without_a_probe_takes_every_backend_that_is_there(world: World) -> None:
    backends, worker = await two_gateways(world, probe=False)
    await world.fabric.settle()
    with connected(worker) as client:
        chosen = await ask(client)
        nic = world.resources.documents
        gone = next(i for i in nic if i.endswith(f"/networkinterfaces/{chosen}"))
        await world.fabric.unplug(gone)
        assert await ask(client) == ({"g0", "g1"} - {chosen}).pop()
    assert backends.machines.keys() == {"g0", "g1"}


@in_fabric
async def test_a_backend_that_leaves_the_pool_loses_its_flows(world: World) -> None:
    _, worker = await two_gateways(world, probe=False)
    await world.fabric.settle()
    with connected(worker) as client:
        chosen = await ask(client)
        world.resources.nic(chosen, {"g0": "10.224.0.5", "g1": "10.224.0.6"}[chosen])
        await world.fabric.settle()
        assert await ask(client) == ({"g0", "g1"} - {chosen}).pop()


@in_fabric
async def test_without_floating_ip_the_backend_s_own_address_and_port_are_used(
    world: World,
) -> None:
    nic = world.resources.nic("g0", "10.224.0.5", pools=(GATEWAY_POOL,))
    gateway = await world.machine("g0", nic)
    health = await gateway.serve_health()
    world.resources.balancer(protocol="Tcp", port=8082, floating=False, probe=False)
    worker = await world.machine("n0", world.resources.nic("n0", "10.224.0.4"))
    loop = asyncio.get_running_loop()
    with worker.socket(socket.SOCK_STREAM) as client:
        async with asyncio.timeout(WAIT):
            await loop.sock_connect(client, (VIP, 8082))
            await loop.sock_sendall(client, b"GET / HTTP/1.1\r\n\r\n")
            assert (await loop.sock_recv(client, 99)).startswith(b"HTTP/1.1 200")
    health.close()
    await health.wait_closed()
