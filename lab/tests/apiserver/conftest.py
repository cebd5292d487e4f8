"""A Kubernetes API over HTTPS for the contract tests, and kubectl if there is one.

The tests know the API by its URL and credentials alone: the same suite runs on the embedded server
and, with the mark ``kube``, on a real kube-apiserver (``make test-kube``).
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from egress_gateway_lab import pki
from egress_gateway_lab.apiserver.server import ApiServer
from egress_gateway_lab.apiserver.wire.client import HttpTransport, KubeClient
from egress_gateway_lab.protocols import PodRuntime
from egress_gateway_lab.realcluster.control_plane import ADMINISTRATOR, ControlPlane
from tests.deploy.conftest import tool
from tests.kube.real import settle, wipe


@dataclass(frozen=True)
class Certificates:
    ca: str
    serving: ssl.SSLContext
    trusting: ssl.SSLContext


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    identity = pki.issue(addresses=["127.0.0.1"], names=["localhost"])
    with tempfile.TemporaryDirectory() as folder:
        serving = identity.context(Path(folder))
    ca = identity.ca.decode()
    return Certificates(ca, serving, ssl.create_default_context(cadata=ca))


@dataclass(frozen=True)
class Cluster:
    """A running API: its administrator, and how to become somebody else."""

    url: str
    admin: KubeClient
    ca: str
    trusting: ssl.SSLContext
    kubeconfig: bytes
    embedded: ApiServer | None = None
    plane: ControlPlane | None = None

    @property
    def server(self) -> ApiServer:
        """For tests of what only the embedded server has; they carry ``embedded_only``."""
        assert self.embedded is not None, "mark this test embedded_only"
        return self.embedded

    @asynccontextmanager
    async def as_token(self, token: str) -> AsyncIterator[KubeClient]:
        async with HttpTransport(self.url, self.trusting, token) as transport:
            yield KubeClient(transport, manager="someone")

    @asynccontextmanager
    async def as_node(self, name: str) -> AsyncIterator[KubeClient]:
        """The kubelet of a node."""
        if self.embedded is not None:
            yield KubeClient(self.embedded.node_transport(name))
        else:
            assert self.plane is not None
            transport = self.plane.transport(f"system:node:{name}", "system:nodes")
            async with transport:
                yield KubeClient(transport)

    async def settled(self) -> None:
        """Returns when the roles and policies written so far are in force: the embedded server
        asks its store, a real one hears of them."""
        if self.plane is not None:
            await settle(self.admin)

    async def served(self, *definitions: str) -> None:
        """Returns when custom resources (``plural.group``) can be used: a real server opens their
        paths a moment after it took the definition."""
        for name in definitions:
            found = await self.admin.wait_for("customresourcedefinitions", name, _established)
            assert found is not None
            path = f"/apis/{found['spec']['group']}/{found['spec']['versions'][0]['name']}"
            plural = found["spec"]["names"]["plural"]
            async with asyncio.timeout(60):
                while (await self.admin.transport.request("GET", f"{path}/{plural}")).status != 200:
                    await asyncio.sleep(0.02)
                while (await self.admin.transport.request("GET", path)).status != 200:
                    await asyncio.sleep(0.02)


def _established(obj: dict[str, Any] | None) -> bool:
    conditions = ((obj or {}).get("status") or {}).get("conditions") or []
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


@asynccontextmanager
async def serve(
    certificates: Certificates, runtime: PodRuntime | None = None, **options: Any
) -> AsyncIterator[Cluster]:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    server = ApiServer(
        sockets=[sock],
        tls=certificates.serving,
        ca_pem=certificates.ca,
        services=IPv4Network("10.0.0.0/16"),
        runtime=runtime,
        **options,
    )
    await server.start()
    url = f"https://127.0.0.1:{sock.getsockname()[1]}"
    try:
        async with HttpTransport(url, certificates.trusting, server.admin_token) as transport:
            yield Cluster(
                url=url,
                admin=KubeClient(transport, manager="tests"),
                ca=certificates.ca,
                trusting=certificates.trusting,
                kubeconfig=server.kubeconfig(url),
                embedded=server,
            )
    finally:
        await server.stop()


@asynccontextmanager
async def real(plane: ControlPlane) -> AsyncIterator[Cluster]:
    """A real server with nothing of other tests in it."""
    plane.check()
    await wipe(plane)
    async with plane.transport() as transport:
        yield Cluster(
            url=plane.url,
            admin=KubeClient(transport, manager="tests"),
            ca=plane.ca.decode(),
            trusting=plane.tls(""),
            kubeconfig=plane.kubeconfig(*ADMINISTRATOR),
            plane=plane,
        )
    await _hung_up()


async def _hung_up() -> None:
    """Returns when the loop has no connection left: one whose request was cancelled ends politely,
    which takes the server's answer, and would be reported as unclosed if the loop ended before."""
    watched = asyncio.get_running_loop()._selector.get_map()  # type: ignore[attr-defined]  # noqa: SLF001
    for _ in range(250):
        if len(watched) <= 1:  # the loop's own
            return
        await asyncio.sleep(0.02)


