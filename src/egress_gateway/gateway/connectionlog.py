"""A line for each connection, for audits: pod, destination and address. Off by default.

Only configurations with ``connectionLog`` are logged, up to a limit of lines a second. Half of it
is for whoever has most to say, and the other half is divided equally: nobody's connections keep
another's out of an audit. Beyond it connections go unlogged, and one line a second says of which
configuration. Traffic never waits for the log, and the agent's other work does not either: reading
takes half of a processor at most. Beyond that the kernel drops notices, whosever they are, and one
line a second says so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.linux.connections import Connection
from egress_gateway.datapath.linux.netlink import Overrun
from egress_gateway.gateway import metrics
from egress_gateway.kube.resources import Key
from egress_gateway.service.bucket import Bucket

log = logging.getLogger(__name__)

_DROPPED: Final = "dropped lines of the connection log: too many connections a second"
_PATIENCE: Final = 0.5
"""Seconds that a stop waits at most for the thread to notice."""


@dataclass(frozen=True, slots=True)
class Logged:
    """A configuration whose connections are logged. ``public``: what the Internet sees, by the
    gateway's address that a connection leaves with."""

    name: str
    public: Mapping[IPAddress, str]


class Events(Protocol):
    """The kernel's notices of connections (nfnetlink_conntrack)."""

    def read(self, seconds: float) -> list[Connection]:
        """Waits for ``seconds`` at most. Raises ``Overrun`` if the kernel dropped some,
        ``DatapathError``."""

    def close(self) -> None:
        """No event comes after this."""
        ...


Owner = Callable[[str, IPAddress], Key | None]


class ConnectionLog:
    """``open_events`` opens the kernel's notices, None while there are none; ``owner`` tells the
    pod of a configuration's name and an address; ``rate``: lines a second, at most."""

    def __init__(self, open_events: Callable[[], Events | None], owner: Owner, rate: int) -> None:
        self._open_events = open_events
        self._owner = owner
        self._rate = rate
        self._wanted: Mapping[int, Logged] = {}
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def know(self, wanted: Mapping[int, Logged]) -> None:
        """What lines tell from now on, by conntrack zone, if there is a log. A configuration's
        former addresses are remembered, for connections that still have them."""
        self._wanted = {zone: self._remembering(zone, one) for zone, one in wanted.items()}

    def set(self, wanted: Mapping[int, Logged]) -> None:
        """What is logged from now on, by conntrack zone. Blocks for a moment when the log ends: its
        socket would keep the gateway's namespace. Without the kernel's notices there is no log, and
        the next call tries again."""
        self.know(wanted)
        if wanted and (self._thread is None or not self._thread.is_alive()):
            try:
                events = self._open_events()
            except DatapathError as error:
                log.warning("cannot log connections: %s", error)
                return
            if events is None:
                return
            self._stop = threading.Event()
            arguments = (events, self._stop)
            self._thread = threading.Thread(
                target=self._work, args=arguments, name="connection-log", daemon=True
            )
            log.info("started the connection log", extra={"lines_per_second": self._rate})
            self._thread.start()
        elif not wanted and self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None

    def _remembering(self, zone: int, one: Logged) -> Logged:
        before = self._wanted.get(zone)
        if before is None or before.name != one.name:
            return one
        return Logged(one.name, {**before.public, **one.public})

    def _work(self, events: Events, stop: threading.Event) -> None:
        budget = LineBudget(self._rate)
        try:
            while not stop.is_set():
                began = time.thread_time()
                self._read(events, budget)
                stop.wait(time.thread_time() - began)
        except DatapathError as error:
            # The next pass over the structure starts it anew.
            log.warning("stopped the connection log: %s", error)
        finally:
            events.close()

    def _read(self, events: Events, budget: LineBudget) -> None:
        try:
            connections = events.read(_PATIENCE)
        except Overrun:
            metrics.LOG_GAPS.inc()
            if budget.may_complain(None, time.monotonic()):
                log.warning(_DROPPED)
            return
        for connection in connections:
            self._write(connection, budget, time.monotonic())

    def _write(self, connection: Connection, budget: LineBudget, now: float) -> None:
        logged = self._wanted.get(connection.zone)
        if logged is None:
            return
        if not budget.has_line(connection.zone, len(self._wanted), now):
            if budget.may_complain(connection.zone, now):
                metrics.LOG_GAPS.inc()
                log.warning(_DROPPED, extra={"configuration": logged.name})
            return
        pod = self._owner(logged.name, connection.source)
        word = "ended" if connection.ended else "began"
        log.info("connection " + word, extra=fields(connection, logged, pod))


@dataclass(slots=True)
class LineBudget:
    """``rate`` lines a second for all, and as many at once. Pure: the caller reads the clock."""

    rate: float
    _common: Bucket = field(init=False)
    _own: dict[int, Bucket] = field(default_factory=dict)
    """By zone."""
    _complaints: dict[int | None, Bucket] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._common = Bucket(self.rate / 2, burst=max(1.0, self.rate / 2))

    def has_line(self, zone: int, logged: int, now: float) -> bool:
        """Takes a line for a connection of ``zone``, one of so many ``logged``, if there is one."""
        own = self._own.setdefault(zone, Bucket(0.0, burst=1.0, at=now))
        own.rate = self.rate / 2 / logged
        own.burst = max(1.0, own.rate)
        return own.take_now(now) or self._common.take_now(now)

    def may_complain(self, zone: int | None, now: float) -> bool:
        """Whether to say again that lines of ``zone`` are missing; None: nobody knows whose."""
        return self._complaints.setdefault(zone, Bucket(1.0, burst=1.0, at=now)).take_now(now)


def fields(connection: Connection, logged: Logged, pod: Key | None) -> dict[str, object]:
    """What a line says. ``address`` is what the other side sees, as far as we know: the
    gateway's public address, or the private one (``via``) where there is none."""
    public = logged.public.get(connection.translated)
    return {
        "configuration": logged.name,
        "pod": str(pod) if pod else "",
        "protocol": connection.protocol,
        "pod_address": str(connection.source),
        "pod_port": connection.source_port,
        "address": public or str(connection.translated),
        "via": str(connection.translated),
        "port": connection.translated_port,
        "destination": str(connection.destination),
        "destination_port": connection.destination_port,
    }
