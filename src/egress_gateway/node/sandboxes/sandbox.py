"""One attached sandbox: its state and the thread-side hands on its namespace.

State is kept (``AttachmentStore``) before the kernel is touched, so that whatever a killed agent
has left in a namespace is found and finished, or taken down, by the next one.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import logging
import secrets
import socket
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TypeVar

import msgspec

from egress_gateway.cni.protocol import Call
from egress_gateway.datapath.errors import DatapathError, NoSuchNamespace, PortInUse
from egress_gateway.datapath.linux.link import Links
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.linux.nft import Nftables
from egress_gateway.datapath.pod.linkguard import LinkGuard
from egress_gateway.datapath.pod.model import PodDesired, tunnel_name
from egress_gateway.datapath.pod.ruleset import LINKS, TABLE
from egress_gateway.datapath.pod.side import PodSide
from egress_gateway.datapath.pod.sources import SourceFilter
from egress_gateway.datapath.wireguard.model import Backend, PeerStatus
from egress_gateway.node import metrics
from egress_gateway.node.attachment.model import (
    Attachment,
    Joining,
    NodeFacts,
    TunnelRecord,
    pod_desired,
)
from egress_gateway.node.attachment.store import AttachmentStore, rebuilt
from egress_gateway.node.sandboxes.stall import StallDetector

log = logging.getLogger(__name__)

T = TypeVar("T")


class NodeKernel:
    """What all sandboxes of a node share: the back end, the threads, the ports."""

    def __init__(
        self,
        *,
        facts: NodeFacts,
        backend: Backend,
        sources: SourceFilter,
        store: AttachmentStore,
        executor: Executor,
        ports: range,
        guard: LinkGuard | None = None,
    ) -> None:
        """``guard`` None: the node's end of pods' links is left alone."""
        self.facts = facts
        self.guard = guard
        self.backend = backend
        self.sources = sources
        self.store = store
        self._executor = executor
        self._ports = ports
        self._node = NetNS.current()
        self._used: set[int] = set()

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """``function`` in a worker thread: kernel calls block."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, functools.partial(function, *arguments))

    def sync_sources(self, attachments: Sequence[Attachment]) -> None:
        """Tells the node's filter which gateway each listen port belongs to."""
        self.sources.sync(
            {
                port: ipaddress.ip_address(address)
                for attachment in attachments
                for port, address in attachment.ports.items()
            }
        )

    def side(self, netns: Path) -> PodSide:
        """The pod's side of the data path in the namespace."""
        return PodSide(
            netns,
            backend=self.backend,
            sources=self.sources,
            guard=self.guard,
            node=self._node,
        )

    def sync_links(self, attachments: Sequence[Attachment]) -> None:
        """Repairs and tidies the rules for the node's ends of pods' links. Blocks."""
        if self.guard is not None:
            addresses = {a for attachment in attachments for a in attachment.addresses}
            self.guard.sync({ipaddress.ip_address(a) for a in addresses})

    def free_port(self) -> int:
        """A listen port that no tunnel of this node has, different each time."""
        for _ in range(1000):
            port = self._ports[secrets.randbelow(len(self._ports))]
            if port not in self._used:
                self._used.add(port)
                return port
        raise RuntimeError(
            f"no free UDP port between {self._ports[0]} and {self._ports[-1]}; "
            "widen listen_port_first and listen_port_last"
        )

    def claim_port(self, port: int) -> None:
        """The port belongs to a tunnel that an earlier agent made."""
        self._used.add(port)

    def release_port(self, port: int) -> None:
        """Another tunnel may listen there."""
        self._used.discard(port)


