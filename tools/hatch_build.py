"""Builds the CNI plugin when the package is built, for wheels and editable installs alike.

The plugin must run on any node, so it is linked statically: by zig, which brings a C library for
every target, or else by ``cc -static`` and, for other machines, by the distribution's cross
compilers. A wheel with both targets inside is good everywhere; one without says in its tag where it
belongs. zig holds a descriptor for every file of the C library that it compiles, some 1,400 at
once: where a process may not open that many (containers of podman and buildah may open 1,024) the
compilers of the distribution serve.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import resource
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
ZIG_DESCRIPTORS = 4096
"""What zig 0.17 needs (``ProcessFdQuotaExceeded`` at 1,024), with room to spare."""


class PluginBuildHook(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """``version`` is hatch's kind of build: ``editable`` serves this machine alone."""
        source = Path(self.root, FOLDER, f"{PLUGIN}.c")
        own = platform.machine()
        wanted = (own,) if version == "editable" or own not in MACHINES else MACHINES
        found = {machine: command for machine in wanted if (command := compiler(machine))}
        if own not in found:
            raise SystemExit(_NO_COMPILER)
        for machine, command in found.items():
            build_plugin(command, source, machine)
        if set(found) != set(MACHINES) and version != "editable":
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-linux_{own}"


def compiler(machine: str) -> list[str] | None:
    """A command that compiles and links statically for ``machine``, or None."""
    if importlib.util.find_spec("ziglang") and machine in MACHINES and raise_descriptors():
        return [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-musl"]
    names = [f"{machine}-linux-gnu-gcc"]
    if machine == platform.machine():
        names.insert(0, os.environ.get("CC", "cc"))
    return next(([path] for name in names if (path := shutil.which(name))), None)


def raise_descriptors(needed: int = ZIG_DESCRIPTORS) -> bool:
    """Lets this process and its children open ``needed`` files; False where it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        most = hard if hard == resource.RLIM_INFINITY else max(needed, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))
        except (ValueError, OSError):
            return False
    return True


_NO_COMPILER = (
    f"{PLUGIN}: no compiler for this machine. ziglang serves where a process may open "
    f"{ZIG_DESCRIPTORS} files (`ulimit -n`; containers: --ulimit nofile=20000:20000); else install "
    "a C compiler with static libraries (Debian: apt-get install gcc libc6-dev)"
)


def build_plugin(compiler_command: list[str], source: Path, machine: str) -> None:
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
    command = [*compiler_command, *FLAGS, "-o", str(new), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{PLUGIN}: {' '.join(command)} failed:\n{done.stderr}")
    new.replace(target)
