"""Machines of a lab with a real kubelet, containerd and kube-proxy on each.

A machine is what it is with the embedded server (``runtime.node``): namespaces with a process 1, a
link of the fabric, the base CNI configuration. On it run the real programs, started again when they
end, as an init system would; the kubelet calls nobody but containerd and the real API server.
``start`` returns when the node is Ready, ``power_cut`` is an accident, ``stop`` a shutdown.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final

from egress_gateway_lab import localdns
from egress_gateway_lab.apiserver.wire.client import KubeClient, KubeError
from egress_gateway_lab.protocols import Fabric, MachineSpec
from egress_gateway_lab.realcluster import cgroups, configuration, cri
from egress_gateway_lab.realcluster.binaries import Programs
from egress_gateway_lab.realcluster.configuration import FOLDER, NodeConfiguration
from egress_gateway_lab.realcluster.control_plane import ControlPlane
from egress_gateway_lab.realcluster.filesystems import images
from egress_gateway_lab.realcluster.filesystems.trees import Trees
from egress_gateway_lab.runtime.containers import cni
from egress_gateway_lab.runtime.containers.streams import open_stdio
from egress_gateway_lab.runtime.nodes import masquerade
from egress_gateway_lab.runtime.nodes.node import PATH, MachineError, Node, Process

log = logging.getLogger(__name__)

PODS: Final = IPv4Network("10.244.0.0/16")
INSIDE: Final = (IPv4Network("10.244.0.0/16"), IPv4Network("10.224.0.0/12"),
                 IPv4Network("10.0.0.0/16"))  # fmt: skip
_MTU: Final = 1500
_CONTAINERD_LIMIT: Final = 180.0
_READY_LIMIT: Final = 180.0
_PROXY_TABLES: Final = (
    "nft list table ip kube-proxy && "
    "{ ! [ -e /proc/net/if_inet6 ] || nft list table ip6 kube-proxy; }"
)
_RESTART: Final = 0.5
_CRI_PAUSES: Final = (1.0, 2.0, 4.0, 8.0)
"""Seconds before a containerd without CRI is started again; the last one stands for all further."""
_TUNABLES: Final = "/run/lab-sysctls"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesSettings:
    """``lab``: the lab's name, for cgroups. ``registry``: URL of the lab's. ``restart_limit``: as
    ``NodeConfiguration`` has it."""

    lab: str
    programs: Programs
    trees: Trees
    archive: bytes
    """All images, for ``ctr images import``."""
    nameserver: str
    registry: str
    restart_limit: float | None


@dataclass(slots=True)
class Running:
    """A machine that is up."""

    spec: MachineSpec
    node: Node
    pod_cidr: IPv4Network
    services: set[asyncio.Task[None]] = field(default_factory=set)
    processes: dict[str, Process] = field(default_factory=dict)
    """What runs now, by the program's name."""


