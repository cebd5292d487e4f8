"""CI's last line must be true of all its runs."""

from __future__ import annotations

from tests.deploy.conftest import tool

closing = tool("closing_line").closing
GREEN = (
    "noise\n\x1b[32m==== 1600 passed, 3 skipped, 90 deselected in 300.10s (0:05:00) ====\x1b[0m\n"
)


def test_sums_of_all_runs() -> None:
    line = closing([GREEN, "12 passed, 1 skipped in 99.90s"])
    assert line.strip("= ") == "1612 passed, 4 skipped in 400.00s"


def test_one_failure_shows() -> None:
    line = closing([GREEN, "=== 1 failed, 2 passed, 1 warning, 1 error in 1.00s ==="])
    assert line.strip("= ").startswith("1 failed, 1602 passed")
    assert "1 errors" in line


def test_a_run_that_did_not_end_is_an_error() -> None:
    assert "1 errors" in closing([GREEN, "make: *** [test-kube] Error 2\n"])
