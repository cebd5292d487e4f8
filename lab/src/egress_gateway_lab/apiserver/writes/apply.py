"""Server-side apply: who owns which field, and what an applied configuration changes.

Fields are paths in the notation of ``fieldsV1`` (``f:name``, ``k:{…}`` for an entry of a keyed
list, ``v:…`` for a member of a set). The rules, from
https://kubernetes.io/docs/reference/using-api/server-side-apply/:
- applying a value that another manager owns and that differs is a conflict, unless forced;
- what an applier owned and no longer applies goes away, unless someone else owns it too;
- an ordinary write takes over what it changes.

Unlike kube-apiserver only leaves and list entries are owned, never the maps between them; nobody
can tell except by reading ``managedFields``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any

from egress_gateway_lab.apiserver import errors
from egress_gateway_lab.apiserver.objects import Object, clone, now
from egress_gateway_lab.apiserver.writes.lists import KEY_DEFAULTS

Path = tuple[str, ...]
ListKeys = Callable[[tuple[str, ...]], tuple[str, ...] | None]
"""How the list at a path of field names merges (see ``lists.list_keys``)."""

_ENTRY = object()
_ATOMIC_MAPS = frozenset({"selector", "nodeSelector", "roleRef", "fieldRef", "resourceFieldRef"})
_UNMANAGED = frozenset(
    {
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
        "selfLink",
        "generateName",
    }
)


def _entry_key(entry: Object, keys: tuple[str, ...]) -> str:
    named = {k: entry.get(k, KEY_DEFAULTS.get(k)) for k in sorted(keys)}
    return "k:" + json.dumps(named, separators=(",", ":"))


def _member(value: Any) -> str:
    return "v:" + json.dumps(value, separators=(",", ":"))


def _names(path: Path) -> tuple[str, ...]:
    return tuple(p[2:] for p in path if p.startswith("f:"))


def leaves(obj: Object, list_keys: ListKeys) -> dict[Path, Any]:
    """Every field of an object that can be owned, with its value."""
    found: dict[Path, Any] = {}
    for name, value in obj.items():
        if name in ("apiVersion", "kind"):
            continue
        if name == "metadata":
            value = {k: v for k, v in value.items() if k not in _UNMANAGED}
            if not value:
                continue
        _collect(value, (f"f:{name}",), list_keys, found)
    return found


def _collect(value: Any, path: Path, list_keys: ListKeys, found: dict[Path, Any]) -> None:
    if isinstance(value, dict) and value and path[-1][2:] not in _ATOMIC_MAPS:
        for name, inner in value.items():
            _collect(inner, (*path, f"f:{name}"), list_keys, found)
        return
    keys = list_keys(_names(path)) if isinstance(value, list) else None
    if keys is None:
        found[path] = value
    elif keys == ():
        for inner in value:
            found[(*path, _member(inner))] = _ENTRY
    else:
        for entry in value:
            at = (*path, _entry_key(entry, keys))
            found[at] = _ENTRY
            for name, inner in entry.items():
                _collect(inner, (*at, f"f:{name}"), list_keys, found)


def to_fields(paths: set[Path]) -> Object:
    """``fieldsV1`` of a set of paths."""
    tree: Object = {}
    for path in sorted(paths):
        at = tree
        for part in path:
            at = at.setdefault(part, {})
        if path[-1].startswith("k:"):
            at["."] = {}
    return tree


def from_fields(tree: Object, prefix: Path = ()) -> set[Path]:
    paths: set[Path] = set()
    for part, below in tree.items():
        if part == ".":
            paths.add(prefix)
        elif not below:
            paths.add((*prefix, part))
        else:
            paths |= from_fields(below, (*prefix, part))
    return paths


class Managers:
    """The ``managedFields`` of one object."""

    def __init__(self, obj: Object | None) -> None:
        entries = (obj or {"metadata": {}})["metadata"].get("managedFields") or []
        self._owned: dict[tuple[str, str, str, str], set[Path]] = {}
        self._times: dict[tuple[str, str, str, str], str] = {}
        for entry in entries:
            key = (
                entry.get("manager", ""),
                entry.get("operation", "Update"),
                entry.get("subresource", ""),
                entry.get("apiVersion", ""),
            )
            self._owned[key] = from_fields(entry.get("fieldsV1") or {})
            self._times[key] = entry.get("time", "")

    def owned(self, manager: str, operation: str, subresource: str) -> set[Path]:
        found: set[Path] = set()
        for (name, op, sub, _), paths in self._owned.items():
            if (name, op, sub) == (manager, operation, subresource):
                found |= paths
        return found

    def others(self, manager: str, operation: str, subresource: str) -> dict[str, set[Path]]:
        """What everyone else owns, by description."""
        found: dict[str, set[Path]] = {}
        for (name, op, sub, version), paths in self._owned.items():
            if (name, op, sub) != (manager, operation, subresource):
                shown = f'"{name}"' + (f" using {version}" if op != "Apply" else "")
                found.setdefault(shown, set()).update(paths)
        return found

    def take(self, key: tuple[str, str, str, str], own: set[Path], lost: set[Path]) -> None:
        """``key`` owns exactly ``own``; nobody else owns anything of ``lost``."""
        before = self._owned.get(key)
        for other in [k for k in self._owned if k[:3] == key[:3] and k != key]:
            del self._owned[other]
        for other in list(self._owned):
            if other != key:
                self._owned[other] -= lost
                if not self._owned[other]:
                    del self._owned[other]
        if own:
            self._owned[key] = own
            if own != before:
                self._times[key] = now()
        else:
            self._owned.pop(key, None)

    def entries(self) -> list[Object]:
        listed = []
        for key, paths in self._owned.items():
            manager, operation, subresource, api_version = key
            entry = {
                "manager": manager,
                "operation": operation,
                "apiVersion": api_version,
                "time": self._times[key],
                "fieldsType": "FieldsV1",
                "fieldsV1": to_fields(paths),
            }
            if subresource:
                entry["subresource"] = subresource
            listed.append(entry)
        return listed


def track_update(
    old: Object | None, new: Object, list_keys: ListKeys, *, manager: str, subresource: str
) -> list[Object]:
    """``managedFields`` after an ordinary write."""
    before = leaves(old, list_keys) if old is not None else {}
    after = leaves(new, list_keys)
    changed = {p for p, v in after.items() if p not in before or before[p] != v}
    gone = before.keys() - after.keys()
    managers = Managers(old)
    if changed or gone:
        key = (manager, "Update", subresource, new["apiVersion"])
        own = (managers.owned(manager, "Update", subresource) | changed) - gone
        managers.take(key, own, changed | gone)
    return managers.entries()


def apply(
    live: Object | None,
    applied: Object,
    list_keys: ListKeys,
    *,
    manager: str,
    subresource: str,
    force: bool,
) -> Object:
    """The object after ``manager`` applies its configuration; raises the conflict error."""
    base: Object = live if live is not None else _empty(applied)
    wanted = leaves(applied, list_keys)
    present = leaves(base, list_keys)
    managers = Managers(live)
    others = managers.others(manager, "Apply", subresource)
    differing = {p for p, v in wanted.items() if p in present and present[p] != v}
    conflicts = [
        errors.Cause(_readable(path), f"conflict with {who}")
        for who, paths in others.items()
        for path in sorted(paths & differing)
    ]
    if conflicts and not force:
        raise errors.apply_conflict(conflicts)
    merged: Object = _merge(base, applied, (), list_keys)
    owned_elsewhere = {p for paths in others.values() for p in paths}
    dropped = managers.owned(manager, "Apply", subresource) - wanted.keys() - owned_elsewhere
    needed = owned_elsewhere | wanted.keys()
    for path in sorted(dropped, key=len):
        # An entry, or a map that was applied empty, stays while someone owns a part of it.
        if any(p[: len(path)] == path and p != path for p in needed):
            continue
        _remove(merged, path, list_keys, needed)
    key = (manager, "Apply", subresource, applied["apiVersion"])
    managers.take(key, set(wanted), differing | dropped)
    merged["metadata"]["managedFields"] = managers.entries()
    return merged


def _empty(applied: Object) -> Object:
    kept = ("name", "namespace", "generateName")
    return {
        "apiVersion": applied["apiVersion"],
        "kind": applied["kind"],
        "metadata": {k: v for k, v in applied["metadata"].items() if k in kept},
    }


def _merge(base: Any, applied: Any, path: tuple[str, ...], list_keys: ListKeys) -> Any:
    if isinstance(applied, dict) and isinstance(base, dict):
        if path and path[-1] in _ATOMIC_MAPS:
            return clone(applied)
        merged = clone(base)
        for name, value in applied.items():
            merged[name] = _merge(base.get(name), value, (*path, name), list_keys)
        return merged
    if isinstance(applied, list) and isinstance(base, list):
        keys = list_keys(path)
        if keys == ():
            return clone(base) + [v for v in applied if v not in base]
        if keys:
            return _merge_entries(base, applied, path, keys, list_keys)
    return clone(applied)


def _merge_entries(
    base: list[Any],
    applied: list[Any],
    path: tuple[str, ...],
    keys: tuple[str, ...],
    list_keys: ListKeys,
) -> list[Any]:
    merged = clone(base)
    at = {_entry_key(e, keys): i for i, e in enumerate(merged)}
    for entry in applied:
        name = _entry_key(entry, keys)
        if name in at:
            merged[at[name]] = _merge(merged[at[name]], entry, path, list_keys)
        else:
            at[name] = len(merged)
            merged.append(clone(entry))
    return merged  # type: ignore[no-any-return]


def _remove(obj: Object, path: Path, list_keys: ListKeys, needed: AbstractSet[Path]) -> None:
    """Takes a field out, and the maps that it leaves empty and nobody applied as such."""
    chain: list[tuple[Any, Any]] = []
    at: Any = obj
    for i, part in enumerate(path):
        step = _step(at, part, path[:i], list_keys)
        if step is None:
            return
        chain.append((at, step))
        at = at[step]
    container, step = chain.pop()
    del container[step]
    while chain and not container and path[: len(chain)] not in needed:
        container, step = chain.pop()
        if isinstance(container, list):
            return
        del container[step]


def _step(at: Any, part: str, before: Path, list_keys: ListKeys) -> Any:
    """Key or index of a path's part in a container, None where there is none."""
    if part.startswith("f:"):
        return part[2:] if isinstance(at, dict) and part[2:] in at else None
    if not isinstance(at, list):
        return None
    if part.startswith("v:"):
        value = json.loads(part[2:])
        return at.index(value) if value in at else None
    keys = list_keys(_names(before)) or ()
    return next((i for i, e in enumerate(at) if _entry_key(e, keys) == part), None)


def _readable(path: Path) -> str:
    text = ""
    for part in path:
        if part.startswith("f:"):
            text += f".{part[2:]}"
        elif part.startswith("k:"):
            named = json.loads(part[2:])
            text += "[" + ",".join(f"{k}={json.dumps(v)}" for k, v in named.items()) + "]"
        else:
            text += f"[={part[2:]}]"
    return text
