"""A lab with two applications, and the browser that looks at its live map: for the test, and for
the pictures in the documentation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from egress_gateway_lab import livemap
from egress_gateway_lab.demo.world import World
from tests.browser.chromium import Page, page
from tests.lab.conftest import configured, started

APPLICATIONS = {"partner": 4, "bank": 2}
"""Configurations of the same names, and how many pods each has."""


@dataclass(frozen=True, slots=True)
class Shown:
    """``prefixes``: of each application."""

    world: World
    browser: Page
    prefixes: dict[str, str]

    async def gateway_in_use(self) -> str:
        """The gateway of the first pod."""
        found = await self.world.kube.list("podendpoints", namespace="default")
        return str(sorted(found, key=lambda p: str(p["metadata"]["name"]))[0]["status"]["gateway"])


@asynccontextmanager
async def shown() -> AsyncIterator[Shown]:
    """All pods are connected, and the page says so."""
    async with started() as world:
        prefixes = {name: await configured(world, name) for name in APPLICATIONS}
        for name, number in APPLICATIONS.items():
            await world.deploy(name, configuration=name, replicas=number)
        await livemap.turn_on(world.lab)
        async with livemap.relay(world.lab, 0) as port, page() as browser:
            await browser.look(width=1280, height=760)
            await browser.open(f"http://127.0.0.1:{port}/")
            count = sum(APPLICATIONS.values())
            await browser.until(
                f"document.querySelectorAll('#pods button.good').length === {count}"
            )
            yield Shown(world, browser, prefixes)
