from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from ipaddress import IPv4Address
from typing import Any

import pytest

from egress_gateway_lab.fabric.linux.links import FabricError
from egress_gateway_lab.fabric.linux.nftables import Nftables
from egress_gateway_lab.fabric.services.sites import ECHO_PORT
from lab.tests.fabric.fabric_world import (
    IFCONFIG_ME,
    OUTBOUND_POOL,
    SUBSCRIPTION,
    TARGET,
    WHOAMI,
    FakeMachine,
    World,
    datagram,
    in_fabric,
)

pytestmark = pytest.mark.root


async def receive(listener: socket.socket) -> tuple[bytes, str]:
    data, sender = await asyncio.get_running_loop().sock_recvfrom(listener, 99)
    return data, sender[0]


@in_fabric
async def test_machines_and_pods_keep_their_addresses_inside_the_virtual_network(
    world: World,
) -> None:
    one = await world.machine(
        "n0", world.resources.nic("n0", "10.224.0.4"), overlay="10.244.0.0/24"
    )
    two = await world.machine(
        "n1", world.resources.nic("n1", "10.224.0.5"), overlay="10.244.1.0/24"
    )
    one.own("10.244.0.7")
    two.own("10.244.1.9")
    for source, target in (
        ("10.224.0.4", "10.224.0.5"),
        ("10.244.0.7", "10.244.1.9"),
        ("10.244.0.7", "10.224.0.5"),
    ):
        with two.socket(socket.SOCK_DGRAM, target) as listener:
            port = listener.getsockname()[1]
            await datagram(one, target, source=source, port=port)
            assert await receive(listener) == (b"x", source)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("10.224.0.5", IFCONFIG_ME),  # another machine's address
        ("192.0.2.4", IFCONFIG_ME),  # a public address
        ("10.244.1.9", "10.224.0.5"),  # a pod address of another node
        ("10.244.0.7", IFCONFIG_ME),  # its own pod's address, but leaving the network
        ("10.244.0.7", WHOAMI),
    ],
)
@in_fabric
async def test_a_source_that_is_not_the_nic_s_own_is_dropped(
    source: str, target: str, world: World
) -> None:
    world.resources.outbound(world.resources.public("192.0.2.4"))
    nic = world.resources.nic("n0", "10.224.0.4", pools=(OUTBOUND_POOL,))
    machine = await world.machine("n0", nic, overlay="10.244.0.0/24")
    await world.machine("n1", world.resources.nic("n1", "10.224.0.5"), "10.244.1.0/24")
    machine.own(source)
    await world.dropped_for("spoofed", lambda: datagram(machine, target, source=source))
    assert world.fabric.internet.packets() == []
    assert world.fabric.on_premises.packets() == []


async def pair(world: World) -> tuple[str, FakeMachine, FakeMachine]:
    world.resources.outbound(world.resources.public("192.0.2.4"))
    nic = world.resources.nic("n0", "10.224.0.4", pools=(OUTBOUND_POOL,))
    return (
        nic,
        await world.machine("n0", nic),
        await world.machine("n1", world.resources.nic("n1", "10.224.0.5")),
    )


@in_fabric
async def test_a_cut_works_in_one_direction_and_is_mended(world: World) -> None:
    nic, one, two = await pair(world)
    with (
        one.socket(socket.SOCK_DGRAM, "10.224.0.4", 9000) as here,
        two.socket(socket.SOCK_DGRAM, "10.224.0.5", 9000) as there,
    ):
        here.connect(("10.224.0.5", 9000))
        there.connect(("10.224.0.4", 9000))
        loop = asyncio.get_running_loop()
        await world.fabric.cut(nic, outbound=False)
        await arrives(b"1", here, there)
        await world.dropped_for("cut", lambda: loop.sock_sendall(there, b"lost"))
        await world.fabric.cut(nic, inbound=False)
        await arrives(b"2", there, here)
        await world.dropped_for("cut", lambda: loop.sock_sendall(here, b"lost"))
        await world.fabric.mend(nic)
        await arrives(b"3", here, there)
        await arrives(b"4", there, here)


async def arrives(said: bytes, here: socket.socket, there: socket.socket) -> None:
    """Sent again each second: a busy machine may lose a datagram. What was cut never arrives."""
    heard: set[bytes] = set()
    while said not in heard:
        here.send(said)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                heard.add(await asyncio.get_running_loop().sock_recv(there, 9))
    assert b"lost" not in heard


@in_fabric
async def test_a_cut_from_the_internet_leaves_the_virtual_network_alone(world: World) -> None:
    nic, one, _ = await pair(world)
    assert await one.fetch() == "192.0.2.4"
    await world.fabric.cut_internet(nic)
    await world.dropped_for("cut", lambda: datagram(one, TARGET))
    assert await one.fetch(WHOAMI) == "10.224.0.4"
    assert await one.resolve("ifconfig.me") == IFCONFIG_ME
    await world.fabric.mend(nic)
    assert await one.fetch() == "192.0.2.4"


