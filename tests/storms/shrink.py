"""Finds the fewest events that still make a storm fail (delta debugging, Zeller 2002). Pure but for
``fails``, which plays a script and answers whether it failed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tests.storms.script import Script

Fails = Callable[[Script], Awaitable[bool]]
_Part = tuple[int, ...]


async def shrunk(script: Script, fails: Fails, *, trials: int = 40) -> Script:
    """A part of ``script`` that fails and of which, if ``trials`` sufficed, no event can go.

    A storm is not a pure function: who fails one time in two is shrunk to more than is needed,
    never to what did not fail.
    """
    kept: _Part = tuple(range(len(script)))
    parts, tried = 2, {kept}
    while len(kept) > 1:
        for candidate in _candidates(kept, parts):
            if candidate in tried:
                continue
            if len(tried) > trials:
                return tuple(script[n] for n in kept)
            tried.add(candidate)
            if await fails(tuple(script[n] for n in candidate)):
                kept, parts = candidate, max(parts - 1, 2)
                break
        else:
            if parts == len(kept):
                break
            parts = min(2 * parts, len(kept))
    return tuple(script[n] for n in kept)


def _candidates(kept: _Part, parts: int) -> list[_Part]:
    """Each part alone, the late ones first: what fails is mostly near the end of what it took. Then
    all but each."""
    size = -(-len(kept) // parts)
    pieces = [kept[start : start + size] for start in range(0, len(kept), size)]
    without = [tuple(n for n in kept if n not in piece) for piece in pieces]
    return [c for c in (*reversed(pieces), *without) if c]
