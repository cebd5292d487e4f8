"""Logs, exec and attach."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from egress_gateway_lab.apiserver.wire.client import KubeClient, KubeError
from egress_gateway_lab.apiserver.wire.transport import HttpTransport
from lab.tests.apiserver.conftest import Cluster, Serving
from lab.tests.apiserver.fake_runtime import EchoRuntime
from lab.tests.apiserver.test_objects import add_node, node, pod

pytestmark = pytest.mark.embedded_only("a real server has no containers without a real node")


async def start(cluster: Cluster, *containers: str) -> None:
    await add_node(cluster, node("n1"))
    listed = [{"name": name, "image": "nginx"} for name in containers or ("c",)]
    await cluster.admin.create("pods", pod("p", containers=listed, nodeName="n1"))


async def test_a_command_has_output_and_an_exit_code(serving: Serving) -> None:
    async with serving(runtime=EchoRuntime()) as cluster:
        await start(cluster)
        done = await cluster.admin.exec("default", "p", ["echo", "hello world", "$x"])
        assert (done.code, done.stdout, done.stderr) == (0, b"hello world $x\n", b"to stderr\n")
        assert (await cluster.admin.exec("default", "p", ["exit", "42"])).code == 42


@pytest.mark.parametrize(
    ("accept", "admitted"),
    [
        (None, True),
        ("*/*", True),
        ("application/json, */*;q=0.1", True),
        ("application/json", False),
        ("text/plain, application/json", False),
    ],
)
async def test_who_takes_no_stream_gets_none(
    serving: Serving, accept: str | None, admitted: bool
) -> None:
    """kube-apiserver answers 406, which kept `trace` and `bundle` out of real clusters."""
    async with serving(runtime=EchoRuntime()) as cluster:
        await start(cluster)
        headers = {"Accept": accept} if accept else {}
        transport = cluster.admin.transport
        assert isinstance(transport, HttpTransport)
        path = "/api/v1/namespaces/default/pods/p/exec"
        connecting = transport.connect(path, "command=echo&stdout=true", headers=headers)
        if admitted:
            await (await connecting).close()
            return
        with pytest.raises(KubeError) as caught:
            await connecting
        assert caught.value.code == 406


async def test_a_commands_input_ends(serving: Serving) -> None:
    async with serving(runtime=EchoRuntime()) as cluster:
        await start(cluster)
        sent = b"some bytes\x00\xff" * 1000
        done = await cluster.admin.exec("default", "p", ["cat"], stdin=sent)
        assert done.stdout == sent


async def test_a_client_that_goes_ends_its_command(serving: Serving) -> None:
    runtime = EchoRuntime()
    async with serving(runtime=runtime) as cluster:
        await start(cluster)
        client = asyncio.create_task(cluster.admin.exec("default", "p", ["sleep"]))
        async with asyncio.timeout(60):
            while not runtime.sessions:
                await asyncio.sleep(0.01)
            client.cancel()
            await runtime.sessions[0].killed.wait()
        with pytest.raises(asyncio.CancelledError):
            await client


async def test_what_cannot_be_entered_says_so(serving: Serving) -> None:
    async with serving(runtime=EchoRuntime()) as cluster:
        await start(cluster, "c", "broken")
        for name, container in (("none", None), ("p", "broken")):
            with pytest.raises(KubeError) as caught:
                await cluster.admin.exec("default", name, ["echo"], container=container)
            assert caught.value.code == 404
        with pytest.raises(KubeError) as caught:
            await cluster.admin.exec("default", "p", ["echo"], container="unheard")
        assert caught.value.code == 400


async def test_logs_by_container_and_tail(serving: Serving) -> None:
    async with serving(runtime=EchoRuntime()) as cluster:
        await start(cluster, "c", "broken")
        local = KubeClient(cluster.server.transport())
        for client in (cluster.admin, local):
            assert await client.logs("default", "p", container="c") == "one\ntwo\nthree\n"
            assert await client.logs("default", "p", container="c", tail=1) == "three\n"
            await refused(client.logs("default", "p"), "a container name must be specified")
            await refused(client.logs("default", "p", container="broken"), "has no log")


async def refused(call: Any, why: str) -> None:
    with pytest.raises(KubeError) as caught:
        await call
    assert why in str(caught.value)


async def test_without_a_runtime_it_is_501(cluster: Cluster) -> None:
    await start(cluster)
    await refused(cluster.admin.logs("default", "p"), "no node runtime")
