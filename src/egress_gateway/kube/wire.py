"""Bytes to values and back: lists, watch lines, documents to send. No I/O.

One object that does not decode (written by another version, or before a schema existed) must not
hide all others, so a list that fails as a whole is decoded item by item and the bad ones are
reported beside the good.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from egress_gateway.api.types import ObjectMeta
from egress_gateway.kube import errors
from egress_gateway.kube.resources import Key, Resource
from egress_gateway.service.errors import understood

T = TypeVar("T")
R = TypeVar("R")
Body = TypeVar("Body", bytes, bytes | msgspec.Raw)
WatchType = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]

SERVER_OWNED: Final = (
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "managedFields",
)
"""Metadata that an apply must not carry: it would demand an old state or mean nothing."""


class Undecodable(msgspec.Struct, frozen=True, kw_only=True):
    """An object that the server holds and that our type cannot express."""

    key: Key
    why: str


class ListPage(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """Objects as of ``resource_version``. ``continue_token`` is empty on the last page."""

    items: Sequence[T]
    resource_version: str
    continue_token: str = ""
    undecodable: Sequence[Undecodable] = ()


class WatchEvent(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One change. A BOOKMARK carries no object, only a resource version to resume from.

    ``undecodable`` is set, and ``obj`` None, where the object does not decode.
    """

    type: WatchType
    obj: T | None
    resource_version: str
    undecodable: Undecodable | None = None


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct, Generic[T]):
    metadata: _ListMeta = msgspec.field(default_factory=_ListMeta)
    items: list[T] | None = None


class _Headed(msgspec.Struct):
    metadata: ObjectMeta


class _RawEvent(msgspec.Struct):
    type: str
    object: msgspec.Raw


@cache
def _list_decoder(type_: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_List[type_])


