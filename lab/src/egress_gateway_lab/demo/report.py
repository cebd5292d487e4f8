"""What a spectator sees: one block a step, or one JSON document at the end.

Text goes to the terminal while things happen; JSON is printed once, whole, also after a failure, so
that a script always has something to read.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TextIO

_SEEN: Final = " " * 5


class StepFailed(Exception):
    """What was expected did not happen; the text says what was seen instead."""


@dataclass(slots=True)
class Step:
    name: str
    title: str
    ok: bool = False
    seconds: float = 0.0
    commands: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    error: str | None = None


class Report:
    """Collects steps and facts. ``quiet`` prints nothing until ``finish``."""

    def __init__(self, *, as_json: bool, stream: TextIO | None = None) -> None:
        self._json = as_json
        self._stream = stream or sys.stdout
        on_terminal = not as_json and self._stream.isatty()
        self._color = on_terminal and not os.environ.get("NO_COLOR")
        self._width = shutil.get_terminal_size().columns if on_terminal else sys.maxsize
        self.steps: list[Step] = []
        self.facts: dict[str, Any] = {
            "default_address": None,
            "prefixes": {},
            "pod_addresses": {},
            "failover_ms": None,
            "wrong_address_requests": None,
            "wrong_address_packets": None,
        }

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[Step]:
        """Times a step. A ``StepFailed`` inside is recorded, printed and raised again."""
        step = Step(name, title)
        self.steps.append(step)
        self._print("")
        self._print(self._bold(f"{len(self.steps)}. {title}"))
        started = time.monotonic()
        try:
            yield step
            step.ok = True
        except BaseException as error:
            step.error = str(error) or type(error).__name__
            raise
        finally:
            step.seconds = round(time.monotonic() - started, 3)
            verdict = self._green("ok") if step.ok else self._red(f"FAILED: {step.error}")
            self._print(f"   {verdict} in {step.seconds:.1f} s")

    def command(self, text: str) -> None:
        """The command of the walk-through that the next action stands for."""
        self.steps[-1].commands.append(text)
        self._print(f"   {self._dim('$')} {text}")

    def see(self, text: str) -> None:
        """What was observed."""
        self.steps[-1].seen.append(text)
        for line in text.splitlines():
            self._print(
                textwrap.fill(
                    line,
                    self._width,
                    initial_indent=_SEEN,
                    subsequent_indent=_SEEN,
                    break_long_words=False,
                    break_on_hyphens=False,
                )
            )

    def finish(self, *, ok: bool) -> None:
        """Prints the summary: a table for people, the document for scripts."""
        if self._json:
            document = {
                "ok": ok,
                "seconds": round(sum(s.seconds for s in self.steps), 3),
                "steps": [asdict(s) for s in self.steps],
                **self.facts,
            }
            print(json.dumps(document, indent=2), file=self._stream)
            return
        total = sum(s.seconds for s in self.steps)
        self._print("")
        if ok:
            self._print(self._bold(f"All {len(self.steps)} steps done in {total:.1f} s."))
            figures = {
                "the cluster's address": self.facts["default_address"],
                **self.facts["prefixes"],
                "failover": f"{self.facts['failover_ms']} ms",
                "requests from a wrong address": self.facts["wrong_address_requests"],
            }
            width = max(map(len, figures))
            for name, figure in figures.items():
                self._print(f"   {name:{width}}  {figure}")

    def _print(self, text: str) -> None:
        if not self._json:
            print(text, file=self._stream, flush=True)

    def _bold(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self._color else text

    def _dim(self, text: str) -> str:
        return f"\x1b[2m{text}\x1b[0m" if self._color else text

    def _green(self, text: str) -> str:
        return f"\x1b[32m{text}\x1b[0m" if self._color else text

    def _red(self, text: str) -> str:
        return f"\x1b[31m{text}\x1b[0m" if self._color else text
