"""One class name, one meaning: nobody who finds a class by its name finds another one."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[3]
PRODUCT: Final = ROOT / "src" / "egress_gateway"

_ANSWER: Final = "the same answer of two servers, the API server's and the cloud's"
_ACTION: Final = "the same action on two sides, in a pod's namespace and in the gateway's"
SHARED: Final = {
    "Conflict": _ANSWER,
    "Forbidden": _ANSWER,
    "NotFound": _ANSWER,
    "Unavailable": _ANSWER,
    "ApplyFilter": _ACTION,
    "ConfigureTunnel": _ACTION,
    "DeleteRoutes": _ACTION,
    "MoveTunnel": _ACTION,
    "RaiseLink": _ACTION,
    "ReplaceRoutes": _ACTION,
    "SetSysctl": _ACTION,
    "Settings": "every component has its settings, and reads no other's",
}
"""Names of several classes that mean the same thing, and why each of those has a class."""


def homonyms(root: Path) -> dict[str, list[str]]:
    """Names of public classes below ``root`` that more than one module defines."""
    modules = defaultdict[str, list[str]](list)
    for path in sorted(root.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                modules[node.name].append(str(path.relative_to(root)))
    return {name: found for name, found in modules.items() if len(found) > 1}


def test_a_public_class_shares_its_name_with_no_other() -> None:
    found = homonyms(PRODUCT)
    assert {name: where for name, where in found.items() if name not in SHARED} == {}
    assert sorted(SHARED) == sorted(found), "a reason is listed for a name that is not shared"


def test_the_search_finds_classes_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("class Rule: ...\nclass _Own: ...\nclass Alone: ...\n")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.py").write_text("class Rule: ...\nclass _Own: ...\n")
    assert homonyms(tmp_path) == {"Rule": ["a.py", "b/c.py"]}
