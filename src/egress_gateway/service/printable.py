"""Others' words, made harmless for a terminal."""

from __future__ import annotations


def printable(text: str, *, spared: str = "") -> str:
    """What is not printable (control characters, those that turn the direction of writing) is
    written as Python does, such as ``\\x1b``; characters of ``spared`` stay."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in spared else c.encode("unicode_escape").decode() for c in text
    )
