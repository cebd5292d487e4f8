"""A command that is interrupted while it waits for the API server says so, in one line."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest

from egress_gateway.cli import running

# What is typed, and after how many answers the API server falls silent.
COMMANDS = [
    *(
        ([name, *of], n)
        for name, of in [("status", []), ("trace", ["default/app"])]
        for n in range(4)
    ),
    *(([name], n) for name in ("check", "bundle", "migrate", "uninstall") for n in range(4)),
    *((["test"], n) for n in range(3)),
    (["rotate-keys", "default/egress"], 0),
]


class Api:
    """Answers ``answers`` requests with an empty list, and none after them."""

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self.hanging = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = json.dumps({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": []})
        answer = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self._answers -= 1
                if self._answers < 0:
                    self.hanging.set()
                    await reader.read()
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize(("command", "answers"), COMMANDS)
async def test_one_line_whoever_waits(command: list[str], answers: int, tmp_path: Path) -> None:
    api = Api(answers)
    server = await asyncio.start_server(api, "127.0.0.1")
    kubeconfig = tmp_path / "kubeconfig"
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    kubeconfig.write_text(
        json.dumps(
            {
                "clusters": [{"name": "c", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "egress_gateway.cli.main", *command),
        *("--kubeconfig", str(kubeconfig)),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    ended = asyncio.ensure_future(process.communicate())
    hanging = asyncio.ensure_future(api.hanging.wait())
    await asyncio.wait([ended, hanging], return_when=asyncio.FIRST_COMPLETED)
    if not ended.done():
        process.send_signal(signal.SIGINT)
    said, error = await ended
    server.close()
    assert hanging.done(), said
    assert error.decode().split("\n")[-2:] == ["interrupted", ""]
    assert b"Traceback" not in error
    assert process.returncode == 130
    assert [p.name for p in tmp_path.iterdir()] == ["kubeconfig"]


@pytest.mark.usefixtures("foreground")
def test_what_it_had_begun_ends_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    kept = []

    async def asking(stopped: asyncio.Event) -> None:
        await stopped.wait()
        raise RuntimeError("Connection closed.")

    async def command() -> None:
        stopped = asyncio.Event()
        try:
            kept.append(asyncio.ensure_future(asking(stopped)))
            await asyncio.sleep(0)
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(60)
        finally:
            stopped.set()
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    with pytest.raises(KeyboardInterrupt):
        running.run(command())
    kept.clear()
    assert capfd.readouterr().err == ""


def test_what_fails_while_it_works_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async def failing() -> None:
        raise RuntimeError("a fault of ours")

    async def command() -> None:
        task = asyncio.ensure_future(failing())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task  # nobody asks it any more

    running.run(command())
    assert "a fault of ours" in caplog.text


def test_nobody_spells_the_answer_out() -> None:
    """The repr of ten thousand pods took a tenth of what `status` takes."""

    asked = []

    class Pods:
        def __repr__(self) -> str:
            asked.append(self)
            return ""

    async def command() -> Pods:
        return Pods()

    assert isinstance(running.run(command()), Pods)
    assert asked == []
