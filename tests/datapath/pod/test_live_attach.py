"""A pod that runs is attached while it holds connections: those that it opened never go on by its
ordinary link, whoever sends last; those that its servers accepted live on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import ipaddress
import resource
import socket
import threading
import time
from collections.abc import Callable

from egress_gateway.api import keys
from egress_gateway.datapath.linux.nft import Nftables
from egress_gateway.datapath.pod.model import PodDesired
from tests.datapath.box import boxed
from tests.datapath.test_ipv6 import SECONDARIES6, serve
from tests.datapath.test_packets import NODE, SECONDARIES
from tests.datapath.topology import (
    EXCLUDED_HOST,
    EXCLUDED_HOST6,
    INTERNET,
    INTERNET6,
    NODE6,
    Place,
    Pod,
    World,
    network,
    until,
)

_STREAM, _DATAGRAMS, _SERVER, _GONE, _HALF = 9000, 9001, 8080, 8090, 8091
_EVERY = 0.01
_LOW = 4000
"""A port that no kernel chooses by itself."""


def family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class Remote:
    """Streams to whoever connects, and sends datagrams to whoever has sent one: for good."""

    def __init__(self, place: Place, host: str) -> None:
        self.sent = 0
        self.peers: set[tuple[str, int]] = set()
        tcp = place.netns.run(
            lambda: socket.create_server((host, _STREAM), family=family(host), backlog=4096)
        )
        self._udp = place.netns.run(lambda: socket.socket(family(host), socket.SOCK_DGRAM))
        self._udp.bind((host, _DATAGRAMS))
        self._streams: list[socket.socket] = []
        for work in (functools.partial(self._accept, tcp), self._hear, self._send):
            threading.Thread(target=work, daemon=True).start()

    def _accept(self, tcp: socket.socket) -> None:
        while True:
            stream, _ = tcp.accept()
            stream.setblocking(False)
            self._streams.append(stream)

    def _hear(self) -> None:
        while True:
            _, peer = self._udp.recvfrom(2048)
            self.peers.add(peer)

    def _send(self) -> None:
        while True:
            for stream in list(self._streams):
                with contextlib.suppress(OSError):
                    stream.send(b"s" * 100)
            for peer in list(self.peers):
                with contextlib.suppress(OSError):
                    self._udp.sendto(b"d" * 100, peer)
            self.sent += 1
            time.sleep(_EVERY)

    def has_flows(self, number: int) -> None:
        until(lambda: len(self.peers) == number, f"{number} flows of datagrams")

    def goes_on(self, times: int = 40) -> None:
        end = self.sent + times
        until(lambda: self.sent > end, "the remote side goes on sending", 60)


class Opened:
    """Connections of all kinds that the pod opens to one host, each of which answers."""

    def __init__(self, pod: Pod, host: str, *, reuse: bool = True) -> None:
        self.heard = 0
        self._pod, self._host = pod, host
        self._own = str(pod.address6 if ":" in host else pod.address)
        self._connected: set[socket.socket] = set()
        streams = [self._tcp()]
        if reuse:
            streams.append(self._tcp(source=_SERVER))  # from a port that the pod listens on
        half = self._tcp()
        half.shutdown(socket.SHUT_WR)
        streams.append(half)
        datagrams = [self._udp(), self._udp(connect=True), self._udp(port=_LOW)]
        for one in streams:
            threading.Thread(target=self._read, args=(one, one is not half), daemon=True).start()
        for one in datagrams:
            self._say(one)
            threading.Thread(target=self._answer, args=(one,), daemon=True).start()

    def _tcp(self, *, source: int = 0) -> socket.socket:
        made = self._pod.place.netns.run(lambda: socket.socket(family(self._host)))
        if source:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((self._own, source))
        made.settimeout(60)
        made.connect((self._host, _STREAM))
        made.settimeout(None)
        return made

    def _udp(self, *, connect: bool = False, port: int = 0) -> socket.socket:
        made = self._pod.place.netns.run(
            lambda: socket.socket(family(self._host), socket.SOCK_DGRAM)
        )
        if port:
            made.bind((self._own, port))
        if connect:
            made.connect((self._host, _DATAGRAMS))
            self._connected.add(made)
        return made

    def _say(self, one: socket.socket) -> None:
        if one in self._connected:
            one.send(b"a")
        else:
            one.sendto(b"a", (self._host, _DATAGRAMS))

    def _read(self, stream: socket.socket, talks: bool) -> None:
        with contextlib.suppress(OSError):
            while stream.recv(1 << 16):
                self.heard += 1
                if talks:
                    stream.send(b"a")

    def _answer(self, one: socket.socket) -> None:
        while True:
            with contextlib.suppress(OSError):
                one.recv(2048)
                self.heard += 1
                self._say(one)

    def talks(self) -> None:
        until(lambda: self.heard > 50, "both sides talk", 60)


def listening(pod: Pod, port: int, host: str, *, reuse: bool = True) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(family(host))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if ":" in host:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(("", port))
        made.listen(64)
        return made

    return pod.place.netns.run(make)


def forget_seen(world: World) -> None:
    Nftables(world.internet.netns).apply(
        "flush set ip seen sources\nflush set ip6 seen sources\n"
        "flush set inet beside seen4\nflush set inet beside seen6"
    )


def by_the_side(world: World) -> list[str]:
    """Packets that came to the Internet from the node's own addresses."""
    listing = Nftables(world.internet.netns).table("inet", "beside") or []
    found = [i["set"].get("elem", []) for i in listing if "set" in i]
    return [str(e) for group in found for e in group]


