"""Puts the plugin into a node's CNI chain and keeps it there; takes it out again on request.

Level-triggered: ``converge`` looks at what is there and writes only what differs. The executable
is in place before a configuration names it. Every file appears whole, by rename, on disk before it
has its name. Other programs own these files and rewrite them as they like; we follow. What we
change is kept beside it first (the file itself, by a second name), so ``remove`` gives back every
byte.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from egress_gateway.api import names
from egress_gateway.cni import conflist
from egress_gateway.cni.tenure import Tenure
from egress_gateway.service.errors import ExpectedError

log = logging.getLogger(__name__)

_SAVED: Final = ".before-egress-gateway"
"""The original of ``NAME`` is kept as ``NAME`` and this suffix. libcni reads no such files."""
_CHAIN: Final = ".conflist"
_NEW: Final = ".egress-gateway-new"
"""Suffix of files that are not whole yet; hidden, and read by nobody."""
_STALE_SECONDS: Final = 60.0


class InstallError(ExpectedError):
    """The plugin cannot be put in place; names the file and what mends it."""


class Superseded(ExpectedError):
    """A later agent of this node sees to the plugin: nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installer:
    """``plugin`` is the executable to install, ``entry`` its part of the chain. Without
    ``tenure`` it assumes that no other agent runs on the node."""

    plugin: Path
    bin_dir: Path
    conf_dir: Path
    entry: dict[str, Any]
    tenure: Tenure | None = None

    def converge(self) -> list[str]:
        """Installs what is missing; returns what was done. Raises ``InstallError`` and
        ``Superseded``."""
        try:
            with self._alone():
                self._sweep()
                return [*self._install_plugin(), *self._join_chain()]
        except OSError as error:
            raise InstallError(f"installing the CNI plugin: {error}") from error

    def remove(self, *, keep_executable: bool = False) -> list[str]:
        """Takes the plugin out of every chain and restores what was replaced. The executable may
        be kept for sandboxes whose runtime still calls it. Raises as ``converge``."""
        try:
            with self._alone():
                self._sweep()
                done = self._leave_chains()
                if not keep_executable and (self.bin_dir / names.CNI_PLUGIN).exists():
                    (self.bin_dir / names.CNI_PLUGIN).unlink()
                    done.append(f"removed {self.bin_dir / names.CNI_PLUGIN}")
                return done
        except OSError as error:
            raise InstallError(f"removing the CNI plugin: {error}") from error

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if self.tenure is None:
            yield
            return
        with self.tenure.held() as ours:
            if not ours:
                raise Superseded("a later agent of this node manages the CNI plugin")
            yield

    def _sweep(self) -> None:
        """Removes what an agent that was killed has left half-written."""
        for folder in (self.bin_dir, self.conf_dir):
            for path in folder.glob(f".*{_NEW}"):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - path.lstat().st_mtime > _STALE_SECONDS:
                        path.unlink()

    def _install_plugin(self) -> list[str]:
        target = self.bin_dir / names.CNI_PLUGIN
        content = self.plugin.read_bytes()
        if _reads(target, content) and os.access(target, os.X_OK):
            return []
        self.bin_dir.mkdir(parents=True, exist_ok=True)
        _write(target, content, 0o755)
        return [f"installed {target}"]

    # Joining.

    def _join_chain(self) -> list[str]:
        first = self._first()
        content = first.read_bytes()
        try:
            changed = conflist.with_plugin(content, self.entry)
            fresh = not conflist.has_plugin(content)
        except conflist.ConflistError as error:
            raise InstallError(f"{first}: {error}") from error
        if changed is None:
            return []
        if first.suffix != _CHAIN:
            return self._replace(first, changed)
        if fresh:
            _keep(first)
        _write(first, changed, first.stat().st_mode & 0o777)
        return [f"chained {names.CNI_PLUGIN} in {first}"]

    def _replace(self, single: Path, changed: bytes) -> list[str]:
        """Only a ``.conflist`` can hold a chain. Its name sorts right behind the old one."""
        whole = single.with_name(single.name + _CHAIN)
        # NB: the old file goes last: for a moment both are there, and the runtime reads the old
        # one; the other order would leave the node without a network.
        _write(whole, changed, 0o644)
        single.rename(_saved(single))
        _sync_names(single.parent)
        return [f"replaced {single} by {whole}"]

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

    # Leaving.

    def _leave_chains(self) -> list[str]:
        done = []
        for path in sorted(self.conf_dir.glob("*")):
            if path.name.endswith(conflist.EXTENSIONS):
                done += self._leave_chain(path)
        for saved in sorted(self.conf_dir.glob(f"*{_SAVED}")):
            # Its file is gone, or was written anew without us.
            saved.unlink()
        return done

    def _leave_chain(self, path: Path) -> list[str]:
        try:
            without = conflist.without_plugin(path.read_bytes())
        except conflist.ConflistError as error:
            log.warning(
                "left CNI configuration alone", extra={"file": str(path), "error": str(error)}
            )
            return []
        if without is None:
            return []
        single = path.with_name(path.name.removesuffix(_CHAIN))
        if _same(_saved(path), without):
            _saved(path).rename(path)
            return [f"restored {path}"]
        if _saved(path).exists() or not (single.exists() or _saved(single).exists()):
            _write(path, without, path.stat().st_mode & 0o777)
            return [f"took {names.CNI_PLUGIN} out of {path}"]
        if not single.exists():  # else written anew meanwhile, or restored just before a crash
            _saved(single).rename(single)
        path.unlink()
        return [f"restored {single}"]


def _saved(path: Path) -> Path:
    return path.with_name(path.name + _SAVED)


def _same(saved: Path, content: bytes) -> bool:
    """Whether the original says what is left of the chain without us: else somebody has edited
    the chained file, and his edits must stay."""
    try:
        return bool(json.loads(saved.read_bytes()) == json.loads(content))
    except (FileNotFoundError, ValueError):
        return False


def _keep(path: Path) -> None:
    """Gives the file a second name, in one step; where the file system cannot, copies it."""
    with _attempt(_saved(path)) as new:
        try:
            os.link(path, new, follow_symlinks=False)
        except OSError:
            shutil.copy2(path, new, follow_symlinks=False)
        new.rename(_saved(path))
        new.unlink(missing_ok=True)  # rename(2) does nothing between two names of one file


def _reads(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except FileNotFoundError:
        return False


def _new(path: Path) -> Path:
    # Not by process id: agents in two containers can have the same.
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}{_NEW}")


def half_written(name: str) -> bool:
    """Whether a file of this name is an attempt of ours that is not whole yet."""
    return name.endswith(_NEW)


@contextlib.contextmanager
def _attempt(path: Path) -> Iterator[Path]:
    """Where to write what ``path`` is to become. An error names the file itself: the name of an
    attempt changes each time."""
    try:
        yield _new(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write(path: Path, content: bytes, mode: int) -> None:
    with _attempt(path) as new:
        _write_by(new, path, content, mode)


def _write_by(new: Path, path: Path, content: bytes, mode: int) -> None:
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(file, "wb") as out:
            out.write(content)
            out.flush()
            os.fchmod(out.fileno(), mode)
            # A node that loses power must not come up with an empty plugin or network.
            os.fsync(out.fileno())
        new.rename(path)
        _sync_names(path.parent)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _sync_names(folder: Path) -> None:
    """Names go to the disk too. A node that loses power must boot with the plugin in its chain:
    its pods start before any agent does."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
