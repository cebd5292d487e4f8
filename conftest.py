"""Fixtures of more than one folder, and one loud line where real Kubernetes cannot be had."""

from __future__ import annotations

import ast
import functools
import gc
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

from egress_gateway_lab import wireguard
from egress_gateway_lab.realcluster import binaries
from tests.kube.real import real_plane

__all__ = ["real_plane"]

_MISSING = pytest.StashKey[str]()

# Tests of the data path run on the current wireguard-go, if `make` has built it, as the lab does.
os.environ["PATH"] = wireguard.path(os.environ["PATH"])

# The same examples in every run: whoever changes something else does not find old bugs by luck.
# Those who look for them: pytest --hypothesis-profile=hunt
# How long an example takes says what else the machine does: no test fails for it.
_UNTIMED: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("repeatable", derandomize=True, **_UNTIMED)
settings.register_profile("hunt", derandomize=False, **_UNTIMED)
settings.load_profile("repeatable")


def _without_collections(parse: Callable[..., Any]) -> Callable[..., Any]:
    """``ast.parse``, and no garbage is collected meanwhile. Python 3.11 fails a parse ("AST
    constructor recursion depth mismatch") while which another one runs at another depth; the
    traceback of a task of an earlier test, logged when it is collected, is one."""

    @functools.wraps(parse)
    def parsed(*arguments: Any, **options: Any) -> Any:
        collected = gc.isenabled()
        gc.disable()
        try:
            return parse(*arguments, **options)
        finally:
            if collected:
                gc.enable()

    return parsed


ast.parse = _without_collections(ast.parse)


@pytest.fixture
def foreground() -> Iterator[None]:
    """What starts hears Ctrl-C and a closed terminal, although the tests themselves may have been
    started in a shell's background, or by nohup."""
    heard: dict[signal.Signals, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in heard.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests on a real API server are skipped together, not each with the whole explanation."""
    try:
        binaries.find(*binaries.CONTROL_PLANE)
    except binaries.Unavailable as error:
        config.stash[_MISSING] = str(error)
        for item in items:
            if item.get_closest_marker("kube"):
                item.add_marker(pytest.mark.skip(reason="NO KUBERNETES (see above)"))


class _ByFileOrLab(LoadFileScheduling):
    """Of several processes one has the lab of real nodes, with all files of its folder."""

    def _split_scope(self, nodeid: str) -> str:
        return "lab" if nodeid.startswith("tests/kube/lab/") else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByFileOrLab:
    return _ByFileOrLab(config, log)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if line := wireguard.describe():
        terminalreporter.write_line(line, red=True, bold=True)
    reports = terminalreporter.stats.get("skipped", [])
    skipped = sum("NO KUBERNETES" in str(report.longrepr) for report in reports)
    if skipped:
        why = config.stash.get(_MISSING, "")
        line = f"NO KUBERNETES: {skipped} tests were NOT run on a real API server: {why}"
        terminalreporter.write_line(line, red=True, bold=True)
