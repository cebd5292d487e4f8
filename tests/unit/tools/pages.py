"""The pages of this repository, and what they tell a person to type."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
_FOLDERS = (".", "docs", "docs/*", "docs/*/*", "lab", "tools/uml", ".github", "deploy/chart/*")
PAGES = sorted(page for folder in _FOLDERS for page in ROOT.glob(f"{folder}/*.md"))


def script(page: str) -> str:
    """The blocks of shell of a page; a synopsis with its brackets is no script."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL)
    return "\n".join(block for block in blocks if "[--" not in block)


def without_blocks(page: str) -> str:
    """Prose, lists and tables of a page."""
    return re.sub(r"```.*?```", "", page, flags=re.DOTALL)
