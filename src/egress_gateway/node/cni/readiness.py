"""Keeps the plugin in the node's chain, and lets the Node say so.

The label is what annotated pods are scheduled by, so it is there exactly while the plugin is; AKS's
taint "CNI not ready" goes when it is. The chain is looked at whenever a file in its folder changes
(inotify) and every few seconds in any case.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import math
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from egress_gateway.api import names
from egress_gateway.cni.install import Installer, InstallError, Superseded, half_written
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import ApiError, Conflict
from egress_gateway.kube.resources import NODES
from egress_gateway.node import metrics

log = logging.getLogger(__name__)

_INTERVAL: Final = 5.0
_LASTING: Final = 3
"""Looks at the chain: on a new node the cluster's own plugin may come after the agent."""
_IN_CLOSE_WRITE, _IN_MOVED_FROM, _IN_MOVED_TO, _IN_DELETE = 0x8, 0x40, 0x80, 0x200
_IN_NONBLOCK: Final = 0x800
_INOTIFY_EVENT: Final = struct.Struct("iIII")
"""``struct inotify_event``: watch, mask, cookie, length of the name that follows."""
_libc: Final = ctypes.CDLL(None, use_errno=True)


def _unheard(_problem: str) -> None:
    """For who has nobody to tell."""


class Readiness:
    """``problem`` says why the plugin is not in place; None when it is."""

    def __init__(self, installer: Installer, client: Client, node: str) -> None:
        self._installer = installer
        self._client = client
        self._node = node
        self._told: bool | None = None
        self._looks = 0
        """That have found the present problem."""
        self._complained = -math.inf
        """When it was told last, by the loop's clock."""
        self.problem: str | None = "the CNI plugin has not been installed yet"

    async def run(self, complain: Callable[[str], None] = _unheard) -> None:
        """Installs, tells, watches; until cancelled. ``complain`` hears of a problem that lasts,
        every ``names.PLUGIN_TOLD_EVERY`` seconds."""
        with folder_changes(self._installer.conf_dir) as changed:
            while True:
                changed.clear()
                ours = self._install()
                if ours and self._is_to_be_told(asyncio.get_running_loop().time()):
                    complain(self.problem or "")
                if ours:
                    await self._tell(self.problem is None)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_INTERVAL):
                        await changed.wait()

    def _is_to_be_told(self, now: float) -> bool:
        due = now >= self._complained + names.PLUGIN_TOLD_EVERY
        if self.problem is None or self._looks < _LASTING or not due:
            return False
        self._complained = now
        return True

    async def retire(self) -> None:
        """Takes the label off and the plugin out of the chain, and keeps both so; until
        cancelled. The executable stays for sandboxes whose runtime still calls it."""
        self.problem = "the CNI plugin has not been taken out yet"
        with folder_changes(self._installer.conf_dir) as changed:
            while True:
                changed.clear()
                told = await self._tell(False)
                removed = self._remove()
                self.problem = removed or (None if told else "the node's label is still there")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_INTERVAL):
                        await changed.wait()

    def _remove(self) -> str | None:
        """What hinders it, if anything."""
        try:
            for done in self._installer.remove(keep_executable=True):
                log.info(done)
        except (InstallError, Superseded) as error:
            log.warning("cannot take CNI plugin out", extra={"error": str(error)})
            return str(error)
        metrics.PLUGIN_IN_PLACE.set(False)
        return None

    def _install(self) -> bool:
        """Whether the node's plugin, and what the Node says of it, is still our business."""
        before, ours = self.problem, True
        try:
            for done in self._installer.converge():
                log.info(done)
            self.problem = None
        except (InstallError, Superseded) as error:
            ours = isinstance(error, InstallError)
            self.problem = str(error)
            if before != self.problem:
                log.warning("cannot put CNI plugin in place", extra={"error": self.problem})
        if before != self.problem:
            self._looks, self._complained = 0, -math.inf
        self._looks += 1
        metrics.PLUGIN_IN_PLACE.set(self.problem is None)
        return ours

    async def _tell(self, ready: bool) -> bool:
        """Whether the Node says it now, as far as we know."""
        try:
            return await self._write(ready)
        except ApiError as error:
            log.warning("cannot label node", extra={"error": str(error)})
            return False

    async def _write(self, ready: bool) -> bool:
        # NB: read and written whole, not trimmed: a patch of taints replaces the list.
        node = await self._client.get(NODES.untyped(), self._node)
        patch = node_patch(node, ready=ready)
        if patch:
            try:
                await self._client.merge_patch(NODES.untyped(), self._node, patch)
            except Conflict:  # next time
                return False
            log.info("labelled node", extra={"ready": ready})
        return True


def node_patch(node: dict[str, Any], *, ready: bool) -> dict[str, Any] | None:
    """The merge patch that makes a Node say whether it is ``ready``; None if it does. Pure."""
    metadata: dict[str, Any] = {}
    labels = node["metadata"].get("labels") or {}
    value = "true" if ready else None
    if labels.get(names.NODE_READY_LABEL) != value:
        metadata["labels"] = {names.NODE_READY_LABEL: value}
    patch: dict[str, Any] = {"metadata": metadata} if metadata else {}
    taints = (node.get("spec") or {}).get("taints") or []
    kept = [taint for taint in taints if taint.get("key") != names.CNI_NOT_READY_TAINT]
    if ready and kept != taints:
        # Conditional, or a taint that somebody adds meanwhile would be lost.
        metadata["resourceVersion"] = node["metadata"].get("resourceVersion", "")
        patch = {"metadata": metadata, "spec": {"taints": kept or None}}
    return patch or None


def _names(told: bytes) -> Iterator[str]:
    """Of files, in what inotify tells."""
    at = 0
    while at < len(told):
        *_, length = _INOTIFY_EVENT.unpack_from(told, at)
        at += _INOTIFY_EVENT.size + length
        yield os.fsdecode(told[at - length : at].rstrip(b"\0"))


@contextlib.contextmanager
def folder_changes(folder: Path) -> Iterator[asyncio.Event]:
    """An event that is set when a file of ``folder`` is written, moved or deleted (inotify(7)).
    Attempts of ours that are not whole do not count: each would lead to the next. Where the folder
    does not exist or the kernel refuses, it is never set."""
    changed = asyncio.Event()
    descriptor = _libc.inotify_init1(_IN_NONBLOCK | os.O_CLOEXEC)
    mask = _IN_CLOSE_WRITE | _IN_MOVED_FROM | _IN_MOVED_TO | _IN_DELETE
    if descriptor < 0 or _libc.inotify_add_watch(descriptor, os.fsencode(folder), mask) < 0:
        log.info("no inotify; the folder is looked at regularly", extra={"folder": str(folder)})
    if descriptor < 0:
        yield changed
        return

    def read() -> None:
        with contextlib.suppress(BlockingIOError):
            while told := os.read(descriptor, 4096):
                if not all(map(half_written, _names(told))):
                    changed.set()

    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, read)
    try:
        yield changed
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
