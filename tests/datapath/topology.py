"""A small world for packets: a router, an Internet, a worker, two gateways, pods.

The box's own namespace is the router. The Internet (198.51.100.10) and a host of an excluded
network (172.16.10.10) answer every TCP connection on port 80 and every datagram on port 7 with
the address they saw, and count packets by source.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from egress_gateway.api import keys
from egress_gateway.datapath.gateway.plan import GatewayDesired
from egress_gateway.datapath.gateway.served import ServedConfiguration
from egress_gateway.datapath.gateway.side import GatewaySide
from egress_gateway.datapath.linux import netns
from egress_gateway.datapath.linux.link import Links, Route
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.linux.nft import Nftables
from egress_gateway.datapath.pod.linkguard import LinkGuard
from egress_gateway.datapath.pod.model import PodDesired, Tunnel, tunnel_name
from egress_gateway.datapath.pod.side import PodSide
from egress_gateway.datapath.pod.sources import SourceFilter
from egress_gateway.datapath.wireguard import backends
from egress_gateway.datapath.wireguard.model import Backend, Endpoint
from egress_gateway.datapath.wireguard.userspace import UserspaceBackend

INTERNET = "198.51.100.10"
EXCLUDED_HOST = "172.16.10.10"
FRONTEND = "10.1.200.4"
INTERNET6 = "2001:db8:ffff::10"
EXCLUDED_HOST6 = "2001:db8:eeee::10"
NODE6 = "2001:db8:1::4"
ROUTER6 = ipaddress.IPv6Address("fe80::1")
ROUTER = ipaddress.IPv4Address("169.254.1.1")
PODS_GATEWAY = ipaddress.IPv4Address("169.254.3.1")
PORT = 6000
EXCLUDED = tuple(
    ipaddress.ip_network(n)
    for n in ("10.0.0.0/8", "172.16.0.0/12", "169.254.169.254/32", "2001:db8:eeee::/48")
)


def network(text: str) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network(text)


def until(check: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Waits for a state that must come; the limit only keeps a failure from hanging."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise AssertionError(f"never happened: {what}")
        time.sleep(0.005)


class Place:
    """A namespace with links to the router."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.netns = netns.create(name)
        self.links = Links(self.netns)
        self.links.set_up("lo")

    def sysctl(self, name: str, value: str) -> None:
        netns.write_sysctl(self.netns, name, value)

    def nft(self, ruleset: str) -> None:
        Nftables(self.netns).apply(ruleset)

    def attach(self, router: Links, address: str, via: IPv4Address = ROUTER) -> None:
        """``eth0`` towards ``router``, /32 address, default route, as clouds do it."""
        router.add_veth(f"v-{self.name}", "eth0", self.netns)
        router.add_address(f"v-{self.name}", ipaddress.ip_interface(f"{via}/32"))
        router.set_up(f"v-{self.name}")
        self.links.add_address("eth0", ipaddress.ip_interface(f"{address}/32"))
        self.links.set_up("eth0")
        default = Route(destination=network("0.0.0.0/0"), gateway=via, device="eth0", onlink=True)
        self.links.replace_routes([default])
        route = Route(destination=network(address), device=f"v-{self.name}")
        router.replace_routes([route])

    def attach6(self, router: Links, address: str | None, *, inside: str = "") -> None:
        """The same for IPv6, after ``attach``: both speak by link-local addresses, so that a
        machine needs none of its own. ``inside`` is routed to it, besides its address."""
        router.add_address(f"v-{self.name}", ipaddress.ip_interface(f"{ROUTER6}/64"))
        self.links.add_address("eth0", ipaddress.ip_interface("fe80::2/64"))
        if address is not None:
            self.links.add_address("eth0", ipaddress.ip_interface(f"{address}/128"))
        everywhere = ipaddress.ip_network("::/0")
        self.links.replace_routes([Route(destination=everywhere, gateway=ROUTER6, device="eth0")])
        for network in filter(None, (address, inside)):
            self.route6(router, network)

    def route6(self, router: Links, network: str) -> None:
        """``router`` sends what is for ``network`` here."""
        route = Route(
            destination=ipaddress.ip_network(network),
            gateway=ipaddress.ip_address("fe80::2"),
            device=f"v-{self.name}",
        )
        router.replace_routes([route])


