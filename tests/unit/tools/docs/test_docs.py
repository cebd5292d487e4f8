"""Pages lead where they say, and the index of design pages has them all."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from egress_gateway.api.conditions import Reason
from tests.unit.tools.pages import PAGES, ROOT, without_blocks

DESIGN = ROOT / "docs/design"


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), target


def test_every_design_page_is_in_the_index_under_its_own_title() -> None:
    index = (DESIGN / "README.md").read_text()
    for page in sorted(DESIGN.glob("*/[0-9]*.md")):
        number = page.name[:4]
        title = page.read_text().partition("\n")[0]
        assert title.startswith(f"# {number}: "), f"{page.name} begins with {title!r}"
        row = f"| [{number}]({page.relative_to(DESIGN)}) | {title.removeprefix(f'# {number}: ')} |"
        assert row in index, f"docs/design/README.md lacks {row}"


WALK = re.compile(r"^\| \d+ \| `([\w/.]+)` `([\w.]+)` \|", re.MULTILINE)


def test_the_walks_through_the_code_name_functions_that_are_there() -> None:
    steps = WALK.findall((ROOT / "docs/develop/architecture.md").read_text())
    assert len(steps) > 20
    for path, name in steps:
        holder: ast.AST = ast.parse((ROOT / "src/egress_gateway" / path).read_text())
        for part in name.split("."):
            found = [n for n in ast.iter_child_nodes(holder) if getattr(n, "name", "") == part]
            assert found, f"{path} has no {name}"
            (holder,) = found


def test_every_reason_of_a_condition_has_a_line() -> None:
    pages = "".join(
        (ROOT / f"docs/{name}.md").read_text()
        for name in ("operate/troubleshooting", "reference/azure-errors")
    )
    known = {value for name, value in vars(Reason).items() if name.isupper()}
    assert known
    assert {value for value in known if f"`{value}`" not in pages} == set()