Serving = Callable[..., AbstractAsyncContextManager[Cluster]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test with a cluster runs on both servers, the real one with the mark ``kube``
    (``make test-kube``), unless it says that it is of the embedded one alone."""
    if "serving" not in metafunc.fixturenames:
        return
    servers = [pytest.param("embedded")]
    if metafunc.definition.get_closest_marker("embedded_only") is None:
        servers.append(pytest.param("real", marks=pytest.mark.kube))
    metafunc.parametrize("serving", servers, indirect=True)


@pytest.fixture
def serving(request: pytest.FixtureRequest) -> Serving:
    """Starts a fresh API server. Options are the embedded server's alone."""
    if request.param == "real":
        plane: ControlPlane = request.getfixturevalue("real_plane")
        return lambda: real(plane)
    certificates: Certificates = request.getfixturevalue("certificates")
    return functools.partial(serve, certificates)


@pytest.fixture
async def cluster(serving: Serving) -> AsyncIterator[Cluster]:
    """A fresh API server."""
    async with serving() as made:
        yield made


@pytest.fixture(scope="session")
def kubectl_binary() -> str:
    """``KUBECTL``, that of ``make clients``, or the one on PATH; exec over WebSocket needs 1.31 or
    later."""
    fetched = tool("kubernetes_clients")
    known = str(fetched.folder() / "kubectl") if fetched.present() else shutil.which("kubectl")
    found = os.environ.get("KUBECTL") or known
    if not found:
        pytest.skip(
            "NO KUBECTL: the contract with kubectl was NOT tested (make clients, or set KUBECTL)"
        )
    shown = subprocess.run(
        [found, "version", "--client", "-o", "json"], capture_output=True, text=True, check=True
    ).stdout
    minor = int(shown.partition('"minor": "')[2].partition('"')[0].rstrip("+"))
    if minor < 31:
        pytest.skip(f"KUBECTL TOO OLD (1.{minor}): the contract with kubectl was NOT tested")
    return found


@pytest.fixture
def kubectl(kubectl_binary: str, tmp_path: Path) -> Callable[..., Coroutine[Any, Any, str]]:
    """``await kubectl(cluster, "get", "pods")`` → stdout; ``fails=True`` → stderr of a failure."""

    async def call(
        cluster: Cluster, *args: str, stdin: str | None = None, fails: bool = False
    ) -> str:
        config = tmp_path / "kubeconfig"
        config.write_bytes(cluster.kubeconfig)
        process = await asyncio.create_subprocess_exec(
            kubectl_binary,
            f"--kubeconfig={config}",
            f"--cache-dir={tmp_path}/cache",
            *args,
            stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(stdin.encode() if stdin is not None else None)
        if fails:
            assert process.returncode != 0, out.decode()
            return err.decode()
        assert process.returncode == 0, f"kubectl {' '.join(args)}: {err.decode()}{out.decode()}"
        return out.decode()

    return call
