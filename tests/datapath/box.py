"""Runs a test inside namespaces of its own; whatever happens, nothing of it survives.

``@boxed`` starts the test's body in a fresh interpreter that is process 1 of new PID, network and
mount namespaces (tmpfs on /run). The kernel ends everything in them when it ends.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

_SECONDS = 800
"""Only ends what hangs; an emulated kernel is slow."""
_REPOSITORY = Path(__file__).parents[2]


def boxed(function: Callable[[], Awaitable[None] | None]) -> Callable[[], None]:
    """Marks a test that needs root and kernel namespaces of its own."""

    @functools.wraps(function)
    def outside() -> None:
        if os.environ.get("EGRESS_GATEWAY_TEST_BOX") == function.__name__:
            story = function()
            if inspect.iscoroutine(story):
                asyncio.run(story)
            return
        if os.geteuid() != 0:
            pytest.skip("needs root")
        command = ["unshare", "-m", "-n", "-u", "-p", "-f", "--kill-child", "--mount-proc"]
        done = subprocess.run(
            [*command, sys.executable, "-m", __name__, function.__module__, function.__name__],
            env={**os.environ, "EGRESS_GATEWAY_TEST_BOX": function.__name__},
            cwd=_REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
        )
        if done.returncode:
            pytest.fail(f"inside the box (exit code {done.returncode}):\n{done.stdout}", False)

    marked: Callable[[], None] = pytest.mark.root(outside)
    return marked


def _inside(module: str, name: str) -> None:
    for target, kind in (("/run", "tmpfs"), ("/sys", "sysfs")):
        subprocess.run(["mount", "-t", kind, kind, target], check=True)
    getattr(importlib.import_module(module), name)()


if __name__ == "__main__":
    code = 1
    try:
        _inside(sys.argv[1], sys.argv[2])
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Threads that serve sockets are daemons of this box; no waiting for them.
        os._exit(code)
