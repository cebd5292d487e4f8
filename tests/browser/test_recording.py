"""The README's recording plays in a real browser."""

from __future__ import annotations

import re

import pytest
from recording import PICTURE, ROWS, SECONDS

from tests.browser.chromium import page

pytestmark = pytest.mark.browser
_AT = "document.getAnimations()[0].pause(), document.getAnimations()[0].currentTime = {} * 1000"
_SEEN = """
[...document.querySelectorAll('text')].map(text => [text, text.getBoundingClientRect()])
  .filter(([, box]) => box.top >= 0 && box.bottom <= innerHeight && box.width)
  .map(([text, box]) => [text.textContent, box.right <= innerWidth])
"""


async def test_it_plays_and_every_row_fits_into_it() -> None:
    async with page() as browser:
        await browser.look(width=872, height=564)
        await browser.open(PICTURE.as_uri())
        assert await browser.ask("document.getAnimations().map(a => a.effect.target.id)") == [
            "scroll"
        ]
        seen = []
        for second in range(int(SECONDS)):
            await browser.ask(_AT.format(second))
            seen.append(await browser.ask(_SEEN))
        assert seen[0] == []
        assert next(text for text, _ in seen[1]).endswith("make demo")
        assert all(len(rows) <= ROWS for rows in seen)
        assert all(fits for rows in seen for _, fits in rows)
        assert [seen[-1]] * 3 == seen[-3:]
        assert re.search(r"failover +\d+ ms", "\n".join(text for text, _ in seen[-1]))
        assert len({str(rows) for rows in seen}) > SECONDS / 2
        assert browser.said == []
        assert browser.asked == [PICTURE.as_uri()]
