"""Tells at once when somebody changes a network namespace: links, addresses, routes, rules, nft.

Guarantees, for each namespace that is watched: after every change there is a call of ``changed``,
``quiet`` seconds after the last notice of a burst and at most ``limit`` seconds after the first. If
the kernel had to drop notices there is a call too. A namespace that lost its name is let go before
the call, because an open socket would keep the namespace, and every link in it, alive.

A call says *look*, not *what*. The caller compares the kernel with what it wants and repairs the
difference. Its own changes cause one more call, which finds nothing to do, and then it is silent.
At rest it costs only two sockets a namespace. It does not report changes of WireGuard peers (the
kernel has no notice for them) or of other programs' nftables tables (``tables``).

Sources: rtnetlink(7), linux/rtnetlink.h, linux/netfilter/nf_tables.h; proc(5) for poll(2) on
``/proc/self/mountinfo``.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from egress_gateway.datapath.linux import netlink
from egress_gateway.datapath.linux.netlink import Message, NetlinkSocket, Overrun
from egress_gateway.datapath.linux.netns import NetNS

_LINK: Final = 1
_ADDRESSES: Final = (5, 9)  # RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR
_ROUTES: Final = (7, 11)
_RULES: Final = (8, 19)
_NETCONF: Final = (24, 25)
"""Sysctls that decide about forwarding: ``forwarding``, ``rp_filter`` and the like."""
_NFTABLES: Final = 7  # NFNLGRP_NFTABLES
_NEW_GENERATION: Final = (10 << 8) | 15  # NFT_MSG_NEWGEN ends each transaction
_TABLE: Final = 1
"""Each message about a chain, rule, set, element or object has its table's name under this type."""
_BUFFER: Final = 256 << 10
"""Bytes of notices that wait at most; a burst beyond it is one ``Overrun``, which says enough."""
_READS: Final = 64
"""Reads in one turn of the event loop, so that a flood leaves time for others."""

Changed = Callable[[str], None]


def concerns(message: Message, tables: Collection[str] | None) -> bool:
    """Whether an nftables notice is about one of ``tables`` (None: any). Pure."""
    if message.kind == _NEW_GENERATION:
        return False
    if tables is None:
        return True
    name = netlink.attributes(message.payload, 4).get(_TABLE, b"")
    return name.rstrip(b"\0").decode(errors="replace") in tables


Where = Path | NetNS
"""A namespace by its name in the file system, or an open one, which has no name to lose."""


@dataclass(slots=True, eq=False)
class _Watched:
    where: Where
    identity: tuple[int, int]
    tables: Collection[str] | None
    sockets: list[NetlinkSocket] = field(default_factory=list)
    first: float | None = None
    """When the burst that ``timer`` waits for began, in the loop's time."""
    timer: asyncio.TimerHandle | None = None


