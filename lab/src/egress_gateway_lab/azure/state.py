"""A file that the emulator's memory survives in: SQLite, written as things change.

Guarantees
- Nothing is answered that is not in the file: changes are written before the answer that tells
  of them is sent, and all changes of one step (between two awaits) together or not at all.
- The file is the state: who opens it next finds resources with their ETags, principals, their
  roles and tokens, and goes on with operations that had begun.
- One emulator at a time: opening a file that another one holds raises ``StateError``.
What a dead process loses is nothing; what a dead machine may lose is the last moment (SQLite's
``synchronous=NORMAL``): this is a lab.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from egress_gateway_lab.azure.arm.operations import Operation, Operations
from egress_gateway_lab.azure.arm.store import Entry, Store
from egress_gateway_lab.azure.identity.directory import Directory, Principal

KEPT_SECONDS = 86_400.0
"""How long a finished operation can be asked about, as in Azure."""
_LAYOUT = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS resources (
    key TEXT PRIMARY KEY, number INTEGER NOT NULL, type TEXT NOT NULL, etag TEXT NOT NULL,
    document BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS tenant (key TEXT PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS operations (name TEXT PRIMARY KEY, content BLOB NOT NULL);
"""


class StateError(Exception):
    """The file cannot be used; one line for the person at the shell."""


class StateFile:
    """Used from the emulator's event loop."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file; raises ``StateError``."""
        self._path = path
        self._store: Store | None = None
        self._directory: Directory | None = None
        self._operations: Operations | None = None
        self._tenant_written = b""
        with contextlib.ExitStack() as refused:
            try:
                self._database = sqlite3.connect(path, timeout=0, isolation_level=None)
                refused.callback(self._database.close)
                for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL"):
                    self._database.execute(f"PRAGMA {pragma}")
                self._database.execute("BEGIN IMMEDIATE")
                self._database.execute("COMMIT")
                self._check_layout()
            except sqlite3.OperationalError as error:
                why = "another lab uses it" if "locked" in str(error) else str(error)
                raise StateError(f"cannot use {path} as the lab's state: {why}") from error
            except sqlite3.DatabaseError as error:
                raise StateError(f"{path} is no state of a lab: {error}") from error
            refused.pop_all()

    def entries(self) -> list[Entry]:
        """The resources, in order of their creation."""
        rows = self._database.execute(
            "SELECT type, etag, document FROM resources ORDER BY number"
        ).fetchall()
        found = []
        for kind, etag, blob in rows:
            document = msgspec.json.decode(blob)
            found.append(Entry(document["id"], kind, etag, document))
        return found

    def load_tenant(self, directory: Directory) -> None:
        """Gives a directory its principals and its key back."""
        row = self._database.execute("SELECT content FROM tenant WHERE key = 'all'").fetchone()
        if row is None:
            return
        content = msgspec.json.decode(row[0])
        directory.restore(
            key=bytes.fromhex(content["key"]),
            principals=[Principal(**p) for p in content["principals"]],
            federated={
                client: {(issuer, subject) for issuer, subject in pairs}
                for client, pairs in content["federated"].items()
            },
        )

    def operations(self, now: float) -> list[dict[str, Any]]:
        """Those that are not finished, or were a day ago at most (``now``: seconds since 1970)."""
        rows = self._database.execute("SELECT content FROM operations").fetchall()
        found: list[dict[str, Any]] = [msgspec.json.decode(blob) for (blob,) in rows]
        old = [o["name"] for o in found if (o["ended"] or now) < now - KEPT_SECONDS]
        self._database.executemany("DELETE FROM operations WHERE name = ?", [(n,) for n in old])
        return [o for o in found if o["name"] not in old]

    def follow(self, store: Store, directory: Directory, operations: Operations) -> None:
        """From now on ``flush`` writes what changes in them."""
        self._store, self._directory, self._operations = store, directory, operations
        store.track()
        self._write_tenant()

    def flush(self) -> None:
        """Writes what changed since the last time, in one transaction; raises ``StateError``."""
        if self._store is None or self._operations is None:
            return
        changed, ended = self._store.take_changes(), self._operations.take_changes()
        tenant = self._tenant()
        if not changed and not ended and tenant == self._tenant_written:
            return
        try:
            with self._database:
                self._database.execute("BEGIN")
                for key in changed:
                    self._write(key, self._store.entry(key))
                for operation in ended:
                    self._write_operation(operation)
                if tenant != self._tenant_written:
                    self._write_tenant()
        except sqlite3.Error as error:
            self._store.mark_changed(changed)
            self._operations.mark_changed(ended)
            raise StateError(f"cannot write {self._path}: {error}") from error

    def close(self) -> None:
        """Writes what is left and lets the file go."""
        self.flush()
        self._database.close()

    def _write(self, key: str, entry: Entry | None) -> None:
        if entry is None:
            self._database.execute("DELETE FROM resources WHERE key = ?", (key,))
            return
        self._database.execute(
            "INSERT INTO resources VALUES (?, (SELECT ifnull(max(number), 0) + 1 FROM resources),"
            " ?, ?, ?) ON CONFLICT (key) DO UPDATE SET type = excluded.type,"
            " etag = excluded.etag, document = excluded.document",
            (key, entry.type, entry.etag, msgspec.json.encode(entry.document)),
        )

    def _write_operation(self, operation: Operation) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO operations VALUES (?, ?)",
            (operation.name, msgspec.json.encode(operation.content())),
        )

    def _write_tenant(self) -> None:
        self._tenant_written = self._tenant()
        self._database.execute(
            "INSERT OR REPLACE INTO tenant VALUES ('all', ?)", (self._tenant_written,)
        )

    def _tenant(self) -> bytes:
        assert self._directory is not None
        key, principals, federated = self._directory.content()
        content = {
            "key": key.hex(),
            "principals": [asdict(p) for p in principals],
            "federated": {
                client: sorted(pairs, key=lambda p: (p[0] or "", p[1]))
                for client, pairs in federated.items()
            },
        }
        return msgspec.json.encode(content)

    def _check_layout(self) -> None:
        (found,) = self._database.execute("PRAGMA user_version").fetchone()
        if found not in (0, _LAYOUT):
            raise StateError(
                f"{self._path} was written by another version of the lab (layout {found}, this "
                f"one knows {_LAYOUT}): start with a new file"
            )
        self._database.executescript(_TABLES)
        self._database.execute(f"PRAGMA user_version = {_LAYOUT}")
