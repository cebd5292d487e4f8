"""The version stands in ``egress_gateway.__version__``, and is repeated wherever tools need it as
text."""

from __future__ import annotations

import re
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


def texts() -> dict[Path, str]:
    """By file that says the version, its text as it should be."""
    now = version()
    return {
        ROOT / name: re.sub(pattern, now, (ROOT / name).read_text())
        for name, pattern in PLACES.items()
    }
