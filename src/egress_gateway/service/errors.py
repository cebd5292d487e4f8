"""The one root of everything that is expected to go wrong.

An expected error's text is the whole story: object, cause, mend. Nobody shows a traceback for it,
which would only bury the story. Every other exception is a fault of ours, and its traceback is
logged. This module imports nothing of ours, so that every layer may derive from it.
"""

from __future__ import annotations

import errno
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
_REFUSED: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR}
)
"""Of a file: nothing of ours is wrong, and who runs us can mend it."""


class ExpectedError(Exception):
    """A refusal by a server, a kernel or a file, or input that makes no sense."""


class OperatorError(ExpectedError):
    """Ends a component: its operator must mend something first. The component ends with status 1
    and is started again by its host."""


def expected(error: BaseException) -> str | None:
    """What an expected error says; None: it is unexpected. A machine that refuses a file is
    expected: another user, a read-only root, a full disk."""
    if isinstance(error, ExpectedError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _REFUSED and error.filename:
        return f"{error.filename}: {error.strerror}"
    return None


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