class Internet(Place):
    """Answers with the address it sees."""

    def __init__(self) -> None:
        super().__init__("internet")
        for table, of in (("ip", "ipv4_addr"), ("ip6", "ipv6_addr")):
            self.nft(
                f"table {table} seen {{ set sources {{ type {of}; flags dynamic; size 4096; }}\n"
                "chain in { type filter hook prerouting priority raw;\n"
                f"update @sources {{ {table} saddr }}\n}}\n}}"
            )

    def serve(self) -> None:
        for family in (socket.AF_INET, socket.AF_INET6):
            tcp, udp = self.netns.run(functools.partial(self._open, family))
            threading.Thread(target=self._tcp, args=(tcp,), daemon=True).start()
            threading.Thread(target=self._udp, args=(udp,), daemon=True).start()

    def sources(self) -> set[str]:
        """Every source address that any packet came with."""
        return self._seen("ip")

    def sources6(self) -> set[str]:
        """The same for IPv6, without the link's own talk."""
        return {address for address in self._seen("ip6") if not address.startswith(("fe80:", "::"))}

    def _seen(self, family: str) -> set[str]:
        listing = Nftables(self.netns).table(family, "seen") or []
        found = [i["set"].get("elem", []) for i in listing if "set" in i]
        return {e if isinstance(e, str) else e["elem"]["val"] for group in found for e in group}

    @staticmethod
    def _open(family: socket.AddressFamily) -> tuple[socket.socket, socket.socket]:
        tcp = socket.create_server(("", 80), family=family, backlog=256)
        udp = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        udp.bind(("", 7))
        return tcp, udp

    @staticmethod
    def _tcp(listening: socket.socket) -> None:
        while True:
            connection, peer = listening.accept()
            threading.Thread(target=_echo, args=(connection, peer[0]), daemon=True).start()

    @staticmethod
    def _udp(bound: socket.socket) -> None:
        while True:
            _, peer = bound.recvfrom(65536)
            bound.sendto(peer[0].encode(), peer)


def _echo(connection: socket.socket, address: str) -> None:
    """First its caller's address, then whatever the caller says."""
    with connection, contextlib.suppress(OSError):
        connection.sendall(address.encode() + b"\n")
        while heard := connection.recv(65536):
            connection.sendall(heard)