class RealMachines:
    """All machines of the cluster. ``fabric`` plugs them in; ``plane`` gives them identities."""

    def __init__(self, settings: NodesSettings, plane: ControlPlane, fabric: Fabric) -> None:
        self._settings = settings
        self._plane = plane
        self._fabric = fabric
        self._hierarchies = cgroups.hierarchies()
        self._running: dict[str, Running] = {}
        self._ranges: dict[str, IPv4Network] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def get(self, name: str) -> Running | None:
        return self._running.get(name)

    def names(self) -> list[str]:
        return sorted(self._running)

    async def start(self, spec: MachineSpec) -> None:
        """Boots a machine and returns when its node is Ready. Idempotent. Raises
        ``MachineError``; nothing is left of a failed start."""
        async with self._locks.setdefault(spec.name, asyncio.Lock()):
            known = self._running.get(spec.name)
            if known is not None and not known.node.stopped.is_set():
                return
            if known is not None:
                await self._end(known)
            began = time.time()
            machine = await self._boot(spec)
            self._running[spec.name] = machine
            try:
                await self._prepare(machine)
                await self._ready(machine, since=began)
            except BaseException as error:
                await self._end(self._running.pop(spec.name))
                if isinstance(error, TimeoutError | KubeError):
                    raise MachineError(f"node {spec.name} is not Ready: {error}") from error
                raise
            log.info("node %s Ready after %.1f s", spec.name, time.time() - began)

    async def stop(self, name: str) -> None:
        """Ends a machine for good; its Node and pods are its owner's to delete."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            known = self._running.pop(name, None)
            if known is not None:
                await self._end(known)
            self._ranges.pop(name, None)

    async def power_cut(self, name: str) -> None:
        """The machine goes dark at once. Raises ``LookupError`` for an unknown machine."""
        known = self._running.pop(name, None)
        if known is None:
            running = ", ".join(self.names())
            raise LookupError(f'no machine "{name}" is running (running: {running})')
        await self._end(known)

    async def lose_sandbox(self, name: str, uid: str) -> None:
        """Kills the pause process of the pod on that machine. Raises ``LookupError`` if there is
        none, and ``MachineError``."""
        machine = self._running.get(name)
        if machine is None:
            raise LookupError(f"machine {name} is off")
        labels = (f'"io.kubernetes.pod.uid"=={uid}', '"io.cri-containerd.kind"==sandbox')
        wanted = ",".join(f"labels.{label}" for label in labels)
        listed = await machine.node.run([*self._ctr, "containers", "list", "--quiet", wanted])
        # Of a pod that had more than one, those before are listed until they are collected.
        killed = [
            await machine.node.run([*self._ctr, "tasks", "kill", "--signal", "SIGKILL", one])
            for one in listed.stdout.decode().split()
        ]
        if all(done.code for done in killed):
            said = b"; ".join(done.stderr for done in (listed, *killed)).decode(errors="replace")
            raise LookupError(said.strip() or "containerd lists none")

    async def close(self) -> None:
        """Ends all machines."""
        await asyncio.gather(*(self.stop(name) for name in self.names()))

    # -- one machine

    async def _boot(self, spec: MachineSpec) -> Running:
        settings = self._settings
        pod_cidr = self._range(spec.name)
        cgroups.create(f"{settings.lab}/{spec.name}", self._hierarchies)
        shown = {str(path.parent) for path in settings.programs.paths.values()}
        shown |= {str(tree) for _, tree in settings.trees.items()}
        configured = self._configuration(spec, pod_cidr)
        node = await Node.boot(spec.name, files=self._files(configured), keep=sorted(shown))
        return Running(spec, node, pod_cidr)

    async def _prepare(self, machine: Running) -> None:
        """Network, containerd, images; then the kubelet and kube-proxy."""
        node, spec = machine.node, machine.spec
        await _sh(node, _mounts(self._hierarchies))
        cni.install_base(node, machine.pod_cidr, mtu=_MTU, plugins=str(self._settings.programs.cni))
        await masquerade.apply(node, PODS, INSIDE)
        await self._fabric.plug(spec.nic_id, node)
        await self._fabric.route_overlay(machine.pod_cidr, spec.nic_id)
        if spec.local_dns:
            problem = await localdns.start(node, self._settings.nameserver)
            if problem:
                raise MachineError(f"LocalDNS of {spec.name} does not start: {problem}")
        configured = self._configuration(spec, machine.pod_cidr)
        await self._serve(machine, "containerd", ["--config", "/etc/containerd/config.toml"])
        await self.wait_for_cri(machine)
        await self._images(machine)
        await self._serve(machine, "kubelet", configuration.kubelet_arguments(configured))
        await self._serve(machine, "kube-proxy", [f"--config={FOLDER}/kube-proxy.json"])

    async def wait_for_cri(self, machine: Running) -> None:
        """Waits until containerd has its CRI service; one that started without is started again.
        Raises ``MachineError``, which says why there is none."""
        node, deadline, refused = machine.node, time.monotonic() + _CONTAINERD_LIMIT, ""
        pauses = iter(_CRI_PAUSES)
        while True:
            shown = (await node.run([*self._ctr, *cri.QUERY])).stdout.decode(errors="replace")
            if cri.is_served(shown):
                return
            refused = cri.refusal(shown) or refused
            if time.monotonic() > deadline or node.stopped.is_set():
                why = refused or f"it does not answer: {_last_line(node, 'containerd')}"
                said = "; ".join(part for part in (why, cri.mend(refused)) if part)
                raise MachineError(f"containerd of {node.name} serves no kubelet: {said}")
            if cri.refusal(shown):
                pause = next(pauses, _CRI_PAUSES[-1])
                log.warning("containerd of %s has no CRI: %s; it is started again in %g s",
                            node.name, refused, pause)  # fmt: skip
                await asyncio.sleep(pause)
                await machine.processes["containerd"].send_signal(signal.SIGKILL)
                await machine.processes["containerd"].wait()
            await asyncio.sleep(0.05)

    @property
    def _ctr(self) -> list[str]:
        program = str(self._settings.programs["ctr"])
        return [program, "--address", configuration.CONTAINERD_SOCKET, "--namespace", "k8s.io"]

    async def _images(self, machine: Running) -> None:
        """Every image, and each layer's folder covered by the layer's files."""
        node = machine.node
        done = await node.run([*self._ctr, "images", "import", "-"], stdin=self._settings.archive)
        if done.code != 0:
            said = done.stderr.decode(errors="replace").strip()
            raise MachineError(f"images cannot be imported on {node.name}: {said}")
        await _sh(node, _cover(dict(self._settings.trees.items())))

    async def _serve(self, machine: Running, name: str, arguments: Sequence[str]) -> None:
        """Runs a program on the machine for as long as there is one. Its output is in /var/log."""
        program = self._settings.programs[name]
        command = " ".join([str(program), *(f"'{a}'" for a in arguments)])
        script = f"exec {command} >>/var/log/{name}.log 2>&1"
        env = {"PATH": f"{program.parent}:{PATH}", "HOME": "/root"}

        async def keep() -> None:
            while not machine.node.stopped.is_set():
                stdio = open_stdio(stdin=False, terminal=False)
                try:
                    process = await machine.node.spawn(["sh", "-c", script], stdio, env=env)
                    machine.processes[name] = process
                    code = await process.wait()
                except MachineError as error:
                    log.warning("%s of %s: %s", name, machine.spec.name, error)
                    return
                finally:
                    stdio.close()
                if machine.node.stopped.is_set():
                    return
                last = _last_line(machine.node, name)
                log.warning("%s of %s ended (%d): %s", name, machine.spec.name, code, last)
                await asyncio.sleep(_RESTART)

        task = asyncio.create_task(keep())
        machine.services.add(task)

    async def _ready(self, machine: Running, *, since: float) -> None:
        """Waits for the Node, gives it its pods' range, and waits until this boot's kubelet
        (from Unix time ``since``) says that it is Ready: the last one's word may still stand."""
        name = machine.spec.name
        async with self._plane.transport() as transport:
            admin = KubeClient(transport)
            try:
                await admin.wait_for("nodes", name, bool, timeout=_READY_LIMIT)
                ranges = {"podCIDR": str(machine.pod_cidr), "podCIDRs": [str(machine.pod_cidr)]}
                with contextlib.suppress(KubeError):  # it has one: the machine was here before
                    await admin.patch("nodes", name, {"spec": ranges})
                await admin.wait_for(
                    "nodes", name, lambda found: _is_ready(found, since), timeout=_READY_LIMIT
                )
            except TimeoutError:
                last = _last_line(machine.node, "kubelet")
                raise MachineError(f"node {name} is not Ready; its kubelet says: {last}") from None
            if machine.node.stopped.is_set():
                raise MachineError(f"machine {name} went down")
        await self._translates(machine)

    async def _translates(self, machine: Running) -> None:
        """Waits until kube-proxy's tables are there: a pod may use a Service from its first
        moment, and whoever compares a node's tables should not see them come."""
        deadline = time.monotonic() + _READY_LIMIT
        while (await machine.node.run(["sh", "-c", _PROXY_TABLES])).code != 0:
            if time.monotonic() > deadline or machine.node.stopped.is_set():
                last = _last_line(machine.node, "kube-proxy")
                name = machine.spec.name
                raise MachineError(f"node {name} knows no Services; its kube-proxy says: {last}")
            await asyncio.sleep(0.05)

    async def _end(self, machine: Running) -> None:
        for task in machine.services:
            task.cancel()
        await machine.node.kill()
        await asyncio.gather(*machine.services, return_exceptions=True)
        with contextlib.suppress(Exception):
            await self._fabric.route_overlay(machine.pod_cidr, None)
            await self._fabric.unplug(machine.spec.nic_id)
        path = f"{self._settings.lab}/{machine.spec.name}"
        await asyncio.to_thread(cgroups.remove, path, self._hierarchies)

    # -- what it is made of

    def _configuration(self, spec: MachineSpec, pod_cidr: IPv4Network) -> NodeConfiguration:
        return NodeConfiguration(
            name=spec.name,
            address=str(spec.address),
            provider_id=spec.provider_id,
            pod_cidr=pod_cidr,
            cluster_cidr=PODS,
            labels=dict(spec.labels),
            taints=spec.taints,
            cgroup=f"{cgroups.ROOT}/{self._settings.lab}/{spec.name}",
            nameserver=str(localdns.POD_RESOLVER) if spec.local_dns else self._settings.nameserver,
            node_resolver=(
                str(localdns.NODE_RESOLVER) if spec.local_dns else self._settings.nameserver
            ),
            registry=self._settings.registry,
            restart_limit=self._settings.restart_limit,
        )

    def _files(self, node: NodeConfiguration) -> Mapping[str, str]:
        plane = self._plane
        kubelet = plane.kubeconfig(f"system:node:{node.name}", "system:nodes")
        proxy = plane.kubeconfig("system:kube-proxy", "system:node-proxier")
        return {
            "/etc/resolv.conf": f"nameserver {node.node_resolver}\n",
            "/etc/hostname": f"{node.name}\n",
            "/etc/hosts": f"127.0.0.1\tlocalhost\n::1\tlocalhost\n{node.address}\t{node.name}\n",
            "/etc/containerd/config.toml": configuration.containerd(node),
            f"{configuration.CERTIFICATES}/_default/hosts.toml": configuration.registry_hosts(node),
            f"{FOLDER}/ca.crt": plane.ca.decode(),
            f"{FOLDER}/kubelet.json": configuration.kubelet(node),
            f"{FOLDER}/kubelet.kubeconfig": kubelet.decode(),
            f"{FOLDER}/kube-proxy.json": configuration.proxy(node),
            f"{FOLDER}/kube-proxy.kubeconfig": proxy.decode(),
        }

    def _range(self, name: str) -> IPv4Network:
        if name not in self._ranges:
            taken = set(self._ranges.values())
            self._ranges[name] = next(s for s in PODS.subnets(new_prefix=24) if s not in taken)
        return self._ranges[name]


