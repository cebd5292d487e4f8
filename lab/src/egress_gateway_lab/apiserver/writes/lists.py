"""How the lists of built-in kinds merge: by which keys their entries are told apart.

From the ``patchMergeKey`` and ``listMapKey`` marks of k8s.io/api (core/v1, apps/v1), reduced to
the kinds served here. Custom resources say the same in ``x-kubernetes-list-type``.
"""

from __future__ import annotations

_CONTAINER_LISTS = ("containers", "initContainers", "ephemeralContainers")

_BY_FIELD: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "env": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "resourceClaims": ("name",),
    "conditions": ("type",),
    "ownerReferences": ("uid",),
    "podIPs": ("ip",),
    "hostIPs": ("ip",),
    "matchConditions": ("name",),
}
_BY_KIND: dict[tuple[str, str], tuple[str, ...]] = {
    ("ServiceAccount", "secrets"): ("name",),
    ("Node", "addresses"): ("type",),
    ("Service", "ports"): ("port", "protocol"),
}
_SETS = frozenset({"finalizers"})
_NODE_SETS = frozenset({"podCIDRs"})

KEY_DEFAULTS = {"protocol": "TCP"}
"""Keys that an entry may leave out."""


def list_keys(kind: str, path: tuple[str, ...]) -> tuple[str, ...] | None:
    """Keys of an associative list, ``()`` for a set, None for an atomic list."""
    name = path[-1]
    if (found := _BY_KIND.get((kind, name))) is not None:
        return found
    if name == "ports" and any(part in _CONTAINER_LISTS for part in path):
        return ("containerPort", "protocol")
    if name in _SETS or (kind == "Node" and name in _NODE_SETS):
        return ()
    if name == "conditions" and kind == "CustomResourceDefinition":
        return ("type",)
    return _BY_FIELD.get(name)


def merge_key(kind: str, path: tuple[str, ...]) -> str | None:
    """The one key of a strategic merge, ``""`` for a set, None for an atomic list."""
    keys = list_keys(kind, path)
    if keys is None:
        return None
    return keys[0] if keys else ""
