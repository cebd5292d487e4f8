"""IPv6 in packets: public addresses one to one, pods' networks, nothing else to the Internet."""

from __future__ import annotations

import asyncio
import socket
import struct
from ipaddress import IPv6Address, IPv6Network

import pytest

from egress_gateway_lab.fabric.linux.links import netlink_socket
from egress_gateway_lab.fabric.services.dns import respond
from lab.tests.fabric.fabric_world import NETWORK, SUBNET, VNET, WAIT, FakeMachine, World, in_fabric

pytestmark = pytest.mark.root
IFCONFIG_ME6 = "2001:db8:ffff::10"
PRIVATE, PUBLIC = "2001:db8:24::7", "2001:db8:203::1"
PODS = "2001:db8:244:1::/64"


def both_families(world: World) -> None:
    properties = {"addressPrefixes": ["10.224.0.0/16", "2001:db8:24::/64"]}
    subnet = {"name": "aks-subnet", "properties": properties}
    space = {"addressPrefixes": ["10.224.0.0/12", "2001:db8:24::/56"]}
    world.resources.put("virtualNetworks", VNET, {"addressSpace": space, "subnets": [subnet]})


def nic(world: World, name: str, four: str, six: str | None = None, public: str = "") -> str:
    identity = world.resources.nic(name, four)
    configs = world.resources.documents[identity.lower()]["properties"]["ipConfigurations"]
    if six:
        properties = {
            "privateIPAddress": six,
            "privateIPAddressVersion": "IPv6",
            "subnet": {"id": SUBNET},
        }
        if public:
            address = f"{NETWORK}/publicIPAddresses/{name}-v6"
            world.resources.put("publicIPAddresses", address, {"ipAddress": public})
            properties["publicIPAddress"] = {"id": address}
        configs.append({"name": "v6", "properties": properties})
    return world.resources.put("networkInterfaces", identity, {"ipConfigurations": configs})


def own(machine: FakeMachine, *addresses: str) -> None:
    def configure() -> None:
        with netlink_socket() as netlink:
            for address in addresses:
                netlink.addr("replace", index=1, address=address, prefixlen=128, flags=2)

    machine.namespace.run(configure)


async def fetch(machine: FakeMachine, host: str, source: str, seconds: float = WAIT) -> str | None:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        made.setblocking(False)
        made.bind((source, 0))
        return made

    loop = asyncio.get_running_loop()
    with machine.namespace.run(make) as client:
        try:
            async with asyncio.timeout(seconds):
                await loop.sock_connect(client, (host, 80))
                await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                return (await loop.sock_recv(client, 4096)).splitlines()[-1].decode()
        except (TimeoutError, OSError):
            return None


@in_fabric
async def test_a_public_address_is_translated_and_nothing_else_leaves(world: World) -> None:
    both_families(world)
    gateway = await world.machine("g", nic(world, "g", "10.224.0.4", PRIVATE, PUBLIC))
    worker_nic = nic(world, "w", "10.224.0.5")
    worker = await world.machine("w", worker_nic)
    await world.fabric.route_overlay(IPv6Network(PODS), worker_nic)
    own(gateway, PRIVATE, "2001:db8:24::99")
    own(worker, "2001:db8:244:1::5")
    assert await fetch(gateway, IFCONFIG_ME6, PRIVATE) == PUBLIC
    # Another's address, a pod's: not to the Internet.
    assert await fetch(gateway, IFCONFIG_ME6, "2001:db8:24::99", 0.3) is None
    assert await fetch(worker, IFCONFIG_ME6, "2001:db8:244:1::5", 0.3) is None
    # When the public address goes, so does the way out.
    nic(world, "g", "10.224.0.4", PRIVATE)
    await world.fabric.settle()
    assert await fetch(gateway, IFCONFIG_ME6, PRIVATE, 0.3) is None
    seen = world.fabric.internet.packets6()
    strange = {source for source in seen if not source.is_link_local}
    assert strange - {IPv6Address("::")} == {IPv6Address(PUBLIC)}


@in_fabric
async def test_inside_the_network_pods_and_machines_reach_each_other(world: World) -> None:
    both_families(world)
    gateway = await world.machine("g", nic(world, "g", "10.224.0.4", PRIVATE))
    worker_nic = nic(world, "w", "10.224.0.5")
    worker = await world.machine("w", worker_nic)
    await world.fabric.route_overlay(IPv6Network(PODS), worker_nic)
    own(gateway, PRIVATE)
    own(worker, "2001:db8:244:1::5")
    listening = gateway.namespace.run(
        lambda: socket.create_server((PRIVATE, 80), family=socket.AF_INET6)
    )
    with listening:
        listening.settimeout(WAIT)
        fetched = asyncio.create_task(fetch(worker, PRIVATE, "2001:db8:244:1::5"))
        connection, peer = await asyncio.to_thread(listening.accept)
        assert peer[0] == "2001:db8:244:1::5"
        connection.sendall(b"hello\n")
        assert await fetched == "hello"
        connection.close()


def test_names_have_addresses_of_both_families() -> None:
    zone = {"a.example": "x"}
    query = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\1a\7example\0" + b"\0\x1c\0\x01"
    answer = respond(query, zone, {"a.example": IPv6Address(PUBLIC)})  # type: ignore[arg-type]
    assert answer is not None
    assert IPv6Address(answer[-16:]) == IPv6Address(PUBLIC)
    none = respond(query, zone)  # type: ignore[arg-type]
    assert none is not None
    assert none[6:8] == b"\0\0", "the name exists, without such an address"
