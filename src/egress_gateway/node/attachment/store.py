"""What a node remembers of its pods across restarts of the agent: files below the run directory.

``pods/`` holds the plugin's record of every sandbox, ``attached/`` our file of every attached one.
/run is emptied by a reboot, as the sandboxes are. Files appear whole or not at all.

An attachment's file holds the pod's tunnel key, so that an agent that comes back can repair the
tunnel without the gateways having to learn a new one. Like the kernel's own copy it is root's
alone.

Files can be lost while their pods run: removed, truncated, on a file system that is full or
read-only. A file that is missing or damaged says nothing about its pod. It is written again from
what the agent knows, and a pod never loses its tunnel or its hold because it cannot be written.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from egress_gateway.cni import protocol
from egress_gateway.node import metrics
from egress_gateway.node.attachment.earlier import decode
from egress_gateway.node.attachment.files import Damaged, Folder
from egress_gateway.node.attachment.model import Attachment

log = logging.getLogger(__name__)


class AttachmentStore:
    """Blocking, but on a memory file system: microseconds."""

    def __init__(self, run_dir: Path) -> None:
        self._records = Folder(run_dir / protocol.RECORDS)
        self._attachments = Folder(run_dir / protocol.ATTACHMENTS)
        self._reported: set[str] = set()
        self._unwritable: set[str] = set()
        self._stamps: dict[str, tuple[object, object]] = {}
        self._read: dict[str, tuple[object, protocol.Call]] = {}
        """Records by their sandboxes, and the stamps of the files that said so."""
        self._kept: dict[str, tuple[object, Attachment]] = {}
        """The same of attachments."""
        self.make_folders()

    def make_folders(self) -> None:
        """Makes what is lost of them; where nothing can be written, the next call tries again."""
        for folder in (self._records, self._attachments):
            if self._try(folder.make, str(folder.path)):
                log.info("made folder", extra={"folder": str(folder.path)})

    def altered(self, sandbox: str) -> bool:
        """Whether a file of the sandbox has changed, or gone, since this was last asked. Cheaper
        than to read them."""
        stamps = self._records.stamp(sandbox), self._attachments.stamp(sandbox)
        before, self._stamps[sandbox] = self._stamps.get(sandbox), stamps
        return before != stamps

    def age_order(self, sandbox: str) -> int:
        """Sandboxes by the time of their records: the latest is the largest."""
        stamp = self._records.stamp(sandbox)
        return stamp[1] if stamp else 0

    def written_after(self, sandbox: str, now: float) -> bool:
        """Whether its attachment was written later than ``now`` (seconds since the epoch)."""
        try:
            return os.lstat(self._attachments.file(sandbox)).st_mtime > now
        except OSError:
            return False

    # Records.

    def record_ids(self) -> set[str]:
        """Sandboxes that the plugin left a record of."""
        return self._records.stems()

    def record(self, sandbox: str) -> protocol.Call | None:
        """The plugin's record, if it is there, whole, and of this sandbox."""
        stamp = self._records.stamp(sandbox)
        known = self._read.get(sandbox)
        if known is not None and stamp is not None and known[0] == stamp:
            return known[1]
        try:
            content = self._records.read(sandbox)
            record = protocol.decode(content) if content is not None else None
            if record is not None:
                _check(record, sandbox)
                self._read[sandbox] = stamp, record
        except (Damaged, protocol.ProtocolError) as error:
            self._report(self._records.file(sandbox), "found damaged record", str(error))
            return None
        self._reported.discard(self._records.file(sandbox))
        return record

    def keep_record(self, record: protocol.Call) -> bool:
        """For a sandbox that our plugin has never seen, or whose record was lost. Whether it could
        be written."""
        path = self._records.file(record.id)
        content = msgspec.json.encode(record)
        return self._try(lambda: self._records.write(record.id, content), path) is not False

    def forget_record(self, sandbox: str) -> None:
        """Nothing if it is gone; a refusal of the file system is logged."""
        self._read.pop(sandbox, None)
        self._try(lambda: self._records.remove(sandbox), self._records.file(sandbox))

    # Attachments.

    def attachment_ids(self) -> set[str]:
        """Sandboxes that are attached, as the files say."""
        return self._attachments.stems()

    def attachments(self) -> list[Attachment]:
        """Every attachment; a damaged file is reported, and its pod is found otherwise."""
        found = (self._attachment(sandbox) for sandbox in sorted(self.attachment_ids()))
        return [attachment for attachment in found if attachment]

    def holds(self, attachment: Attachment) -> bool:
        """Whether its file is there and says just this."""
        stamp, known = self._attachments.stamp(attachment.id), self._kept.get(attachment.id)
        if known is not None and stamp is not None and known[0] == stamp:
            return known[1] == attachment
        return self._attachment(attachment.id) == attachment

    def _attachment(self, sandbox: str) -> Attachment | None:
        try:
            content = self._attachments.read(sandbox)
            if content is None:
                return None
            attachment = decode(content)
            if attachment.id != sandbox:
                raise Damaged(f"it is the file of sandbox {attachment.id}")
        except (Damaged, msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._report(self._attachments.file(sandbox), "found damaged attachment", str(error))
            return None
        self._reported.discard(self._attachments.file(sandbox))
        return attachment

    def keep(self, attachment: Attachment) -> bool:
        """Whether the file could be written; if not, the reason is logged once."""
        path = self._attachments.file(attachment.id)
        content = msgspec.json.encode(attachment)
        written = self._try(lambda: self._attachments.write(attachment.id, content), path)
        self.altered(attachment.id)
        if written is not False:
            self._kept[attachment.id] = self._stamps[attachment.id][1], attachment
        return written is not False

    def forget(self, sandbox: str) -> None:
        """As ``forget_record``, of an attachment."""
        self._stamps.pop(sandbox, None)
        self._kept.pop(sandbox, None)
        self._try(lambda: self._attachments.remove(sandbox), self._attachments.file(sandbox))

    # What cannot be read or written.

    def _try(self, step: Callable[[], bool | None], path: str) -> bool | None:
        """What ``step`` returns; False if the file system refuses it, which is logged once."""
        try:
            done = step()
        except OSError as error:
            metrics.LOCAL_STATE_UNWRITABLE.set(1)
            if path not in self._unwritable:
                self._unwritable.add(path)
                extra = {"file": path, "error": error.strerror or str(error)}
                log.warning("cannot write local state", extra=extra)
            return False
        if done is not False:  # else nothing had to be written
            self._unwritable.discard(path)
            metrics.LOCAL_STATE_UNWRITABLE.set(bool(self._unwritable))
        return done

    def _report(self, path: str, what: str, error: str) -> None:
        """Once for each file, until it is whole again."""
        if path not in self._reported:
            self._reported.add(path)
            log.warning(what, extra={"file": path, "error": error})


def rebuilt(what: str, **fields: str) -> None:
    """Tells of one loss that was made good: a log line and a count."""
    metrics.LOCAL_STATE_REBUILT.labels(what).inc()
    log.warning("rebuilt lost %s", what, extra=fields)


def _check(record: protocol.Call, sandbox: str) -> None:
    """Raises ``Damaged`` and ``ProtocolError``."""
    if record.id != sandbox:
        raise Damaged(f"it is the record of sandbox {record.id[:256]}")
    if not record.netns or not record.pod[1]:
        raise Damaged("it does not say which pod, or which namespace")
    # Read when they are needed; what cannot be read must not be found out then.
    _ = record.addresses, record.configuration
