"""Choosing how WireGuard interfaces are made on this node."""

from __future__ import annotations

import threading
from pathlib import Path

from egress_gateway.datapath.errors import KernelRefused
from egress_gateway.datapath.linux import netns
from egress_gateway.datapath.linux.link import Links
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.wireguard import host
from egress_gateway.datapath.wireguard.model import Backend
from egress_gateway.datapath.wireguard.userspace import UserspaceBackend


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
