"""A fabric in a thread's own network namespace, and machines that are namespaces too.

Nothing is left over: machines end when their standard input does, namespaces with their processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import inspect
import socket
import struct
import subprocess
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from egress_gateway_lab.fabric.fabric import Fabric
from egress_gateway_lab.fabric.linux.links import netlink_socket
from egress_gateway_lab.fabric.linux.namespace import Namespace, in_thread, write_sysctl
from egress_gateway_lab.fabric.services.sites import ECHO_PORT, HTTP_PORT
from egress_gateway_lab.fabric.settings import FabricSettings

SUBSCRIPTION = "/subscriptions/00000000-0000-0000-0000-000000000001"
GROUP = f"{SUBSCRIPTION}/resourceGroups/MC_rg"
NETWORK = f"{GROUP}/providers/Microsoft.Network"
VNET = f"{NETWORK}/virtualNetworks/aks-vnet"
SUBNET = f"{VNET}/subnets/aks-subnet"
KUBERNETES = f"{NETWORK}/loadBalancers/kubernetes"
OUTBOUND_POOL = f"{KUBERNETES}/backendAddressPools/aksOutboundBackendPool"
GATEWAYS = f"{NETWORK}/loadBalancers/kubeegressgateway-ilb"
GATEWAY_POOL = f"{GATEWAYS}/backendAddressPools/pool"
VIP = "10.224.0.200"

IFCONFIG_ME = "198.51.100.10"
TARGET = "198.51.100.20"
WHOAMI = "172.16.10.10"
WAIT = 60.0
"""Seconds after which something that should happen is taken as not happening."""


class FakeResources:
    """``protocols.Resources`` over a dictionary."""

    def __init__(self) -> None:
        self.documents: dict[str, dict[str, Any]] = {}
        self._revision = 0
        self._changed = asyncio.Event()

    @property
    def revision(self) -> int:
        return self._revision

    def get(self, resource_id: str) -> dict[str, Any] | None:
        return self.documents.get(resource_id.lower())

    def list(self, resource_type: str) -> list[dict[str, Any]]:
        return [d for d in self.documents.values() if d["type"].lower() == resource_type.lower()]

    async def changed(self, since: int) -> int:
        while self._revision <= since:
            self._changed.clear()
            await self._changed.wait()
        return self._revision

    def put(self, kind: str, identity: str, properties: dict[str, Any]) -> str:
        self.documents[identity.lower()] = {
            "id": identity,
            "name": identity.rsplit("/", 1)[1],
            "type": f"Microsoft.Network/{kind}",
            "properties": properties,
        }
        self._touch()
        return identity

    def delete(self, identity: str) -> None:
        del self.documents[identity.lower()]
        self._touch()

    def _touch(self) -> None:
        self._revision += 1
        self._changed.set()

    def vnet(self) -> None:
        subnet = {"name": "aks-subnet", "properties": {"addressPrefix": "10.224.0.0/16"}}
        space = {"addressPrefixes": ["10.224.0.0/12"]}
        self.put("virtualNetworks", VNET, {"addressSpace": space, "subnets": [subnet]})

    def public(self, address: str, name: str | None = None) -> str:
        identity = f"{NETWORK}/publicIPAddresses/{name or address}"
        return self.put("publicIPAddresses", identity, {"ipAddress": address})

    def nic(
        self,
        name: str,
        primary: str,
        *,
        pools: tuple[str, ...] = (),
        secondaries: dict[str, str | None] | None = None,
        public: str | None = None,
    ) -> str:
        """``secondaries``: private address → id of its public IP address."""
        configs = [_ip_config("ipconfig1", primary, public, pools, primary=True)]
        for address, identity in (secondaries or {}).items():
            configs.append(_ip_config(f"s-{address}", address, identity, (), primary=False))
        identity = f"{NETWORK}/networkInterfaces/{name}"
        return self.put("networkInterfaces", identity, {"ipConfigurations": configs})

    def outbound(self, *public: str) -> None:
        """The cluster's balancer with these public IP addresses (ids) outbound."""
        frontends = [
            {"name": f"f{n}", "properties": {"publicIPAddress": {"id": identity}}}
            for n, identity in enumerate(public)
        ]
        ids = [{"id": f"{KUBERNETES}/frontendIPConfigurations/{f['name']}"} for f in frontends]
        rule = {
            "name": "aksOutboundRule",
            "properties": {
                "frontendIPConfigurations": ids,
                "backendAddressPool": {"id": OUTBOUND_POOL},
                "protocol": "All",
            },
        }
        self.put(
            "loadBalancers",
            KUBERNETES,
            {"frontendIPConfigurations": frontends, "outboundRules": [rule]},
        )

    def balancer(
        self,
        *,
        protocol: str = "Udp",
        port: int = 6000,
        floating: bool = True,
        probe: bool = True,
        public: str | None = None,
    ) -> None:
        """The balancer of the gateways with one rule; internal unless it is given the id of a
        public IP address."""
        probes = {
            "name": "p",
            "properties": {
                "protocol": "Http",
                "port": 8082,
                "requestPath": "/gw/uid",
                "intervalInSeconds": 0.5,
                # One probe that a busy machine answers late takes nobody out.
                "probeThreshold": 2,
            },
        }
        rule: dict[str, Any] = {
            "frontendIPConfiguration": {"id": f"{GATEWAYS}/frontendIPConfigurations/pool"},
            "backendAddressPool": {"id": GATEWAY_POOL},
            "protocol": protocol,
            "frontendPort": port,
            "backendPort": port,
            "enableFloatingIP": floating,
        }
        if probe:
            rule["probe"] = {"id": f"{GATEWAYS}/probes/p"}
        inside: dict[str, Any] = {"privateIPAddress": VIP}
        frontend = {"publicIPAddress": {"id": public}} if public else inside
        self.put(
            "loadBalancers",
            GATEWAYS,
            {
                "frontendIPConfigurations": [{"name": "pool", "properties": frontend}],
                "loadBalancingRules": [{"name": "r", "properties": rule}],
                "probes": [probes],
            },
        )


