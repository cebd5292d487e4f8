"""`make recording`: what a terminal showed, as a picture that plays."""

from __future__ import annotations

import inspect
import re
import sys
from itertools import pairwise
from xml.etree import ElementTree

import pytest
import recording
from recording import COLUMNS, PICTURE, SECONDS, Line

from egress_gateway_lab.demo import story

STEPS = re.compile(r"translateY\((-?\d+)px\)")
OFFSETS = re.compile(r"([\d.]+)%\{transform")


def texts(picture: str) -> list[str]:
    found = ElementTree.fromstring(picture).iterfind(".//{http://www.w3.org/2000/svg}text")
    return ["".join(text.itertext()) for text in found]


def test_long_lines_break_as_on_the_terminal() -> None:
    long = f"\x1b[2m$\x1b[0m {'x' * COLUMNS}"
    shown = texts(recording.picture([Line(0, long), Line(1, "y" * COLUMNS), Line(2, "end")]))
    assert shown == ["$ " + "x" * (COLUMNS - 2), "xx", "y" * COLUMNS, "end"]


@pytest.mark.parametrize(
    "text", ["", "   ", "<b>&amp;</b>", "…✗", "\x1b[31mbad\x1b[0m", "\x1b[1;7mtwo\x1b[0m x"]
)
def test_any_text_stays_itself(text: str) -> None:
    picture = recording.picture([Line(0, text), Line(0.5, "end")])
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert texts(picture) == ([plain] if plain else []) + ["end"]


@pytest.mark.parametrize("gaps", [[0.0] * 90, [3600.0] * 5, [0.0, 50.0] * 40, [0.7]])
def test_it_lasts_as_long_whatever_the_demo_took(gaps: list[float]) -> None:
    now, lines = 0.0, []
    for gap in gaps:
        lines.append(Line(now := now + gap, "line"))
    picture = recording.picture(lines)
    assert f"scroll {SECONDS:g}s" in picture
    offsets = [float(found) for found in OFFSETS.findall(picture)]
    assert len(offsets) == len(lines) + 1  # nothing has been printed yet: the first
    assert all(before < after for before, after in pairwise(offsets))
    assert offsets[-1] == pytest.approx(100 * (1 - recording.END / SECONDS), abs=0.01)
    scrolled = [int(found) for found in STEPS.findall(picture)]
    assert scrolled[0] == scrolled[-1], "at rest it shows the end"


def test_a_terminal_is_what_the_command_sees() -> None:
    code = "import os,sys; print(os.isatty(1), os.get_terminal_size is not None); print('last')"
    assert [line.text for line in recording.printed([sys.executable, "-c", code])] == [
        "True True",
        "last",
    ]
    with pytest.raises(Exception, match="exit status 3"):
        list(recording.printed([sys.executable, "-c", "raise SystemExit(3)"]))


def test_the_stored_picture_shows_the_steps_of_the_demo() -> None:
    """``make recording`` makes it anew; the commands are compared where the demo is played."""
    titles = re.findall(r'report\.step\("[\w-]+", "([^"]+)"\)', inspect.getsource(story))
    assert len(titles) > 5
    shown = [line for line in texts(PICTURE.read_text()) if re.match(r"\d+\. ", line)]
    assert shown == [f"{number}. {title}" for number, title in enumerate(titles, start=1)]
    assert PICTURE.stat().st_size < 60_000
