"""The three patches that are computed from the patch alone (apply is in ``apply``).

JSON Patch (RFC 6902), JSON Merge Patch (RFC 7386), and Kubernetes' strategic merge patch, which
merges lists of built-in kinds by key and knows ``$patch``, ``$deleteFromPrimitiveList``,
``$setElementOrder`` and ``$retainKeys`` (sig-api-machinery/strategic-merge-patch.md).
"""

from __future__ import annotations

from typing import Any

import jsonpatch

from egress_gateway_lab.apiserver import errors
from egress_gateway_lab.apiserver.objects import Object, clone
from egress_gateway_lab.apiserver.writes.lists import merge_key

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


def json_patch(obj: Object, operations: Any) -> Object:
    if not isinstance(operations, list):
        raise errors.bad_request("a JSON patch is a list of operations")
    try:
        patched: Object = jsonpatch.apply_patch(clone(obj), operations)
    except jsonpatch.JsonPatchTestFailed as error:
        raise errors.StatusError(422, "Invalid", f"testing failed: {error}") from error
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
        raise errors.StatusError(
            422,
            "Invalid",
            f"the server rejected our request due to an error in our request: {error}",
        ) from error
    return patched


def merge_patch(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return clone(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def strategic_patch(kind: str, target: Object, patch: Any) -> Object:
    """``kind`` chooses between lists of the same field name (a Service's and a container's
    ``ports``)."""
    if not isinstance(patch, dict):
        raise errors.bad_request("a strategic merge patch is an object")
    return _merge_map(kind, (), target, patch)


def _merge_map(kind: str, path: tuple[str, ...], target: Any, patch: Object) -> Object:
    directive = patch.get("$patch")
    if directive == "replace":
        return {k: clone(v) for k, v in patch.items() if k != "$patch"}
    if directive == "delete":
        return {}
    result: Object = dict(target) if isinstance(target, dict) else {}
    if (retain := patch.get("$retainKeys")) is not None:
        result = {k: v for k, v in result.items() if k in retain}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            field = key.partition("/")[2]
            result[field] = [v for v in result.get(field) or [] if v not in value]
        elif key.startswith("$"):
            continue
        elif value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = _merge_map(kind, (*path, key), result.get(key), value)
        elif isinstance(value, list):
            result[key] = _merge_list(kind, (*path, key), result.get(key) or [], value)
        else:
            result[key] = value
    for key, order in patch.items():
        if key.startswith("$setElementOrder/"):
            field = key.partition("/")[2]
            if isinstance(result.get(field), list):
                result[field] = _reorder(result[field], order, merge_key(kind, (*path, field)))
    return result


def _merge_list(kind: str, path: tuple[str, ...], target: list[Any], patch: list[Any]) -> list[Any]:
    key = merge_key(kind, path)
    if key is None:
        return clone(patch)  # type: ignore[no-any-return]
    if key == "":
        return _merged_set(target, patch)
    if any(isinstance(e, dict) and e.get("$patch") == "replace" for e in patch):
        return [clone(e) for e in patch if e.get("$patch") != "replace"]
    result = list(target)
    for entry in patch:
        if not isinstance(entry, dict) or key not in entry:
            raise errors.bad_request(f"map: {entry} does not contain declared merge key: {key}")
        at = next((i for i, e in enumerate(result) if e.get(key) == entry[key]), None)
        if entry.get("$patch") == "delete":
            if at is not None:
                del result[at]
        elif at is None:
            result.append(_merge_map(kind, path, {}, entry))
        else:
            result[at] = _merge_map(kind, path, result[at], entry)
    return result


def _merged_set(target: list[Any], patch: list[Any]) -> list[Any]:
    """What the patch names comes in its order, new values before what it does not name."""
    result = list(dict.fromkeys(patch))
    for at, value in enumerate(target):
        if value not in result:
            before = [v for v in target[:at] if v in patch]
            result.insert(max((result.index(v) + 1 for v in before), default=len(result)), value)
    return result


def _reorder(entries: list[Any], order: list[Any], key: str | None) -> list[Any]:
    """Entries in the order that the patch names; those it does not name keep their place
    relative to the one before them."""
    wanted = [e.get(key) if isinstance(e, dict) and key else e for e in order]
    names = [e.get(key) if isinstance(e, dict) and key else e for e in entries]
    ranks: list[tuple[int, int]] = []
    last = -1
    for i, name in enumerate(names):
        last = wanted.index(name) if name in wanted else last
        ranks.append((last, i))
    return [entries[i] for _, i in sorted(ranks)]
