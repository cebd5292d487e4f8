"""Between two folders of the product imports go one way: who reads one needs not read the other.

``lint-imports`` holds the layers that have names (`pyproject.toml`); this finds pairs that nobody
has named.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).parents[3] / "src"
_LEAF: Final = "egress_gateway.node.metrics"
"""Every folder of the node agent counts. It is the agent's lowest layer, and imports none of it."""


def folder_of(module: str) -> str | None:
    path = SOURCE.joinpath(*module.split("."))
    return str(path.parent) if path.with_suffix(".py").is_file() else None


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_no_two_folders_import_each_other() -> None:
    arrows = {
        (str(path.parent), folder)
        for path in SOURCE.rglob("*.py")
        for module in imports_of(path)
        if module != _LEAF and (folder := folder_of(module)) not in (None, str(path.parent))
    }
    assert len(arrows) > 100
    assert [pair for pair in arrows if pair[::-1] in arrows] == []
