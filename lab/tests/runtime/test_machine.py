"""A machine is namespaces with a process 1: isolated, writable, and gone without a trace."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from egress_gateway_lab.runtime.containers.streams import Stdio, open_stdio
from egress_gateway_lab.runtime.kubelet.security import DEFAULT_CAPABILITIES
from egress_gateway_lab.runtime.nodes.netsocket import open_socket
from egress_gateway_lab.runtime.nodes.node import (
    Completed,
    ContainerSpec,
    MachineError,
    Mount,
    Node,
    Process,
)

pytestmark = pytest.mark.root

PLAIN = ContainerSpec(netns=None, hostname="box", capabilities=tuple(DEFAULT_CAPABILITIES))


@asynccontextmanager
async def machine(name: str = "m1") -> AsyncIterator[Node]:
    node = await Node.boot(name)
    try:
        yield node
    finally:
        await node.kill()


async def shell(node: Node, script: str, within: Process | None = None) -> Completed:
    return await node.run(["sh", "-c", script], within=within)


async def start(
    node: Node, script: str, spec: ContainerSpec = PLAIN, *, terminal: bool = False
) -> tuple[Process, Stdio]:
    stdio = open_stdio(stdin=False, terminal=terminal)
    process = await node.spawn(["sh", "-c", script], stdio, container=spec, terminal=terminal)
    return process, stdio


async def finish(node: Node, script: str, spec: ContainerSpec = PLAIN) -> tuple[int, str]:
    """Exit code and all output of a container that runs to its end."""
    process, stdio = await start(node, script, spec)
    output = b""
    for stream in (stdio.stdout, stdio.stderr):
        while stream is not None and (chunk := await stream.read()):
            output += chunk
    stdio.close()
    return await process.wait(), output.decode()


def wait_for_end(pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ready, _, _ = select.select([fd], [], [], 60)
    os.close(fd)
    assert ready, f"process {pid} still runs"


async def test_a_machine_has_a_name_and_no_network_but_loopback() -> None:
    async with machine("worker-1") as node:
        assert (await shell(node, "hostname")).stdout == b"worker-1\n"
        links = json.loads((await shell(node, "ip -json link")).stdout)
        assert [link["ifname"] for link in links] == ["lo"]
        assert (await shell(node, "ip route; ip -6 route show default")).stdout == b""
        own = os.readlink("/proc/self/ns/net")
        assert os.readlink(f"/proc/{node.pid}/ns/net") != own


async def test_nothing_reaches_the_hosts_disk() -> None:
    marks = [f"/{place}/lab-runtime-test-{os.getpid()}" for place in ("etc", "root", "usr", "tmp")]
    async with machine() as node:
        script = f"touch {' '.join(marks)} && ls {marks[0]}"
        assert (await shell(node, script)).code == 0
        assert (await finish(node, script))[0] == 0
        # Inside, they are there; and a container does not see its machine's.
        assert node.path(marks[0]).exists()
        assert (await finish(node, f"ls {marks[2]}"))[0] != 0
    assert not any(Path(mark).exists() for mark in marks)


def mounts() -> set[str]:
    """The machine's own, a line each."""
    return set(Path("/proc/self/mountinfo").read_text().splitlines())


async def test_a_power_cut_leaves_no_process_and_no_mount() -> None:
    before = mounts()
    async with machine() as node:
        await node.create_netns("cni-1")
        await start(node, "sleep 1000 & exec sleep 1000")
        await start(node, "sleep 1000 & exec sleep 1000", replace(PLAIN, host_pid=True))
        children = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
        assert len(children) == 2
        pid = node.pid
    for process in (*map(int, children), pid):
        wait_for_end(process)
    async with asyncio.timeout(60):  # others mount too, and for a while only
        while mounts() - before:
            await asyncio.sleep(0.1)


