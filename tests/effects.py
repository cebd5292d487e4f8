"""Kills an agent after a chosen one of the things that it does to the world, without a process.

``Effects`` stands where the agent touches the world: netlink, nftables, tunnels, sysctls, files,
the API server. It lets the n-th change happen and none after it, whoever tries: what a killed
process has done is done, and what it would have done next never comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

from egress_gateway.datapath.linux.netlink import NetlinkSocket
from egress_gateway.datapath.linux.nft import Nftables
from egress_gateway.datapath.wireguard.kernel import KernelBackend
from egress_gateway.datapath.wireguard.userspace import UserspaceBackend
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import Unavailable
from egress_gateway.kube.resources import Resource

_Place = tuple[Any, str]
KERNEL: Final[tuple[_Place, ...]] = (
    (NetlinkSocket, "ask"),
    (NetlinkSocket, "batch"),
    (Nftables, "apply"),
    *(
        (kind, step)
        for kind in (UserspaceBackend, KernelBackend)
        for step in ("create", "configure", "delete")
    ),
)
"""By which both agents change the kernel."""


class Killed(BaseException):
    """Whoever meets it is dead. Nobody in the product may catch it."""


class Watches:
    """Stands where agents watch. While ``late`` names a kind, by its plural, what happens to such
    objects is not told; it is afterwards, every change of it."""

    def __init__(self) -> None:
        self.late = ""

    @contextlib.contextmanager
    def everywhere(self) -> Iterator[Watches]:
        original = Client.watch

        async def watched(
            client: Client, resource: Resource[Any], *arguments: Any, **named: Any
        ) -> AsyncGenerator[Any, None]:
            async with contextlib.aclosing(
                original(client, resource, *arguments, **named)
            ) as events:
                async for event in events:
                    while self.late == resource.plural:
                        await asyncio.sleep(0.01)
                    yield event

        Client.watch = watched  # type: ignore[method-assign,assignment]
        try:
            yield self
        finally:
            Client.watch = original  # type: ignore[method-assign]


class Effects:
    """``count``: changes since ``arm``, ``calls``: to the API server, ``last``: the deadly one.

    ``touches`` and ``calls``: functions of classes or modules by which an agent changes the world,
    and coroutines by which it calls the API server; ``exempt``: whose calls are the test's own.
    """

    def __init__(
        self, touches: Sequence[_Place], calls: Sequence[_Place], exempt: Sequence[object] = ()
    ) -> None:
        self._touches, self._calls, self._exempt = touches, calls, exempt
        self._lock = threading.Lock()
        self._at = 0
        self._how = ""
        self.count = 0
        self.calls = 0
        self.dead = False
        self.last = ""

    def arm(self, at: int, how: str = "killed") -> None:
        """``how``: ``killed`` after change ``at``; or what becomes of API call ``at``: ``lost``,
        ``unheard`` (done, and the answer lost) or ``repeated``. Zero: nothing happens."""
        with self._lock:
            self._at, self._how, self.count, self.calls, self.dead = at, how, 0, 0, False

    def disarm(self) -> bool:
        """Whether somebody is dead; if not, nobody will be."""
        with self._lock:
            self._at = 0
            return self.dead

    def _before(self) -> None:
        if self.dead:
            raise Killed

    def _after(self, what: str) -> None:
        with self._lock:
            self.count += 1
            if self._how == "killed" and self.count == self._at:
                self.dead, self.last = True, what
        if self.dead:
            raise Killed

    def touch(self, original: Callable[..., Any], what: str) -> Callable[..., Any]:
        def touched(*arguments: Any, **named: Any) -> Any:
            self._before()
            done = original(*arguments, **named)
            self._after(what)
            return done

        return touched

    def call(self, original: Callable[..., Awaitable[Any]], what: str) -> Callable[..., Any]:
        async def called(*arguments: Any, **named: Any) -> Any:
            if arguments and any(arguments[0] is one for one in self._exempt):
                return await original(*arguments, **named)
            self._before()
            self.calls += 1
            chosen = self._how if self.calls == self._at else ""
            if chosen == "lost":
                raise Unavailable(0, "Lost", "nobody heard the question")
            done = await original(*arguments, **named)
            if chosen == "repeated":
                with contextlib.suppress(Unavailable):
                    done = await original(*arguments, **named)
            if chosen == "unheard":
                raise Unavailable(0, "Lost", "nobody heard the answer")
            self._after(what)
            return done

        return called

    @contextlib.contextmanager
    def everywhere(self) -> Iterator[Effects]:
        with contextlib.ExitStack() as stack:
            for places, wrap in ((self._touches, self.touch), (self._calls, self.call)):
                for owner, name in places:
                    self._put(stack, owner, name, wrap)
            yield self

    def _put(self, stack: contextlib.ExitStack, owner: Any, name: str, wrap: Any) -> None:
        original = getattr(owner, name)
        stack.callback(setattr, owner, name, original)
        setattr(owner, name, wrap(original, f"{getattr(owner, '__name__', '')}.{name}"))
