"""The live map of a lab's controller while a gateway is lost, and `egress-gateway lab ui`."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import subprocess
import sys

import pytest

from egress_gateway_lab import host
from tests.browser.in_a_lab import APPLICATIONS, Shown, shown

pytestmark = [pytest.mark.browser, pytest.mark.root]
FIRST = "document.querySelector('#pods button')"


async def test_a_gateway_that_is_lost_is_seen_on_the_map() -> None:
    host.require_host()
    async with shown() as seen:
        await _path_of_the_first_pod(seen)
        lost = await seen.gateway_in_use()
        await seen.world.control.call("cut", node=lost)
        moved = f"moved from {lost} to "
        await seen.browser.until(f"document.querySelector('#told').innerText.includes({moved!r})")
        await seen.browser.until(f"!{FIRST}.innerText.includes({lost!r})")
        await _path_of_the_first_pod(seen)
        await seen.world.control.call("mend", node=lost)
        assert seen.browser.said == []
        await _the_command(seen.world.lab.name)


async def _path_of_the_first_pod(seen: Shown) -> None:
    """It leads to an address of the prefix of its own configuration."""
    await seen.browser.ask(f"{FIRST}.getAttribute('aria-pressed') === 'true' || {FIRST}.click()")
    await seen.browser.until("/leaves from \\d/.test(document.querySelector('#path').innerText)")
    text = await seen.browser.ask("document.querySelector('#path').innerText")
    found = re.search(r"tunnel of default/(\w+)[^z]*leaves from ([\d.]+)", text)
    assert found is not None, text
    assert found[1] in APPLICATIONS
    assert ipaddress.ip_address(found[2]) in ipaddress.ip_network(seen.prefixes[found[1]])


async def _the_command(lab: str) -> None:
    """As a person types it."""
    words = ["-m", "egress_gateway.cli.main", "lab", "ui", "--name", lab, "--port", "0"]
    program = await asyncio.create_subprocess_exec(
        sys.executable, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert program.stdout is not None
    line = (await program.stdout.readline()).decode()
    assert re.fullmatch(r"live map: http://127\.0\.0\.1:\d+ \(Ctrl-C ends\)\n", line)
    program.terminate()
    _, errors = await program.communicate()
    assert program.returncode == 130
    assert "Traceback" not in errors.decode()
