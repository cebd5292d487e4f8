#!/usr/bin/env python3
"""The version stands in ``egress_gateway.__version__``; ``--write`` repeats it wherever tools need
it as text, ``--check`` ends with status 1 and the names of files that say another."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src/egress_gateway/__init__.py"
PLACES = {
    "pyproject.toml": r'(?m)(?<=^version = ")[^"]+',
    "lab/pyproject.toml": r'(?m)(?<=^version = ")[^"]+',
    "deploy/chart/static-egress-gateway/Chart.yaml": r"(?m)(?<=ersion: )\d[^\s]*$",
    "deploy/Containerfile": r"(?<=static-egress-gateway:)\d[^\s]*",
}
"""By file, the text that is the version. An update of uv.lock follows by ``uv lock``."""


def version() -> str:
    """What the program says of itself."""
    match = re.search(r'__version__ = "([^"]+)"', SOURCE.read_text())
    assert match is not None
    return match[1]


def stale() -> dict[Path, str]:
    """By file that says another version, its text as it should be."""
    now = version()
    texts = {ROOT / name: (ROOT / name).read_text() for name in PLACES}
    wanted = {
        path: re.sub(pattern, now, texts[path])
        for path, pattern in ((ROOT / name, p) for name, p in PLACES.items())
    }
    return {path: text for path, text in wanted.items() if text != texts[path]}


def main() -> int:
    different = stale()
    if sys.argv[1:] == ["--write"]:
        for path, text in different.items():
            path.write_text(text)
        return 0
    for path in different:
        print(f"{path.relative_to(ROOT)}: not {version()}; run `make manifests`", file=sys.stderr)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
