"""The one root of everything that is expected to go wrong.

An expected error's text is the whole story: object, cause, mend. Nobody shows a traceback for it,
which would only bury the story. Every other exception is a fault of ours, and its traceback is
logged. This module imports nothing, so that every layer may derive from it.
"""

from __future__ import annotations


class ExpectedError(Exception):
    """A refusal by a server, a kernel or a file, or input that makes no sense."""


class OperatorError(ExpectedError):
    """Ends a component: its operator must mend something first. The component ends with status 1
    and is started again by its host."""
