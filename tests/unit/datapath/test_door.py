"""A socket that stays where its clients look for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from egress_gateway.datapath.linux import door
from egress_gateway.datapath.linux.door import Door
from tests.unit import damages


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "LOOK_SECONDS", 0.01)


async def greet(connection: socket.socket) -> None:
    with connection:
        await asyncio.get_running_loop().sock_sendall(connection, b"hello")


@contextlib.asynccontextmanager
async def serving(path: Path, remade: list[int] | None = None) -> AsyncIterator[Door]:
    opened = Door(path, on_remade=lambda: remade.append(1) if remade is not None else None)
    task = asyncio.create_task(opened.serve(greet))
    await until(lambda: opened.problem is None)
    try:
        yield opened
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def greeted(path: Path) -> bytes:
    async with asyncio.timeout(60):
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(path)
            except OSError:
                await asyncio.sleep(0.005)
                continue
            try:
                return await reader.read()
            finally:
                writer.close()


def _left_behind(path: Path) -> None:
    """A socket whose process has ended."""
    path.unlink()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))


def _folder_removed(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()


def _moved(path: Path) -> None:
    path.rename(path.with_name("aside"))


def _file(path: Path) -> None:
    path.unlink()
    path.write_text("x")


DAMAGES = [
    Path.unlink,
    _moved,
    _file,
    damages.folder,
    damages.link,
    damages.pipe,
    _left_behind,
    _folder_removed,
]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_made_again_whatever_happened_to_it(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    path = tmp_path / "run" / "a.sock"
    remade: list[int] = []
    async with serving(path, remade):
        assert await greeted(path) == b"hello"
        for n in range(1, 3):
            damage(path)
            await until(lambda wanted=n: len(remade) == wanted)  # type: ignore[misc]
            assert await greeted(path) == b"hello"


async def test_a_later_process_of_ours_keeps_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    remade: list[int] = []
    async with serving(path, remade) as earlier, serving(path, remade):
        for _ in range(20):
            await asyncio.sleep(0.01)
            assert earlier.problem is None
        assert not remade
    # The earlier one was started before, and is gone as well: nobody answers.
    with (
        pytest.raises(OSError, match=r"refused|No such file"),
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.connect(str(path))


@pytest.mark.parametrize("backlog", [0, 100])
async def test_who_listens_there_and_never_answers_loses_the_socket(
    tmp_path: Path, backlog: int
) -> None:
    path = tmp_path / "a.sock"
    remade: list[int] = []
    async with serving(path, remade):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.bind(str(path))
            deaf.listen(backlog)
            await until(lambda: remade)
            assert await greeted(path) == b"hello"


async def test_waits_for_descriptors_without_keeping_the_loop_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, woken = asyncio.get_running_loop(), 0
    add_reader = loop.add_reader

    def counted(fd: int, callback: Callable[[], object]) -> None:
        def wake() -> None:
            nonlocal woken
            woken += 1
            callback()

        add_reader(fd, wake)

    async with serving(tmp_path / "s"):
        pass
    monkeypatch.setattr(loop, "add_reader", counted)
    monkeypatch.setattr(door, "LOOK_SECONDS", 5)
    with socket.socket(socket.AF_UNIX) as client, socket.socket(socket.AF_UNIX) as second:
        client.setblocking(False)
        async with serving(tmp_path / "s"):
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            client.connect(str(tmp_path / "s"))
            resource.setrlimit(resource.RLIMIT_NOFILE, (second.fileno() + 1, hard))
            try:
                while not woken:
                    await asyncio.sleep(0.01)
                for _ in range(100):
                    await asyncio.sleep(0)  # one turn of the loop, which would hear of it again
                assert woken == 1
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            async with asyncio.timeout(60):
                assert await loop.sock_recv(client, 100) == b"hello"


async def test_says_why_it_cannot_be_made_and_makes_it_when_it_can(tmp_path: Path) -> None:
    path = tmp_path / "run" / "a.sock"
    async with serving(path) as opened:
        _folder_removed(path)
        path.parent.write_text("a file in the folder's place")
        await until(lambda: opened.problem)
        assert str(path) in str(opened.problem)
        path.parent.unlink()
        await until(lambda: opened.problem is None)
        assert await greeted(path) == b"hello"


MOUNTED = """
import asyncio, os, pathlib, subprocess, sys
from egress_gateway.datapath.linux import door
door.LOOK_SECONDS = 0.01
base = pathlib.Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(base)], check=True)
(base / "host/run").mkdir(parents=True)
(base / "seen").mkdir()
subprocess.run(["mount", "--bind", str(base / "host/run"), str(base / "seen")], check=True)
async def main():
    one = door.Door(base / "seen/a.sock")
    task = asyncio.create_task(one.serve(lambda c: asyncio.sleep(0)))
    while one.problem: await asyncio.sleep(0.01)
    if sys.argv[2] == "removed":
        (base / "host/run/a.sock").unlink(); (base / "host/run").rmdir()
    else:
        (base / "host/run").rename(base / "host/elsewhere")
    try:
        async with asyncio.timeout(60): await task
    except door.FolderLost as lost:
        print(lost)
asyncio.run(main())
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts: needs root")
@pytest.mark.parametrize("how", ["removed", "moved"])
def test_a_mounted_folder_that_the_host_lost_ends_the_process(tmp_path: Path, how: str) -> None:
    command = ["unshare", "--mount", sys.executable, "-c", MOUNTED, str(tmp_path), how]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert f"{tmp_path}/seen was removed or moved" in done.stdout, done.stderr
