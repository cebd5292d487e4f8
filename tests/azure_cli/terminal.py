"""A person's terminal: one bash on a pseudo-terminal that keeps its variables between blocks.

The commands have a terminal for input and output, so `kubectl exec -it` is interactive and `az`
shows its spinner. Blocks are handed over, and their status comes back, over pipes of their own:
nothing has to be guessed from what is on the screen.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_ORDERS, _ANSWERS = 3, 4
_END = b"\x1e"
"""Printed to the screen after a block: all of its output has been read once this is seen."""
_DRIVER = f"""
set -a
while IFS= read -r block <&{_ORDERS}; do
    trap '_status=$?; trap - ERR; return $_status' ERR
    source "$block"
    status=$?
    trap - ERR
    printf '\\036'
    printf '%s\\n' "$status" >&{_ANSWERS}
done
"""
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|[\x00\x07]")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the screen showed after a block (or one command) and how it ended."""

    text: str
    status: int


class TimedOut(Exception):
    """A block did not end; what was on the screen until then is the text."""


class Terminal:
    """A context manager. One block at a time."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self._folder = folder
        self._blocks = 0
        driver = folder / "driver.sh"
        driver.write_text(_DRIVER)
        self._screen, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 240, 0, 0))
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()

        def in_child() -> None:
            # NB: between fork and exec. The copies by fcntl are out of the way of 3 and 4.
            high = [fcntl.fcntl(d, fcntl.F_DUPFD, 20) for d in (orders, answers)]
            os.dup2(high[0], _ORDERS)
            os.dup2(high[1], _ANSWERS)
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc", str(driver)],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            cwd=folder,
            env=dict(environment),
            start_new_session=True,
            pass_fds=(_ORDERS, _ANSWERS),
            preexec_fn=in_child,
        )
        for descriptor in (inner, orders, answers):
            os.close(descriptor)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._orders)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGHUP)
        self._process.wait(10)
        for descriptor in (self._answers, self._screen):
            os.close(descriptor)

    def run(self, block: str, *, timeout: float = 300) -> Outcome:
        """Types a block and waits for its end; its first failing command ends it."""
        print(_indented(block, "$ "), flush=True)
        began = time.monotonic()
        outcome = self._run(block, timeout)
        shown = _indented(outcome.text, "    ")
        print(f"{shown}\n    ({time.monotonic() - began:.1f} s)", flush=True)
        return outcome

    def look(self, commands: Sequence[str], *, parallel: int) -> list[Outcome]:
        """Runs look-ups, several at a time; each has its output in a file, not on the screen."""
        files = [self._file(command) for command in commands]
        one = shlex.quote('source "$1" >"$1.out" 2>"$1.err"; echo $? >"$1.status"')
        names = " ".join(shlex.quote(str(f)) for f in files)
        began = time.monotonic()
        self._run(f"printf '%s\\n' {names} | xargs -P {parallel} -I{{}} bash -c {one} - {{}}", 600)
        outcomes = []
        for command, file in zip(commands, files, strict=True):
            parts = [Path(f"{file}.{part}").read_text() for part in ("out", "err", "status")]
            outcomes.append(Outcome(parts[0] + parts[1], int(parts[2])))
            print(f"$ {command}\n{_indented(parts[0] + parts[1], '    ')}", flush=True)
        print(f"    ({time.monotonic() - began:.1f} s for {len(commands)})", flush=True)
        return outcomes

    def _file(self, block: str) -> Path:
        self._blocks += 1
        file = self._folder / f"block-{self._blocks}.sh"
        file.write_text(f"{block}\n")
        return file

    def _run(self, block: str, timeout: float) -> Outcome:
        os.write(self._orders, f"{self._file(block)}\n".encode())
        raw = b""
        deadline = time.monotonic() + timeout
        while not raw.endswith(_END):
            ready, _, _ = select.select([self._screen], [], [], deadline - time.monotonic())
            if not ready:
                raise TimedOut(f"no end after {timeout:.0f} s:\n{as_seen(raw)}")
            raw += os.read(self._screen, 65536)
        status = os.read(self._answers, 64)
        return Outcome(as_seen(raw.removesuffix(_END)), int(status))


def as_seen(raw: bytes) -> str:
    """What stays on the screen: a carriage return goes back and is written over."""
    lines = []
    for line in _ESCAPES.sub("", raw.decode(errors="replace")).split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return "\n".join(lines).strip("\n")


def _indented(text: str, mark: str) -> str:
    return "\n".join(f"{mark}{line}" for line in text.splitlines())
