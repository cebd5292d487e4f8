"""Builds the CNI plugin when the package is built, for wheels and editable installs alike.

The plugin must run on any node, so it is linked statically: by zig, which brings a C library for
every target, or else by the machine's own ``cc -static`` for this machine only. A wheel with both
targets inside is good everywhere; one without says in its tag where it belongs.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PLUGIN = "egress-gateway-cni"
FOLDER = Path("src/egress_gateway/cni/plugin")
MACHINES = ("x86_64", "aarch64")
FLAGS = ("-Os", "-static", "-s", "-std=c11", "-Wall", "-Wextra", "-Werror")


class PluginBuildHook(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """``version`` is hatch's kind of build: ``editable`` serves this machine alone."""
        source = Path(self.root, FOLDER, f"{PLUGIN}.c")
        own = platform.machine()
        if importlib.util.find_spec("ziglang") and own in MACHINES:
            zig = [sys.executable, "-m", "ziglang", "cc"]
            for machine in (own,) if version == "editable" else MACHINES:
                build_plugin([*zig, "-target", f"{machine}-linux-musl"], source, machine)
        else:
            build_plugin([own_compiler()], source, own)
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-linux_{own}"


def own_compiler() -> str:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise SystemExit(
            f"{PLUGIN}: there is no ziglang wheel for this platform and no C compiler either; "
            "install one with static libraries (Debian: apt install gcc libc6-dev)"
        )
    return compiler


def build_plugin(compiler: list[str], source: Path, machine: str) -> None:
    """Leaves the plugin beside its source, unless one is there that is newer than the source.

    (zig's first run for a target builds the C library, half a minute; editable installs are
    repeated whenever pyproject.toml changes.) NB: renamed into place, since two installs of one
    checkout may build at the same time.
    """
    target = source.with_name(f"{PLUGIN}.{machine}")
    inputs = max(source.stat().st_mtime, Path(__file__).stat().st_mtime)
    if target.exists() and target.stat().st_mtime > inputs:
        return
    new = target.with_name(f"{target.name}.{os.getpid()}")
    command = [*compiler, *FLAGS, "-o", str(new), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{PLUGIN}: {' '.join(command)} failed:\n{done.stderr}")
    new.replace(target)
