"""One empty lab and one person at a terminal for the whole run.

The environment is bare but for what `egress-gateway lab env` prints, and it proves that nothing
leaves the machine: every connection and look-up of `az` is noted and refused unless it is
loopback (``guard/``), and proxies point at a closed port for whatever else would try.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from egress_gateway_lab import host
from tests.azure_cli.guide import PAGE, Section, sections
from tests.azure_cli.terminal import Outcome, Terminal

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def tools() -> dict[str, str]:
    """``az`` and ``kubectl``, installed if need be: bin, python, az (its version)."""
    command = [sys.executable, str(REPOSITORY / "tools/azure_cli/install.py"), "--output", "json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


@dataclass(frozen=True)
class Desk:
    """A lab, and what a shell needs to use it."""

    lab: host.LabHandle
    environment: dict[str, str]
    connections: Path
    """What the guard has seen: a line each."""


@pytest.fixture(scope="session")
def desk(tools: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    host.require_host()
    home = tmp_path_factory.mktemp("home")
    connections = home / "connections"
    name = f"azure-cli-{os.getpid()}"
    # as `lab up --empty --name NAME`, but it ends with this process, however that ends
    lab = host.start(name, detach=False, progress=lambda text: print(text, flush=True))
    try:
        path = f"{tools['bin']}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        command = [str(Path(sys.executable).with_name("egress-gateway")), "lab", "env"]
        command += ["--name", name, "--output", "json"]
        inherited = {**os.environ, "PATH": path}
        done = subprocess.run(command, stdout=subprocess.PIPE, env=inherited, check=True)
        environment = {
            "PATH": path,
            "HOME": str(home),
            "TERM": "xterm",
            "LANG": "C.UTF-8",
            **json.loads(done.stdout),
            "PYTHONPATH": str(Path(__file__).with_name("guard")),
            "EGRESS_GUARD_LOG": str(connections),
            "HTTP_PROXY": "http://127.0.0.1:9",
            "HTTPS_PROXY": "http://127.0.0.1:9",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        yield Desk(lab, environment, connections)
    finally:
        host.stop(lab)


@dataclass
class Walk:
    """The page, being followed: each section is run once, after all that come before it."""

    terminal: Terminal
    page: list[Section]
    done: dict[str, list[Outcome]] = field(default_factory=dict)
    broken: str = ""

    def through(self, title: str) -> list[Outcome]:
        """Follows the page up to and including a section; what its blocks showed."""
        titles = [section.title for section in self.page]
        for section in self.page[: titles.index(title) + 1]:
            if section.title not in self.done:
                if self.broken:
                    pytest.fail(f"the page could not be followed: {self.broken}", pytrace=False)
                self._follow(section)
        return self.done[title]

    def one(self, title: str) -> str:
        """As ``through``, for a section of one block: its text."""
        (outcome,) = self.through(title)
        return outcome.text

    def look(self, commands: list[str]) -> dict[str, Outcome]:
        """Commands that change nothing, two at a time (`az` takes a second of processor)."""
        outcomes = self.terminal.look(commands, parallel=2)
        return dict(zip(commands, outcomes, strict=True))

    def _follow(self, section: Section) -> None:
        print(f"\n--- {section.title}", flush=True)
        outcomes = []
        self.broken = section.title
        for block in section.blocks:
            if block.kind == "look":
                outcomes += self._look_around(block.text)
                continue
            outcome = self.terminal.run(block.text)
            refused = block.kind == "refused"
            assert (outcome.status != 0) == refused, f"status {outcome.status}:\n{outcome.text}"
            outcomes.append(outcome)
        self.broken = ""
        self.done[section.title] = outcomes

    def _look_around(self, text: str) -> list[Outcome]:
        lines = text.splitlines()
        commands = [line for line in lines if line.startswith("az ")]
        first = self.terminal.run("\n".join(line for line in lines if line not in commands))
        assert first.status == 0, first.text
        return list(self.look(commands).values())


@pytest.fixture(scope="session")
def walk(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    with Terminal(desk.environment, tmp_path_factory.mktemp("work")) as terminal:
        yield Walk(terminal, sections(PAGE.read_text()))
