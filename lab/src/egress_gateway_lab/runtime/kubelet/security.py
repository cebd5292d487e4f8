"""What a pod's security contexts let a container do (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# containerd's default set without MKNOD: nothing here keeps device nodes from being opened but
# the file systems' ``nodev``.
DEFAULT_CAPABILITIES = frozenset(
    {
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "NET_BIND_SERVICE",
        "NET_RAW",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    }
)


@dataclass(frozen=True, slots=True)
class Rights:
    """The outcome for one container."""

    privileged: bool
    capabilities: tuple[str, ...]
    user: int | None
    group: int | None
    no_new_privileges: bool
    read_only_root: bool


def rights(pod_spec: Mapping[str, Any], container: Mapping[str, Any]) -> Rights:
    """A container's own security context goes before its pod's."""
    context = {
        **(pod_spec.get("securityContext") or {}),
        **(container.get("securityContext") or {}),
    }
    changes = context.get("capabilities") or {}
    kept = set(DEFAULT_CAPABILITIES)
    dropped = {_name(entry) for entry in changes.get("drop") or []}
    kept = set() if "ALL" in dropped else kept - dropped
    kept |= {_name(entry) for entry in changes.get("add") or []}
    user = context.get("runAsUser")
    group = context.get("runAsGroup")
    return Rights(
        privileged=bool(context.get("privileged")),
        capabilities=tuple(sorted(kept)),
        user=user,
        group=group if group is not None else (0 if user else None),
        no_new_privileges=context.get("allowPrivilegeEscalation") is False,
        read_only_root=bool(context.get("readOnlyRootFilesystem")),
    )


def _name(capability: str) -> str:
    return capability.upper().removeprefix("CAP_")