def sources(world: World) -> set[str]:
    return world.internet.sources() | world.internet.sources6()


def attached(
    world: World, pod: Pod, *, default_route: bool = True
) -> tuple[PodDesired, Callable[[], None]]:
    """What the pod should look like, and what brings it there."""
    beside = "\n".join(
        f"set seen{v} {{ type inet_proto . ipv{v}_addr . inet_service . ipv{v}_addr . inet_service;"
        " flags dynamic; size 4096; }"
        for v in (4, 6)
    )
    world.internet.nft(
        f"table inet beside {{ {beside}\nchain in {{ type filter hook prerouting priority raw;\n"
        f"ip saddr {NODE} meta l4proto {{ tcp, udp }} update @seen4"
        " { meta l4proto . ip saddr . th sport . ip daddr . th dport }\n"
        f"ip6 saddr {NODE6} meta l4proto {{ tcp, udp }} update @seen6"
        " { meta l4proto . ip6 saddr . th sport . ip6 daddr . th dport }\n}\n}"
    )
    pair: keys.KeyPair
    pair, _ = serve(world, pod)
    desired = pod.desired(pair.public, str(world.gateways[0].primary))
    if not default_route:
        six = ipaddress.ip_network("2001:db8:eeee::/48")
        only = (network("172.16.0.0/12"), six)
        desired = dataclasses.replace(desired, default_route=False, excluded=only)

    def attach() -> None:
        pod.side.converge(desired)
        pod.handshake(desired)

    return desired, attach


@boxed
def test_what_the_pod_opened_never_goes_on_by_its_ordinary_link() -> None:
    world = World(ipv6=True)
    pod = world.pod("pod-a")
    desired, attach = attached(world, pod)
    servers = [listening(pod, _SERVER, host) for host in (INTERNET, INTERNET6)]
    remotes = [Remote(world.internet, host) for host in (INTERNET, INTERNET6)]
    opened = [Opened(pod, host) for host in (INTERNET, INTERNET6)]
    for one, remote in zip(opened, remotes, strict=True):
        one.talks()
        remote.has_flows(3)
    assert sources(world) == {NODE, NODE6}
    attach()
    forget_seen(world)
    for remote in remotes:
        remote.goes_on()
    assert sources(world) <= {SECONDARIES[0], *SECONDARIES6}, by_the_side(world)
    # Held back too, while there is no gateway, and after another look at the pod.
    pod.side.converge(dataclasses.replace(desired, active=None))
    for remote in remotes:
        remote.goes_on()
    assert sources(world) <= {SECONDARIES[0], *SECONDARIES6}, by_the_side(world)
    for server in servers:
        server.close()


