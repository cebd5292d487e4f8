"""Floods gateways with first messages of handshakes whose mac1 is valid: the server's public key is
enough for that. ``python -m tests.node.flooder RATE KEY ADDRESS…`` sends until its input ends, at
most 400 seconds, whatever becomes of who started it. ``RATE``: messages a second to each address,
made up for where the program came late; 0: some 7,000 where it gets the processor time.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

PORT = 6000
_AT_ONCE = 256
_PAUSE = 0.035
"""Seconds after so many to each gateway: some 7,000 a second."""
_STEP = 0.005
_ENOUGH = 4000
"""More than any queue of handshakes holds. WireGuard calls itself under load for a second after."""
_LIMIT = 400.0


class Flood:
    """A flood from the network namespace of the path ``netns``. ``rate``: see above."""

    def __init__(
        self, netns: str, public_key: str, addresses: Sequence[str], *, rate: int = 0
    ) -> None:
        words = [str(rate), public_key, *addresses]
        command = [sys.executable, "-m", "tests.node.flooder", *words]
        self._process = subprocess.Popen(
            ["nsenter", f"--net={netns}", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begun(self) -> None:
        """Returns when gateways are under load."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "up\n"

    def end(self) -> int:
        """Messages a second to all gateways together."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.poll() is None, "the flood lasts until the end"
        self._process.stdin.close()
        return int(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def _messages(public_key: str) -> list[bytes]:
    key = hashlib.blake2s(b"mac1----" + base64.b64decode(public_key)).digest()
    bodies = [bytes([1, 0, 0, 0]) + os.urandom(112) for _ in range(_AT_ONCE)]
    macs = (hashlib.blake2s(body, key=key, digest_size=16).digest() for body in bodies)
    return [body + mac + bytes(16) for body, mac in zip(bodies, macs, strict=True)]


def main(rate: str, public_key: str, *addresses: str) -> None:
    messages, wanted = _messages(public_key), int(rate)
    began, sent, told = time.monotonic(), 0, False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        while time.monotonic() < began + _LIMIT and not select.select([sys.stdin], [], [], 0)[0]:
            due = (time.monotonic() - began) * wanted - sent / len(addresses)
            for address in addresses:
                for message in messages[: max(0, int(due))] if wanted else messages:
                    with contextlib.suppress(OSError):
                        udp.sendto(message, (address, PORT))
                        sent += 1
            if sent >= _ENOUGH and not told:
                told = True
                print("up", flush=True)
            if not wanted or due < _AT_ONCE:
                time.sleep(_STEP if wanted else _PAUSE)
    print(round(sent / (time.monotonic() - began)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
