"""What the agent answers the plugin, whatever it is asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from egress_gateway.cni import protocol
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.node import server
from egress_gateway.node.lifecycle import Refused


class Agent:
    """Does as it is told by the test."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.calls: list[str] = []

    async def attach_pod(self, call: protocol.Call) -> None:
        self.calls.append(f"ADD {call.id}")
        if self._error:
            raise self._error

    async def detach_pod(self, call: protocol.Call) -> None:
        self.calls.append(f"DEL {call.id}")

    def check_pod(self, call: protocol.Call) -> str | None:
        return str(self._error) if self._error else None

    def collect_pods(self, call: protocol.Call) -> None:
        self.calls.append("GC")


def request(command: str) -> bytes:
    call = {"command": command, "containerID": "c", "ifName": "eth0"}
    return json.dumps(call | {"config": {"cniVersion": "0.4.0"}}).encode()


async def ask(agent: Agent, raw: bytes) -> bytes:
    return await server.answer(agent, raw)  # type: ignore[arg-type]


def error_of(reply: bytes) -> dict[str, Any]:
    assert reply.startswith(b"error\n")
    decoded: dict[str, Any] = json.loads(reply.removeprefix(b"error\n"))
    return decoded


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC"])
async def test_verbs(command: str) -> None:
    agent = Agent()
    assert await ask(agent, request(command)) == protocol.OK
    assert [call.split()[0] for call in agent.calls] == ([command] if command != "CHECK" else [])


@pytest.mark.parametrize(
    "error", [Refused("no gateway"), DatapathError("no gateway"), OSError("no gateway")]
)
async def test_failure_asks_to_try_again_with_the_reason(error: Exception) -> None:
    answer = error_of(await ask(Agent(error), request("ADD")))
    assert (answer["code"], answer["cniVersion"]) == (protocol.TRY_AGAIN, "0.4.0")
    assert "no gateway" in answer["msg"]


async def test_check_says_what_is_wrong() -> None:
    assert "limp" in error_of(await ask(Agent(Refused("limp")), request("CHECK")))["msg"]


@pytest.mark.parametrize("raw", [b"", b"x", request("EXPLODE")])
async def test_nonsense(raw: bytes) -> None:
    assert error_of(await ask(Agent(), raw))["code"] == protocol.INVALID_CONFIG


@contextlib.asynccontextmanager
async def listening(agent: Agent, folder: Path) -> AsyncIterator[Path]:
    """The socket of a server in ``folder``."""
    path = folder / protocol.SOCKET
    serving = asyncio.create_task(server.PluginServer(agent, folder).run())  # type: ignore[arg-type]
    while not path.is_socket():
        await asyncio.sleep(0.001)
    yield path
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def asked(path: Path, command: str) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(request(command))
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_socket_is_roots_alone_and_replaces_one_that_is_left(tmp_path: Path) -> None:
    (tmp_path / protocol.SOCKET).write_text("left by a crash")
    async with listening(Agent(), tmp_path) as path:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await asked(path, "ADD") == protocol.OK


async def test_plugin_that_dies_in_the_middle_harms_nobody(tmp_path: Path) -> None:
    agent = Agent()
    async with listening(agent, tmp_path) as path:
        with socket.socket(socket.AF_UNIX) as half:
            half.connect(str(path))
            half.send(b'{"command":')
        assert await asked(path, "DEL") == protocol.OK
    assert agent.calls == ["DEL c-eth0"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused("no gateway"), protocol.TRY_AGAIN),
        (DatapathError("no link"), protocol.TRY_AGAIN),
        (protocol.ProtocolError("prevResult.ips: none"), protocol.INVALID_CONFIG),
    ],
)
async def test_every_error_is_whole_and_in_the_version_asked_for(
    error: Exception, code: int
) -> None:
    found = error_of(await ask(Agent(error), request("ADD")))
    assert set(found) == {"cniVersion", "code", "msg", "details"}
    assert (found["cniVersion"], found["code"]) == ("0.4.0", code)
    assert str(error) in found["msg"]