class Sandbox:
    """Calls take turns. ``attachment`` is what the kernel was last told to look like."""

    def __init__(self, attachment: Attachment, kernel: NodeKernel, *, kept: bool = False) -> None:
        """``kept``: an earlier agent has left its file."""
        self.attachment = attachment
        self.verified = asyncio.Event()
        self.verifier: asyncio.Task[None] | None = None
        self.joiner: asyncio.Task[None] | None = None
        self.gone = False
        self.refused = ""
        """Why the kernel, or the tunnels' host, did not make the namespace so the last time."""
        self.superseded = False
        """The pod has a later sandbox: this one is held back until it is deleted."""
        self.forgotten = False
        """Somebody deleted the pod's endpoint, and so gateways have lost its session."""
        self.outdated = False
        """Gateways may have seen handshakes with its key that are later than the node's clock."""
        self.starting = not attachment.verified
        """No tunnel of this agent's has had a handshake yet."""
        self.settling = attachment.verified
        """The next pass has something to do that mends no damage: just verified (it clears the
        keepalive), or just adopted (it writes the filter, whose text it cannot know)."""
        self._silent_since: float | None = None
        """When the tunnel that worked was last doubted or led elsewhere (``time.monotonic``)."""
        self._traffic = StallDetector()
        self._avoid: dict[str, float] = {}
        self._lock = asyncio.Lock()
        self._kept = kept
        self._kernel = kernel
        self._side = kernel.side(Path(attachment.netns))
        self._mute_until = 0.0
        self._wanted: tuple[Attachment, NodeFacts, PodDesired] | None = None
        for port in attachment.ports:
            kernel.claim_port(port)
        if attachment.verified:
            self.verified.set()

    @property
    def initiated(self) -> float:
        """When the tunnel was last told to begin a handshake, in the loop's time."""
        return self._side.initiated

    async def become(self, attachment: Attachment, *, moves: bool = False) -> list[str]:
        """Remembers ``attachment`` and makes the namespace so; returns what was done. With
        ``moves`` the tunnel's other end alone is changed where that is enough; a whole pass is to
        follow."""
        step = self._side.move if moves else self._side.converge
        async with self._lock:
            before = self.attachment
            while True:
                self._remember(attachment)
                try:
                    done = await self._kernel.run(step, self._desired())
                except PortInUse:
                    attachment = self._another_port(attachment)
                except DatapathError as error:
                    self.refused = str(error)
                    raise
                else:
                    self.refused = ""
                    self._forget_ports(before, attachment)
                    return [type(action).__name__ for action in done]

    async def clear_tunnels(self) -> None:
        """Removes tunnels whose file was lost, because no agent knows them any more. The hold
        stays, so no packet bypasses the gateway meanwhile."""
        async with self._lock:
            await self._kernel.run(_clear_tunnels, Path(self.attachment.netns))

    async def verify(self) -> bool:
        """Whether a handshake has completed since the tunnel was set up or moved."""
        async with self._lock:
            peer = await self._peer()
            if peer is None or not peer.last_handshake:
                return False
            if not self.attachment.verified:
                self._remember(self.attachment.with_active(verified=True))
                self.settling = True
            self.starting = False
            self.verified.set()
            if self._silent_since is not None:
                metrics.FAILOVER_SECONDS.observe(time.monotonic() - self._silent_since)
                self._silent_since = None
            return True

    async def joined(self) -> bool:
        """Whether the tunnel that a planned move leads to has a handshake."""
        async with self._lock:
            joining = self.attachment.joining
            if joining is None or self.gone:
                return False
            status = functools.partial(self._side.status, standby=True)
            device = await self._kernel.run(status, self._desired())
            peer = device.peers.get(joining.server.public_key) if device else None
            return bool(peer and peer.last_handshake)

    async def question(self) -> bool:
        """Demands proof of a verified tunnel: it counts as unverified until a new handshake.
        False if there is nothing to prove."""
        async with self._lock:
            if not self.attachment.verified or self.gone:
                return False
            self._remember(self.attachment.with_active(verified=False))
            await self._kernel.run(self._side.handshake_again, self._desired())
            return True

    async def open_echo(self) -> socket.socket | None:
        """For probes through the tunnel; the caller closes it before the pod may go."""
        async with self._lock:
            if self.gone:
                return None
            return await self._kernel.run(self._side.echo_socket, self._desired())

    def mute(self, now: float) -> bool:
        """Its tunnel works and yet no echo comes back: it is of no use for probes."""
        return now < self._mute_until

    def take_for_mute(self, until: float) -> None:
        """Leave it out of probes until then, in the seconds of ``mute``."""
        self._mute_until = until

    async def distrust(self, now: float) -> bool:
        """Looks whether a verified tunnel has died. If so it counts as unverified, and its
        session is given up; True is returned once."""
        async with self._lock:
            if not self.attachment.verified or self.gone:
                return False
            peer = await self._peer()
            if peer is None or not self._traffic.stalled(
                received=peer.received, sent=peer.sent, now=now
            ):
                return False
            self._traffic = StallDetector()
            self._remember(self.attachment.with_active(verified=False))
            await self._kernel.run(self._side.handshake_again, self._desired())
            return True

    async def has_cookie(self, tunnel: TunnelRecord) -> bool:
        """Whether the tunnel's gateway has answered with a cookie in the last seconds."""
        return tunnel.listen_port in await self._kernel.run(self._kernel.sources.cookies)

    async def handshake_again(self, *, cookie: bool, standby: bool = False) -> None:
        """Starts the handshake of the active tunnel again, or of the one that a planned move leads
        to. ``cookie``: the gateway has answered with one."""
        again = self._side.show_cookie if cookie else self._side.handshake_again
        async with self._lock:
            await self._kernel.run(functools.partial(again, standby=standby), self._desired())

    async def held(self) -> int:
        """Packets held back so far."""
        return await self._kernel.run(self._side.held)

    async def detach(self, *, held: bool) -> None:
        """Takes everything down, whether or not the namespace still exists. ``held``: all but the
        hold, since the pod is over."""
        self.gone = True
        for task in (self.verifier, self.joiner):
            if task:
                task.cancel()
        state = self.attachment
        names = {link: state.birth_name(link) for link in LINKS}
        async with self._lock:
            detach = functools.partial(self._side.detach, interface=state.if_name, held=held)
            await self._kernel.run(detach, names, state.ports)
        for port in state.ports:
            self._kernel.release_port(port)
        self._kernel.store.forget(state.id)

    def avoid(self, address: str, until: float) -> None:
        """A gateway's, or the load balancer's, which answers probes but not this pod's
        handshake."""
        self._avoid[address] = until

    def avoided(self, now: float) -> set[str]:
        """Addresses of gateways that the pod does not choose at ``now``."""
        self._avoid = {address: until for address, until in self._avoid.items() if until > now}
        return set(self._avoid)

    async def _peer(self) -> PeerStatus | None:
        active = self.attachment.active
        device = await self._kernel.run(self._side.status, self._desired())
        return device.peers.get(active.server.public_key) if device and active else None

    def _remember(self, attachment: Attachment) -> None:
        before, self.attachment = self.attachment, attachment
        for port in before.ports.keys() - attachment.ports.keys():
            self._kernel.release_port(port)
        if not attachment.verified:
            if self.verified.is_set() and attachment.active is not None:
                self._silent_since = time.monotonic()
            self.verified.clear()
        self._keep(attachment, changed=before != attachment)

    def _keep(self, attachment: Attachment, *, changed: bool) -> None:
        """Writes the file if it does not say so already. A pod that is attached goes on without
        one where nothing can be written; one that is not yet would be lost by the next agent."""
        store = self._kernel.store
        if not changed and self._kept and store.holds(attachment):
            return
        written = store.keep(attachment)
        if not written and not self._kept:
            raise DatapathError(
                f"the pod {attachment.namespace}/{attachment.pod} cannot be remembered: the run "
                "directory is full or read-only; make room there, or mount it writable"
            )
        if written and not changed and self._kept:
            rebuilt("attachment", pod=f"{attachment.namespace}/{attachment.pod}")
        self._kept = True

    def _another_port(self, attachment: Attachment) -> Attachment:
        """The tunnel that was to be made found its listen port taken."""
        port, joining = self._kernel.free_port(), attachment.joining
        taken = joining.listen_port if joining else attachment.listen_port
        log.info("changed taken listen port", extra={"port": taken})
        if joining is not None:
            again = msgspec.structs.replace(joining, listen_port=port)
            return msgspec.structs.replace(attachment, standby=Joining(again))
        return attachment.with_active(listen_port=port)

    def _forget_ports(self, before: Attachment, after: Attachment) -> None:
        """Ports of second tunnels that are gone; those of the first go with its move."""
        for port in before.ports.keys() - after.ports.keys():
            self._side.forget_port(port)

    def _desired(self) -> PodDesired:
        attachment, facts, wanted = self._wanted or (None, None, None)
        if wanted is None or attachment is not self.attachment or facts is not self._kernel.facts:
            wanted = pod_desired(self.attachment, self._kernel.facts)
            self._wanted = self.attachment, self._kernel.facts, wanted
        return wanted


