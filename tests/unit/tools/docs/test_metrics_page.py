"""docs/reference/metrics.md is what the programs declare, by Prometheus' rules."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from egress_gateway.datapath.gateway import ruleset

ROOT = Path(__file__).parents[4]
sys.path.insert(0, str(ROOT / "tools"))
metrics_page = importlib.import_module("pages.metrics_page")
EVERY = [d for found in metrics_page.every().values() for d in found]


def test_a_name_is_declared_once() -> None:
    names = [d.name for d in EVERY]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("one", EVERY, ids=lambda d: d.name)
def test_a_metric_follows_the_conventions(one: Any) -> None:
    """https://prometheus.io/docs/practices/naming/"""
    assert re.fullmatch(r"egress_gateway_[a-z_]+", one.name)
    assert "gateway_gateway" not in one.name
    assert (one.kind == "counter") == one.name.endswith("_total")
    assert not re.search(r"milli|micro|_ms$|_minutes|_kb", one.name), "base units"
    assert "pod" not in one.labels, "ten thousand pods would be ten thousand series"
    assert one.help.endswith(".")
    if "seconds" in one.name:
        assert re.search(r"[Ss]econds|[Ww]hen", one.help)


def test_no_page_names_a_metric_that_there_is_not() -> None:
    others = {"egress_gateway_lab", ruleset.NODE_TABLE}
    known = {d.name for d in EVERY} | others
    for page in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]:
        named = set(re.findall(r"\begress_gateway_[a-z_]+[a-z]\b", page.read_text()))
        wrong = {n for n in named if n not in known and not n.startswith("egress_gateway_lab")}
        assert not wrong, f"{page.name}: {sorted(wrong)}"