@in_fabric
async def test_an_address_that_nobody_has_is_dropped_by_the_fabric(world: World) -> None:
    _, one, _ = await pair(world)
    await world.dropped_for("unreachable", lambda: datagram(one, "10.224.9.9"))
    await world.dropped_for("unreachable", lambda: datagram(one, "192.168.1.1"))
    assert world.fabric.internet.packets() == []


@in_fabric
async def test_a_machine_that_died_can_be_plugged_in_again(world: World) -> None:
    nic, one, two = await pair(world)
    one.close()
    world.machines.remove(one)
    await world.dropped_for("unreachable", lambda: datagram(two, "10.224.0.4"))
    again = await world.machine("n0", nic)
    assert await again.fetch() == "192.0.2.4"
    # A machine replaced without a word: its NIC simply moves.
    moved = await world.machine("n0", nic)
    assert await moved.fetch() == "192.0.2.4"


@in_fabric
async def test_dns_answers_what_the_lab_knows(world: World) -> None:
    _, one, _ = await pair(world)
    assert await one.resolve("ifconfig.me") == IFCONFIG_ME
    assert await one.resolve("IFCONF.me") == "198.51.100.11"
    assert await one.resolve("whoami.corp.example") == WHOAMI
    assert await one.resolve("example.org") is None
    world.fabric.names["late.example"] = IPv4Address("198.51.100.21")
    assert await one.resolve("late.example") == "198.51.100.21"


@in_fabric
async def test_the_metadata_service_knows_who_asks(world: World) -> None:
    machine_id = f"{SUBSCRIPTION}/resourceGroups/MC_rg/providers/Microsoft.Compute"
    machine_id += "/virtualMachineScaleSets/vmss/virtualMachines/0"
    nic = world.resources.nic(
        "g0", "10.224.0.4", secondaries={"10.224.0.101": world.resources.public("203.0.113.16")}
    )
    document = world.resources.get(nic)
    assert document is not None
    document["properties"]["virtualMachine"] = {"id": machine_id}
    one = await world.machine("g0", nic, overlay="10.244.0.0/24")
    one.own("10.244.0.7")
    for source in ("10.224.0.4", "10.244.0.7"):
        found = await metadata(one, source)
        assert found["compute"]["vmScaleSetName"] == "vmss"
        (interface,) = found["network"]["interface"]
        assert interface["ipv4"]["ipAddress"] == [
            {"privateIpAddress": "10.224.0.4", "publicIpAddress": ""},
            {"privateIpAddress": "10.224.0.101", "publicIpAddress": "203.0.113.16"},
        ]


async def metadata(machine: FakeMachine, source: str) -> dict[str, dict[str, Any]]:
    loop = asyncio.get_running_loop()
    with machine.socket(socket.SOCK_STREAM, source) as client:
        await loop.sock_connect(client, ("169.254.169.254", 80))
        request = "GET /metadata/instance?api-version=2021-02-01 HTTP/1.1\r\nHost: m\r\n"
        request += "Metadata: true\r\nConnection: close\r\n\r\n"
        await loop.sock_sendall(client, request.encode())
        answer = b""
        while chunk := await loop.sock_recv(client, 4096):
            answer += chunk
    parsed: dict[str, dict[str, Any]] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return parsed


@in_fabric
async def test_the_fabric_refuses_a_namespace_with_other_links(world: World) -> None:
    with pytest.raises(FabricError, match="empty network namespace"):
        await type(world.fabric)(world.resources).start()


@in_fabric
async def test_describe_says_what_the_fabric_does(world: World) -> None:
    nic, one, _ = await pair(world)
    await world.fabric.cut(nic, inbound=False)
    await world.dropped_for("cut", lambda: datagram(one, IFCONFIG_ME, port=ECHO_PORT))
    told = json.loads(json.dumps(await world.fabric.describe()))
    first = told["nics"][0]
    assert first["id"] == nic.lower()
    assert first["machine"] == "n0"
    assert first["cut"] == ["outbound"]
    assert told["outbound"] == {"10.224.0.4": ["192.0.2.4"]}
    assert told["dropped"]["cut"] >= 1


@in_fabric
async def test_a_damaged_table_is_made_anew(world: World) -> None:
    _, one, _ = await pair(world)
    assert await one.fetch() == "192.0.2.4"
    with contextlib.closing(Nftables()) as nftables:
        nftables.run("flush ruleset")
    world.resources.outbound(world.resources.public("192.0.2.9"))
    await world.fabric.settle()
    assert await one.fetch() == "192.0.2.9"


@in_fabric
async def test_a_failed_plug_names_the_nic_and_leaves_no_link(world: World) -> None:
    nic, one, _ = await pair(world)
    other = world.resources.nic("n2", "10.224.0.6")
    before = socket.if_nameindex()
    with pytest.raises(FabricError, match="/networkinterfaces/n2 cannot be plugged in"):
        await world.fabric.plug(other, one)  # it has an eth0 already
    assert socket.if_nameindex() == before
    with pytest.raises(FabricError, match="no NIC /nowhere"):
        await world.fabric.plug("/nowhere", one)
    assert await one.fetch() == "192.0.2.4"
    (described,) = [n for n in (await world.fabric.describe())["nics"] if n["id"] == nic.lower()]
    assert described["link"], "the first one's link is still there"
