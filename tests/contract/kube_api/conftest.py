"""A Kubernetes API over HTTPS for the contract tests, and kubectl if there is one.

The tests know the API by its URL and token alone, so that the same suite can be pointed at another
server.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from egress_gateway.lab.kube.client import HttpTransport, KubeClient
from egress_gateway.lab.kube.server import ApiServer
from egress_gateway.lab.protocols import PodRuntime


@dataclass(frozen=True)
class Certificates:
    ca: str
    serving: ssl.SSLContext
    trusting: ssl.SSLContext


def _certificates(folder: Path) -> Certificates:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "contract-test")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (folder / "tls.crt").write_bytes(pem)
    (folder / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    trusting = ssl.create_default_context(cadata=pem.decode())
    return Certificates(pem.decode(), serving, trusting)


@pytest.fixture(scope="session")
def certificates() -> Iterator[Certificates]:
    with tempfile.TemporaryDirectory() as folder:
        yield _certificates(Path(folder))


@dataclass(frozen=True)
class Cluster:
    """A running API: its administrator, its server (for what only the embedded one has), and
    how to become somebody else."""

    url: str
    server: ApiServer
    admin: KubeClient
    certificates: Certificates

    @asynccontextmanager
    async def as_token(self, token: str) -> AsyncIterator[KubeClient]:
        async with HttpTransport(self.url, self.certificates.trusting, token) as transport:
            yield KubeClient(transport, manager="someone")


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
            yield Cluster(url, server, KubeClient(transport, manager="tests"), certificates)
    finally:
        await server.stop()


Scenario = Callable[[Cluster], Coroutine[Any, Any, None]]
Run = Callable[..., None]


@pytest.fixture
def run(certificates: Certificates) -> Run:
    """Runs a scenario against a fresh API server."""

    def go(scenario: Scenario, **options: Any) -> None:
        async def main() -> None:
            async with serve(certificates, **options) as cluster:
                await scenario(cluster)

        asyncio.run(main())

    return go


@pytest.fixture(scope="session")
def kubectl_binary() -> str:
    """``KUBECTL`` or the one on PATH; exec over WebSocket needs 1.31 or later."""
    found = os.environ.get("KUBECTL") or shutil.which("kubectl")
    if not found:
        pytest.skip(
            "NO KUBECTL: the contract with kubectl was NOT tested (install it or set KUBECTL)"
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
        config.write_bytes(cluster.server.kubeconfig(cluster.url))
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