class Machine(Place):
    """A node: its own tunnel host, its own sockets."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.socket = Path(f"/run/{name}/tunnels.sock")
        self.host: subprocess.Popen[bytes] | None = None
        self.sysctl("net/ipv4/ip_forward", "1")

    def start_tunnels(self) -> None:
        if backends.kernel_has_wireguard():
            return  # the back end that is chosen needs no host
        # wireguard-go's own directory, private to the node.
        script = 'mkdir -p /run/wireguard && mount -t tmpfs t /run/wireguard && exec "$@"'
        program = (
            "import asyncio, sys; from egress_gateway.datapath.wireguard import host; "
            "asyncio.run(host.run(host.Settings(socket=sys.argv[1])))"
        )
        inside = [sys.executable, "-c", program, str(self.socket)]
        self.host = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self.name}", "unshare", "-m"]  # noqa: RUF005
            + ["sh", "-c", script, "sh", *inside]
        )

    def backend(self) -> Backend:
        """The one that is chosen here: these tests run on both kinds of kernels."""
        if self.host is not None:
            until(self.socket.exists, f"tunnel host of {self.name}")
        return backends.detect(tunnel_socket=self.socket, node=self.netns)

    def tunnels(self) -> list[str]:
        """WireGuard interfaces that the back end still has, in the node's namespace or,
        for processes, anywhere."""
        backend = self.backend()
        if isinstance(backend, UserspaceBackend):
            return backend.names()
        ours = ("wg", "egw")
        return [name for name in self.links.links() if name.startswith(ours)]


class Gateway(Machine):
    def __init__(self, name: str, primary: str) -> None:
        super().__init__(name)
        self.primary = IPv4Address(primary)
        self._side: GatewaySide | None = None

    @property
    def side(self) -> GatewaySide:
        if self._side is None:
            self._side = self.new_side()
        return self._side

    def new_side(self) -> GatewaySide:
        """As after a restart of the agent: nothing is remembered."""
        return GatewaySide(backend=self.backend(), node=self.netns, namespace=f"egress-{self.name}")

    def restart_agent(self) -> None:
        self._side = self.new_side()

    def desired(self, *configurations: ServedConfiguration) -> GatewayDesired:
        return GatewayDesired(primary=self.primary, configurations=configurations)


@dataclass
class Pod:
    place: Place
    address: IPv4Address
    pair: keys.KeyPair
    side: PodSide
    address6: IPv6Address | None = None

    def desired(
        self, gateway_key: str, where: str | None, *, port: int = PORT, listen: int = 20000
    ) -> PodDesired:
        active = where and Tunnel(
            name=tunnel_name(self.place.name),
            private_key=self.pair.private,
            peer_key=gateway_key,
            endpoint=Endpoint(ipaddress.ip_address(where), port),
            listen_port=listen,
            mtu=1440,
        )
        return PodDesired(
            netns=Path("/run/netns", self.place.name),
            addresses=(self.address, *([self.address6] if self.address6 else [])),
            excluded=EXCLUDED,
            tunnel_ipv6=self.address6 is not None,
            active=active or None,
        )

    def connect(self, host: str, port: int = 80, timeout: float = 60.0) -> socket.socket:
        return self.place.netns.run(lambda: socket.create_connection((host, port), timeout=timeout))

    def seen_as(self, host: str = INTERNET, timeout: float = 60.0) -> str | None:
        """The address that ``host`` sees; None if it cannot be reached. Whoever expects None gives
        a short ``timeout`` (seconds)."""
        try:
            with self.connect(host, timeout=timeout) as connection:
                return connection.recv(100).decode().strip()
        except OSError:
            return None

    def handshake(self, desired: PodDesired) -> None:
        def done() -> bool:
            status = self.side.status(desired)
            return bool(status and any(p.last_handshake for p in status.peers.values()))

        until(done, f"handshake of {self.place.name}")


class World:
    """Everything, wired. ``gateways``: how many of the two are set up; ``ipv6``: pods and the
    Internet have both families. Nodes speak IPv4 to each other either way."""

    def __init__(self, *, gateways: int = 1, ipv6: bool = False) -> None:
        self.ipv6 = ipv6
        self.router = Place.__new__(Place)
        self.router.name, self.router.netns = "router", NetNS.current()
        self.router.links = Links(self.router.netns)
        self.router.links.set_up("lo")
        self.router.sysctl("net/ipv4/ip_forward", "1")
        self.worker = Machine("w1")
        self.gateways = [Gateway(f"gw{i}", f"10.1.1.{3 + i}") for i in range(1, gateways + 1)]
        for machine in (self.worker, *self.gateways):
            machine.start_tunnels()
        self.internet = Internet()
        self._wire()
        self.internet.serve()
        self.sources: SourceFilter | None = None
        self.guard = LinkGuard(self.worker.netns)
        self._pods = 0

    def _wire(self) -> None:
        links = self.router.links
        self.internet.attach(links, INTERNET)
        self.internet.links.add_address("lo", ipaddress.ip_interface(f"{EXCLUDED_HOST}/32"))
        links.replace_routes([Route(destination=network(EXCLUDED_HOST), device="v-internet")])
        self.worker.attach(links, "10.1.0.4")
        worker = ipaddress.IPv4Address("10.1.0.4")
        pods = network("10.244.1.0/24")
        overlay = Route(destination=pods, gateway=worker, device="v-w1", onlink=True)
        links.replace_routes([overlay])
        self.worker.nft(
            "table ip node { chain post { type nat hook postrouting priority srcnat;\n"
            "ip saddr 10.244.0.0/16 ip daddr != 10.0.0.0/8 masquerade\n}\n}"
        )
        for gateway in self.gateways:
            gateway.attach(links, str(gateway.primary))
        if self.ipv6:
            self._wire6()

    def _wire6(self) -> None:
        links = self.router.links
        for place in (self.router, self.worker):
            place.sysctl("net/ipv6/conf/all/forwarding", "1")
        self.internet.attach6(links, INTERNET6)
        self.internet.links.add_address("lo", ipaddress.ip_interface(f"{EXCLUDED_HOST6}/128"))
        self.internet.route6(links, EXCLUDED_HOST6)
        self.worker.attach6(links, NODE6, inside="2001:db8:244:1::/64")
        self.worker.nft(
            "table ip6 node { chain post { type nat hook postrouting priority srcnat;\n"
            'ip6 saddr 2001:db8:244::/48 oifname "eth0" masquerade\n}\n}'
        )
        for gateway in self.gateways:
            gateway.attach6(links, None)

    def route_secondary6(self, address: str, gateway: Gateway) -> None:
        gateway.route6(self.router.links, address)

    def route_secondary(self, address: str, gateway: Gateway) -> None:
        """The cloud knows which machine holds an address."""
        route = Route(
            destination=network(address),
            gateway=gateway.primary,
            device=f"v-{gateway.name}",
            onlink=True,
        )
        self.router.links.replace_routes([route])

    def pod(self, name: str) -> Pod:
        """A pod on the worker, untouched by us."""
        self._pods += 1
        address = f"10.244.1.{1 + self._pods}"
        place = Place(name)
        place.attach(self.worker.links, address, PODS_GATEWAY)
        address6 = IPv6Address(f"2001:db8:244:1::{1 + self._pods:x}") if self.ipv6 else None
        if address6 is not None:
            place.attach6(self.worker.links, str(address6))
        if self.sources is None:
            self.sources = SourceFilter(self.worker.netns)
            self.sources.sync({})
        side = PodSide(
            Path("/run/netns", name),
            backend=self.worker.backend(),
            sources=self.sources,
            guard=self.guard,
            node=self.worker.netns,
        )
        return Pod(place, IPv4Address(address), keys.generate(), side, address6)


def configuration(
    pair: keys.KeyPair, secondary: str, *, port: int = PORT, secondary6: str | None = None
) -> ServedConfiguration:
    return ServedConfiguration(
        name=f"default/c{port}",
        port=port,
        private_key=pair.private,
        secondary=IPv4Address(secondary),
        secondary6=IPv6Address(secondary6) if secondary6 else None,
        frontend=IPv4Address(FRONTEND),
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def running(name: str) -> list[int]:
    """Processes (of the box) whose command line ends with ``name``."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                words = Path("/proc", entry, "cmdline").read_bytes().split(b"\0")
                if words[-2:-1] == [name.encode()] and b"wireguard-go" in words[0]:
                    found.append(int(entry))
    return found
