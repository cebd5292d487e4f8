"""The one root of everything that is expected to go wrong.

An expected error's text is the whole story: object, cause, mend. Nobody shows a traceback for it,
which would only bury the story. Every other exception is a fault of ours, and its traceback is
logged. This module imports nothing of ours, so that every layer may derive from it.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

MALFORMED: Final = (
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    RecursionError,
    StopIteration,
    TypeError,
    ValueError,
    struct.error,
)
"""What readers of foreign bytes stumble over."""


class ExpectedError(Exception):
    """A refusal by a server, a kernel or a file, or input that makes no sense."""


class OperatorError(ExpectedError):
    """Ends a component: its operator must mend something first. The component ends with status 1
    and is started again by its host."""


def understood(error: type[Exception], what: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """For a function that reads foreign bytes, which are ``what``: whatever it stumbles over is
    raised as ``error``, which its callers expect. The text quotes little: it may be a secret."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def reading(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except ExpectedError:
                raise
            except MALFORMED as found:
                if isinstance(found, error):
                    raise  # it says more
                raise error(f"{what} makes no sense ({type(found).__name__})") from found

        return reading

    return decorate
