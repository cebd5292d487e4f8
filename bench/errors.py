"""What goes wrong in a benchmark."""

from __future__ import annotations


class BenchError(Exception):
    """A benchmark could not be done; one line for the person at the shell."""
