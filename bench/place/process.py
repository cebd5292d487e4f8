"""The shipped components as processes of their own, and waiting for what they do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a process has used so far. Megabytes are 10^6 bytes."""

    memory_mb: float
    """All of its memory that is in the machine's."""
    private_mb: float
    """Without the programs and libraries that it shares with every process that runs them."""
    cpu_seconds: float

    @classmethod
    def of(cls, pid: int) -> Usage:
        """See proc_pid_status(5), proc_pid_stat(5). Raises ``OSError`` when it is gone."""
        status = Path(f"/proc/{pid}/status").read_text()
        kilobytes = dict(re.findall(r"(\w+):\s+(\d+) kB", status))
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        memory, private = (int(kilobytes[name]) * 1.024e-3 for name in ("VmRSS", "RssAnon"))
        return cls(
            memory_mb=round(memory, 1),
            private_mb=round(private, 1),
            cpu_seconds=round(sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), 2),
        )


async def until(
    true: Callable[[], Awaitable[bool]], what: str, *, limit: float, look: float = 0.1
) -> None:
    """Asks ``true`` each ``look`` seconds. Raises ``BenchError`` after ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while not await true():
        if time.monotonic() > deadline:
            raise BenchError(f"waited {limit:.0f} s in vain for {what}")
        await asyncio.sleep(look)
