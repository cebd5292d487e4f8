"""The lab's cluster on real Kubernetes: control plane, registry, nodes, our chart.

Stands where ``lab.embedded`` stands otherwise and knows nothing of Azure. The control plane runs in
the lab's own network namespace, which is the fabric's, under the address that the embedded server
has; its files lie on a tmpfs of the lab's mount namespace. All of it dies with the lab's process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from egress_gateway_lab import pki
from egress_gateway_lab.apiserver.kubeconfig import token_kubeconfig
from egress_gateway_lab.apiserver.wire.client import KubeClient
from egress_gateway_lab.apiserver.wire.transport import HttpTransport, KubeError
from egress_gateway_lab.protocols import BackendError, ClusterSpec, Fabric, MachineSpec
from egress_gateway_lab.realcluster import assertions, binaries, release
from egress_gateway_lab.realcluster.control_plane import ControlPlane, ControlPlaneError, Settings
from egress_gateway_lab.realcluster.filesystems import images, shipped, trees
from egress_gateway_lab.realcluster.nodes import NodesSettings, RealMachines
from egress_gateway_lab.realcluster.relay import Relay
from egress_gateway_lab.runtime.nodes.node import MachineError

log = logging.getLogger(__name__)

_REGISTRY_PORT: Final = 5000
# Nodes of a lab are lost on purpose: half a minute of silence would only be waited for.
_CONTROLLERS: Final = ("--node-monitor-period=1s", "--node-monitor-grace-period=12s")


@dataclass(frozen=True, slots=True, kw_only=True)
class RealSettings:
    """``lab``: its name. ``address``: the API's, on the fabric. ``directory``: the lab's.
    ``restart_limit``: seconds, of ``configuration.NodeConfiguration``."""

    lab: str
    directory: Path
    address: str
    nameserver: str
    authority: pki.Authority
    restart_limit: float | None


class RealKubernetes:
    """See the module; the same methods as ``lab.embedded.EmbeddedKubernetes``."""

    kind: Final = f"real, v{binaries.KUBERNETES}"

    def __init__(self, settings: RealSettings, listening: socket.socket, fabric: Fabric) -> None:
        self._settings = settings
        self._fabric = fabric
        self._url = "https://{}:{}".format(*listening.getsockname()[:2])
        self._relay = Relay(listening)
        self._shipped = shipped.chosen()
        self._store = images.Store(self._shipped.image() if self._shipped else None)
        self._runner: web.AppRunner | None = None
        self._plane: ControlPlane | None = None
        self._machines: RealMachines | None = None
        self._transport: HttpTransport | None = None
        self._token = secrets.token_urlsafe(32)
        self._programs = binaries.find(*binaries.CONTROL_PLANE, *binaries.NODE, *binaries.CNI)
        self._helm = release.find_helm()

    @property
    def machines(self) -> RealMachines:
        if self._machines is None:
            raise LookupError("this lab has no cluster yet")
        return self._machines

    # -- life

    async def start(self) -> None:
        """Registry and relay; the control plane comes with the cluster."""
        self._runner = web.AppRunner(images.registry(self._store), access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._settings.address, _REGISTRY_PORT).start()
        await self._relay.start()

    async def close(self) -> None:
        await self._relay.stop()
        await self.delete()
        if self._runner is not None:
            await self._runner.cleanup()

    async def create(self, spec: ClusterSpec, azure: Mapping[str, Any]) -> None:
        """Control plane and components. Raises ``BackendError``."""
        try:
            await self._start_control_plane(spec)
            kubeconfig = self._folder / "admin.kubeconfig"
            kubeconfig.touch(mode=0o600)
            kubeconfig.write_bytes(self._required_plane.kubeconfig(*ADMINISTRATOR))
            ca = self._settings.authority.ca.decode()
            await release.install(self._helm, kubeconfig, release.values(azure, ca))
        except (ControlPlaneError, RuntimeError, OSError) as error:
            await self.delete()
            raise BackendError(f"cluster {spec.name}: {error}") from error

    async def delete(self) -> None:
        """Everything of the cluster; succeeds if there is none."""
        self._relay.target = None
        self._relay.drop()
        if self._machines is not None:
            await self._machines.close()
        if self._transport is not None:
            await self._transport.close()
        if self._plane is not None:
            await asyncio.to_thread(self._plane.stop)
            await asyncio.to_thread(_umount, self._folder)
        self._machines = self._transport = self._plane = None

    async def _start_control_plane(self, spec: ClusterSpec) -> None:
        settings = self._settings
        image = await asyncio.to_thread(shipped.tree, self._shipped) if self._shipped else None
        built = await asyncio.to_thread(trees.build, settings.directory / "image", image)
        folder = self._folder
        await asyncio.to_thread(_mount, folder)
        tokens = folder / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f'{self._token},kubernetes-admin,1,"system:masters"\n')
        self._plane = ControlPlane(
            Settings(
                directory=folder,
                address=settings.address,
                port=443,
                services=spec.service_cidr,
                apiserver=(
                    f"--token-auth-file={tokens}",
                    # Webhooks are called at their pods: no kube-proxy serves the control plane.
                    "--enable-aggregator-routing=true",
                ),
                controllers=_CONTROLLERS,
            ),
            self._programs,
            settings.authority,
        )
        await self._plane.start()
        self._transport = self._plane.transport()
        self._relay.target = (settings.address, 443)
        await self._let_proxies_read()
        self._machines = RealMachines(
            NodesSettings(
                lab=settings.lab,
                programs=self._programs,
                trees=built,
                archive=self._store.archive(),
                nameserver=settings.nameserver,
                registry=f"http://{settings.address}:{_REGISTRY_PORT}",
                restart_limit=settings.restart_limit,
            ),
            self._plane,
            self._fabric,
        )

    async def _let_proxies_read(self) -> None:
        """What an installer of clusters does: kube-proxy's group gets its role."""
        group = {
            "kind": "Group",
            "name": "system:node-proxier",
            "apiGroup": "rbac.authorization.k8s.io",
        }
        await self.admin.apply(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": "lab:node-proxier"},
                "subjects": [group],
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": "system:node-proxier",
                },
            }
        )

    @property
    def _folder(self) -> Path:
        return self._settings.directory / "control-plane"

    @property
    def _required_plane(self) -> ControlPlane:
        if self._plane is None:
            raise LookupError("this lab has no cluster yet")
        return self._plane

    # -- what the lab asks

    @property
    def admin(self) -> KubeClient:
        if self._transport is None:
            raise LookupError("this lab has no cluster yet")
        return KubeClient(self._transport)

    def kubeconfig(self, *, name: str, user: str) -> bytes:
        """An administrator's kubeconfig for the host's loopback."""
        ca = self._settings.authority.ca
        return token_kubeconfig(self._url, ca, self._token, name=name, user=user)

    def verify(self, assertion: str) -> tuple[str, str]:
        """``protocols.TokenVerifier``."""
        plane = self._plane
        if plane is None:
            raise PermissionError("this lab has no cluster whose assertions could be checked")
        return assertions.verify(assertion, key=plane.token_key, issuer=plane.settings.issuer)

    def outage(self, program: str, *, begins: bool) -> None:
        """One program of the control plane dies, or is started again. Raises ``LookupError``
        if there is no such program."""
        plane = self._required_plane
        if program not in plane.pids:
            raise LookupError(f"no program {program!r}; there are {', '.join(plane.pids)}")
        if begins:
            plane.kill(program)
        else:
            plane.launch_again(program)

    def wipe_disk(self, name: str) -> None:
        """Machines here have their files in memory: each start is one from the image."""

    async def lose_sandbox(self, namespace: str, pod: str) -> None:
        """Kills a pod's pause process: the kubelet makes another sandbox. Raises
        ``LookupError``."""
        try:
            found = await self.admin.get("pods", pod, namespace=namespace)
            await self.machines.lose_sandbox(found["spec"]["nodeName"], found["metadata"]["uid"])
        except (KubeError, MachineError, KeyError) as error:
            raise LookupError(f"pod {namespace}/{pod} has no sandbox: {error}") from error

    async def start_machine(self, machine: MachineSpec) -> None:
        """Raises ``BackendError``."""
        try:
            await self.machines.start(machine)
        except (MachineError, KubeError, LookupError) as error:
            raise BackendError(f"machine {machine.name}: {error}") from error

    async def stop_machine(self, name: str) -> None:
        """Ends the machine, then its Node and the pods that were on it: nobody is left to
        say that they have ended."""
        await self.machines.stop(name)
        await self.admin.delete("nodes", name)
        for pod in await self.admin.list("pods", fields=f"spec.nodeName={name}"):
            meta = pod["metadata"]
            with contextlib.suppress(KubeError):
                await self.admin.delete(
                    "pods", meta["name"], namespace=meta["namespace"], grace_seconds=0
                )


ADMINISTRATOR: Final = ("kubernetes-admin", "system:masters")


def _mount(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "mode=0700", "lab", str(folder)]
    subprocess.run(command, check=True, capture_output=True)


def _umount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)
