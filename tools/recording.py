#!/usr/bin/env python3
"""`make recording`: docs/images/demo.svg, the demo as its terminal showed it, in 30 seconds.

The demo plays on this machine, in a terminal of ``COLUMNS`` columns. The picture holds what it
printed and when, with one animation that scrolls; it has no script and fetches nothing, so a page
may show it as an image. Long waits are cut to ``LONGEST``. Who asks for less motion (Media Queries
5, prefers-reduced-motion), and a viewer without animations, sees the end.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

PICTURE: Final = Path(__file__).resolve().parents[1] / "docs/images/demo.svg"
COLUMNS: Final = 100
ROWS: Final = 28
SECONDS: Final = 30.0
END: Final = 4.0
"""Seconds for which the last lines stay."""
SHORTEST: Final = 0.1
LONGEST: Final = 2.0
"""Seconds between two lines before everything is scaled to ``SECONDS``."""
_ADVANCE: Final = 8.4
"""Width of a character of 14 pixels, in pixels: 0.6 em in the common monospace fonts."""
_LINE: Final = 19
_EDGE: Final = 16
_STYLES: Final = {"1": "bold", "2": "dim", "31": "bad", "32": "good"}
_SGR: Final = re.compile(r"\x1b\[([\d;]*)m")


class Line(NamedTuple):
    """What the terminal got, and when: seconds from the start."""

    at: float
    text: str
    """With its SGR sequences (ECMA-48), without the end of the line."""


class Row(NamedTuple):
    """A row of the terminal. ``runs``: style (empty: none) and text."""

    at: float
    runs: Sequence[tuple[str, str]]


def rows(lines: Iterable[Line]) -> list[Row]:
    """Lines as a terminal of ``COLUMNS`` columns breaks them."""
    return [Row(line.at, runs) for line in lines for runs in _broken(line.text)]


def _broken(text: str) -> Iterator[list[tuple[str, str]]]:
    runs: list[tuple[str, str]] = []
    free, style = COLUMNS, ""
    for part, code in _parts(text):
        while part:
            if not free:
                yield runs
                runs, free = [], COLUMNS
            runs.append((style, part[:free]))
            part, free = part[free:], max(0, free - len(part))
        style = _STYLES.get(code, "")  # two styles at once: none
    yield runs


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """Texts, each with the code that follows it."""
    found = [*_SGR.split(text), ""]
    yield from zip(found[::2], found[1::2], strict=True)


def moments(shown: Sequence[Row]) -> list[float]:
    """When each row appears, in seconds of the picture."""
    now, found = 0.0, []
    for before, row in zip((shown[0], *shown), shown, strict=False):
        now += min(max(row.at - before.at, SHORTEST), LONGEST)
        found.append(now)
    return [at * (SECONDS - END) / now for at in found]


def picture(lines: Iterable[Line]) -> str:
    """The SVG. Raises ``ValueError`` where nothing was printed."""
    shown = rows(lines)
    if not shown:
        raise ValueError("nothing was printed")
    width, height = round(COLUMNS * _ADVANCE + 2 * _EDGE), ROWS * _LINE + 2 * _EDGE
    steps = "".join(
        f"{at / SECONDS:.2%}{{transform:translateY({(ROWS - number) * _LINE}px)}}"
        for number, at in enumerate(moments(shown), start=1)
    )
    end = (ROWS - len(shown)) * _LINE
    texts = "".join(
        f'<text y="{(number + 0.75) * _LINE:g}">{"".join(map(_run, row.runs))}</text>\n'
        for number, row in enumerate(shown)
        if row.runs
    )
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<title>make demo, played in {SECONDS:g} seconds</title>
<style>
text{{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:pre;fill:#d7dde4}}
.bold{{font-weight:bold;fill:#fff}}.dim{{fill:#8a949e}}.good{{fill:#5fd38a}}.bad{{fill:#ff7b72}}
#scroll{{transform:translateY({end}px);animation:scroll {SECONDS:g}s step-end infinite}}
@keyframes scroll{{0%{{transform:translateY({ROWS * _LINE}px)}}{steps}}}
@media (prefers-reduced-motion:reduce){{#scroll{{animation:none}}}}
</style>
<rect width="100%" height="100%" rx="8" fill="#12171d"/>
<svg x="{_EDGE}" y="{_EDGE}" width="{width - _EDGE}" height="{ROWS * _LINE}">
<g id="scroll" xml:space="preserve">
{texts}</g>
</svg>
</svg>
"""


def _run(run: tuple[str, str]) -> str:
    style, text = run
    return f'<tspan class="{style}">{escape(text)}</tspan>' if style else escape(text)


def printed(command: Sequence[str]) -> Iterator[Line]:
    """What ``command`` prints on a terminal. Raises ``CalledProcessError`` where it fails."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(COLUMNS), "TERM": "xterm", "NO_COLOR": ""}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    began, rest = time.monotonic(), b""
    with open(ours, "rb", buffering=0) as terminal:
        while block := _read(terminal.fileno()):
            *ended, rest = (rest + block).split(b"\n")
            at = time.monotonic() - began
            yield from (Line(at, line.decode().rstrip("\r")) for line in ended)
    if status := process.wait():
        raise subprocess.CalledProcessError(status, command)


def _read(terminal: int) -> bytes:
    """Empty at the end, which Linux tells by EIO."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def main() -> None:
    lines = []
    prompt = "\x1b[2m$\x1b[0m make demo"
    lines.append(Line(0.0, prompt))
    for line in printed([sys.executable, "-m", "egress_gateway.cli.main", "lab", "demo"]):
        print(line.text, flush=True)
        lines.append(line)
    PICTURE.write_text(picture(lines))
    print(PICTURE)


if __name__ == "__main__":
    main()
