"""Long-running operations: accepted now, done later, asked about in between.

A write answers at once and its work runs as a task, as in Azure; what the work raises becomes
the operation's error. The status answer may be held back for a moment (``hold``) while the
operation is about to end: clients wait for seconds between polls, and a lab whose operations take
a fifth of one should not be slower than Azure's network.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from egress_gateway_lab.azure.arm import ids
from egress_gateway_lab.azure.arm.errors import ArmError
from egress_gateway_lab.protocols import BackendError

log = logging.getLogger(__name__)

RETRY_AFTER = "1"
"""Seconds. ``0`` counts as absent for clients and costs them 30 s."""
_SILENT = frozenset({"microsoft.network", "microsoft.compute"})
"""Providers whose accepted operations do not say when to ask, as recorded of Azure: clients ask
at their own interval, which is 30 s for the SDKs and ``az``."""


def retry_after(target: str) -> dict[str, str]:
    """The header of answers about an operation on a resource. The container service says when to
    ask, though Azure's does not: nobody should wait 30 s in a lab for a cluster."""
    silent = ids.parse(target).namespace.lower() in _SILENT
    return {} if silent else {"Retry-After": RETRY_AFTER}


Work = Callable[[], Awaitable[None]]


class Clock(Protocol):
    """Where time comes from; tests replace it."""

    def time(self) -> float:
        """Seconds since 1970."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The real time."""

    def time(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(slots=True)
class Operation:
    """One accepted write. ``target`` is the id of the resource that it works on."""

    name: str
    target: str
    started: float
    ended: float | None = None
    error: dict[str, Any] | None = None
    error_status: int = 500
    """HTTP status that goes with the error where the result itself is asked for."""
    canceled: bool = False
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def content(self) -> dict[str, Any]:
        """What a file keeps of it."""
        kept = ("name", "target", "started", "ended", "error", "error_status", "canceled")
        return {key: getattr(self, key) for key in kept}

    @property
    def status(self) -> str:
        if not self.done.is_set():
            return "InProgress"
        if self.canceled:
            return "Canceled"
        return "Failed" if self.error else "Succeeded"

    def body(self) -> dict[str, Any]:
        """What a GET of the operation answers."""
        answer: dict[str, Any] = {
            "name": self.name,
            "status": self.status,
            "startTime": _stamp(self.started),
        }
        if self.ended is not None:
            answer["endTime"] = _stamp(self.ended)
        if self.error:
            answer["error"] = self.error
        return answer


class Operations:
    """All operations since the start, and which resource is being written right now."""

    def __init__(self, clock: Clock, *, seconds: float, hold: float) -> None:
        """``seconds``: how long every operation takes at least. ``hold``: how long a status
        answer may be kept back."""
        self.seconds = seconds
        self.hold = hold
        self._clock = clock
        self._operations: dict[str, Operation] = {}
        self._busy: dict[str, Operation] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._doomed: dict[str, ArmError] = {}
        self._canceled: set[str] = set()
        self._hung: dict[str, int] = {}
        self._released: dict[int, asyncio.Event] = defaultdict(asyncio.Event)
        self._after: dict[str, Callable[[], None]] = {}
        self._closing = False
        self._left: dict[str, Operation] = {}
        self._changes: dict[str, Operation] = {}

    def busy(self, resource_id: str) -> Operation | None:
        """The operation under way on exactly this resource."""
        return self._busy.get(resource_id.lower())

    def get(self, name: str) -> Operation | None:
        return self._operations.get(name.lower())

    def all(self) -> list[Operation]:
        return list(self._operations.values())

    def under_way(self) -> list[Operation]:
        return list(self._busy.values())

    async def ask(self, name: str) -> Operation | None:
        """The operation, after waiting a moment for its end."""
        operation = self.get(name)
        if operation is not None and not operation.done.is_set() and self.hold > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.hold):
                    await operation.done.wait()
        return operation

    def start(
        self, target: str, work: Work, *, on_failure: Callable[[], None] = lambda: None
    ) -> Operation:
        """Accepts ``work`` on a resource; it begins after the operation's duration."""
        left = self._left.pop(target.lower(), None)
        operation = left or Operation(str(uuid.uuid4()), target, self._clock.time())
        self._operations[operation.name] = operation
        self._changes[operation.name] = operation
        self._busy[target.lower()] = operation
        task = asyncio.create_task(self._run(operation, work, on_failure), name=f"arm {target}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return operation

    def fail(self, name: str, error: ArmError) -> None:
        """Makes an accepted operation end as Failed instead of doing its work."""
        self._doomed[name] = error

    def cancel(self, name: str) -> None:
        """Makes an accepted operation end as Canceled instead of doing its work."""
        self._canceled.add(name)

    def hang(self, name: str, reason: int) -> None:
        """Keeps an accepted operation from ending until ``release(reason)``."""
        self._hung[name] = reason

    def release(self, reason: int) -> None:
        """Lets all go on that hang for this reason, also those that have not got there yet."""
        self._released[reason].set()

    def follow_with(self, name: str, act: Callable[[], None]) -> None:
        """Calls ``act`` when an accepted operation has succeeded, just before that shows."""
        self._after[name] = act

    # -- a file keeps them

    def take_changes(self) -> list[Operation]:
        """Those that began or ended since the last time."""
        changed, self._changes = list(self._changes.values()), {}
        return changed

    def mark_changed(self, operations: Iterable[Operation]) -> None:
        self._changes |= {operation.name: operation for operation in operations}

    def restore(self, contents: Iterable[dict[str, Any]]) -> None:
        """Those of an earlier process: who asks about one gets an answer. Who begins the work of
        an unfinished one again goes on under its name."""
        for content in contents:
            operation = Operation(**content)
            self._operations[operation.name] = operation
            if operation.ended is None:
                self._left[operation.target.lower()] = operation
            else:
                operation.done.set()

    def conclude(self, state_of: Callable[[str], str | None]) -> None:
        """Ends what nobody went on with, by the state of its resource (None: gone); if that is
        still being worked on as a part of something larger, when that ends."""
        for operation in self._left.values():
            larger = [o for at, o in self._busy.items() if ids.within(operation.target, at)]
            work = self._await_end(operation, larger, state_of)
            task = asyncio.create_task(work, name=f"arm {operation.target}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._left = {}

    async def _await_end(
        self,
        operation: Operation,
        larger: Iterable[Operation],
        state_of: Callable[[str], str | None],
    ) -> None:
        for other in larger:
            await other.done.wait()
        if state_of(operation.target) not in (None, "Succeeded"):
            operation.error = ArmError(409, "OperationPreempted", _PREEMPTED).error()
            operation.error_status = 409
        self._end(operation)

    async def close(self) -> None:
        """Ends all work under way; what is not finished stays so for who opens the file next."""
        self._closing = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, operation: Operation, work: Work, on_failure: Callable[[], None]) -> None:
        try:
            await self._clock.sleep(self.seconds)
            if operation.name in self._hung:
                await self._released[self._hung.pop(operation.name)].wait()
            if operation.name in self._canceled:
                self._canceled.remove(operation.name)
                operation.canceled = True
                raise canceled(operation.target)
            doom = self._doomed.pop(operation.name, None)
            if doom is not None:
                raise doom
            await work()
            self._after.pop(operation.name, _nothing)()
        except ArmError as error:
            self._failed(operation, error, on_failure)
        except BackendError as error:
            problem = ArmError(500, "VMExtensionProvisioningError", str(error))
            self._failed(operation, problem, on_failure)
        except Exception as error:
            log.exception("operation on %s broke", operation.target)
            self._failed(operation, ArmError(500, "InternalServerError", repr(error)), on_failure)
        finally:
            if self._busy.get(operation.target.lower()) is operation:
                del self._busy[operation.target.lower()]
            if not self._closing:
                self._end(operation)

    def _end(self, operation: Operation) -> None:
        operation.ended = self._clock.time()
        self._changes[operation.name] = operation
        operation.done.set()

    def _failed(
        self, operation: Operation, error: ArmError, on_failure: Callable[[], None]
    ) -> None:
        quiet = operation.canceled and "/microsoft.compute/" in operation.target.lower()
        operation.error = None if quiet else error.error()
        operation.error_status = error.status
        on_failure()


def canceled(target: str) -> ArmError:
    """What Microsoft.Network says of a canceled operation; Microsoft.Compute says nothing."""
    word = ids.type_of(target).rpartition("/")[2]
    return ArmError(
        409,
        "Canceled",
        "Operation was canceled.",
        details=[
            {
                "code": "CanceledAndSupersededDueToAnotherOperation",
                "message": f"Operation Put{word[:1].upper()}{word[1:]}Operation was canceled and "
                "superseded by another operation.",
            }
        ],
    )


def _nothing() -> None:
    """Nobody minds the end."""


_PREEMPTED = "The operation has been preempted: the service was started anew in the middle of it."


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