def test_a_machine_dies_with_the_lab_even_when_that_is_killed() -> None:
    program = (
        "import asyncio, signal\n"
        "from egress_gateway_lab.runtime.nodes.node import Node\n"
        "async def main():\n"
        "    node = await Node.boot('m1')\n"
        "    print(node.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    lab = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert lab.stdout is not None
    pid = int(lab.stdout.readline())
    os.kill(pid, 0)
    lab.send_signal(signal.SIGKILL)
    lab.wait()
    lab.stdout.close()
    wait_for_end(pid)


async def test_process_1_reaps_orphans() -> None:
    async with machine() as node:
        # Two generations: the shell is gone before its child ends.
        await shell(node, "for i in 1 2 3 4 5; do (setsid sleep 0 >/dev/null 2>&1 &) ; done")
        async with asyncio.timeout(60):
            while b"Z" in (await node.run(["ps", "-eo", "stat="])).stdout:
                await asyncio.sleep(0.01)


async def test_a_machine_that_is_off_says_so() -> None:
    node = await Node.boot("m1")
    stdio = open_stdio(stdin=False, terminal=False)
    process = await node.spawn(["sleep", "1000"], stdio)
    await node.kill()
    assert await process.wait() == 137
    stdio.close()
    with pytest.raises(MachineError, match="machine m1 is off"):
        await node.run(["true"])
    assert node.stopped.is_set()


async def test_input_and_output_pass_whole() -> None:
    blob = bytes(range(256)) * 8192
    async with machine() as node:
        done = await node.run(["cat"], stdin=blob)
        assert done == Completed(0, blob, b"")
        done = await node.run(["sh", "-c", "echo no >&2; exit 7"])
        assert done == Completed(7, b"", b"no\n")
        assert (await node.run(["sleep", "1000"], limit=0.05)).code == 137


async def test_a_program_that_is_not_there_is_named() -> None:
    async with machine() as node:
        stdio = open_stdio(stdin=False, terminal=False)
        with pytest.raises(MachineError, match='exec: "nosuch": executable file not found'):
            await node.spawn(["nosuch"], stdio, container=PLAIN)
        stdio.close()
        with pytest.raises(MachineError, match="/run/netns/gone"):
            await finish(node, "true", replace(PLAIN, netns="/run/netns/gone"))


async def test_a_sandbox_is_a_network_of_its_own() -> None:
    async with machine() as node:
        netns = await node.create_netns("cni-1")
        with pytest.raises(MachineError, match="File exists"):
            await node.create_netns("cni-1")
        spec = replace(PLAIN, netns=netns)
        code, text = await finish(node, "readlink /proc/self/ns/net; ls /sys/class/net", spec)
        outside = (await shell(node, "readlink /proc/self/ns/net")).stdout.decode().strip()
        assert code == 0
        assert outside not in text
        assert text.split()[1:] == ["lo"]
        assert "lo" in (await finish(node, "ip -o link show up", spec))[1]
        await node.delete_netns("cni-1")
        await node.delete_netns("cni-1")
        assert not node.path("/run/netns/cni-1").exists()


async def test_a_container_has_its_own_processes_host_name_and_files() -> None:
    async with machine() as node:
        spec = replace(PLAIN, hostname="pod-7", files={"/etc/resolv.conf": "nameserver ::1\n"})
        code, text = await finish(node, "hostname; echo $$; cat /etc/resolv.conf", spec)
        assert (code, text) == (0, "pod-7\n1\nnameserver ::1\n")


@pytest.mark.parametrize("spec", [PLAIN, replace(PLAIN, host_pid=True)], ids=["own", "host"])
async def test_all_processes_of_a_container_die_with_its_first(spec: ContainerSpec) -> None:
    async with machine() as node:
        process, stdio = await start(node, "setsid sleep 4242 & echo up; exec sleep 1000", spec)
        assert await stdio.stdout.read() == b"up\n"
        await process.send_signal(signal.SIGKILL)
        assert await process.wait() == 137
        async with asyncio.timeout(60):
            while b"4242" in (await node.run(["ps", "-eo", "args="])).stdout:
                await asyncio.sleep(0.01)
        stdio.close()


async def test_rights_are_a_containers_default_set() -> None:
    async with machine() as node:
        netns = await node.create_netns("cni-1")
        spec = replace(PLAIN, netns=netns)
        add_link = "ip link add d0 type veth peer name d1"
        code, text = await finish(node, add_link, spec)
        assert code != 0
        assert "Operation not permitted" in text
        assert (await finish(node, "mount -t tmpfs tmpfs /mnt", spec))[0] != 0
        assert (await finish(node, "echo 1 > /proc/sys/net/ipv4/ip_forward", spec))[0] != 0
        assert (await finish(node, add_link, replace(spec, privileged=True)))[0] == 0
        allowed = replace(spec, capabilities=("NET_ADMIN",))
        assert (await finish(node, "ip link del d0", allowed))[0] == 0
        user = replace(spec, user=1000, group=1000, no_new_privileges=True)
        assert (await finish(node, "id -u; id -g", user))[1] == "1000\n1000\n"
        least = replace(user, capabilities=())
        look = f"grep -E 'Cap(Prm|Bnd)' /proc/self/status; {sys.executable} -c 'print(1)'"
        none = "CapPrm:\t0000000000000000\nCapBnd:\t0000000000000000\n1\n"
        assert (await finish(node, look, least))[1] == none
        sealed = replace(spec, read_only_root=True)
        assert "Read-only" in (await finish(node, "touch /etc/x", sealed))[1]


async def test_exec_joins_the_container_and_not_the_machine() -> None:
    async with machine() as node:
        netns = await node.create_netns("cni-1")
        process, stdio = await start(node, "exec sleep 1000", replace(PLAIN, netns=netns))
        probe = "for i in $(seq 600); do grep -q sleep /proc/1/comm && break; sleep 0.1; done; "
        probe += "hostname; cat /proc/1/comm; grep CapEff /proc/self/status; exit 3"
        done = await shell(node, probe, within=process)
        assert done.code == 3
        name, first, rights = done.stdout.decode().split("\n", 2)
        assert (name, first) == ("box", "sleep")
        assert int(rights.split()[1], 16) & (1 << 12) == 0, "NET_ADMIN"
        same = "readlink /proc/self/ns/net"
        inside = (await shell(node, same, within=process)).stdout
        assert inside != (await shell(node, same)).stdout
        stdio.close()


async def test_a_terminal_is_one() -> None:
    async with machine() as node:
        process, stdio = await start(node, "test -t 0 && echo yes; stty size", terminal=True)
        stdio.stdout.resize(80, 24)
        text = b""
        while chunk := await stdio.stdout.read():
            text += chunk
        assert text.startswith(b"yes\r\n")
        assert await process.wait() == 0
        stdio.close()


async def test_a_volume_over_the_checkout_does_not_hide_our_own_programs() -> None:
    """A checkout below /tmp, and a container with a volume at /tmp."""
    top = "/" + Path(sys.executable).parts[1]
    async with machine() as node:
        assert (await shell(node, "mkdir /run/empty")).code == 0
        volume = Mount(source="/run/empty", target=top)
        spec = replace(PLAIN, mounts=(volume,))
        code, output = await finish(node, f"exec {sys.executable} -c 'print(7)'", spec)
        assert (code, output) == (0, "7\n")
        there = await shell(node, "ls /run/empty")
        assert len(there.stdout.split()) <= 1  # the mount point alone, none of the files


@pytest.mark.parametrize(
    ("propagation", "arrives", "leaves"),
    [("none", False, False), ("slave", True, False), ("shared", True, True)],
)
async def test_mounts_travel_as_the_volume_wants(
    propagation: str, arrives: bool, leaves: bool
) -> None:
    async with machine() as node:
        volume = Mount(source="/run/netns", target="/run/netns", propagation=propagation)
        spec = replace(PLAIN, privileged=True, mounts=(volume,))
        process, stdio = await start(node, "exec sleep 1000", spec)
        await node.create_netns("outer")
        mounts = "grep -c /run/netns/%s /proc/self/mountinfo"
        inside = await shell(node, mounts % "outer", within=process)
        assert (inside.code == 0) is arrives
        # `unshare -n` keeps the mount namespace, so this mount is the container's.
        bind = "unshare -n mount --bind /proc/self/ns/net /run/netns/inner"
        made = await shell(node, f"touch /run/netns/inner; {bind}", within=process)
        assert made.code == 0, made.stderr
        outside = await shell(node, mounts % "inner")
        assert (outside.code == 0) is leaves
        stdio.close()


async def test_a_socket_of_the_machine_leaves_the_labs_own_network_alone() -> None:
    async with machine() as node:
        own = os.readlink("/proc/self/ns/net")
        theirs = open_socket(node.pid, socket.AF_INET, socket.SOCK_STREAM)
        theirs.bind(("127.0.0.1", 0))
        theirs.listen()
        port = theirs.getsockname()[1]
        listeners = (await shell(node, "cat /proc/net/tcp")).stdout.decode()
        assert f"0100007F:{port:04X}" in listeners
        assert os.readlink("/proc/self/ns/net") == own
        theirs.close()