@boxed
def test_the_same_with_azure_networking_and_the_rest_goes_on() -> None:
    world = World(ipv6=True)
    pod = world.pod("pod-a")
    _, attach = attached(world, pod, default_route=False)
    remotes = [Remote(world.internet, host) for host in (EXCLUDED_HOST, EXCLUDED_HOST6)]
    opened = [Opened(pod, host, reuse=False) for host in (EXCLUDED_HOST, EXCLUDED_HOST6)]
    with pod.connect(INTERNET) as direct:
        assert direct.recv(100).decode().strip() == NODE
        for one in opened:
            one.talks()
        attach()
        forget_seen(world)
        for remote in remotes:
            remote.goes_on()
        assert sources(world) <= {SECONDARIES[0], *SECONDARIES6}, by_the_side(world)
        direct.sendall(b"still here")
        assert direct.recv(100) == b"still here"


class Accepted:
    """Connections that come in from one host to the pod's servers, in all states."""

    def __init__(self, world: World, pod: Pod, host: str) -> None:
        self._pod, self._host, self._world = pod, host, world
        self._own = str(pod.address6 if ":" in host else pod.address)
        first, second = (listening(pod, _SERVER, host) for _ in range(2))
        self.open = [self._accept(first, second) for _ in range(8)]  # of both listeners
        gone = listening(pod, _GONE, host)
        self.open += [self._accept(gone)]
        gone.close()
        self._half = listening(pod, _HALF, host)
        self.client_half = self._accept(self._half)
        self.client_half[0].shutdown(socket.SHUT_WR)
        self.server_half = self._accept(self._half)
        self.server_half[1].shutdown(socket.SHUT_WR)
        self.bulk = self._accept(self._half)
        self.received = 0
        threading.Thread(target=self._pour, daemon=True).start()
        threading.Thread(target=self._drain, daemon=True).start()
        self.udp = pod.place.netns.run(lambda: socket.socket(family(host), socket.SOCK_DGRAM))
        if ":" in host:
            self.udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.udp.bind(("", _SERVER))
        threading.Thread(target=self._echo, daemon=True).start()
        self.client = self._datagrams()
        self.asks(self.client)
        self._listeners = (first, second)

    def _accept(self, *servers: socket.socket) -> tuple[socket.socket, socket.socket]:
        where = (self._own, servers[0].getsockname()[1])
        client = self._world.internet.netns.run(
            lambda: socket.create_connection(where, 60, source_address=(self._host, 0))
        )
        accepted: list[socket.socket] = []

        def taken() -> bool:
            for server in servers:
                server.settimeout(0.05)
                with contextlib.suppress(TimeoutError):
                    accepted.append(server.accept()[0])
                    return True
            return False

        until(taken, "the server accepts")
        accepted[0].settimeout(60)
        return client, accepted[0]

    def _pour(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.bulk[1].sendall(bytes(1 << 16))

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            while heard := self.bulk[0].recv(1 << 16):
                self.received += len(heard)

    def _echo(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                heard, peer = self.udp.recvfrom(2048)
                self.udp.sendto(heard, peer)

    def _datagrams(self) -> socket.socket:
        made = self._world.internet.netns.run(
            lambda: socket.socket(family(self._host), socket.SOCK_DGRAM)
        )
        made.bind((self._host, 0))
        made.connect((self._own, _SERVER))
        made.settimeout(1)
        return made

    def asks(self, client: socket.socket) -> None:
        def answered() -> bool:
            client.send(b"q")
            with contextlib.suppress(OSError):
                return client.recv(100) == b"q"
            return False

        until(answered, "the pod's server answers datagrams")

    def live(self) -> None:
        for index, (client, server) in enumerate(self.open):
            one, other = (client, server) if index % 2 else (server, client)
            for speaker, hearer in ((one, other), (other, one)):
                speaker.sendall(b"still here")
                assert hearer.recv(100) == b"still here"
        client, server = self.client_half
        server.sendall(b"after the client's end")
        assert client.recv(100) == b"after the client's end"
        client, server = self.server_half
        for number in range(3):  # acknowledgements are all that the pod sends
            client.sendall(b"%d" % number * 100_000)
            got = 0
            while got < 100_000:
                got += len(server.recv(1 << 16))
        more = self.received + (1 << 21)
        until(lambda: self.received > more, "bulk from the pod goes on", 60)
        self.asks(self.client)
        self.asks(self._datagrams())
        new = self._accept(*self._listeners)
        new[1].sendall(b"new")
        assert new[0].recv(100) == b"new"


@boxed
def test_what_the_pods_servers_accepted_lives_on() -> None:
    world = World(ipv6=True)
    pod = world.pod("pod-a")
    _, attach = attached(world, pod)
    accepted = [Accepted(world, pod, host) for host in (INTERNET, INTERNET6)]
    attach()
    for one in accepted:
        one.live()
    assert pod.seen_as() == SECONDARIES[0]
    assert pod.seen_as(INTERNET6) in SECONDARIES6
    for one in accepted:
        one.live()


@boxed
def test_marks_that_an_earlier_time_left_behind_do_not_lead_past_the_gateway() -> None:
    """As an agent of before left them, or somebody else who uses the same bit."""
    world = World(ipv6=True)
    pod = world.pod("pod-a")
    _, attach = attached(world, pod)
    remote = Remote(world.internet, INTERNET)
    opened = Opened(pod, INTERNET, reuse=False)
    accepted = Accepted(world, pod, INTERNET)
    pod.place.nft(
        "table inet before { chain in { type filter hook prerouting priority mangle;\n"
        'iifname "eth0" ct direction original ct mark set ct mark | 0x10000001\n}\n}'
    )
    heard = opened.heard
    until(lambda: opened.heard > heard + 100, "every flow has an entry, as if it had come in")
    pod.place.nft("delete table inet before")
    attach()
    forget_seen(world)
    remote.goes_on()
    accepted.live()
    assert not {NODE, NODE6} & sources(world), by_the_side(world)


@boxed
def test_thousands_of_connections_are_told_apart() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    many = min(5_000, (hard - 800) // 4)  # in each direction; both ends are here
    world = World(ipv6=True)
    pod = world.pod("pod-a")
    _, attach = attached(world, pod)
    server = listening(pod, _SERVER, INTERNET)
    sink = world.internet.netns.run(lambda: socket.create_server((INTERNET, 9002), backlog=4096))
    inbound: list[tuple[socket.socket, socket.socket]] = []
    outbound: list[tuple[socket.socket, socket.socket]] = []

    def fill() -> None:
        where = (str(pod.address), _SERVER)
        for _ in range(many):
            client = socket.create_connection(where, 60, source_address=(INTERNET, 0))
            inbound.append((client, server.accept()[0]))

    world.internet.netns.run(fill)

    def fill_out() -> None:
        for _ in range(many):
            client = socket.create_connection((INTERNET, 9002), 60)
            outbound.append((client, sink.accept()[0]))

    pod.place.netns.run(fill_out)
    began = time.monotonic()
    attach()
    print(f"{2 * many} connections: attached after {time.monotonic() - began:.2f} s")
    forget_seen(world)
    for _, remote in outbound[::50]:
        remote.sendall(b"x")  # what the pod acknowledges
    for client, accepted in inbound[::50]:
        accepted.sendall(b"x")
        client.settimeout(60)
        assert client.recv(1) == b"x"
    assert NODE not in sources(world)
