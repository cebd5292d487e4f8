"""The pod's side of the data path: the hold, the tunnel, routes and marks.

Guarantee: once the first action of a plan has been applied, nothing that belongs to the gateway
leaves the pod by another link. The hold does not depend on any link or process of ours; the
tunnel may come, go and move behind it. The node's end of the link drops what a program writes
below netfilter (NET_RAW). The limit: a pod with NET_ADMIN controls its own namespace, but not the
node's end.

Level-triggered, from a worker thread (everything here blocks)::

    side = PodSide(netns_path, backend=backend, sources=sources)
    done = side.converge(desired)          # empty: nothing was amiss
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from egress_gateway.datapath.errors import DatapathError, NoSuchLink, NoSuchNamespace
from egress_gateway.datapath.linux import echo
from egress_gateway.datapath.linux.link import MAIN, Link, Links, families
from egress_gateway.datapath.linux.netns import NetNS, read_sysctl, write_sysctl
from egress_gateway.datapath.linux.nft import Nftables
from egress_gateway.datapath.pod import linkguard
from egress_gateway.datapath.pod import plan as podplan
from egress_gateway.datapath.pod.actions import (
    Action,
    AddRule,
    AllowSource,
    ApplyFilter,
    ConfigureTunnel,
    CreateTunnel,
    DeleteLink,
    DeleteRoutes,
    DeleteRule,
    ForgetSource,
    GuardLink,
    MoveTunnel,
    RaiseLink,
    ReplaceRoutes,
    SetSysctl,
)
from egress_gateway.datapath.pod.hold import Hold
from egress_gateway.datapath.pod.linkguard import HostEnd, LinkGuard
from egress_gateway.datapath.pod.model import (
    PodDesired,
    PodObserved,
    TunnelObserved,
)
from egress_gateway.datapath.pod.plan import (
    EARLIER_RULES,
    KEPT_ROUTES,
    KEPT_RULES,
    ROUTES,
    RULES,
    plan,
)
from egress_gateway.datapath.pod.ruleset import (
    COUNTER,
    LINKS,
    TABLE,
)
from egress_gateway.datapath.pod.sources import SourceFilter
from egress_gateway.datapath.wireguard.model import Backend, Config, Device, Interface

_UNASKED: Final = Device(public_key="", listen_port=0, fwmark=0, peers={})


@dataclass(frozen=True, slots=True)
class _Open:
    """The pod's namespace for the length of one call. Never longer: an open descriptor would
    keep a deleted pod's namespace, and its links, alive."""

    netns: NetNS
    links: Links
    nft: Nftables
    arriving: dict[str, Callable[[], None]] = field(default_factory=dict)
    """By link, how to wait for one that is on its way into the pod."""


