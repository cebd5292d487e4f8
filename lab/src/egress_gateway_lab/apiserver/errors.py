"""Failures in Kubernetes' own words: a ``Status`` object with code, reason and message.

Clients (kubectl, client-go, ours) branch on ``reason`` and print ``message``; both are kept as
kube-apiserver has them (k8s.io/apimachinery/pkg/api/errors).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from egress_gateway_lab.apiserver.objects import Object


class StatusError(Exception):
    """An API request that failed; carries the whole ``Status`` answer."""

    def __init__(self, code: int, reason: str, message: str, details: Object | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def status(self) -> Object:
        body: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if self.details:
            body["details"] = self.details
        return body


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing wrong with one field."""

    field: str
    message: str
    reason: str = "FieldValueInvalid"


def qualified(resource: str, group: str) -> str:
    return f"{resource}.{group}" if group else resource


def not_found(resource: str, group: str, name: str) -> StatusError:
    return StatusError(
        404,
        "NotFound",
        f'{qualified(resource, group)} "{name}" not found',
        {"name": name, "group": group, "kind": resource},
    )


def no_such_path() -> StatusError:
    return StatusError(404, "NotFound", "the server could not find the requested resource")


def already_exists(resource: str, group: str, name: str) -> StatusError:
    return StatusError(
        409,
        "AlreadyExists",
        f'{qualified(resource, group)} "{name}" already exists',
        {"name": name, "group": group, "kind": resource},
    )


def conflict(resource: str, group: str, name: str, why: str = "") -> StatusError:
    why = why or (
        "the object has been modified; please apply your changes to the latest version and try "
        "again"
    )
    return StatusError(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {qualified(resource, group)} "{name}": {why}',
        {"name": name, "group": group, "kind": resource},
    )


def apply_conflict(causes: Sequence[Cause]) -> StatusError:
    lines = [f"Apply failed with {len(causes)} conflict{'s' if len(causes) > 1 else ''}: "]
    lines.append("; ".join(f"{c.message}: {c.field}" for c in causes))
    return StatusError(
        409,
        "Conflict",
        "".join(lines),
        {
            "causes": [
                {"reason": "FieldManagerConflict", "message": c.message, "field": c.field}
                for c in causes
            ]
        },
    )


def invalid(kind: str, group: str, name: str, causes: Sequence[Cause]) -> StatusError:
    texts = [f"{c.field}: {c.message}" if c.field else c.message for c in causes]
    joined = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    return StatusError(
        422,
        "Invalid",
        f'{qualified(kind, group)} "{name}" is invalid: {joined}',
        {
            "name": name,
            "group": group,
            "kind": kind,
            "causes": [
                {"reason": c.reason, "message": c.message, "field": c.field} for c in causes
            ],
        },
    )


def bad_request(message: str) -> StatusError:
    return StatusError(400, "BadRequest", message)


def forbidden(resource: str, group: str, name: str, why: str) -> StatusError:
    shown = f'{qualified(resource, group)} "{name}"' if name else qualified(resource, group)
    return StatusError(
        403,
        "Forbidden",
        f"{shown} is forbidden: {why}",
        {"name": name, "group": group, "kind": resource},
    )


def shutting_down() -> StatusError:
    """What kube-apiserver says while it replaces the handlers of a changed definition
    (apiextensions-apiserver, customresource_handler.go): nothing was carried out."""
    return StatusError(503, "ServiceUnavailable", "apiserver is shutting down")


def unauthorized() -> StatusError:
    return StatusError(401, "Unauthorized", "Unauthorized")


def method_not_allowed(resource: str) -> StatusError:
    return StatusError(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
        {"kind": resource},
    )


def unsupported(what: str) -> StatusError:
    return StatusError(501, "NotImplemented", f"the embedded API server has no {what}")


def unsupported_media(content_type: str) -> StatusError:
    return StatusError(
        415,
        "UnsupportedMediaType",
        f"the body of the request was in an unknown format: {content_type}",
    )


def expired(message: str) -> StatusError:
    return StatusError(410, "Expired", message)


def too_large_version(wanted: str, newest: int) -> StatusError:
    """client-go knows it by the cause's reason, and lists again."""
    message = "Too large resource version"
    cause = {"reason": "ResourceVersionTooLarge", "message": message}
    return StatusError(
        504,
        "Timeout",
        f"Timeout: {message}: {wanted}, current: {newest}",
        {"causes": [cause], "retryAfterSeconds": 1},
    )


def internal(message: str) -> StatusError:
    return StatusError(500, "InternalError", f"Internal error occurred: {message}")


def success(kind: str, group: str, name: str, uid: Any) -> Object:
    """The Status that a completed deletion answers with."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {"name": name, "group": group, "kind": kind, "uid": uid},
    }
