"""How Azure's documents are built: ids, ``properties``, references. Absent reads as empty."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

Json = dict[str, Any]
_READ_ONLY: Final = frozenset(
    {
        "provisioningState",
        "etag",
        "resourceGuid",
        "backendIPConfigurations",
    }
)


def document_of(base: object) -> Json:
    """What an action was computed from. Raises ``TypeError`` for what no ``observe`` of ours made:
    a mistake in the program, never a race."""
    if not isinstance(base, dict):
        raise TypeError(f"an action without the document that it was computed from: {base!r}")
    return base


def same_id(left: str, right: str) -> bool:
    """Resource ids compare without regard to case."""
    return left.lower() == right.lower()


def id_name(resource_id: str) -> str:
    """The last segment of a resource id."""
    return resource_id.rstrip("/").rsplit("/", 1)[-1]


def group_of(resource_id: str) -> str:
    """The resource group inside a resource id; empty if there is none."""
    parts = resource_id.split("/")
    lowered = [part.lower() for part in parts]
    if "resourcegroups" not in lowered:
        return ""
    return parts[lowered.index("resourcegroups") + 1]


def name_of(item: Mapping[str, Any]) -> str:
    """Empty if it has none: then it is none of ours, and is carried along as it is."""
    return item.get("name") or ""


def identified(listed: Iterable[Json]) -> list[Json]:
    """Of resources that were listed, those that can be told apart: by their id, which also gives
    a missing name."""
    ids = ((item, item.get("id")) for item in listed if isinstance(item, dict))
    return [named(item, known) for item, known in ids if isinstance(known, str) and known]


def named(document: Json, resource_id: str) -> Json:
    """``document`` with its id and a name, whatever it says itself."""
    given = {"id": resource_id, "name": id_name(resource_id)}
    return given | {k: v for k, v in document.items() if v is not None}


def strings_of(value: object) -> frozenset[str]:
    """The strings of a JSON list; empty ones, and whatever is no string, are left out. Anything but
    a list has none: text is not a list of its characters."""
    listed = value if isinstance(value, list) else []
    return frozenset(each for each in listed if isinstance(each, str) and each)


def items_of(owner: Mapping[str, Any], key: str) -> list[Json]:
    """The objects of a list below ``properties``."""
    return objects_of(properties_of(owner).get(key))


def objects_of(value: object) -> list[Json]:
    """The objects of a JSON list; whatever else is in it is left out. Anything but a list has
    none."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def properties_of(item: Mapping[str, Any]) -> Json:
    """A resource's ``properties``; empty if there are none."""
    return item.get("properties") or {}


def reference_of(item: Mapping[str, Any], key: str) -> str:
    """The id of the resource that ``properties`` refers to by ``key``; empty if there is none."""
    return ((properties_of(item).get(key)) or {}).get("id") or ""


def address_of(text: str | None) -> IPv4Address | None:
    """None also for an address of IPv6: a load balancer may have a frontend of somebody else's."""
    found = any_address_of(text)
    return found if isinstance(found, IPv4Address) else None


def any_address_of(text: str | None) -> IPv4Address | IPv6Address | None:
    """Raises ``ValueError`` for a text that is no address; None for none."""
    return ip_address(text) if text else None


def writable(document: Json) -> Json:
    """A copy without read-only fields, which Azure would ignore at best."""
    result: Json = _stripped(copy.deepcopy(document))
    result["properties"] = result.get("properties") or {}
    return result


def _stripped(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: v if k == "tags" else _stripped(v) for k, v in value.items() if k not in _READ_ONLY
        }
    if isinstance(value, list):
        return [_stripped(item) for item in value]
    return value
