"""Inputs that coverage-guided fuzzing found, each with a path through the scanner of its own.

    python -m tests.cni.fuzz.corpus unpack|pack FOLDER

A line of ``corpus.txt`` is one input in base64. ``make fuzz`` begins with them and adds what it
finds; the test in ``make test`` mutates them without coverage.
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path

FILE = Path(__file__).parent / "corpus.txt"


def unpack(folder: Path) -> list[Path]:
    """One file for each input."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, line in enumerate(FILE.read_text().splitlines()):
        found.append(folder / f"{number:04}")
        found[-1].write_bytes(base64.b64decode(line))
    return found


def pack(folder: Path) -> None:
    """The other way round; in an order that only the inputs decide."""
    lines = {base64.b64encode(path.read_bytes()).decode() for path in folder.iterdir()}
    FILE.write_text("".join(f"{line}\n" for line in sorted(lines)))


if __name__ == "__main__":
    {"unpack": unpack, "pack": pack}[sys.argv[1]](Path(sys.argv[2]))
