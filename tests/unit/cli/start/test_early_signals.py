"""A signal while the command starts ends it at once, in silence: nothing has begun."""

from __future__ import annotations

import subprocess
import sys
from signal import SIGINT, SIGTERM

import pytest

_START = """
import os, signal, sys
from egress_gateway.cli.main import main
number, there = int(sys.argv.pop(1)), sys.argv.pop(1)
signal.signal(signal.SIGINT, getattr(signal, sys.argv.pop(1)))

class Imports:  # each is asked for here first
    def find_spec(self, name, path=None, target=None):
        if name == there:
            signal.raise_signal(number)
            os.write(1, b"went on")

sys.meta_path.insert(0, Imports())
main()
"""


def started(number: int, there: str, *, before: str) -> subprocess.CompletedProcess[str]:
    """``egress-gateway --version`` that gets signal ``number`` as it imports module ``there``.
    ``before``: what the process has SIGINT do when it is started."""
    return subprocess.run(
        [sys.executable, "-c", _START, str(int(number)), there, before, "--version"],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("there", ["egress_gateway.cli.commands", "click", "click.termui"])
@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
@pytest.mark.parametrize("before", ["SIG_DFL", "default_int_handler"])
def test_a_signal_during_an_import_is_no_traceback(number: int, there: str, before: str) -> None:
    done = started(number, there, before=before)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", "")


def test_an_interrupt_that_its_starter_ignores_stays_ignored() -> None:
    """As under ``nohup``, or behind ``&`` in a script."""
    done = started(SIGINT, "click", before="SIG_IGN")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("went on")
