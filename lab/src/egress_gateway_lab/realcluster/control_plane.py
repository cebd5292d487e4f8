"""A real control plane: etcd, kube-apiserver, kube-controller-manager, kube-scheduler.

For tests on loopback and for the lab inside its own namespaces alike. Everything it writes is in
one directory of its owner; everything it starts dies with the thread that started it, however that
ends (PR_SET_PDEATHSIG), so nothing outlives a killed test run. etcd is reached by a socket in
that directory alone and syncs nothing to disk: what it holds is thrown away at the end anyway.

Use, from the loop's own thread::

    programs = binaries.find(*binaries.CONTROL_PLANE)
    plane = ControlPlane(Settings(directory=folder), programs)
    await plane.start()                    # the API answers, accounts and namespaces exist
    async with plane.transport() as admin: …
    plane.stop()
"""

from __future__ import annotations

import asyncio
import base64
import ctypes
import os
import signal
import socket
import ssl
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import Final

import aiohttp
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from egress_gateway_lab import pki
from egress_gateway_lab.apiserver.wire.transport import HttpTransport
from egress_gateway_lab.realcluster.binaries import Programs

_PR_SET_PDEATHSIG: Final = 1
_SERVICES: Final = IPv4Network("10.0.0.0/16")
_POLL: Final = 0.05
_ETCD: Final = "etcd.sock:0"
_ETCD_PEER: Final = "peer.sock:0"
"""Sockets in the directory, which is where the programs run: etcd insists on something that looks
like a port, and a path from the root may be too long for a socket (108 bytes, unix(7))."""
ADMINISTRATOR: Final = ("kubernetes-admin", "system:masters")
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class ControlPlaneError(Exception):
    """A program of the control plane ended or did not become ready; one line, with its last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What differs between a test's control plane and a lab's."""

    directory: Path
    """For keys, etcd's database, logs; exists or is made, readable for its owner alone."""
    address: str = "127.0.0.1"
    """Where the API listens, and how its own programs reach it."""
    port: int = 0
    """0: a free one."""
    advertise: str = ""
    """The address of the ``kubernetes`` Service's endpoint; ``address`` if empty."""
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    """What the API's certificate is good for besides ``address``, loopback and the Service."""
    services: IPv4Network = _SERVICES
    issuer: str = "https://kubernetes.default.svc.cluster.local"
    """``iss`` of ServiceAccount tokens."""
    apiserver: tuple[str, ...] = ()
    controllers: tuple[str, ...] = ()
    scheduler: tuple[str, ...] = ()
    """Further flags of each program; the last of a name counts."""
    timeout: float = 120.0
    """Seconds until the API must answer."""


