"""What runs in a storm's pods: ``python -I -S -c <this file> ADDRESS``. Standard library alone.

It talks to one address of the Internet, its own and nobody else's, in every way that pods do: one
socket for life and one that is new every few seconds (UDP, port 7), a new connection for each
question (TCP, port 8080), a connection on which the other side sends (TCP, port 8081), and
datagrams that the other side sends (UDP, port 82). Every word counts what was answered so far, so
who sees the words knows that both ways work.
"""

import contextlib
import select
import socket
import struct
import sys
import threading
import time

WORD = struct.Struct("!QQII")
"""Number (its parity tells the socket), the last that this socket was answered, answers, bytes."""
COUNTS = {"asked": 0, "loaded": 0}
BEAT, FRESH = 0.2, 10
ASK, PATIENCE = 0.5, 1.0
SILENCE = 3.0


def beats(where: str) -> None:
    number = int(time.time() * 1000)
    sockets: list[socket.socket | None] = [None, None]
    heard = [0, 0]
    while True:
        number += 1
        which = number % 2
        if number // 2 % FRESH == 0 and sockets[1] is not None:
            sockets[1].close()
            sockets[1] = None
        due = time.monotonic() + BEAT
        with contextlib.suppress(OSError):
            mine = sockets[which] = sockets[which] or _datagrams(where, 7)
            mine.send(WORD.pack(number, heard[which], COUNTS["asked"], COUNTS["loaded"]))
        while (left := due - time.monotonic()) > 0:
            readable, _, _ = select.select([s for s in sockets if s], [], [], left)
            for one in readable:
                with contextlib.suppress(OSError):
                    heard[sockets.index(one)] = WORD.unpack(one.recv(64))[0]


def _datagrams(where: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.connect((where, port))
    return made


def asks(where: str) -> None:
    while True:
        with contextlib.suppress(OSError):
            with socket.create_connection((where, 8080), timeout=PATIENCE) as asked:
                asked.sendall(b"who am I?\n")
                COUNTS["asked"] += bool(asked.recv(64))
        time.sleep(ASK)


def downloads(where: str) -> None:
    while True:
        with contextlib.suppress(OSError):
            with socket.create_connection((where, 8081), timeout=SILENCE) as opened:
                while content := opened.recv(4096):
                    COUNTS["loaded"] += len(content)
        time.sleep(0.3)


def streams(where: str) -> None:
    while True:
        with contextlib.suppress(OSError):
            with _datagrams(where, 82) as opened:
                opened.send(b"go on")
                opened.settimeout(SILENCE)
                while True:
                    opened.recv(64)
                    opened.send(b"mm")
        time.sleep(0.3)


def main() -> None:
    for talk in (asks, downloads, streams):
        threading.Thread(target=talk, args=(sys.argv[1],), daemon=True).start()
    beats(sys.argv[1])


if __name__ == "__main__":
    main()
