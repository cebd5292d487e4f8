#!/usr/bin/env python3
"""One closing line for several runs of pytest, in its own words: the sums of all of them.

    closing_line.py OUTPUT …   files with what the runs printed

A run that has no closing line counts as an error: it did not end as pytest ends. What one run
deselects another runs, so that is left out.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_CLOSING = re.compile(r"^=*\s*((?:\d+ [a-z]+(?:, )?)+) in (\d+(?:\.\d+)?)s")
_ORDER = ("failed", "passed", "skipped", "xfailed", "xpassed", "warnings", "errors")


def closing(texts: list[str]) -> str:
    """The line for runs that printed ``texts``."""
    total: Counter[str] = Counter()
    seconds = 0.0
    for text in texts:
        lines = (_CLOSING.match(_COLOURS.sub("", line)) for line in reversed(text.splitlines()))
        found = next((line for line in lines if line), None)
        if found is None:
            total["errors"] += 1
            continue
        seconds += float(found[2])
        for part in found[1].split(", "):
            count, word = part.split()
            total[{"error": "errors", "warning": "warnings"}.get(word, word)] += int(count)
    parts = [f"{total[word]} {word}" for word in _ORDER if total[word]]
    return f" {', '.join(parts)} in {seconds:.2f}s ".center(80, "=")


def main() -> int:
    line = closing([Path(name).read_text(errors="replace") for name in sys.argv[1:]])
    print(line)
    return int(" failed" in line or " errors" in line)


if __name__ == "__main__":
    sys.exit(main())
