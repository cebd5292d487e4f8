"""How generated pages wrap their text: at 100 columns, and never inside a word."""

from __future__ import annotations

import textwrap


def filled(line: str, bullet: str = "") -> str:
    """``line`` as a paragraph, behind ``bullet``, with which further lines are aligned."""
    return textwrap.fill(
        line,
        width=100,
        initial_indent=bullet,
        subsequent_indent=" " * len(bullet),
        break_long_words=False,
        break_on_hyphens=False,
    )