def _ip_config(
    name: str, private: str, public: str | None, pools: tuple[str, ...], *, primary: bool
) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "primary": primary,
        "privateIPAddress": private,
        "subnet": {"id": SUBNET},
        "loadBalancerBackendAddressPools": [{"id": pool} for pool in pools],
    }
    if public is not None:
        properties["publicIPAddress"] = {"id": public}
    return {"name": name, "properties": properties}


class FakeMachine:
    """A network namespace that ends with our end of a pipe."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._process = subprocess.Popen(
            ["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"ready\n")
        self._process.stdin.flush()
        self._process.stdout.readline()
        self.namespace = Namespace.of_process(self.pid)

    @property
    def name(self) -> str:
        return self._name

    @property
    def pid(self) -> int:
        return self._process.pid

    def own(self, *addresses: str) -> None:
        """Puts addresses on the machine's loopback and lets it forward."""

        def configure() -> None:
            write_sysctl("ipv4/ip_forward", 1)
            with netlink_socket() as netlink:
                for address in addresses:
                    netlink.addr("replace", index=1, address=address, prefixlen=32)

        self.namespace.run(configure)

    def socket(self, kind: socket.SocketKind, source: str = "", port: int = 0) -> socket.socket:
        """A socket of this machine, whoever uses it."""

        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET, kind)
            made.setblocking(False)
            if kind == socket.SOCK_STREAM:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((source, port))
            return made

        return self.namespace.run(make)

    async def fetch(self, host: str = IFCONFIG_ME, *, source: str = "", port: int = 0) -> str:
        """What a what-is-my-IP host answers."""
        with self.socket(socket.SOCK_STREAM, source, port) as client:
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(WAIT):
                await loop.sock_connect(client, (host, HTTP_PORT))
                request = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
                await loop.sock_sendall(client, request.encode())
                answer = b""
                while chunk := await loop.sock_recv(client, 4096):
                    answer += chunk
        return answer.partition(b"\r\n\r\n")[2].decode().strip()

    async def resolve(self, name: str) -> str | None:
        """The address of a name, asked of 168.63.129.16; None for NXDOMAIN."""
        labels = b"".join(bytes([len(x)]) + x.encode() for x in name.split("."))
        query = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + b"\0\x01\0\x01"
        with self.socket(socket.SOCK_DGRAM) as client:
            loop = asyncio.get_running_loop()
            await loop.sock_sendto(client, query, ("168.63.129.16", 53))
            async with asyncio.timeout(WAIT):
                answer = await loop.sock_recv(client, 512)
        return None if answer[3] & 15 == 3 else str(IPv4Address(answer[-4:]))

    async def serve_health(self) -> asyncio.Server:
        """Answers every request on port 8082 with 200."""
        listener = self.socket(socket.SOCK_STREAM, port=8082)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

        return await asyncio.start_server(answer, sock=listener)

    def close(self) -> None:
        self.namespace.close()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.kill()
        self._process.wait()


