"""Where the plugin that was built with this package is, for the machine we run on."""

from __future__ import annotations

import platform
from pathlib import Path

from egress_gateway.api import names
from egress_gateway.service.errors import ExpectedError


class PluginMissing(ExpectedError):
    """The package carries no plugin for this machine."""


def path(machine: str | None = None) -> Path:
    """The executable for ``machine`` (``x86_64``, ``aarch64``; default: this one)."""
    wanted = machine or platform.machine()
    found = Path(__file__).parent / "plugin" / f"{names.CNI_PLUGIN}.{wanted}"
    if not found.exists():
        raise PluginMissing(
            f"{found.name} was not built: this installation has no CNI plugin for {wanted} "
            "machines; reinstall the package on such a machine with ziglang or a C compiler"
        )
    return found
