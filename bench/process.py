"""The shipped components as processes of their own, and waiting for what they do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from bench.errors import BenchError

_PREFIX: Final = "EGRESS_GATEWAY_"
_STOP_SECONDS: Final = 10.0


@contextlib.asynccontextmanager
async def component(
    name: str, settings: Mapping[str, object], log: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """``egress-gateway NAME`` with ``settings`` (``KUBECONFIG`` and the like), and none of this
    process's. It ends with the block, and with this process."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_PREFIX)}
    environment |= {f"{_PREFIX}{key}": str(value) for key, value in settings.items()}
    command = [sys.executable, "-m", "egress_gateway.cli.main", name]
    if shutil.which("setpriv"):
        command = ["setpriv", "--pdeathsig", "KILL", "--", *command]  # not to outlive us
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=file, stderr=file, env=environment
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()


async def until(
    true: Callable[[], Awaitable[bool]], what: str, *, limit: float, look: float = 0.1
) -> None:
    """Asks ``true`` each ``look`` seconds. Raises ``BenchError`` after ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while not await true():
        if time.monotonic() > deadline:
            raise BenchError(f"waited {limit:.0f} s in vain for {what}")
        await asyncio.sleep(look)
