"""Sockets of a machine's network, held by the lab's process.

A socket belongs to the network namespace in which it was opened. A thread of its own enters the
machine's namespace to open one; the event loop's thread never leaves the lab's.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading

from egress_gateway_lab.runtime.machine import syscalls as sc


def open_socket(pid: int, family: int, kind: int) -> socket.socket:
    """A socket in the network namespace of process ``pid``. Raises ``OSError``."""
    result: list[socket.socket | OSError] = []

    def work() -> None:
        try:
            fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                sc.setns(fd, sc.CLONE_NEWNET)
            finally:
                os.close(fd)
            result.append(socket.socket(family, kind))
        except OSError as error:
            result.append(error)

    # Never a pool's thread: it would carry the namespace to whoever uses it next.
    thread = threading.Thread(target=work, name="netns-socket")
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]


async def connect(pid: int, host: str, port: int) -> socket.socket:
    """A TCP connection from the machine. Raises ``OSError``; the caller sets the time limit."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    connection = open_socket(pid, family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (host, port))
    except BaseException:
        connection.close()
        raise
    return connection
