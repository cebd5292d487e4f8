"""The picture of growth says what the benchmarks measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from bench.growth import FIGURES, picture, points


def fleet(pods: int, private: float) -> dict[str, Any]:
    agent = {
        "start": {"kilobytes": pods / 10, "private_mb": private},
        "rest": {"bytes_a_second": 0},
        "churn": {"bytes_a_second": pods},
    }
    return {"fleet": {"pods": pods}, "agents": {"node": agent, "gateway": agent}}


FLEETS = [fleet(1000, 42.5), fleet(100, 40), fleet(10_000, 61)]


def test_a_curve_is_in_order_of_size_and_without_what_is_nothing() -> None:
    assert points(FLEETS, "node", "MB of its own") == [(100, 40), (1000, 42.5), (10_000, 61)]
    assert points(FLEETS, "node", "bytes a second at rest") == []


def test_every_figure_is_drawn_and_every_value_said() -> None:
    root = ET.fromstring(picture(FLEETS))
    said = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert set(FIGURES) <= set(said)
    assert {"40", "42.5", "61", "1e+04"} <= set(said)


@pytest.mark.parametrize("fleets", [[], FLEETS[:1], [FLEETS[0], FLEETS[0]]])
def test_one_size_is_no_curve(fleets: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="two sizes"):
        picture(fleets)


@pytest.mark.parametrize("text", ["", "{}", "[]", json.dumps({"fleet": {}})])
def test_a_file_that_is_no_fleet_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "old.json"
    path.write_text(text)
    command = [sys.executable, "-m", "bench.growth", str(path), str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
