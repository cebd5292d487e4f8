#!/usr/bin/env python3
"""Files of the repository that are made from other files of it, in whole or in part.

``--write`` makes them, ``--check`` ends with status 1 and names each that is not what it would be
made. What needs helm is in ``manifests.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import version
from pages import (
    chart_page,
    chart_schema,
    commands_page,
    fields_page,
    metrics_page,
    settings_page,
    slo,
)

ROOT = Path(__file__).resolve().parents[1]
MAKERS: tuple[Callable[[], dict[Path, str]], ...] = (
    version.texts,
    lambda: {chart_schema.SCHEMA: chart_schema.text()},
    lambda: {fields_page.PAGE: fields_page.text()},
    lambda: {commands_page.PAGE: commands_page.text()},
    lambda: {settings_page.PAGE: settings_page.text()},
    lambda: {metrics_page.PAGE: metrics_page.text()},
    slo.texts,
    lambda: {chart_page.PAGE: chart_page.text()},  # shows the version that the chart then has
)
"""Each answers by file its text as it should be. In this order: a later one reads what an earlier
one writes."""


def differing(files: dict[Path, str]) -> dict[Path, str]:
    """Those of ``files`` that are not there, or say something else."""
    return {
        path: text for path, text in files.items() if not path.exists() or path.read_text() != text
    }


def main(arguments: list[str]) -> int:
    if arguments not in (["--write"], ["--check"]):
        print(f"usage: {Path(sys.argv[0]).name} --write | --check", file=sys.stderr)
        return 2
    status = 0
    for maker in MAKERS:
        for path, text in differing(maker()).items():
            if arguments == ["--write"]:
                path.write_text(text)
                continue
            status = 1
            said = f"{path.relative_to(ROOT)}: not what it is made from; run `make manifests`"
            print(said, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