class Watcher:
    """Watches namespaces by key. Use it inside one event loop; ``close`` it before the loop ends.

    ``changed(key)`` is called in the loop and must not block. ``quiet`` and ``limit`` are seconds.
    """

    def __init__(self, changed: Changed, *, quiet: float = 0.03, limit: float = 0.25) -> None:
        self._changed = changed
        self._quiet = quiet
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._watched: dict[str, _Watched] = {}
        self._mounts: _Mounts | None = None

    @property
    def keys(self) -> frozenset[str]:
        """What is watched now."""
        return frozenset(self._watched)

    async def watch(self, key: str, where: Where, *, tables: Collection[str] | None = None) -> bool:
        """Watches a namespace from the return on, under ``key``. Returns whether that is new: what
        happened before was not seen, so look once. Nothing happens if the same namespace is
        watched already. Raises ``NoSuchNamespace``, or ``OSError`` when descriptors run out; then
        ``key`` is not watched."""
        known = self._watched.get(key)
        if known and known.tables == tables and known.identity == _identity(where):
            return False
        self.forget(key)
        if self._mounts is None:
            self._mounts = _Mounts(self._loop, self._look_for_lost)
        opened = await asyncio.to_thread(_open, where, tables)
        self.forget(key)  # two calls may have waited for their threads at the same time
        self._watched[key] = opened
        for socket, read in zip(opened.sockets, (self._read_route, self._read_nft), strict=True):
            self._loop.add_reader(socket.fileno(), read, key, opened)
        self._look_for_lost()
        return True

    def forget(self, key: str) -> None:
        """Stops watching ``key``: no call for it follows."""
        watched = self._watched.pop(key, None)
        if watched is None:
            return
        if watched.timer:
            watched.timer.cancel()
        for socket in watched.sockets:
            self._loop.remove_reader(socket.fileno())
            socket.close()

    def close(self) -> None:
        """Forgets everything."""
        for key in list(self._watched):
            self.forget(key)
        if self._mounts:
            self._mounts.close()
            self._mounts = None

    def _read_route(self, key: str, watched: _Watched) -> None:
        if _drain(watched.sockets[0], lambda _: True):
            self._note(key, watched)

    def _read_nft(self, key: str, watched: _Watched) -> None:
        if _drain(watched.sockets[1], lambda message: concerns(message, watched.tables)):
            self._note(key, watched)

    def _note(self, key: str, watched: _Watched) -> None:
        now = self._loop.time()
        if watched.timer is None:
            watched.first = now
        else:
            watched.timer.cancel()
        at = min(now + self._quiet, (watched.first or now) + self._limit)
        watched.timer = self._loop.call_at(at, self._due, key, watched)

    def _due(self, key: str, watched: _Watched) -> None:
        watched.timer = None
        self._changed(key)

    def _look_for_lost(self) -> None:
        lost = [key for key, w in self._watched.items() if _identity(w.where) != w.identity]
        for key in lost:
            self.forget(key)
            self._changed(key)


class _Mounts:
    """Calls ``changed`` when something is mounted or unmounted: names of namespaces are mounts."""

    def __init__(self, loop: asyncio.AbstractEventLoop, changed: Callable[[], None]) -> None:
        self._loop = loop
        self._changed = changed
        self._file = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        # The file is always readable; only an epoll of its own tells the priority event apart.
        self._epoll = select.epoll()
        self._epoll.register(self._file, select.EPOLLPRI | select.EPOLLET)
        loop.add_reader(self._epoll.fileno(), self._read)

    def _read(self) -> None:
        self._epoll.poll(0)
        self._changed()

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        os.close(self._file)


def _open(where: Where, tables: Collection[str] | None) -> _Watched:
    if isinstance(where, Path):
        with NetNS.open(where) as namespace:
            return _watched(where, namespace, tables)
    return _watched(where, where, tables)


def _watched(where: Where, namespace: NetNS, tables: Collection[str] | None) -> _Watched:
    watched = _Watched(where, namespace.identity, tables)
    try:
        for family, groups in (
            (netlink.ROUTE, (_LINK, *_ADDRESSES, *_ROUTES, *_RULES, *_NETCONF)),
            (netlink.NETFILTER, (_NFTABLES,)),
        ):
            socket = NetlinkSocket(family, namespace)
            watched.sockets.append(socket)
            socket.listen_to(*groups, buffer=_BUFFER)
    except BaseException:
        for socket in watched.sockets:
            socket.close()
        raise
    return watched


def _identity(where: Where) -> tuple[int, int] | None:
    if isinstance(where, NetNS):
        return where.identity
    try:
        status = where.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _drain(socket: NetlinkSocket, relevant: Callable[[Message], bool]) -> bool:
    """Reads what waits; whether any of it is relevant. What was lost might have been."""
    found = False
    for _ in range(_READS):
        try:
            messages = socket.listen(0)
        except Overrun:
            found = True
            continue
        if not messages:
            break
        found = found or any(relevant(message) for message in messages)
    return found
