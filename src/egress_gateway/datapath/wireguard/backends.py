"""Choosing how WireGuard interfaces are made on this node."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from egress_gateway.datapath.errors import DatapathError, KernelRefused
from egress_gateway.datapath.linux import netns
from egress_gateway.datapath.linux.link import Links
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.wireguard import host
from egress_gateway.datapath.wireguard.model import Backend
from egress_gateway.datapath.wireguard.userspace import UserspaceBackend

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 30.0
_FIRST_LOOK_SECONDS: Final = 1.0


async def tell_version(backend: Backend, tell: Callable[[str, str], None]) -> None:
    """Until cancelled: which WireGuard runs here, into the log and to ``tell`` (kind, version), and
    again when it is another one: the tunnels' host is replaced without its agents."""
    known = ""
    while True:
        try:
            version = await asyncio.to_thread(backend.version)
        except DatapathError:
            version = known  # its host is still to come; who needs a tunnel says more
        if version != known:
            log.info(
                "tunnels are WireGuard's", extra={"wireguard": backend.kind, "version": version}
            )
            tell(backend.kind, version)
            known = version
        await asyncio.sleep(_LOOK_SECONDS if known else _FIRST_LOOK_SECONDS)


def kernel_has_wireguard() -> bool:
    """Whether the kernel makes WireGuard links. Tried in a namespace that is thrown away."""
    answers: list[bool] = []

    def attempt() -> None:
        netns.enter_new()
        with NetNS.current() as scratch, Links(scratch) as links:
            try:
                links.add("probe", "wireguard")
                answers.append(True)
            except KernelRefused:
                answers.append(False)

    thread = threading.Thread(target=attempt, name="wireguard-probe", daemon=True)
    thread.start()
    thread.join()
    return bool(answers and answers[0])


def detect(*, tunnel_socket: Path = host.SOCKET, node: NetNS | None = None) -> Backend:
    """The kernel's WireGuard where it exists, ``wireguard-go`` where it does not. ``node`` is
    the namespace interfaces are born in (default: the caller's)."""
    where = node or NetNS.current()
    if kernel_has_wireguard():
        from egress_gateway.datapath.wireguard.kernel import KernelBackend

        return KernelBackend(node=where)
    return UserspaceBackend(path=tunnel_socket, node=where)
