"""The functions that CEL rules may call: CEL's own and Kubernetes' libraries.

https://kubernetes.io/docs/reference/using-api/cel/#cel-options-language-features-and-libraries.
Absent: quantities, URLs, timestamps, semantic versions, ``format`` but for ``%s``. A rule that
calls what is not here is refused when its CRD is created.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any


class CelError(Exception):
    """Evaluation failed: no such key, wrong type, division by zero."""


@dataclass(frozen=True, slots=True)
class Optional:
    """CEL's ``optional`` value."""

    present: bool
    value: Any = None


NONE = Optional(present=False)


@dataclass(frozen=True, slots=True)
class Cidr:
    """A prefix as Kubernetes' ``cidr()`` makes it: the address keeps its host bits."""

    address: IPv4Address | IPv6Address
    network: IPv4Network | IPv6Network


def regex(pattern: str) -> re.Pattern[str]:
    """A pattern of Go's RE2 in Python's dialect: ``$`` and ``\\z`` are the end of the text."""
    translated = re.sub(r"(?<!\\)\$(?=$|\)|\|)", r"\\Z", pattern).replace(r"\z", r"\Z")
    try:
        return re.compile(translated)
    except re.error as error:
        raise CelError(f"error parsing regexp: {error}: {pattern}") from error


def _need(kind: type | tuple[type, ...], *values: Any) -> None:
    for value in values:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise CelError("no such overload")


def _ip(text: Any) -> IPv4Address | IPv6Address:
    _need(str, text)
    try:
        address = ip_address(text)
    except ValueError as error:
        raise CelError(f"IP Address {text!r} parse error") from error
    if "%" in text or (address.version == 6 and address.ipv4_mapped and "." in text):
        raise CelError(f"IP Address {text!r} parse error: zones and mapped addresses are refused")
    return address


def _cidr(text: Any) -> Cidr:
    _need(str, text)
    try:
        address, _, length = text.partition("/")
        if not length.isdigit():
            raise ValueError("no prefix length")
        return Cidr(_ip(address), ip_network(text, strict=False))
    except ValueError as error:
        raise CelError(
            f"network address parse error during conversion from string: {text!r}"
        ) from (error)


def _parses(convert: Callable[[Any], Any]) -> Callable[[Any], bool]:
    def check(text: Any) -> bool:
        _need(str, text)
        try:
            convert(text)
        except CelError:
            return False
        return True

    return check


def _int(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise CelError("type conversion error: int") from error


def _double(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise CelError("type conversion error: double") from error


def _string(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, str | int | IPv4Address | IPv6Address):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, Cidr):
        return f"{value.address}/{value.network.prefixlen}"
    raise CelError("type conversion error: string")


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "True", "TRUE", "t", "1"):
        return True
    if value in ("false", "False", "FALSE", "f", "0"):
        return False
    raise CelError("type conversion error: bool")


def _size(value: Any) -> int:
    _need((str, list, dict, bytes), value)
    return len(value)


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def duration(text: Any) -> timedelta:
    """Go's duration notation, such as ``1h30m``."""
    _need(str, text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|h|m|s)", text)
    if not parts or "".join(a + b for a, b in parts) != text.lstrip("-"):
        raise CelError(f"invalid duration {text!r}")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return timedelta(seconds=-seconds if text.startswith("-") else seconds)


def _substring(text: str, start: int, end: int | None = None) -> str:
    stop = len(text) if end is None else end
    if not 0 <= start <= stop <= len(text):
        raise CelError(f"index out of range: {start}")
    return text[start:stop]


def _char_at(text: str, at: int) -> str:
    if not 0 <= at <= len(text):
        raise CelError(f"index out of range: {at}")
    return text[at : at + 1]


def _split(text: str, separator: str, limit: int = -1) -> list[str]:
    if limit == 0:
        return []
    return list(text) if separator == "" else text.split(separator, limit - 1 if limit > 0 else -1)


def _find(text: str, pattern: str) -> str:
    found = regex(pattern).search(text)
    return found.group(0) if found else ""


def _index_of(value: Any, part: Any, start: int = 0) -> int:
    if isinstance(value, str):
        return value.find(part, start)
    _need(list, value)
    return value.index(part) if part in value else -1


def _last_index_of(value: Any, part: Any) -> int:
    if isinstance(value, str):
        return value.rfind(part)
    _need(list, value)
    return len(value) - 1 - value[::-1].index(part) if part in value else -1


def _family(value: Any) -> int:
    _need((IPv4Address, IPv6Address), value)
    return int(value.version)


def _contains_ip(network: Any, inner: Any) -> bool:
    _need(Cidr, network)
    address = _ip(inner) if isinstance(inner, str) else inner
    return address.version == network.network.version and address in network.network


def _contains_cidr(network: Any, inner: Any) -> bool:
    _need(Cidr, network)
    other = (_cidr(inner) if isinstance(inner, str) else inner).network
    return other.version == network.network.version and other.subnet_of(network.network)


