"""What the image ``nginx`` runs: a web server on port 80 with nginx's welcome page.

One process, one thread, `socketserver` is not needed: ``selectors`` keep it at a few megabytes.
It logs like nginx does and ends at SIGTERM or SIGQUIT.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time

_PAGE = b"""<!DOCTYPE html>
<html>
<head>
<title>Welcome to nginx!</title>
</head>
<body>
<h1>Welcome to nginx!</h1>
<p>If you see this page, the nginx web server is successfully installed and
working. Further configuration is required.</p>
</body>
</html>
"""
_LIMIT = 16 * 1024


def respond(request: bytes) -> tuple[bytes, str]:
    """Answer to one HTTP request and what the access log says of it. Pure."""
    line = request.split(b"\r\n", 1)[0].decode("latin-1")
    parts = line.split()
    if len(parts) != 3:
        status, body = "400 Bad Request", b"400 Bad Request\n"
    elif parts[0] not in ("GET", "HEAD"):
        status, body = "405 Not Allowed", b"405 Not Allowed\n"
    elif parts[1].split("?")[0] not in ("/", "/index.html"):
        status, body = "404 Not Found", b"404 Not Found\n"
    else:
        status, body = "200 OK", _PAGE
    kind = "text/html" if body is _PAGE else "text/plain"
    head = (
        f"HTTP/1.1 {status}\r\nServer: nginx\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode()
    shown = b"" if parts[:1] == ["HEAD"] else body
    return head + shown, f'"{line}" {status.split()[0]} {len(shown)}'


class Server:
    """Listens on all addresses; every connection carries one request."""

    def __init__(self, port: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("::", port), family=socket.AF_INET6,
                                              dualstack_ipv6=True, backlog=128)  # fmt: skip
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._received: dict[socket.socket, bytes] = {}

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket):
                    self._read(key.fileobj)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        self._received[connection] = b""
        self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket) -> None:
        try:
            chunk = connection.recv(_LIMIT)
        except OSError:
            chunk = b""
        request = self._received[connection] + chunk
        if chunk and b"\r\n\r\n" not in request and len(request) < _LIMIT:
            self._received[connection] = request
            return
        try:
            if request:
                answer, line = respond(request)
                peer = connection.getpeername()[0].removeprefix("::ffff:")
                connection.sendall(answer)
                stamp = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime())
                sys.stdout.write(f"{peer} - - [{stamp}] {line}\n")
                sys.stdout.flush()
        except OSError:
            pass
        self._selector.unregister(connection)
        self._received.pop(connection)
        connection.close()


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    Server(int(sys.argv[1]) if len(sys.argv) > 1 else 80).run()


if __name__ == "__main__":
    main()
