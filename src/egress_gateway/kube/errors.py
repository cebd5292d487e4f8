"""What can go wrong when talking to a Kubernetes API server: few types, one line each.

``Unavailable`` is the only one that time alone mends; every other one is the server's verdict
on the request. The message is the server's own, prefixed by what was asked, because Kubernetes
words its refusals well (they name user, verb, resource and namespace).
"""

from __future__ import annotations

from typing import Final

import msgspec

from egress_gateway.service.errors import ExpectedError


class ApiError(ExpectedError):
    """The server refused. ``status`` is the HTTP status, ``reason`` Kubernetes' own
    (``NotFound``, ``AlreadyExists``, …), ``message`` its words."""

    def __init__(
        self, status: int, reason: str, message: str, *, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        """Seconds that the server asks to wait, if it said so."""


class BadRequest(ApiError):
    """400: the request itself is malformed."""


class Unauthorized(ApiError):
    """401: the token is missing, expired or of another cluster."""


class Forbidden(ApiError):
    """403: RBAC or admission says no."""


class NotFound(ApiError):
    """404: no such object, namespace or kind."""


class Conflict(ApiError):
    """409: the object has changed since it was read, or another manager owns the field."""


class AlreadyExists(ApiError):
    """409: an object of that name exists."""


class Gone(ApiError):
    """410: the resource version is too old; list again."""


class Invalid(ApiError):
    """422: the object breaks its schema or a rule."""


class TooManyRequests(ApiError):
    """429: the server sheds load; wait ``retry_after``."""


class Unavailable(ApiError):
    """No answer, a broken one, or a 5xx. ``status`` is 0 where there was no answer."""


_BY_STATUS: Final[dict[int, type[ApiError]]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}


class _Details(msgspec.Struct, rename="camel"):
    retry_after_seconds: float = 0


class Status(msgspec.Struct, rename="camel"):
    """``metav1.Status``, the body of a refusal and of a watch's ERROR event."""

    message: str = ""
    reason: str = ""
    code: int = 0
    details: _Details | None = None


def broken(what: str, error: Exception) -> Unavailable:
    """For an answer that does not decode; ``what`` was asked."""
    return Unavailable(0, "BrokenAnswer", f"{what}: answer does not decode: {error}")


def from_status(status: Status, *, http_status: int = 0, context: str = "") -> ApiError:
    """The exception for a ``metav1.Status``; ``context`` says what was asked."""
    code = status.code or http_status
    kind = _BY_STATUS.get(code, Unavailable if code >= 500 or code == 0 else ApiError)
    if status.reason == "AlreadyExists":
        kind = AlreadyExists
    elif status.reason in ("Expired", "Gone"):
        kind = Gone
    words = status.message or status.reason or f"HTTP {code}"
    wait = status.details.retry_after_seconds if status.details else 0
    return kind(
        code,
        status.reason or kind.__name__,
        f"{context}: {words}" if context else words,
        retry_after=wait or None,
    )


def from_response(
    http_status: int, body: bytes, *, context: str, retry_after: str | None = None
) -> ApiError:
    """The exception for an HTTP answer of 400 or above, whatever its body is."""
    try:
        status = msgspec.json.decode(body, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body[:200].decode("utf-8", "replace").strip()
        status = Status(message=text or f"HTTP {http_status}", code=http_status)
    status.code = http_status  # a proxy in between may answer with another body
    error = from_status(status, context=context)
    if retry_after is not None and retry_after.isdigit():
        error.retry_after = float(retry_after)
    return error