class PodSide:
    """One pod's namespace, observed and changed. Calls take turns."""

    def __init__(
        self,
        netns: Path,
        *,
        backend: Backend,
        sources: SourceFilter,
        guard: LinkGuard | None = None,
        node: NetNS | None = None,
    ) -> None:
        self._path = netns
        self._guard = guard
        self._end: HostEnd | None = None
        self._backend = backend
        self._sources = sources
        self._node = node or NetNS.current()
        self._lock = threading.Lock()
        self._hold = Hold(self._node)
        # What was last made so, as far as we know.
        self._reached: PodDesired | None = None
        self.initiated = 0.0
        """When the active tunnel was last given its peer, which starts a handshake if it has a
        keepalive; seconds of time.monotonic."""

    def converge(self, desired: PodDesired) -> list[Action]:
        """Observes, plans, applies; returns what was done. Raises ``NoSuchNamespace`` when
        the pod is gone, ``DatapathError`` otherwise; call again to go on."""
        with self._lock, self._namespace() as netns:
            self._reached = None
            done = netns.run(lambda: self._converge(desired))
            self._reached = desired
            return done

    def move(self, desired: PodDesired) -> list[Action]:
        """``converge``, but where only the tunnel's other end is to change it is changed without a
        look at the rest: within a millisecond. Follow it by ``converge`` when there is time."""
        with self._lock, self._namespace() as netns:
            steps = podplan.move(desired, self._reached)
            if steps is not None:
                self._reached = None
                with contextlib.suppress(NoSuchLink):
                    self._move(netns, desired, steps)
                    self._reached = desired
                    return steps
        return self.converge(desired)

    def _move(self, netns: NetNS, desired: PodDesired, steps: Iterable[Action]) -> None:
        for step in steps:
            match step:
                case AllowSource(port, source):
                    self._sources.allow(port, source)
                case ConfigureTunnel(config, link) if desired.active:
                    self._tell(Interface(desired.active.name, netns, link), config)
                case ForgetSource(port):
                    self._sources.forget(port)

    def _converge(self, desired: PodDesired) -> list[Action]:
        with self._open() as pod, contextlib.ExitStack() as stack:
            stack.callback(_await_all, pod.arriving)
            self._send_ahead(pod, desired)
            actions = plan(desired, self._observe(pod, desired))
            tunnel, hold, rest = podplan.apart(actions)
            done = (
                self._node.start(lambda: self._apply_all(pod, desired, tunnel)) if tunnel else None
            )
            try:
                self._apply_all(pod, desired, hold)
            finally:
                if done is not None:
                    done()
            self._apply_all(pod, desired, rest)
            # What the kernel refuses at each pass mends nothing.
            refused = self._guard is not None and self._path in self._guard.unguarded
            return [a for a in actions if not (refused and isinstance(a, GuardLink))]

    def _send_ahead(self, pod: _Open, desired: PodDesired) -> None:
        """Moving a link makes the kernel wait for all its readers: longer than all the rest takes.
        A tunnel that was made in advance can be on its way meanwhile: it is down and has no route,
        so it carries nothing, and it is configured wherever it is."""
        tunnel = desired.active
        if tunnel is None or self._backend.kind != "userspace" or pod.links.link(tunnel.link):
            return
        if not self._waits(tunnel.name):
            return
        pod.arriving[tunnel.link] = self._node.start(
            lambda: self._bring(pod, tunnel.name, tunnel.link)
        )

    def _waits(self, name: str) -> bool:
        """Whether the tunnel lies in the node's namespace still."""
        with Links(self._node) as node:
            return node.link(name) is not None

    def _bring(self, pod: _Open, name: str, link: str) -> None:
        with Links(self._node) as node:
            node.move(name, pod.netns, link)

    def _apply_all(self, pod: _Open, desired: PodDesired, actions: Iterable[Action]) -> None:
        for action in actions:
            self._apply(pod, desired, action)

    def observe(self, desired: PodDesired) -> PodObserved:
        """The state of all that ``desired`` concerns."""
        with self._lock, self._open() as pod:
            return self._observe(pod, desired)

    def apply(self, desired: PodDesired, action: Action) -> None:
        """One step of a plan."""
        with self._lock, self._open() as pod:
            self._apply(pod, desired, action)

    def status(self, desired: PodDesired, *, standby: bool = False) -> Device | None:
        """The active tunnel (or the standby) now: handshake, counters. None if it is gone."""
        tunnel = desired.standby if standby else desired.active
        if tunnel is None:
            return None
        with self._namespace() as netns:
            return self._backend.status(Interface(tunnel.name, netns, tunnel.link))

    def handshake_again(self, desired: PodDesired, *, standby: bool = False) -> None:
        """Removes and re-adds the peer in one call, unchanged: a new handshake at once.
        Not sooner than 50 ms after the last: WireGuard ignores two initiations in 20 ms."""
        tunnel = desired.standby if standby else desired.active
        if tunnel is not None:
            with self._namespace() as netns:
                handle = Interface(tunnel.name, netns, tunnel.link)
                fresh = podplan.handshake_anew(tunnel, ipv6=desired.tunnel_ipv6)
                self._tell(handle, fresh, standby=standby)

    def show_cookie(self, desired: PodDesired, *, standby: bool = False) -> None:
        """The same for a tunnel without a session whose gateway has answered with a cookie: the new
        initiation shows it. WireGuard by itself would wait for 5 seconds."""
        tunnel = desired.standby if standby else desired.active
        if tunnel is None:
            return
        with self._namespace() as netns:
            handle = Interface(tunnel.name, netns, tunnel.link)
            self._backend.configure(handle, podplan.another_key())
            device = self._backend.status(handle)
            peer = device.peers.get(tunnel.peer_key) if device else None
            # The other key has ended a session that began a moment ago: then there is no hurry.
            began = peer is not None and peer.last_handshake > 0
            for step in podplan.own_key_again(tunnel, ipv6=desired.tunnel_ipv6, fresh=began):
                self._tell(handle, step, standby=standby)

    def forget_port(self, listen_port: int) -> None:
        """The port is no longer a tunnel's."""
        self._sources.forget(listen_port)

    def detach(
        self,
        names: Mapping[str, str],
        ports: Iterable[int] = (),
        *,
        interface: str = "eth0",
        held: bool = False,
    ) -> None:
        """Takes everything away, the hold last. Works (and frees the node's half) when the
        namespace is gone. ``names``: birth names of tunnels by link; ``ports``: their listen
        ports, as far as they are known. ``held``: the hold stays, and goes with the namespace. Of a
        pod that is over sockets may still close, or repeat what was not acknowledged."""
        with self._lock:
            with contextlib.suppress(NoSuchNamespace), self._open() as pod:
                self._clear(pod, names, held=held)
                if self._guard and (end := linkguard.host_end(interface, pod.netns, self._node)):
                    self._guard.release(end)
                names = {}
            for name in names.values():
                self._backend.delete(Interface(name, self._node, name))
            for port in ports:
                self._sources.forget(port)

    def echo_socket(self, desired: PodDesired) -> socket.socket | None:
        """An ICMP echo socket that sends through the active tunnel. Close it before the pod may go.
        None for a pod without an IPv4 address. Raises ``OSError``."""
        source = next((a for a in desired.addresses if a.version == 4), None)
        if source is None or desired.active is None:
            return None
        with self._namespace() as netns:
            return echo.open_through(netns, desired.active.link, source)

    def held(self) -> int:
        """Packets held back since the hold was put in place; 0 if there is none."""
        try:
            with self._namespace() as netns:
                return Nftables(netns).counter("inet", TABLE, COUNTER) or 0
        except NoSuchNamespace:
            return 0

    @contextlib.contextmanager
    def _namespace(self) -> Iterator[NetNS]:
        with NetNS.open(self._path) as netns:
            if netns.identity == self._node.identity:
                # A stale path must never make us rewrite the node's own routes.
                raise NoSuchNamespace(f"{self._path} is the node's own network namespace")
            yield netns

    @contextlib.contextmanager
    def _open(self) -> Iterator[_Open]:
        with self._namespace() as netns, Links(netns) as links:
            yield _Open(netns, links, Nftables(netns))

    def _observe(self, pod: _Open, desired: PodDesired) -> PodObserved:
        found = pod.links.links()
        tunnels = {link: self._tunnel(pod, desired, link, found.get(link)) for link in LINKS}
        known = families(pod.netns)
        text, connections = self._hold.observe(pod.netns, pod.nft, desired)
        # Listing a table that does not exist costs as much as listing all of it.
        active = desired.active.link if desired.active else LINKS[0]
        kept = desired.standby is not None or any(n != active for n in LINKS if n in found)
        tables = (ROUTES, KEPT_ROUTES) if kept else (ROUTES,)
        main = [r for f in known for r in pod.links.routes(MAIN, f)]
        others = podplan.others_routes(main, found, desired.interface)
        return PodObserved(
            filter=text,
            origins=connections,
            guarded=self._is_guarded(pod, desired, found.get(desired.interface)),
            sysctls=tuple((n, read_sysctl(pod.netns, n)) for n in podplan.sysctls(found)),
            tunnels=tunnels,
            routes=frozenset(r for f in known for t in tables for r in pod.links.routes(t, f)),
            rules=frozenset(r for f in known for r in pod.links.rules(f)),
            others=others,
            exempt=podplan.exempt_routes(main, others, desired.interface),
            ipv6=_has_ipv6(pod.netns, desired.interface),
        )

    def _is_guarded(self, pod: _Open, desired: PodDesired, link: Link | None) -> bool:
        if self._guard is None or link is None:
            return True
        self._end = end = linkguard.host_end(desired.interface, pod.netns, self._node)
        if end is None:
            self._guard.note(self._path, found=False)
            return True
        return self._guard.holds(end, desired.addresses, desired.split)

    def _guard_link(self, desired: PodDesired) -> None:
        """A kernel that cannot do it must not keep pods from starting: ``LinkGuard.unguarded``
        tells."""
        if self._guard is None or self._end is None:
            return
        try:
            self._guard.hold(self._end, desired.addresses, desired.split)
        except DatapathError as error:
            self._guard.note(self._path, found=False, error=str(error))
        else:
            self._guard.note(self._path, found=True)

    def _tunnel(
        self, pod: _Open, desired: PodDesired, name: str, link: Link | None
    ) -> TunnelObserved:
        tunnel = desired.by_link(name)
        arrives = name in pod.arriving
        if arrives:
            link = None
        if tunnel is None:
            return TunnelObserved(link=link)
        unmoved, device = False, None
        if link is not None:
            device = self._backend.status(Interface(tunnel.name, pod.netns, name))
        else:
            unmoved = arrives or self._waits(tunnel.name)
            # Asking a process that waits to be used would hold up the pod that is to use it.
            device = _UNASKED if unmoved else None
        source = self._sources.allowed().get(tunnel.listen_port)
        keys = [key for key, _ in podplan.link_sysctls(desired, name)] if link else []
        sysctls = tuple((key, read_sysctl(pod.netns, key)) for key in keys)
        return TunnelObserved(
            unmoved=unmoved, link=link, device=device, source=source, sysctls=sysctls
        )

    def _apply(self, pod: _Open, desired: PodDesired, action: Action) -> None:
        match action:
            case ApplyFilter():
                self._hold.apply(pod.netns, pod.nft, desired, action)
            case GuardLink():
                self._guard_link(desired)
            case SetSysctl(name, value):
                write_sysctl(pod.netns, name, value)
            case AllowSource(port, source):
                self._sources.allow(port, source)
            case ForgetSource(port):
                self._sources.forget(port)
            case DeleteLink(link):
                pod.links.delete(link)
            case CreateTunnel(name):
                self._backend.create(name)
            case ConfigureTunnel(config, link):
                self._configure(pod, desired, config, link)
            case MoveTunnel(name, link):
                arrive = pod.arriving.pop(link, None) or (lambda: self._bring(pod, name, link))
                arrive()
            case RaiseLink(link, mtu):
                pod.links.set_up(link, mtu=mtu)
            case DeleteRoutes(routes):
                pod.links.delete_routes(routes)
            case ReplaceRoutes(routes):
                pod.links.replace_routes(routes)
            case AddRule(rule):
                pod.links.add_rule(rule)
            case DeleteRule(rule):
                pod.links.delete_rule(rule)

    def _configure(self, pod: _Open, desired: PodDesired, config: Config, link: str) -> None:
        tunnel = desired.by_link(link)
        if tunnel is None:
            return
        handle = Interface(tunnel.name, pod.netns, link)
        # NB: the kernel answers nobody's question about links while it moves one.
        if link in pod.arriving or pod.links.link(link) is None:
            handle = Interface(tunnel.name, self._node, tunnel.name)
        self._tell(handle, config, standby=tunnel is desired.standby)

    def _tell(self, handle: Interface, config: Config, *, standby: bool = False) -> None:
        if not standby:
            self.initiated = time.monotonic()
        self._backend.configure(handle, config)

    def _clear(self, pod: _Open, names: Mapping[str, str], *, held: bool) -> None:
        """``names``: birth names of tunnels by link, as far as they are known."""
        known = families(pod.netns)
        rules = (*RULES, *(r for kept in KEPT_RULES.values() for r in kept), *EARLIER_RULES)
        for rule in (r for r in rules if r.family in known):
            with contextlib.suppress(NoSuchLink):
                pod.links.delete_rule(rule)
        for family in known:
            for table in (ROUTES, KEPT_ROUTES):
                pod.links.delete_routes(list(pod.links.routes(table, family)))
        for link, name in names.items():
            self._backend.delete(Interface(name, pod.netns, link))
        for link in LINKS:
            pod.links.delete(link)
        if not held:
            # Removed only now: the ordinary path is what the pod is to have from here on.
            self._hold.remove(pod.nft)
        self._hold.forget()
        self._reached = None


def _await_all(arriving: dict[str, Callable[[], None]]) -> None:
    """After a failure of something else: nothing goes on when the call is over."""
    while arriving:
        _, arrive = arriving.popitem()
        with contextlib.suppress(DatapathError):
            arrive()


def _has_ipv6(netns: NetNS, interface: str) -> bool:
    """Runtimes may turn IPv6 off for all links and on again for the one that has an address."""
    keys = (f"net/ipv6/conf/{name}/disable_ipv6" for name in ("all", interface))
    return any(read_sysctl(netns, key) == "0" for key in keys)
