"""What lists and deletions may be asked for (apimachinery's ``ValidateListOptions`` and
``ValidateDeleteOptions``): a client that asks for nonsense must hear so here as on a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from egress_gateway_lab.apiserver import errors

_MATCHES: Final = ("Exact", "NotOlderThan")
_POLICIES: Final = ("Foreground", "Background", "Orphan")


def number(query: Mapping[str, str], name: str) -> int:
    """A parameter that is a whole number; 0 without it. Raises ``StatusError``."""
    text = query.get(name) or "0"
    try:
        return int(text)
    except ValueError as error:
        raise errors.bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from error


def check_list(query: Mapping[str, str], revision: int) -> None:
    """Raises ``StatusError`` for versions that do not go together or that are yet to come.
    ``revision`` is the newest."""
    version, match = query.get("resourceVersion", ""), query.get("resourceVersionMatch", "")
    if match and (why := _mismatch(version, match, bool(query.get("continue")))):
        raise _invalid("ListOptions", "resourceVersionMatch", why)
    if version and not version.isdecimal():
        raise errors.bad_request(
            "invalid resource version: resourceVersion: Invalid value: "
            f'"{version}": strconv.ParseUint: parsing "{version}": invalid syntax'
        )
    if version and int(version) > revision:
        raise errors.too_large_version(version, revision)


def check_deletion(options: Mapping[str, Any]) -> None:
    """Raises ``StatusError`` for a policy that there is not."""
    policy = options.get("propagationPolicy")
    if policy is not None and policy not in _POLICIES:
        supported = ", ".join(f'"{known}"' for known in (*_POLICIES, "nil"))
        why = f'Unsupported value: "{policy}": supported values: {supported}'
        raise _invalid("DeleteOptions", "propagationPolicy", why)


def _mismatch(version: str, match: str, continued: bool) -> str:
    if not version:
        return "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
    if continued:
        return "Forbidden: resourceVersionMatch is forbidden for continue"
    if match not in _MATCHES:
        return f'Unsupported value: "{match}": supported values: "Exact", "NotOlderThan", ""'
    if (match, version) == ("Exact", "0"):
        return 'Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
    return ""


def _invalid(kind: str, field: str, why: str) -> errors.StatusError:
    return errors.invalid(kind, "meta.k8s.io", "", [errors.Cause(field, why)])