def belongs(path: Path, interface: str, addresses: Collection[str]) -> bool:
    """Whether the namespace may be that of the pod with these addresses: False if its interface
    has others, and none of them. Blocks."""
    try:
        with NetNS.open(path) as netns, Links(netns) as links:
            found = {str(a.ip) for name, a in links.every_address() if name == interface}
    except DatapathError:
        return True
    return not found or not addresses or bool(found & set(addresses))


def clear_forgotten(kernel: NodeKernel, record: Call) -> bool:
    """Takes everything of ours out of a sandbox that no attachment is known of. Whether anything
    was there. Blocks."""
    path = Path(record.netns)
    try:
        if not _clear_tunnels(path):
            return False
    except NoSuchNamespace:
        return False
    made = {link: tunnel_name(record.container_id, record.if_name, link) for link in LINKS}
    kernel.side(path).detach(made, interface=record.if_name)
    return True


def _clear_tunnels(path: Path) -> bool:
    """Whether our hold is there. Links of our names are ours only then."""
    with NetNS.open(path) as netns, NetNS.current() as node, Links(netns) as links:
        if netns.identity == node.identity or Nftables(netns).table("inet", TABLE) is None:
            return False
        for name in LINKS:
            if links.link(name) is not None:
                links.delete(name)
        return True