class ControlPlane:
    """See the module. One start, one stop."""

    def __init__(
        self, settings: Settings, programs: Programs, authority: pki.Authority | None = None
    ) -> None:
        self.settings = settings
        self.authority = authority or pki.Authority()
        self._programs = programs
        self._port = settings.port or _free_port(settings.address)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._arguments: dict[str, tuple[str, ...]] = {}
        self._token_key = ec.generate_private_key(ec.SECP256R1())

    # -- life

    async def start(self) -> None:
        """Returns when the API is ready and the default namespace's account exists.
        Raises ``ControlPlaneError``, with everything ended again."""
        try:
            self._write_keys()
            self._launch("etcd", *self._etcd())
            self._launch("kube-apiserver", *self._apiserver(), *self.settings.apiserver)
            async with asyncio.timeout(self.settings.timeout):
                await self._answers("/readyz")
                # Both give up when the API does not answer for ten seconds: not before it.
                own = ("--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=0")
                self._launch(
                    "kube-controller-manager", *own, *self._manager(), *self.settings.controllers
                )
                config = f"--kubeconfig={self._client('kube-scheduler', 'system:kube-scheduler')}"
                self._launch("kube-scheduler", *own, config, *self.settings.scheduler)
                await self._answers("/api/v1/namespaces/default/serviceaccounts/default")
        except TimeoutError:
            last = self._last_words("kube-apiserver")
            self.stop()
            waited = f"not ready in {self.settings.timeout:.0f} s"
            raise ControlPlaneError(f"the control plane is {waited}: {last}") from None
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends all programs at once; their data is nobody's any more. Safe to repeat."""
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.kill()
        for process in self._running.values():
            process.wait()
        self._running.clear()

    def check(self) -> None:
        """Raises ``ControlPlaneError`` if a program has ended by itself."""
        for name, process in self._running.items():
            if process.poll() is not None:
                status = process.returncode
                raise ControlPlaneError(f"{name} ended ({status}): {self._last_words(name)}")

    def signal(self, name: str, number: signal.Signals) -> None:
        """To one program, by its name: for outages."""
        self._running[name].send_signal(number)

    def kill(self, name: str) -> None:
        """Ends one program, as a crash does. ``check`` will say so until ``launch_again``."""
        self._running[name].kill()
        self._running[name].wait()

    def launch_again(self, name: str) -> None:
        """Starts a program that has ended, as it was started; does not wait for it."""
        if self._running[name].poll() is not None:
            self._launch(name, *self._arguments[name])

    @property
    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._running.items()}

    def log(self, name: str) -> Path:
        return self.settings.directory / f"{name}.log"

    # -- what others use

    @property
    def url(self) -> str:
        return f"https://{self.settings.address}:{self._port}"

    @property
    def port(self) -> int:
        return self._port

    def tls(self, user: str = ADMINISTRATOR[0], *groups: str) -> ssl.SSLContext:
        """Trusts the API and is ``user`` by a client certificate (the administrator if none is
        named; nobody if it is empty)."""
        context = ssl.create_default_context(cadata=self.authority.ca.decode())
        if user:
            groups = groups or (ADMINISTRATOR[1:] if user == ADMINISTRATOR[0] else ())
            identity = self.authority.client(user, *groups)
            pem = self.settings.directory / "client.pem"
            _write(pem, identity.key + identity.certificate)
            context.load_cert_chain(pem)
            pem.unlink()
        return context

    def transport(self, user: str = ADMINISTRATOR[0], *groups: str) -> HttpTransport:
        """The API as ``user``; by default as administrator."""
        return HttpTransport(self.url, self.tls(user, *groups))

    def kubeconfig(self, user: str, *groups: str, server: str = "", name: str = "lab") -> bytes:
        """A kubeconfig of ``user`` for the API, under ``server`` if it has another URL there."""
        identity = self.authority.client(user, *groups)
        cluster = {"server": server or self.url, "certificate-authority-data": _b64(self.ca)}
        certificate = {
            "client-certificate-data": _b64(identity.certificate),
            "client-key-data": _b64(identity.key),
        }
        return yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": name,
                "clusters": [{"name": name, "cluster": cluster}],
                "users": [{"name": user, "user": certificate}],
                "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
            },
            sort_keys=False,
        ).encode()

    @property
    def ca(self) -> bytes:
        return self.authority.ca

    @property
    def token_key(self) -> ec.EllipticCurvePublicKey:
        """What signatures of ServiceAccount tokens are checked with."""
        return self._token_key.public_key()

    # -- programs

    def _launch(self, name: str, *arguments: str) -> None:
        self._arguments[name] = arguments
        parent = os.getpid()

        def in_child() -> None:
            # NB: between fork and exec; only async-signal-safe work belongs here.
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        with self.log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                [str(self._programs[name]), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.settings.directory,
                start_new_session=True,
                preexec_fn=in_child,
            )

    def _etcd(self) -> list[str]:
        client, peer = f"unix://{_ETCD}", f"unix://{_ETCD_PEER}"
        return [
            f"--data-dir={self.settings.directory / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _apiserver(self) -> list[str]:
        folder = self.settings.directory
        advertise = self.settings.advertise or self.settings.address
        # Endpoints may not be on loopback: the kubernetes Service has none then.
        endpoint = "none" if ip_address(advertise).is_loopback else "lease"
        return [
            f"--etcd-servers=unix://{_ETCD}",
            f"--bind-address={self.settings.address}",
            f"--advertise-address={advertise}",
            f"--endpoint-reconciler-type={endpoint}",
            f"--secure-port={self._port}",
            f"--cert-dir={folder}",
            f"--tls-cert-file={folder / 'apiserver.crt'}",
            f"--tls-private-key-file={folder / 'apiserver.key'}",
            f"--client-ca-file={folder / 'ca.crt'}",
            f"--service-account-key-file={folder / 'accounts.key'}",
            f"--service-account-signing-key-file={folder / 'accounts.key'}",
            f"--service-account-issuer={self.settings.issuer}",
            f"--service-cluster-ip-range={self.settings.services}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--kubelet-client-certificate={folder / 'kubelet-client.crt'}",
            f"--kubelet-client-key={folder / 'kubelet-client.key'}",
            "--kubelet-preferred-address-types=InternalIP",
        ]

    def _manager(self) -> list[str]:
        folder = self.settings.directory
        user = "system:kube-controller-manager"
        return [
            f"--kubeconfig={self._client('kube-controller-manager', user)}",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={folder / 'accounts.key'}",
            f"--root-ca-file={folder / 'ca.crt'}",
            f"--service-cluster-ip-range={self.settings.services}",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        ]

    # -- keys

    def _write_keys(self) -> None:
        folder = self.settings.directory
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        service = str(self.settings.services.network_address + 1)
        serving = self.authority.server(
            addresses=sorted(
                {"127.0.0.1", self.settings.address, service} | set(self.settings.addresses)
            ),
            names=[
                "localhost",
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
                *self.settings.names,
            ],
        )
        (folder / "ca.crt").write_bytes(self.ca)
        (folder / "apiserver.crt").write_bytes(serving.certificate)
        _write(folder / "apiserver.key", serving.key)
        _write(
            folder / "accounts.key",
            self._token_key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            ),
        )
        kubelet = self.authority.client("kube-apiserver-kubelet-client", "system:masters")
        (folder / "kubelet-client.crt").write_bytes(kubelet.certificate)
        _write(folder / "kubelet-client.key", kubelet.key)

    def _client(self, name: str, user: str) -> Path:
        path = self.settings.directory / f"{name}.kubeconfig"
        _write(path, self.kubeconfig(user))
        return path

    # -- readiness

    async def _answers(self, path: str) -> None:
        async with self.transport() as transport:
            while True:
                self.check()
                with suppress(aiohttp.ClientError, TimeoutError):
                    async with asyncio.timeout(5):
                        if (await transport.request("GET", path)).status == 200:
                            return
                await asyncio.sleep(_POLL)

    def _last_words(self, name: str) -> str:
        try:
            lines = self.log(name).read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return (lines or ["no output"])[-1][:500]


def _write(path: Path, content: bytes) -> None:
    """A key: for its owner's eyes from the beginning."""
    path.touch(mode=0o600)
    path.write_bytes(content)


def _b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _free_port(address: str) -> int:
    """One that was free a moment ago: kube-apiserver cannot inherit a socket."""
    with socket.create_server((address, 0)) as listening:
        port: int = listening.getsockname()[1]
    return port
