"""WireGuard in user space: ``wireguard-go`` processes, hosted by ``egress-gateway wireguard``."""

from __future__ import annotations

import errno
import json
import socket
import threading
from pathlib import Path
from typing import Any, Final

from egress_gateway.datapath.errors import DatapathError, KernelRefused, NoSuchLink, PortInUse
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.wireguard import host, uapi
from egress_gateway.datapath.wireguard.model import Config, Device, Interface

_TIMEOUT: Final = 10.0


class UserspaceBackend:
    """Drives the host's interfaces. Thread-safe; calls for one interface take turns.

    Configuration sockets stay open between calls, so that they go on working while the host is
    busy starting other interfaces.
    """

    kind = "userspace"

    def __init__(self, *, path: Path = host.SOCKET, node: NetNS | None = None) -> None:
        self._path = path
        self._node = node or NetNS.current()
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._sockets: dict[str, socket.socket] = {}

    def version(self) -> str:
        """A host of an older version does not tell."""
        answer, _ = self._exchange({"op": "list"}, descriptors=0)
        return f"wireguard-go {answer.get('version', '')}".strip()

    def create(self, name: str) -> Interface:
        """The tunnels' host makes it. Raises ``DatapathError`` if the host does not answer."""
        with self._lock(name):
            self._forget(name)
            self._request({"op": "create", "name": name})
        return Interface(name, self._node, name)

    def configure(self, interface: Interface, config: Config) -> None:
        """``set=1`` of the userspace protocol (wireguard.com/xplatform). Raises ``NoSuchLink``,
        ``PortInUse``, ``KernelRefused``."""
        refused = uapi.decode_errno(self._converse(interface.name, uapi.encode(config)))
        if refused == errno.EADDRINUSE:
            raise PortInUse(
                f"UDP port {config.listen_port} for {interface.name} is taken by another "
                "socket of the node; free it"
            )
        if refused:
            raise KernelRefused(f"configuring WireGuard interface {interface.name}", refused)

    def status(self, interface: Interface) -> Device | None:
        """``get=1`` of the same. None also where the host does not know the interface."""
        try:
            return uapi.decode(self._converse(interface.name, uapi.GET))
        except NoSuchLink:
            return None

    def delete(self, interface: Interface) -> None:
        """Raises ``DatapathError`` if the host does not answer."""
        with self._lock(interface.name):
            self._forget(interface.name)
            self._request({"op": "delete", "name": interface.name})
        with self._guard:
            self._locks.pop(interface.name, None)

    def names(self) -> list[str]:
        """Every interface that the host has."""
        answer, _ = self._exchange({"op": "list"}, descriptors=0)
        return list(answer["names"])

    def _converse(self, name: str, request: str) -> str:
        with self._lock(name):
            known = self._sockets.get(name)
            if known is not None:
                try:
                    return _round_trip(known, request)
                except OSError:
                    # Its process has ended since, and perhaps another took its place.
                    self._forget(name)
            opened = self._sockets[name] = self._connect(name)
            try:
                return _round_trip(opened, request)
            except OSError as error:
                self._forget(name)
                raise NoSuchLink(f"WireGuard interface {name} has ended: {error}") from error

    def _connect(self, name: str) -> socket.socket:
        _, opened = self._exchange({"op": "connect", "name": name}, descriptors=1)
        if opened is None:
            raise DatapathError(f"tunnel host {self._path} handed out no socket for {name}")
        opened.settimeout(_TIMEOUT)
        return opened

    def _request(self, request: dict[str, str]) -> None:
        self._exchange(request, descriptors=0)

    def _exchange(
        self, request: dict[str, str], *, descriptors: int
    ) -> tuple[dict[str, Any], socket.socket | None]:
        passed: socket.socket | None = None
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as host:
                host.settimeout(_TIMEOUT)
                host.connect(str(self._path))
                host.sendall(json.dumps(request).encode() + b"\n")
                received, got, _, _ = socket.recv_fds(host, 65536, descriptors)
                if got:
                    passed = socket.socket(fileno=got[0])
                while received and not received.endswith(b"\n"):
                    received += host.recv(65536)
        except OSError as error:
            raise DatapathError(
                f"tunnel host {self._path} does not answer ({error}); check that "
                "`egress-gateway wireguard` runs on this node"
            ) from error
        answer: dict[str, Any] = json.loads(received or b'{"error": "no answer", "code": ""}')
        if "error" in answer:
            kind = NoSuchLink if answer["code"] == "missing" else DatapathError
            raise kind(f"tunnel host: {answer['error']}")
        return answer, passed

    def _lock(self, name: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(name, threading.Lock())

    def _forget(self, name: str) -> None:
        known = self._sockets.pop(name, None)
        if known is not None:
            known.close()


def _round_trip(connection: socket.socket, request: str) -> str:
    connection.sendall(request.encode())
    received = bytearray()
    # An answer ends with its errno and an empty line, and holds no other empty line.
    while not received.endswith(b"\n\n"):
        chunk = connection.recv(1 << 18)
        if not chunk:
            raise ConnectionResetError("configuration socket closed")
        received += chunk
    return received.decode()
