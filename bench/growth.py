"""``python -m bench.growth FILE…``: how agents grow with a fleet, as an SVG on standard output.

Each file is what ``python -m bench fleet --output json --fleet …`` printed for one size. Both axes
are logarithmic, so what grows in step with the pods is a line of the slope of the grey one, and
what bends upwards is steeper.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

FIGURES: Final = {
    "KB read until ready": ("start", "kilobytes"),
    "MB of its own": ("start", "private_mb"),
    "bytes a second at rest": ("rest", "bytes_a_second"),
    "bytes a second of churn": ("churn", "bytes_a_second"),
}
_COLOURS: Final = {"node": "#0f6cbd", "gateway": "#c43e1c"}
_SIDE: Final = 240
_GAP: Final = 50
_Points = list[tuple[float, float]]


def points(fleets: Sequence[Mapping[str, Any]], agent: str, figure: str) -> _Points:
    """(pods, value) of one agent in order of size; without values that are not above 0."""
    part, name = FIGURES[figure]
    found = [(one["fleet"]["pods"], one["agents"][agent][part].get(name, 0)) for one in fleets]
    return sorted(point for point in found if point[1] > 0)


def picture(fleets: Sequence[Mapping[str, Any]]) -> str:
    """One square for each figure, side by side. Raises ``ValueError`` for fewer than two sizes."""
    sizes = [one["fleet"]["pods"] for one in fleets]
    if len(set(sizes)) < 2:
        raise ValueError("a curve needs fleets of two sizes at least")
    width, height = len(FIGURES) * (_SIDE + _GAP) + _GAP, _SIDE + 2 * _GAP
    root = ET.Element(
        "svg",
        {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {height}"}
        | {"font-family": "sans-serif", "font-size": "11"},
    )
    ET.SubElement(root, "rect", width=str(width), height=str(height), fill="white")
    for number, figure in enumerate(FIGURES):
        curves = {agent: points(fleets, agent, figure) for agent in _COLOURS}
        _square(root, _GAP + number * (_SIDE + _GAP), figure, curves, (min(sizes), max(sizes)))
    return ET.tostring(root, encoding="unicode")


def _square(
    root: ET.Element, left: int, title: str, curves: Mapping[str, _Points], pods: tuple[int, int]
) -> None:
    values = [value for curve in curves.values() for _, value in curve] or [1]
    first, last = map(math.log10, pods)
    floor = math.floor(math.log10(min(values)))
    span = max(math.ceil(math.log10(max(values))) - floor, last - first)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - first) / (last - first)
        up = (math.log10(y) - floor) / span
        return round(left + across * _SIDE, 1), round(_GAP + (1 - up) * _SIDE, 1)

    def text(x: float, y: float, said: str, anchor: str = "middle", fill: str = "black") -> None:
        ET.SubElement(
            root, "text", {"x": str(x), "y": str(y), "text-anchor": anchor, "fill": fill}
        ).text = said

    def line(curve: Sequence[tuple[float, float]], colour: str, wide: str) -> None:
        at = " ".join(f"{x},{y}" for x, y in (place(*point) for point in curve))
        ET.SubElement(
            root, "polyline", {"points": at, "fill": "none", "stroke": colour, "stroke-width": wide}
        )

    text(left + _SIDE / 2, _GAP - 20, title)
    line([(pods[0], 10**floor), (pods[1], 10**floor * pods[1] / pods[0])], "#cccccc", "1")
    for size in pods:
        text(place(size, 10**floor)[0], _GAP + _SIDE + 15, f"{size:,} pods")
    for agent, curve in curves.items():
        line(curve, _COLOURS[agent], "2")
        for x, y in curve:
            text(place(x, y)[0], place(x, y)[1] - 4, f"{y:,.4g}", fill=_COLOURS[agent])
        if curve:
            x, y = place(*curve[-1])
            text(x, y + 14, agent, "end", _COLOURS[agent])


def main() -> None:
    """Files in, the picture out."""
    try:
        print(picture([json.loads(Path(name).read_text()) for name in sys.argv[1:]]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"bench.growth: {error}; each file is made by `bench fleet --output json`")


if __name__ == "__main__":
    main()