@cache
def _decoder(type_: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(type_)


_EVENTS: Final = msgspec.json.Decoder(_RawEvent)
_HEADED: Final = msgspec.json.Decoder(_Headed)
_STATUS: Final = msgspec.json.Decoder(errors.Status)
_DEEP: Final = 64
"""Nothing that we read is nested so deep."""
_NESTING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[][{}]', re.DOTALL)


def _nested(
    decode: Callable[[Resource[T], Body], R],
) -> Callable[[Resource[T], Body], R]:
    """Whoever writes an object may nest its ``managedFields`` 10,000 deep (Go's limit), which is
    more than Python's: what is so deep is left out, lest nobody can read the objects beside it."""

    @wraps(decode)
    def reading(resource: Resource[T], body: Body) -> R:
        try:
            return decode(resource, body)
        except RecursionError:
            return decode(resource, _shallow(bytes(body)))

    return reading


def _shallow(body: bytes) -> bytes:
    kept, depth, begin = [], 0, 0
    for token in _NESTING.finditer(body):
        if token[0] in b"{[":
            depth += 1
            if depth == _DEEP:
                kept.append(body[begin : token.start()])
        elif token[0] in b"}]":
            if depth == _DEEP:
                kept.append(b"null")
                begin = token.end()
            depth -= 1
    return b"".join([*kept, body[begin:]])


@understood(msgspec.ValidationError, "the API server's answer")
@_nested
def decode_object(resource: Resource[T], body: bytes | msgspec.Raw) -> T:
    """Raises ``msgspec.ValidationError``."""
    type_: Any = resource.type
    obj: T = _decoder(type_).decode(body)
    return resource.keep(obj) if resource.keep else obj


def decode_answer(kind: type[T], body: bytes, what: str) -> T:
    """The answer to a request for ``what`` that is no object of ours, such as a review. Raises
    ``Unavailable`` where something else answers in the API server's place."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise errors.broken(what, error) from None


@understood(msgspec.ValidationError, "the API server's answer")
@_nested
def decode_list(resource: Resource[T], body: bytes) -> ListPage[T]:
    """A list answer; objects that do not decode are in ``undecodable``."""
    bad: list[Undecodable] = []
    type_: Any = resource.type
    try:
        page = _list_decoder(type_).decode(body)
        items = page.items or []
        if resource.keep:
            items = [resource.keep(obj) for obj in items]
    except msgspec.ValidationError:
        page = _list_decoder(msgspec.Raw).decode(body)
        items = []
        for raw in page.items or []:
            try:
                items.append(decode_object(resource, raw))
            except msgspec.ValidationError as error:
                bad.append(Undecodable(key=_key(raw), why=str(error)))
    return ListPage(
        items=items,
        resource_version=page.metadata.resource_version,
        continue_token=page.metadata.continue_,
        undecodable=bad,
    )


@understood(msgspec.ValidationError, "the API server's answer")
@_nested
def decode_event(resource: Resource[T], line: bytes) -> WatchEvent[T]:
    """One line of a watch. Raises ``ApiError`` for an ERROR event (``Gone`` for 410)."""
    event = _EVENTS.decode(line)
    match event.type:
        case "ERROR":
            raise errors.from_status(
                _STATUS.decode(event.object), context=f"watch {resource.plural}"
            )
        case "BOOKMARK":
            version = _HEADED.decode(event.object).metadata.resource_version
            return WatchEvent(type="BOOKMARK", obj=None, resource_version=version)
        case "ADDED" | "MODIFIED" | "DELETED" as kind:
            try:
                obj = decode_object(resource, event.object)
            except msgspec.ValidationError as error:
                head = _HEADED.decode(event.object).metadata
                bad = Undecodable(key=Key(head.namespace, head.name), why=str(error))
                return WatchEvent(
                    type=kind, obj=None, resource_version=head.resource_version, undecodable=bad
                )
            version = resource.metadata(obj).resource_version
            return WatchEvent(type=kind, obj=obj, resource_version=version)
        case unknown:
            raise msgspec.ValidationError(f"unknown watch event type {unknown!r}")


def document(resource: Resource[T], obj: T | Mapping[str, Any]) -> dict[str, Any]:
    """``obj`` as a JSON document with ``apiVersion`` and ``kind``."""
    body = dict(obj) if isinstance(obj, Mapping) else msgspec.to_builtins(obj)
    return {**body, "apiVersion": resource.api_version, "kind": resource.kind}


def apply_document(resource: Resource[T], obj: T | Mapping[str, Any]) -> dict[str, Any]:
    """As ``document``, without the metadata that only the server writes."""
    body = document(resource, obj)
    meta = {k: v for k, v in (body.get("metadata") or {}).items() if k not in SERVER_OWNED}
    return {**body, "metadata": meta}


def _key(raw: msgspec.Raw) -> Key:
    head = _HEADED.decode(raw).metadata
    return Key(head.namespace, head.name)


CHANNELS: Final = ("v5.channel.k8s.io", "v4.channel.k8s.io")
"""Of exec over WebSocket: each message begins with its stream's number (KEP-4006)."""


class _Cause(msgspec.Struct):
    reason: str = ""
    message: str = ""


class _Causes(msgspec.Struct):
    causes: list[_Cause] = []


class _Ended(msgspec.Struct):
    status: str = ""
    message: str = ""
    details: _Causes | None = None


def exit_code(status: bytes) -> int:
    """Of a command, by the Status that ends its error stream. Raises ``Unavailable`` where it did
    not end, or did not begin."""
    try:
        ended = msgspec.json.decode(status or b"{}", type=_Ended)
    except (ValueError, RecursionError):
        ended = _Ended(message=status.decode(errors="replace"))
    if ended.status == "Success":
        return 0
    for cause in ended.details.causes if ended.details else ():
        if cause.reason == "ExitCode" and cause.message.isdecimal():
            return int(cause.message[:9])
    words = ended.message or "the stream ended without an exit status"
    raise errors.Unavailable(500, "NoExitStatus", f"exec: {words}")