class World:
    """The fabric, its resources and its machines, for one story."""

    def __init__(self, settings: FabricSettings | None = None) -> None:
        self.resources = FakeResources()
        self.resources.vnet()
        self.fabric = Fabric(self.resources, settings)
        self.machines: list[FakeMachine] = []
        self.open: list[asyncio.DatagramTransport | asyncio.Server] = []
        """Closed when the story is over."""

    async def machine(self, name: str, nic_id: str, overlay: str | None = None) -> FakeMachine:
        """A running machine on the NIC, with pod addresses ``overlay`` behind it."""
        made = FakeMachine(name)
        self.machines.append(made)
        await self.fabric.plug(nic_id, made)
        if overlay is not None:
            await self.fabric.route_overlay(IPv4Network(overlay), nic_id)
        return made

    async def dropped_for(self, reason: str, send: Callable[[], Awaitable[None]]) -> None:
        """Sends until the fabric has dropped something for this reason."""
        before = (await self.fabric.dropped())[reason]
        async with asyncio.timeout(WAIT):
            while (await self.fabric.dropped())[reason] == before:
                await send()
                await asyncio.sleep(0.005)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT):
            while not condition():
                await asyncio.sleep(0.002)

    def health(self) -> dict[str, bool]:
        """Backend addresses of the first balancer and whether its probe likes them."""
        return {str(target[1]): up for target, up in self.fabric.probes.health.items()}


async def datagram(
    machine: FakeMachine, to: str, *, source: str = "", port: int = ECHO_PORT
) -> None:
    """One UDP packet to an echo port; nobody waits for the answer."""
    with machine.socket(socket.SOCK_DGRAM, source) as sender:
        sender.sendto(b"x", (to, port))


def play(story: Callable[[World], Awaitable[None]], settings: FabricSettings | None = None) -> None:
    """Runs a story in a fresh network namespace with a started fabric."""

    async def scene() -> None:
        world = World(settings)
        await world.fabric.start()
        follower = asyncio.create_task(world.fabric.run())
        try:
            async with asyncio.timeout(2 * WAIT):
                await story(world)
        finally:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
            await world.fabric.close()
            for opened in world.open:
                opened.close()
            for machine in world.machines:
                machine.close()

    def stage() -> None:
        assert ctypes.CDLL(None, use_errno=True).unshare(0x40000000) == 0
        asyncio.run(scene())

    in_thread(stage)


def in_fabric(story: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Makes a test of a story: its ``world`` is fresh, its other parameters are the test's."""

    def test(**parameters: Any) -> None:
        play(lambda world: story(world=world, **parameters))

    functools.update_wrapper(test, story)
    signature = inspect.signature(story)
    rest = [p for p in signature.parameters.values() if p.name != "world"]
    test.__signature__ = signature.replace(parameters=rest)  # type: ignore[attr-defined]
    return test
