"""A lab leaves nothing on the host, however it ends, and reaches nothing of it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from egress_gateway_lab import host
from egress_gateway_lab.demo.story import host_footprint

pytestmark = pytest.mark.root
COMMAND = [sys.executable, "-m", "egress_gateway.cli.main"]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=600, check=False
    )


def descendants(pid: int) -> set[int]:
    """All processes below ``pid``, in whatever namespaces they are."""
    found: set[int] = set()
    queue = [pid]
    while queue:
        current = queue.pop()
        try:
            children = Path(f"/proc/{current}/task/{current}/children").read_text().split()
        except OSError:
            continue
        found |= {int(c) for c in children}
        queue += [int(c) for c in children]
    return found


def alive(pids: set[int]) -> set[int]:
    def running(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    return {pid for pid in pids if running(pid)}


def wait_gone(pids: set[int]) -> set[int]:
    """Those that stay. Who is gone is not looked at again: its number may be another's by then."""
    deadline = time.monotonic() + 90
    while (pids := alive(pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return pids


@pytest.fixture
def name() -> Iterator[str]:
    chosen = f"host-{os.getpid()}-{time.monotonic_ns() % 10**6}"
    yield chosen
    handle = host.find(chosen)
    if handle:
        host.stop(handle)
    shutil.rmtree(host.BASE / chosen, ignore_errors=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_lab_that_is_ended_leaves_nothing(name: str, number: signal.Signals) -> None:
    before = host_footprint()
    assert command("lab", "up", "--name", name).returncode == 0
    handle = host.find(name)
    assert handle is not None
    processes = descendants(handle.pid) | {handle.pid}
    assert len(processes) > 10, "the lab's nodes and pods should be running"
    assert host_footprint() == before, "a running lab must not show on the host"
    os.kill(handle.pid, number)
    assert wait_gone(processes) == set()
    assert host_footprint() == before
    assert host.find(name) is None


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["starting", "creating", "adding", "making", "deploying"])
def test_a_start_that_is_interrupted_leaves_nothing(
    name: str, number: signal.Signals, when: str
) -> None:
    before = host_footprint()
    up = subprocess.Popen(
        [*COMMAND, "lab", "up", "--nodes", "1", "--name", name],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert up.stderr is not None
    for line in up.stderr:
        if line.startswith(when):
            break
    up.send_signal(number)
    said = up.stderr.read()
    up.stderr.close()
    assert up.wait(timeout=120) != 0
    assert "Traceback" not in said, said
    assert host.find(name) is None
    assert host_footprint() == before


def test_a_lab_has_something_to_play_with_and_says_how(name: str) -> None:
    """The three commands that it prints, in one shell, as a person pastes them."""
    done = command("lab", "up", "--name", name)
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines() if line.startswith("  ")]
    assert len(lines) == 3, done.stdout
    assert "az " not in done.stdout
    assert "kubectl" not in done.stdout
    program = shlex.join(COMMAND)
    script = "\n".join(line.replace("egress-gateway ", f"{program} ") for line in lines)
    shell = subprocess.run(
        ["bash", "-euc", f"{script}\n{program} lab status"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert shell.returncode == 0, shell.stdout + shell.stderr
    assert "✓ internet" in shell.stdout
    assert "✗" not in shell.stdout
    assert f"lab {name!r}" in shell.stdout, "the shell's commands mean the lab that it was given"
    node = lines[2].split()[3]
    assert f"{node} is off the network" in shell.stdout
    said = {word: command("lab", word, node, "--name", name) for word in ("kill", "mend", "boot")}
    assert [done.returncode for done in said.values()] == [0, 0, 0], said
    assert f"egress-gateway lab boot {node} --name {name}" in said["kill"].stdout
    assert f"egress-gateway lab boot {node} --name {name}" in said["mend"].stdout
    assert said["boot"].stdout == f"{node} runs again\n"
    again = command("lab", "boot", node, "--name", name)
    assert (again.returncode, again.stderr) == (1, f"Error: {node} runs already\n")


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_demo_that_is_interrupted_leaves_nothing(number: signal.Signals) -> None:
    before = host_footprint()
    demo = subprocess.Popen(
        [*COMMAND, "lab", "demo"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("2."):
            break
    processes = descendants(demo.pid)
    assert len(processes) > 5
    demo.send_signal(number)
    demo.stdout.read()
    demo.stdout.close()
    assert demo.wait(timeout=120) != 0
    assert wait_gone(processes) == set()
    assert host_footprint() == before


def test_two_labs_at_once_and_a_third_of_the_same_name(name: str) -> None:
    other = name + "-b"
    try:
        assert command("lab", "up", "--empty", "--name", name).returncode == 0
        assert command("lab", "up", "--empty", "--name", other).returncode == 0
        listed = command("lab", "list").stdout
        assert listed.splitlines()[0].split() == ["NAME", "PID", "DIRECTORY"]
        assert name in listed
        assert other in listed
        again = command("lab", "up", "--empty", "--name", name)
        assert again.returncode == 1
        assert "is running" in again.stderr
        assert command("lab", "down", "--name", name).returncode == 0
        assert host.find(other) is not None
    finally:
        command("lab", "down", "--name", other)


def test_what_a_killed_lab_left_goes_when_nobody_reads_it_any_more(name: str) -> None:
    left = [host.BASE / f"{name}-{age}" for age in ("old", "young")]
    for directory in left:
        directory.mkdir(parents=True)
        dead = {"pid": 1 << 22, "started": 1, "kubernetes": "", "azure": ""}
        dead |= {"name": directory.name, "directory": str(directory)}
        (directory / "lab.json").write_text(json.dumps(dead))
    long_ago = time.time() - 3600
    os.utime(left[0] / "lab.json", (long_ago, long_ago))
    try:
        assert command("lab", "up", "--empty", "--name", name).returncode == 0
        assert [directory.exists() for directory in left] == [False, True]
    finally:
        for directory in left:
            shutil.rmtree(directory, ignore_errors=True)


def test_the_lab_has_no_path_to_the_machines_network(name: str) -> None:
    """Not from its router, not from a node: no link of the host, no address of it, no answer."""
    assert command("lab", "up", "--name", name).returncode == 0
    handle = host.find(name)
    assert handle is not None
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        hosts_own = _host_addresses()
        probe = (
            "import socket,sys\n"
            "for address in sys.argv[2:]:\n"
            "    try: socket.create_connection((address, int(sys.argv[1])), 0.5); print(address)\n"
            "    except OSError: pass\n"
        )
        for pid in descendants(handle.pid):
            with contextlib.suppress(FileNotFoundError):  # it has ended
                if os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):
                    pytest.fail(f"process {pid} of the lab is in the host's network namespace")
        enter = ["nsenter", "-t", str(handle.pid), "-n"]
        reached = subprocess.run(
            [*enter, sys.executable, "-c", probe, str(port), *hosts_own, "127.0.0.1"],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
    assert reached == ""
    links = subprocess.run(
        [*enter, "ip", "-j", "link"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert {"lo"} < {link["ifname"] for link in json.loads(links)}, "the router has links"


def test_without_root_one_line_says_what_to_do() -> None:
    # Nobody may read a checkout in a folder of mode 0700, but this one has to run it.
    reads = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", *reads, *COMMAND, "lab", "up"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("Error: the lab needs root")


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = shutil.which
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "conntrack" else real(tool))
    with pytest.raises(host.LabError, match=r"apt-get install .*conntrack"):
        host.require_host()


def _host_addresses() -> list[str]:
    shown = subprocess.run(["ip", "-j", "-4", "addr"], capture_output=True, text=True, check=True)
    return [
        a["local"] for link in json.loads(shown.stdout) for a in link["addr_info"] if a["local"]
    ]