def _mounts(mounted: list[cgroups.Hierarchy]) -> str:
    """What a kubelet and a containerd need beside the machine's own root."""
    lines = [
        "set -e",
        f"mkdir -p {configuration.CONTAINERD_ROOT} {configuration.STATIC_PODS}",
        # An overlay cannot be the upper half of another one.
        f"mount -t tmpfs containerd {configuration.CONTAINERD_ROOT}",
        "test -e /dev/kmsg || mknod /dev/kmsg c 1 11",
    ]
    for name, value in configuration.TUNABLES.items():
        copy = f"{_TUNABLES}/{name}"
        lines += [
            f"mkdir -p {Path(copy).parent}",
            f"echo {value} > {copy}",
            f"if test -e /proc/sys/{name}; then mount --bind {copy} /proc/sys/{name}; fi",
        ]
    return "\n".join(lines) + "\n" + cgroups.mount_script(mounted)


def _cover(trees: Mapping[str, Path]) -> str:
    """Lays every layer's files over the folder that its mark was unpacked into."""
    lines = [
        "set -e",
        f"for mark in {configuration.CONTAINERD_ROOT}/{images.SNAPSHOTS}/*/fs/{images.MARK}; do",
        'case "$(cat "$mark")" in',
    ]
    lines += [f"{name}) tree='{tree}' ;;" for name, tree in trees.items()]
    lines += [
        "*) continue ;;",
        "esac",
        # The machine's own root is an overlay; below one container's there is room for one more.
        'if test -d "/.lab/host$tree"; then tree="/.lab/host$tree"; fi',
        'layer="$(dirname "$mark")"',
        'mount --bind "$tree" "$layer"',
        'mount -o remount,bind,ro "$layer"',
        "done",
    ]
    return "\n".join(lines) + "\n"


async def _sh(node: Node, script: str) -> None:
    done = await node.run(["sh", "-c", script])
    if done.code != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise MachineError(f"machine {node.name} cannot be prepared: {said}")


def _is_ready(node: dict[str, Any] | None, since: float) -> bool:
    """Whether the kubelet has said so since then (it says the time in whole seconds)."""
    conditions = (node or {}).get("status", {}).get("conditions", [])
    return any(
        c["type"] == "Ready"
        and c["status"] == "True"
        and datetime.fromisoformat(c["lastHeartbeatTime"]).timestamp() >= int(since)
        for c in conditions
    )


def _last_line(node: Node, program: str) -> str:
    """The last line of a program's log, and what mends it if that is known."""
    try:
        text = node.path(f"/var/log/{program}.log").read_text(errors="replace")
    except OSError:
        return "no output"
    last = (text.strip().splitlines() or ["no output"])[-1][-500:]
    return "; ".join(filter(None, (last, cri.mend(last))))
