#!/usr/bin/env python3
"""Puts the real `az` and `kubectl` into a folder of the user's cache, outside this repository.

    eval "$(tools/azure_cli/install.py)"      # this shell now has both on its PATH

`az` is 430 MB with SDK versions of its own, so it gets an environment of its own and is no
dependency of ours. Each version is installed once: a folder counts when its marker is there, and a
lock keeps two runs apart. kubectl is that of ``kubernetes_clients``. What is printed on standard
output is for `eval`, progress goes to standard error.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import kubernetes_clients

REPOSITORY = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
"""All of az's packages, pinned: `uv pip compile` of `azure-cli==VERSION`."""
MODULES = ("acs", "cloud", "network", "profile", "resource", "role", "vm")
"""Command modules of `az` that the walk-through uses: compiled to bytecode beforehand."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", choices=("shell", "json"), default="shell")
    arguments = parser.parse_args()
    cache = cache_folder()
    az_version = version_of("azure-cli")
    az = install(cache / f"azure-cli-{az_version}", f"azure-cli {az_version}", install_az)
    try:
        kubectl = kubernetes_clients.ensure() / "kubectl"
    except kubernetes_clients.Unavailable as problem:
        sys.exit(f"azure_cli/install.py: {problem}")
    binaries = cache / "bin"
    binaries.mkdir(exist_ok=True)
    link(binaries / "az", az / "az")
    link(binaries / "kubectl", kubectl)
    if arguments.output == "json":
        found = {"bin": str(binaries), "python": str(az / "venv/bin/python"), "az": az_version}
        print(json.dumps(found))
    else:
        print(f"export PATH={shlex.quote(str(binaries))}:$PATH")


def cache_folder() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "static-egress-gateway"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def version_of(package: str) -> str:
    lines = REQUIREMENTS.read_text().splitlines()
    return next(line.split("==")[1] for line in lines if line.startswith(f"{package}=="))


def install(folder: Path, name: str, work: Callable[[Path], None]) -> Path:
    """Fills ``folder`` by ``work`` unless that has been done; what was half done is done anew."""
    marker = folder / ".complete"
    with lock(folder.with_name(f"{folder.name}.lock")):
        if not marker.exists():
            began = time.monotonic()
            say(f"installing {name} into {folder} (once)")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            work(folder)
            marker.touch()
            say(f"{name} installed in {time.monotonic() - began:.0f} s")
    return folder


def install_az(folder: Path) -> None:
    python = folder / "venv/bin/python"
    run(uv(), "venv", "--quiet", "--python", sys.executable, str(folder / "venv"))
    run(uv(), "pip", "install", "--quiet", "--python", str(python), "-r", str(REQUIREMENTS))
    say("compiling the commands that are used (a command takes 8 s without, 1 s with)")
    package = next((folder / "venv/lib").glob("python*/site-packages/azure/cli"))
    parts = [package / "core", *(package / "command_modules" / m for m in MODULES)]
    run(str(python), "-m", "compileall", "-q", "-j", "0", *map(str, parts))
    script = folder / "az"
    script.write_text(
        "#!/bin/sh\n"
        "# az without its bytecode takes seconds to start; these folders are its own to write.\n"
        f'unset PYTHONDONTWRITEBYTECODE\nexec {shlex.quote(str(python))} -m azure.cli "$@"\n'
    )
    script.chmod(0o755)


def link(name: Path, target: Path) -> None:
    """Replaces atomically: another run may be using it."""
    fresh = name.with_suffix(f".{os.getpid()}")
    fresh.symlink_to(target)
    fresh.replace(name)


def uv() -> str:
    own = REPOSITORY / ".tools/bin/uv"
    found = str(own) if own.exists() else shutil.which("uv")
    if found is None:
        sys.exit("azure_cli/install.py: uv is missing; run `make install` first")
    return found


def run(*command: str) -> None:
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    if done.returncode:
        sys.exit(f"azure_cli/install.py: `{shlex.join(command)}` failed with {done.returncode}")


@contextmanager
def lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