def _or_value(value: Any, fallback: Any) -> Any:
    _need(Optional, value)
    return value.value if value.present else fallback


def _optional_value(value: Any) -> Any:
    _need(Optional, value)
    if not value.present:
        raise CelError("optional.none() dereference")
    return value.value


def _replace(text: str, old: str, new: str, limit: int = -1) -> str:
    return text.replace(old, new, limit)


def _format(text: str, values: Any) -> str:
    """Only ``%s``; maps and lists are written about as long as Kubernetes writes them."""
    _need(list, values)
    try:
        return text % tuple(json.dumps(v) if isinstance(v, (dict, list)) else v for v in values)
    except (TypeError, ValueError) as error:
        raise CelError(str(error)) from error


def _text(function: Callable[..., Any]) -> Callable[..., Any]:
    """A method of strings whose arguments are strings and integers."""

    def method(text: Any, *args: Any) -> Any:
        _need(str, text)
        _need((str, int), *args)
        return function(text, *args)

    return method


def _numbers(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def method(value: Any) -> Any:
        _need(list, value)
        try:
            return function(value)
        except (TypeError, ValueError) as error:
            raise CelError(str(error)) from error

    return method


FUNCTIONS: dict[str, tuple[tuple[int, ...], Callable[..., Any]]] = {
    "size": ((1,), _size),
    "int": ((1,), _int),
    "uint": ((1,), _int),
    "double": ((1,), _double),
    "string": ((1,), _string),
    "bool": ((1,), _bool),
    "bytes": ((1,), lambda v: v if isinstance(v, bytes) else str(v).encode()),
    "dyn": ((1,), lambda v: v),
    "matches": ((2,), _text(lambda t, p: regex(p).search(t) is not None)),
    "duration": ((1,), duration),
    "isIP": ((1,), _parses(_ip)),
    "ip": ((1,), lambda v: v.address if isinstance(v, Cidr) else _ip(v)),
    "isCIDR": ((1,), _parses(_cidr)),
    "cidr": ((1,), _cidr),
}
"""Global functions: how many arguments they take, and what they do."""

PATCH_FUNCTIONS: dict[str, tuple[tuple[int, ...], Callable[..., Any]]] = {
    # RFC 6901, section 3
    "escapeKey": ((1,), _text(lambda t: t.replace("~", "~0").replace("/", "~1"))),
}
"""The library ``jsonpatch`` of mutating admission policies."""

METHODS: dict[str, tuple[tuple[int, ...], Callable[..., Any]]] = {
    "size": ((0,), _size),
    "startsWith": ((1,), _text(str.startswith)),
    "endsWith": ((1,), _text(str.endswith)),
    "contains": ((1,), _text(lambda t, p: p in t)),
    "matches": ((1,), _text(lambda t, p: regex(p).search(t) is not None)),
    "find": ((1,), _text(_find)),
    "findAll": ((1,), _text(lambda t, p: [m.group(0) for m in regex(p).finditer(t)])),
    "format": ((1,), _format),
    "charAt": ((1,), _text(_char_at)),
    "indexOf": ((1, 2), _index_of),
    "lastIndexOf": ((1,), _last_index_of),
    "lowerAscii": ((0,), _text(str.lower)),
    "upperAscii": ((0,), _text(str.upper)),
    "replace": ((2, 3), _text(_replace)),
    "split": ((1, 2), _text(_split)),
    "substring": ((1, 2), _text(_substring)),
    "trim": ((0,), _text(str.strip)),
    "join": ((0, 1), lambda v, s="": s.join(v)),
    "isSorted": ((0,), _numbers(lambda v: v == sorted(v))),
    "sum": ((0,), _numbers(sum)),
    "min": ((0,), _numbers(min)),
    "max": ((0,), _numbers(max)),
    "family": ((0,), _family),
    "isLoopback": ((0,), lambda v: v.is_loopback),
    "isUnspecified": ((0,), lambda v: v.is_unspecified),
    "isLinkLocalUnicast": ((0,), lambda v: v.is_link_local and not v.is_multicast),
    "isGlobalUnicast": (
        (0,),
        lambda v: not (v.is_loopback or v.is_multicast or v.is_unspecified or v.is_link_local),
    ),
    "ip": ((0,), lambda v: v.address),
    "prefixLength": ((0,), lambda v: v.network.prefixlen),
    "masked": ((0,), lambda v: Cidr(v.network.network_address, v.network)),
    "containsIP": ((1,), _contains_ip),
    "containsCIDR": ((1,), _contains_cidr),
    "orValue": ((1,), _or_value),
    "hasValue": ((0,), lambda v: v.present),
    "value": ((0,), _optional_value),
    "getSeconds": ((0,), lambda v: int(v.total_seconds())),
}
"""Methods: how many arguments they take besides the target."""
