"""The chart's README has every value that somebody can set."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.deploy.conftest import CHART, tool

page: Any = tool("pages/chart_page")


def test_every_value_is_on_it_once() -> None:
    source = (CHART / "values.yaml").read_text()
    shown = [value.path for value in page.values(source)]
    assert len(shown) == len(set(shown))

    def leaves(found: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        if path in shown or not isinstance(found, dict) or not found:
            return [path]
        return [leaf for key, below in found.items() for leaf in leaves(below, (*path, key))]

    missing = [leaf for leaf in leaves(yaml.safe_load(source)) if leaf not in shown]
    assert missing == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a: 1\n", [("a", "", "1")]),
        ("# Why.\na: ''\n", [("a", "Why.", '""')]),
        ("# One\n# two.\na:\n  b: [x]\n", [("a", "One two.", ""), ("a.b", "", '["x"]')]),
        ("# Far away.\n\na: 1\n", [("a", "", "1")]),
        ("a: {b: 1}\nc: {}\n", [("a", "", '{"b": 1}'), ("c", "", "{}")]),
        ("a:\n  - {b: 1}\nc: 2\n", [("a", "", '[{"b": 1}]'), ("c", "", "2")]),
        ("resources:\n  limits: {m: 1}\n", [("resources", "", '{"limits": {"m": 1}}')]),
    ],
)
def test_a_value_has_its_comment_and_its_default(
    source: str, expected: list[tuple[str, str, str]]
) -> None:
    found = [(".".join(value.path), value.text, value.default) for value in page.values(source)]
    assert found == expected


def test_a_bar_in_a_comment_ends_no_cell() -> None:
    assert page.row(page.Value(("a",), "x | y", '"|"')) == '| `a` | `"\\|"` | x \\| y |'
