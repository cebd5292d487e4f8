"""A container's environment and command line from its spec (pure).

Kubernetes' rules: ``envFrom`` before ``env``, later entries win, ``$(NAME)`` refers to what was
defined before it, ``$$`` is one dollar, an unknown reference stays as it is written.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

Object = Mapping[str, Any]

_REFERENCE = re.compile(r"\$(\$|\(([^)]*)\))")
_SUBSCRIPT = re.compile(r"^metadata\.(labels|annotations)\['([^']+)'\]$")


class MissingSource(LookupError):
    """A ConfigMap, Secret or key that is not optional is missing (CreateContainerConfigError)."""


def expand(text: str, known: Mapping[str, str]) -> str:
    """Replaces ``$(NAME)``."""

    def replace(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        return known.get(match[2], match[0])

    return _REFERENCE.sub(replace, text)


def field_value(pod: Object, path: str, *, host_ip: str, pod_ips: list[str]) -> str:
    """A downward API field. Raises ``MissingSource`` for one that is not offered."""
    meta: Object = pod["metadata"]
    subscript = _SUBSCRIPT.match(path)
    if subscript:
        return str((meta.get(subscript[1]) or {}).get(subscript[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        values: Mapping[str, str] = meta.get(path.partition(".")[2]) or {}
        return "".join(f'{key}="{value}"\n' for key, value in sorted(values.items()))
    simple = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta["namespace"],
        "metadata.uid": meta["uid"],
        "spec.nodeName": pod["spec"].get("nodeName", ""),
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName", "default"),
        "status.hostIP": host_ip,
        "status.hostIPs": host_ip,
        "status.podIP": pod_ips[0] if pod_ips else "",
        "status.podIPs": ",".join(pod_ips),
    }
    if path not in simple:
        raise MissingSource(f"unsupported fieldPath {path}")
    return str(simple[path])


def sources(container: Object) -> set[tuple[str, str]]:
    """("ConfigMap" | "Secret", name) of everything the environment refers to."""
    found = set()
    for entry in container.get("envFrom") or []:
        for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if entry.get(key):
                found.add((kind, entry[key]["name"]))
    for entry in container.get("env") or []:
        origin = entry.get("valueFrom") or {}
        for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
            if origin.get(key):
                found.add((kind, origin[key]["name"]))
    return found


def texts(kind: str, stored: Object) -> dict[str, str]:
    """A ConfigMap's or Secret's entries as text."""
    if kind == "ConfigMap":
        return dict(stored.get("data") or {})
    return {
        key: base64.b64decode(value).decode(errors="replace")
        for key, value in (stored.get("data") or {}).items()
    }


def build(
    pod: Object,
    container: Object,
    *,
    base: Mapping[str, str],
    found: Mapping[tuple[str, str], Mapping[str, str]],
    host_ip: str,
    pod_ips: list[str],
) -> dict[str, str]:
    """The environment. ``base``: what image and platform set; ``found``: entries of the sources
    that exist. Raises ``MissingSource``."""
    env = dict(base)
    for entry in container.get("envFrom") or []:
        for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if entry.get(key):
                values = _source(kind, entry[key], found)
                prefix = entry.get("prefix", "")
                env.update({prefix + name: value for name, value in (values or {}).items()})
    for entry in container.get("env") or []:
        value = _value(pod, entry, env, found, host_ip, pod_ips)
        if value is not None:
            env[entry["name"]] = value
    return env


def _source(
    kind: str, reference: Object, found: Mapping[tuple[str, str], Mapping[str, str]]
) -> Mapping[str, str] | None:
    values = found.get((kind, reference["name"]))
    if values is None and not reference.get("optional"):
        raise MissingSource(f'{kind.lower()} "{reference["name"]}" not found')
    return values


def _value(
    pod: Object,
    entry: Object,
    env: Mapping[str, str],
    found: Mapping[tuple[str, str], Mapping[str, str]],
    host_ip: str,
    pod_ips: list[str],
) -> str | None:
    origin = entry.get("valueFrom")
    if not origin:
        return expand(entry.get("value") or "", env)
    if origin.get("fieldRef"):
        path = origin["fieldRef"]["fieldPath"]
        return field_value(pod, path, host_ip=host_ip, pod_ips=pod_ips)
    for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
        reference = origin.get(key)
        if reference:
            values = _source(kind, reference, found)
            if values is None or reference["key"] not in values:
                if reference.get("optional"):
                    return None
                raise MissingSource(
                    f"couldn't find key {reference['key']} in {kind} "
                    f"{pod['metadata']['namespace']}/{reference['name']}"
                )
            return values[reference["key"]]
    if origin.get("resourceFieldRef"):
        return "0"  # nothing is limited here
    raise MissingSource(f"unsupported source of variable {entry['name']}")
