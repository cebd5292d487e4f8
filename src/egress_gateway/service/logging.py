"""Structured log lines: one JSON object a line on standard error.

Standard library loggers are used everywhere; ``extra={"pod": "ns/name"}`` becomes fields of
the line. ``format="text"`` is for a person's terminal. Whatever others wrote, a line stays one, and
no part of it is a command to a terminal.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import Final, Literal, TextIO

from egress_gateway.service.printable import printable

_STANDARD: Final = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__.keys()) | {
    "message",
    "asctime",
    "taskName",
}


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """What the caller passed in ``extra``."""
    return {k: v for k, v in record.__dict__.items() if k not in _STANDARD}


def bounded(text: str, most: int = 256) -> str:
    """``text`` cut to ``most`` characters: what somebody else wrote must not flood a log."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _time(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339), level, logger, msg, the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Fields that JSON does not know become text. An exception's traceback is ``error``."""
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name.removeprefix("egress_gateway."),
            "msg": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        text = json.dumps(line, default=str, ensure_ascii=False)
        return text if text.isprintable() else json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """The same for people: fields as ``key=value`` behind the message."""

    def format(self, record: logging.LogRecord) -> str:
        """An exception's traceback follows on lines of its own."""
        name = record.name.removeprefix("egress_gateway.")
        parts = [_time(record), record.levelname.lower(), name, record.getMessage()]
        parts += [f"{key}={value}" for key, value in fields_of(record).items()]
        text = printable(" ".join(parts))
        if record.exc_info:  # the error's message may be others' words, as an API server's answer
            text += "\n" + printable(self.formatException(record.exc_info), spared="\n\t")
        return text


def configure(
    level: str = "info", format: Literal["json", "text"] = "json", stream: TextIO | None = None
) -> None:
    """Sends all loggers to ``stream`` (standard error). Azure's HTTP logger stays at warning:
    at debug it writes headers that carry tokens."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in ("azure", "asyncio", "aiohttp.access", "pyroute2"):
        logging.getLogger(name).setLevel(logging.WARNING)
