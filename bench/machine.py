"""The machine that was measured on, beside every figure: figures of two machines do not compare."""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from egress_gateway.datapath.wireguard.host import release
from egress_gateway_lab import wireguard


def describe() -> dict[str, Any]:
    """Processors, memory, kernel, WireGuard's back end, and how busy others kept the machine."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpus": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "wireguard": "kernel" if Path("/sys/module/wireguard").exists() else _wireguard_go(),
        "load_average": round(os.getloadavg()[0], 1),
    }


def _wireguard_go() -> str:
    found = wireguard.program()
    return f"wireguard-go {release(str(found))}" if found else "none"


_started = time.monotonic()


def say(text: str) -> None:
    """Progress, on standard error."""
    print(f"[{time.monotonic() - _started:6.1f} s] {text}", file=sys.stderr, flush=True)
