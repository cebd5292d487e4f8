"""Container output on the machine, in the CRI log format: ``time stream tag text``.

A file is rotated once (``.1``) when it passes the limit, so a container keeps at most twice that.
A follower sees every line that is written after it began, in order, whatever is rotated meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

LIMIT = 4 * 1024 * 1024


class LogFile:
    """The log of one run of a container."""

    def __init__(self, path: Path, *, limit: int = LIMIT) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._limit = limit
        self._file = path.open("ab")
        self._partial: dict[int, bytes] = {1: b"", 2: b""}
        self._followers: set[asyncio.Queue[bytes | None]] = set()
        self._ended = False

    def append(self, stream: int, chunk: bytes) -> None:
        """Adds output of stream 1 (stdout) or 2 (stderr)."""
        *lines, rest = (self._partial[stream] + chunk).split(b"\n")
        if len(rest) > 16384:  # the CRI's own limit: cut long lines, tag P
            self._write(stream, b"P", rest)
            rest = b""
        self._partial[stream] = rest
        for line in lines:
            self._write(stream, b"F", line)
        self._file.flush()

    def _write(self, stream: int, tag: bytes, line: bytes) -> None:
        stamp = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        record = b"%s %s %s %s\n" % (
            stamp.encode(),
            b"stdout" if stream == 1 else b"stderr",
            tag,
            line,
        )
        if self._file.tell() + len(record) > self._limit:
            self._file.close()
            self._path.replace(self._path.with_suffix(".log.1"))
            self._file = self._path.open("ab")
        self._file.write(record)
        for follower in self._followers:
            follower.put_nowait(record)

    def end(self) -> None:
        """The container has ended: followers finish."""
        if self._ended:
            return
        for stream, rest in self._partial.items():
            if rest:
                self._write(stream, b"P", rest)
        self._ended = True
        self._file.close()
        for follower in self._followers:
            follower.put_nowait(None)

    def _records(self, tail: int | None) -> list[bytes]:
        records: list[bytes] = []
        for path in (self._path.with_suffix(".log.1"), self._path):
            if path.exists():
                records += path.read_bytes().splitlines(keepends=True)
        if tail is None:
            return records
        return records[-tail:] if tail else []

    def last(self, lines: int, size: int) -> str:
        """The end of the output: at most so many lines, and so many bytes."""
        text = b"".join(render(record, timestamps=False) for record in self._records(lines))
        return text[-size:].decode(errors="replace")

    async def read(
        self, *, follow: bool, tail_lines: int | None, timestamps: bool
    ) -> AsyncIterator[bytes]:
        """The output as the container wrote it, in chunks."""
        follower: asyncio.Queue[bytes | None] = asyncio.Queue()
        if follow and not self._ended:
            self._followers.add(follower)
        else:
            follower.put_nowait(None)
        try:
            for record in self._records(tail_lines):
                yield render(record, timestamps=timestamps)
            while (record_or_end := await follower.get()) is not None:
                yield render(record_or_end, timestamps=timestamps)
        finally:
            self._followers.discard(follower)


def render(record: bytes, *, timestamps: bool) -> bytes:
    """A record's text; a part of a line (tag P) has no line end."""
    stamp, _, tag, text = record.split(b" ", 3)
    if tag == b"P":
        text = text[:-1]
    return stamp + b" " + text if timestamps else text
