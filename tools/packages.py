#!/usr/bin/env python3
"""Installs the system packages that a make target needs, by name, before the target starts to work.

    packages.py TARGET             says what it installs; nothing where nothing is missing
    packages.py --missing TARGET   prints the names alone, and installs nothing

What a target needs stands in ``packages.toml``. Status 1, and one line that says what to do, where
packages are missing and cannot be installed. Needs only the standard library: it runs before
anything else is there.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("packages.toml")
SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Folders of system programs, some of which a user's PATH may lack."""
_APT = ("apt-get", "-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=600")


class Refused(Exception):
    """Packages are missing and cannot be installed here; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Package:
    """One entry of the table; its text explains the fields."""

    name: str
    targets: frozenset[str]
    use: str
    programs: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()

    @property
    def present(self) -> bool:
        """Whether all that is used of it is on this machine, from whatever package."""
        return (
            all(_which(program) for program in (*self.programs, *self.inner))
            and all(Path(file).exists() for file in self.files)
            and all(_loads(library) for library in self.libraries)
            and all(importlib.util.find_spec(module) for module in self.modules)
        )


@dataclass(frozen=True, slots=True)
class Table:
    """All packages, the targets with the ones below them, and programs of other origin."""

    packages: tuple[Package, ...]
    below: Mapping[str, tuple[str, ...]]
    elsewhere: Mapping[str, str]

    def covered(self, target: str) -> frozenset[str]:
        """``target`` and all targets whose packages it needs as well."""
        lower = (self.covered(name) for name in self.below[target])
        return frozenset({target}).union(*lower)

    def of(self, target: str) -> Iterator[Package]:
        """What ``target`` needs. Raises ``KeyError`` for one that the table does not know."""
        wanted = self.covered(target)
        return (package for package in self.packages if package.targets & wanted)


def read(text: str) -> Table:
    """The table of ``packages.toml``. Raises ``KeyError`` or ``TypeError`` if it is not one."""
    document = tomllib.loads(text)
    below = {name: tuple(lower) for name, lower in document["targets"].items()}
    return Table(
        tuple(_package(entry) for entry in document["package"]), below, document["elsewhere"]
    )


def _package(entry: dict[str, Any]) -> Package:
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
    }
    return Package(targets=frozenset(fields.pop("for")), **fields)


def missing(target: str) -> list[str]:
    """Names of the packages that ``target`` needs and this machine lacks."""
    return [p.name for p in read(TABLE.read_text()).of(target) if not p.present]


def install(names: list[str]) -> None:
    """Raises ``Refused``."""
    listed = " ".join(names)
    by_hand = f"apt-get install --no-install-recommends {listed}"
    if shutil.which("apt-get") is None:
        raise Refused(f"no apt-get here; install these packages by hand: {listed}")
    if os.geteuid() != 0:
        raise Refused(f"root is needed to install system packages: sudo {by_hand}")
    print(f"installing system packages: {listed}", file=sys.stderr, flush=True)
    command = [*_APT, "install", "-qq", "-y", "--no-install-recommends", *names]
    if _apt(command):  # this machine may never have asked which packages there are
        if said := _apt([*_APT, "update", "-qq"]):
            raise Refused(f"`apt-get update` failed: {said}")
        if said := _apt(command):
            raise Refused(f"`{by_hand}` failed: {said}")


def _apt(command: list[str]) -> str:
    """What it said if it failed; nothing otherwise."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    errors = [line for line in done.stderr.splitlines() if line.startswith(("E:", "dpkg:"))]
    return " ".join(errors) or done.stderr.strip()[-500:] or f"status {done.returncode}"


def _which(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path=SYSTEM)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def main() -> int:
    arguments = sys.argv[1:]
    only_names = arguments[:1] == ["--missing"]
    names = arguments[only_names:]
    known = read(TABLE.read_text()).below
    if len(names) != 1 or names[0] not in known:
        print(f"packages.py: name one target: {', '.join(known)}", file=sys.stderr)
        return 2
    lacking = missing(names[0])
    if only_names:
        print(*lacking, sep="\n", end="\n" if lacking else "")
        return 0
    try:
        if lacking:
            install(lacking)
        if still := missing(names[0]):
            raise Refused(f"installed, and yet something of them is missing: {' '.join(still)}")
    except Refused as error:
        print(f"packages.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
