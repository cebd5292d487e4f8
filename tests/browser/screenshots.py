"""`make screenshots`: pictures of the live map for the documentation, from a lab as it is."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.browser.in_a_lab import shown

FOLDER = Path(__file__).resolve().parents[2] / "docs/images"
PICTURES = (
    ("live-map", 1280, 860, False),
    ("live-map-dark", 1280, 860, True),
    ("live-map-phone", 390, 844, False),
)
"""Name, width, height, and whether it is dark."""


async def main() -> None:
    """A gateway is lost; a moved pod's path is chosen."""
    async with shown() as seen:
        lost = await seen.gateway_in_use()
        await seen.world.control.call("cut", node=lost)
        await seen.browser.until(f"!document.querySelector('#pods').innerText.includes({lost!r})")
        await seen.browser.ask("document.querySelector('#pods button').click()")
        for name, width, height, dark in PICTURES:
            await seen.browser.look(width=width, height=height, dark=dark)
            await seen.browser.until(f"innerWidth === {width}")
            await asyncio.to_thread(
                (FOLDER / f"{name}.png").write_bytes, await seen.browser.picture()
            )


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    asyncio.run(main())
