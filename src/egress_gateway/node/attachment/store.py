"""What a node remembers of its pods across restarts of the agent: files below the run directory.

``pods/`` holds the plugin's record of every sandbox, ``attached/`` our file of every attached one.
/run is emptied by a reboot, as the sandboxes are. Files appear whole or not at all.

An attachment's file holds the pod's tunnel key, so that an agent that comes back can repair the
tunnel without the gateways having to learn a new one. Like the kernel's own copy it is root's
alone.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec

from egress_gateway.cni import protocol
from egress_gateway.node.attachment.earlier import decode
from egress_gateway.node.attachment.model import Attachment

log = logging.getLogger(__name__)


class AttachmentStore:
    """Blocking, but on a memory file system: microseconds."""

    def __init__(self, run_dir: Path) -> None:
        self._records = run_dir / protocol.RECORDS
        self._attachments = run_dir / protocol.ATTACHMENTS
        for folder in (run_dir, self._records, self._attachments):
            folder.mkdir(parents=True, exist_ok=True)
        self._records.chmod(0o700)
        self._attachments.chmod(0o700)

    def record_ids(self) -> set[str]:
        return _stems(self._records)

    def record(self, sandbox: str) -> protocol.Call | None:
        """The plugin's record, if it is there and whole."""
        path = _file(self._records, sandbox)
        try:
            return protocol.decode(path.read_bytes())
        except FileNotFoundError:
            return None
        except protocol.ProtocolError as error:
            log.warning("skipped a damaged record", extra={"file": str(path), "error": str(error)})
            return None

    def keep_record(self, record: protocol.Call) -> None:
        """For a sandbox that our plugin has never seen."""
        self._write(_file(self._records, record.id), msgspec.json.encode(record))

    def forget_record(self, sandbox: str) -> None:
        _file(self._records, sandbox).unlink(missing_ok=True)

    def attachments(self) -> list[Attachment]:
        """Every attachment; a damaged file is skipped and logged."""
        found = []
        for sandbox in sorted(_stems(self._attachments)):
            path = _file(self._attachments, sandbox)
            try:
                found.append(decode(path.read_bytes()))
            except FileNotFoundError:
                continue
            except msgspec.MsgspecError as error:
                extra = {"file": str(path), "error": str(error)}
                log.warning("skipped a damaged attachment", extra=extra)
        return found

    def keep(self, attachment: Attachment) -> None:
        path = _file(self._attachments, attachment.id)
        self._write(path, msgspec.json.encode(attachment))

    def _write(self, path: Path, content: bytes) -> None:
        new = path.with_name(f".{path.name}")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        new.rename(path)

    def forget(self, sandbox: str) -> None:
        _file(self._attachments, sandbox).unlink(missing_ok=True)


def _file(folder: Path, sandbox: str) -> Path:
    return folder / f"{sandbox}.json"


def _stems(folder: Path) -> set[str]:
    names = os.listdir(folder)
    return {n.removesuffix(".json") for n in names if n.endswith(".json") and n[0] != "."}
