"""Puts the plugin into a node's CNI chain and keeps it there; takes it out again on request.

Level-triggered: ``converge`` looks at what is there and writes only what differs. The executable
is in place before a configuration names it. Every file appears whole, by rename. Other programs
own these files and rewrite them as they like; we follow.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from egress_gateway.api import names
from egress_gateway.cni import conflist

log = logging.getLogger(__name__)

_SAVED: Final = ".before-egress-gateway"
"""A single ``.conf`` keeps its content under this suffix, and becomes a ``.conflist``."""


class InstallError(Exception):
    """The plugin cannot be put in place; names the file and what mends it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installer:
    """``plugin`` is the executable to install, ``entry`` its part of the chain."""

    plugin: Path
    bin_dir: Path
    conf_dir: Path
    entry: dict[str, Any]

    def converge(self) -> list[str]:
        """Installs what is missing; returns what was done. Raises ``InstallError``."""
        try:
            return [*self._install_plugin(), *self._join_chain()]
        except OSError as error:
            raise InstallError(f"installing the CNI plugin: {error}") from error

    def remove(self, *, keep_executable: bool = False) -> list[str]:
        """Takes the plugin out of every chain and restores what was replaced. The executable may
        be kept for sandboxes whose runtime still calls it."""
        done = []
        try:
            for path in sorted(self.conf_dir.glob("*")):
                if path.name.endswith(conflist.EXTENSIONS):
                    done += self._leave_chain(path)
            if not keep_executable and (self.bin_dir / names.CNI_PLUGIN).exists():
                (self.bin_dir / names.CNI_PLUGIN).unlink()
                done.append(f"removed {self.bin_dir / names.CNI_PLUGIN}")
        except OSError as error:
            raise InstallError(f"removing the CNI plugin: {error}") from error
        return done

    def _install_plugin(self) -> list[str]:
        target = self.bin_dir / names.CNI_PLUGIN
        content = self.plugin.read_bytes()
        if _reads(target, content) and os.access(target, os.X_OK):
            return []
        self.bin_dir.mkdir(parents=True, exist_ok=True)
        _write(target, content, 0o755)
        return [f"installed {target}"]

    def _join_chain(self) -> list[str]:
        first = self._first()
        try:
            changed = conflist.with_plugin(first.read_bytes(), self.entry)
        except conflist.ConflistError as error:
            raise InstallError(f"{first}: {error}") from error
        if changed is None:
            return []
        if first.suffix == ".conflist":
            _write(first, changed, first.stat().st_mode & 0o777)
            return [f"chained {names.CNI_PLUGIN} in {first}"]
        # NB: the old file goes last: for a moment both are there, and the runtime reads the old
        # one; the other order would leave the node without a network.
        whole = first.with_suffix(".conflist")
        _write(whole, changed, 0o644)
        first.rename(first.with_name(first.name + _SAVED))
        return [f"replaced {first} by {whole}"]

    def _first(self) -> Path:
        found = sorted(
            path
            for path in (self.conf_dir.iterdir() if self.conf_dir.is_dir() else ())
            if path.name.endswith(conflist.EXTENSIONS) and not path.name.startswith(".")
        )
        if not found:
            raise InstallError(
                f"no CNI configuration in {self.conf_dir} yet; the cluster's network plugin "
                "writes it (wrong directory? set cni_conf_dir)"
            )
        return found[0]

    def _leave_chain(self, path: Path) -> list[str]:
        saved = next(iter(path.parent.glob(f"{path.stem}.*{_SAVED}")), None)
        if saved is not None:
            saved.rename(saved.with_name(saved.name.removesuffix(_SAVED)))
            path.unlink()
            return [f"restored {saved.name.removesuffix(_SAVED)}"]
        try:
            changed = conflist.without_plugin(path.read_bytes())
        except conflist.ConflistError as error:
            log.warning("left alone", extra={"file": str(path), "error": str(error)})
            return []
        if changed is None:
            return []
        _write(path, changed, path.stat().st_mode & 0o777)
        return [f"took {names.CNI_PLUGIN} out of {path}"]


def _reads(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except FileNotFoundError:
        return False


def _write(path: Path, content: bytes, mode: int) -> None:
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_bytes(content)
    new.chmod(mode)
    new.rename(path)
