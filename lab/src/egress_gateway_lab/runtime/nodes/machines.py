"""All machines of a cluster and their kubelets.

``start`` boots a machine, plugs it into the fabric, gives it a range of pod addresses and returns
when its node is Ready; ``stop`` is a shutdown by the cloud, ``power_cut`` an accident of which the
API server learns only by silence. Also ``protocols.PodRuntime`` for the whole cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network

from egress_gateway_lab import localdns
from egress_gateway_lab.protocols import (
    ContainerRef,
    ExecSession,
    Fabric,
    KubeTransport,
    LogOptions,
    MachineSpec,
)
from egress_gateway_lab.runtime.containers import cni
from egress_gateway_lab.runtime.kubelet.api import ApiError
from egress_gateway_lab.runtime.kubelet.kubelet import Kubelet, KubeletSettings, choose
from egress_gateway_lab.runtime.kubelet.pod import Platform, Pod
from egress_gateway_lab.runtime.nodes import disk, masquerade
from egress_gateway_lab.runtime.nodes.node import MachineError, Node

log = logging.getLogger(__name__)


def _inside() -> tuple[IPv4Network, ...]:
    return (IPv4Network("10.244.0.0/16"), IPv4Network("10.224.0.0/12"), IPv4Network("10.0.0.0/16"))


@dataclass(frozen=True, slots=True, kw_only=True)
class MachinesSettings:
    """``pod_cidr`` is shared out in ranges of /24. ``inside``: destinations that see pods by their
    own addresses (pods, virtual network, Services). ``plugins``: CNI plugins on the host."""

    platform: Platform
    pod_cidr: IPv4Network = field(default_factory=lambda: IPv4Network("10.244.0.0/16"))
    inside: tuple[IPv4Network, ...] = field(default_factory=_inside)
    mtu: int = 1500
    plugins: str = "/usr/lib/cni"
    kubelet: KubeletSettings = field(default_factory=KubeletSettings)


@dataclass(slots=True)
class Running:
    """A machine that is up."""

    spec: MachineSpec
    node: Node
    kubelet: Kubelet
    pod_cidr: IPv4Network


class Machines:
    """``transport`` gives the Kubernetes API as seen by ``system:node:<name>``. ``fabric`` None:
    machines without a network (tests)."""

    def __init__(
        self,
        settings: MachinesSettings,
        transport: Callable[[str], KubeTransport],
        fabric: Fabric | None,
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._fabric = fabric
        self._running: dict[str, Running] = {}  # by name
        self._ranges: dict[str, IPv4Network] = {}  # by name, kept while a machine may come back
        self._disks: dict[str, bytes] = {}  # by name, of machines that are off
        self._locks: dict[str, asyncio.Lock] = {}

    def get(self, name: str) -> Running | None:
        return self._running.get(name)

    def names(self) -> list[str]:
        return sorted(self._running)

    async def start(self, spec: MachineSpec) -> Running:
        """Boots a machine and returns when its node is Ready. Idempotent. Raises
        ``MachineError`` (or what the fabric raises); nothing is left of a failed start."""
        async with self._locks.setdefault(spec.name, asyncio.Lock()):
            known = self._running.get(spec.name)
            if known is not None and not known.node.stopped.is_set():
                return known
            if known is not None:
                await self._end(known)
            pod_cidr = self._range(spec.name)
            nameserver = self._settings.platform.nameserver
            resolver = f"nameserver {localdns.NODE_RESOLVER if spec.local_dns else nameserver}\n"
            node = await Node.boot(spec.name, files={"/etc/resolv.conf": resolver,
                                                     "/etc/hostname": f"{spec.name}\n",
                                                     "/etc/hosts": _hosts(spec)})  # fmt: skip
            try:
                return await self._join(spec, node, pod_cidr)
            except BaseException as error:
                await self._disconnect(spec, pod_cidr)
                await node.kill()
                if isinstance(error, ApiError):
                    raise MachineError(f"node {spec.name} cannot register: {error}") from error
                raise

    async def stop(self, name: str) -> None:
        """Ends a machine for good; its pod addresses may be given to another. The Node object is
        its owner's to delete. Succeeds if there is none."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            known = self._running.pop(name, None)
            if known is not None:
                await self._end(known)
            self._ranges.pop(name, None)
            self._disks.pop(name, None)

    async def power_cut(self, name: str) -> None:
        """The machine goes dark at once. Its node stays in the API; ``start`` brings it back, with
        its disk. Raises ``LookupError`` for an unknown machine."""
        known = self._running.pop(name, None)
        if known is None:
            raise LookupError(
                f'no machine "{name}" is running (running: {", ".join(self.names())})'
            )
        with contextlib.suppress(OSError):  # its process 1 has crashed already
            self._disks[name] = disk.take(known.node)
        await self._end(known)

    def wipe_disk(self, name: str) -> None:
        """The machine, which is off, starts next as from its image."""
        self._disks.pop(name, None)

    async def send_signal(
        self, namespace: str, pod: str, container: str | None, number: int
    ) -> None:
        """A signal to a container's first process, from outside: only so can SIGKILL reach it.
        Raises ``LookupError``."""
        _, found = self._find(namespace, pod)
        chosen = choose(found, container)
        if chosen.process is None or not chosen.process.running:
            raise LookupError(f'container "{chosen.name}" is not running')
        await chosen.process.send_signal(number)

    def lose_sandbox(self, namespace: str, pod: str) -> None:
        """Ends a pod's sandbox, as when its pause process is killed: the kubelet makes another.
        Raises ``LookupError``."""
        _, found = self._find(namespace, pod)
        found.lose_sandbox()

    async def close(self) -> None:
        """Ends all machines."""
        await asyncio.gather(*(self.stop(name) for name in self.names()))

    async def _join(self, spec: MachineSpec, node: Node, pod_cidr: IPv4Network) -> Running:
        settings = self._settings
        six = None
        if self._fabric is not None and self._fabric.has_ipv6(spec.nic_id):
            six = ipv6_range(pod_cidr)
        kept = self._disks.pop(spec.name, None)
        if kept is not None:
            disk.give_back(node, kept)
        else:
            cni.install_base(
                node, pod_cidr, mtu=settings.mtu, plugins=settings.plugins, pod_cidr6=six
            )
        await masquerade.apply(node, settings.pod_cidr, settings.inside)
        if self._fabric is not None:
            await self._fabric.plug(spec.nic_id, node)
            await self._fabric.route_overlay(pod_cidr, spec.nic_id)
            if six is not None:
                await self._fabric.route_overlay(six, spec.nic_id)
        platform = settings.platform
        if spec.local_dns:
            problem = await localdns.start(node, platform.nameserver)
            if problem:
                raise MachineError(f"LocalDNS of {spec.name} does not start: {problem}")
            platform = replace(platform, nameserver=str(localdns.POD_RESOLVER))
        kubelet = Kubelet(
            node, spec, pod_cidr, self._transport(spec.name), platform, settings.kubelet
        )
        await kubelet.start()
        running = Running(spec, node, kubelet, pod_cidr)
        self._running[spec.name] = running
        return running

    async def _end(self, machine: Running) -> None:
        machine.kubelet.silence()
        await machine.node.kill()
        await machine.kubelet.stop()
        await self._disconnect(machine.spec, machine.pod_cidr)

    async def _disconnect(self, spec: MachineSpec, pod_cidr: IPv4Network | None = None) -> None:
        if self._fabric is None:
            return
        with contextlib.suppress(Exception):
            if pod_cidr is not None:
                await self._fabric.route_overlay(pod_cidr, None)
                await self._fabric.route_overlay(ipv6_range(pod_cidr), None)
            await self._fabric.unplug(spec.nic_id)

    def _range(self, name: str) -> IPv4Network:
        if name not in self._ranges:
            taken = set(self._ranges.values())
            subnets = self._settings.pod_cidr.subnets(new_prefix=24)
            self._ranges[name] = next(subnet for subnet in subnets if subnet not in taken)
        return self._ranges[name]

    # protocols.PodRuntime

    def _find(self, namespace: str, name: str) -> tuple[Kubelet, Pod]:
        for machine in self._running.values():
            pod = machine.kubelet.find(namespace, name)
            if pod is not None:
                return machine.kubelet, pod
        raise LookupError(f'pod "{namespace}/{name}" is not running on any machine')

    async def exec(
        self, at: ContainerRef, command: list[str], *, stdin: bool, tty: bool
    ) -> ExecSession:
        """Starts a command in a container. Raises ``LookupError`` when it does not run."""
        kubelet, found = self._find(at.namespace, at.pod)
        return await kubelet.exec(found, at.container, command, stdin=stdin, tty=tty)

    async def attach(self, at: ContainerRef, *, stdin: bool, tty: bool) -> ExecSession:
        """Joins a container's streams. Raises ``LookupError``."""
        kubelet, found = self._find(at.namespace, at.pod)
        return await kubelet.attach(found, at.container, stdin=stdin)

    async def logs(self, at: ContainerRef, options: LogOptions) -> AsyncIterator[bytes]:
        """A container's output. Raises ``LookupError``."""
        kubelet, found = self._find(at.namespace, at.pod)
        async for chunk in kubelet.logs(found, at.container, options):
            yield chunk


def ipv6_range(pod_cidr: IPv4Network) -> IPv6Network:
    """Pods' IPv6 addresses on the machine whose IPv4 ones are of ``pod_cidr``."""
    _, second, third, _ = pod_cidr.network_address.packed
    return IPv6Network(f"2001:db8:{second}:{third:x}::/64")


def _hosts(spec: MachineSpec) -> str:
    return f"127.0.0.1\tlocalhost\n::1\tlocalhost\n{spec.address}\t{spec.name}\n"
