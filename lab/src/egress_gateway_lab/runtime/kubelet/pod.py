"""One pod on its machine, from the moment it is bound to the moment its object is deleted.

Order of things, as a kubelet keeps it: volumes, network (CNI ADD, tried again until it works or the
pod is deleted), init containers one by one, containers; addresses are published only after ADD has
returned; when all containers have finished, or on deletion, containers are stopped within their
grace period, the network is released (DEL), and the object goes last.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, Protocol

from egress_gateway_lab.runtime.containers.cni import Cni, CniError, Sandbox, result_addresses
from egress_gateway_lab.runtime.containers.containers import Container, now
from egress_gateway_lab.runtime.kubelet import podstatus
from egress_gateway_lab.runtime.kubelet.api import Api, ApiError
from egress_gateway_lab.runtime.kubelet.environment import sources, texts
from egress_gateway_lab.runtime.kubelet.volumes import VolumeError, Volumes
from egress_gateway_lab.runtime.nodes.node import MachineError, Mount, Node

log = logging.getLogger(__name__)

Object = dict[str, Any]

_SANDBOX_CHANGED = "Pod sandbox changed, it will be killed and re-created."
# A kubelet tries a sandbox again about once a second at first.
_RETRY_FIRST = 1.0
_RETRY_LAST = 5.0
_DELETE_TRIES = 5
_REFRESH = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What every pod of a cluster gets."""

    api_host: str
    api_port: int
    ca: str
    nameserver: str


class Recorder(Protocol):
    """Where a pod's Events go."""

    def __call__(self, about: Object, kind: str, reason: str, message: str) -> None: ...


class Pod:
    """A pod's life. ``run`` is its task."""

    def __init__(
        self,
        pod: Object,
        *,
        node: Node,
        address: IPv4Address,
        api: Api,
        platform: Platform,
        record: Recorder,
    ) -> None:
        self.pod = pod
        self.node = node
        self.host_ip = str(address)
        self.uid: str = pod["metadata"]["uid"]
        self.netns: str | None = None
        self.pod_ips: list[str] = []
        self.hostname = _hostname(pod, node.name)
        self.files: dict[str, str] = {}
        self.base_env = {
            "KUBERNETES_SERVICE_HOST": platform.api_host,
            "KUBERNETES_SERVICE_PORT": str(platform.api_port),
            "KUBERNETES_SERVICE_PORT_HTTPS": str(platform.api_port),
            "HOME": "/root",
            "LANG": "C.UTF-8",
        }
        spec: Object = pod["spec"]
        self.inits = [Container(self, c, init=True) for c in spec.get("initContainers") or []]
        self.containers = [Container(self, c) for c in spec["containers"]]
        self._api = api
        self._platform = platform
        self._record = record
        self._cni = Cni(node)
        self._volumes = Volumes(node, api, address=address, ca=platform.ca)
        self._sandbox: Sandbox | None = None
        self._network = False
        self._sandbox_lost = asyncio.Event()
        self._deleted = asyncio.Event()
        self._gone = False
        self._dirty = asyncio.Event()
        self._posted: Object = {}
        self._contradicted = False
        self._started_at = now()

    # What the containers ask of their pod.

    def changed(self) -> None:
        """Something the status shows has changed."""
        self._dirty.set()

    def event(self, kind: str, reason: str, message: str) -> None:
        self._record(self.pod, kind, reason, message)

    def mounts(self, container: Object) -> tuple[Mount, ...]:
        return self._volumes.mounts(container)

    async def sources(self, container: Object) -> dict[tuple[str, str], dict[str, str]]:
        found = {}
        for kind, name in sources(container):
            plural = {"ConfigMap": "configmaps", "Secret": "secrets"}[kind]
            stored = await self._api.get(
                f"/api/v1/namespaces/{self.pod['metadata']['namespace']}/{plural}/{name}"
            )
            if stored is not None:
                found[kind, name] = texts(kind, stored)
        return found

    async def address(self, host: str | None) -> str:
        """Where a probe goes."""
        return host or (self.pod_ips[0] if self.pod_ips else self.host_ip)

    # What the kubelet tells.

    def update(self, pod: Object) -> None:
        """A newer version of the object. If it is not as ready as it is here (its node was out of
        reach, and the node controller said so), the status is told again."""
        if self._posted and _ready(pod.get("status", {})) != _ready(self._posted):
            self._posted = {}
            self.changed()
        self.pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            self._deleted.set()
        if self._posted and podstatus.contradicted(self._posted, pod.get("status") or {}):
            self._contradicted = True
            self.changed()

    def lose_sandbox(self) -> None:
        """The sandbox's own process has ended, as when somebody kills the pause container."""
        self._sandbox_lost.set()

    def vanished(self) -> None:
        """The object is gone (forced deletion): end at once."""
        self._gone = True
        self._deleted.set()
        for container in [*self.inits, *self.containers]:
            container.hurry.set()

    def _begin_after_a_boot(self) -> None:
        """As a kubelet that finds the dead sandbox of its pod: no container is ready, however long
        it takes to make another sandbox. The status shows the old addresses until then."""
        status = self.pod.get("status") or {}
        told = {
            one["name"]: one
            for key in ("initContainerStatuses", "containerStatuses")
            for one in status.get(key) or []
            if one.get("containerID")
        }
        if told:
            for container in [*self.inits, *self.containers]:
                if container.name in told:
                    container.lost(told[container.name])
            self.event("Normal", "SandboxChanged", _SANDBOX_CHANGED)
            self.changed()

    async def run(self) -> None:
        """The whole life. Cancelled when the machine goes down."""
        self._begin_after_a_boot()
        if self.pod["metadata"].get("deletionTimestamp"):
            self._deleted.set()
        publisher = asyncio.create_task(self._publish())
        try:
            try:
                await self._until_deleted(self._live())
            except Exception as error:  # a fault of ours must not leave processes running
                log.exception("pod %s", self._path())
                self.event("Warning", "FailedSync", f"error of the lab: {error!r}")
            await self._stop_containers()
            await self._release()
            self.changed()
            if not self._deleted.is_set():
                await self._deleted.wait()
        finally:
            publisher.cancel()
            await asyncio.gather(publisher, return_exceptions=True)
            for container in [*self.inits, *self.containers]:
                container.close_output()
        if not self._gone:
            await self._post_status()
            await self._delete_object()
        self._volumes.remove(self.uid)

    async def _until_deleted(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        deleted = asyncio.create_task(_wait(self._deleted))
        try:
            await asyncio.wait({task, deleted}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()
            deleted.cancel()
            results = await asyncio.gather(task, deleted, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]

    async def _live(self) -> None:
        await self._retry("FailedMount", self._prepare_volumes)
        while await self._live_in_sandbox():
            await self._end_sandbox()

    async def _live_in_sandbox(self) -> bool:
        """Whether the sandbox ended before its containers did."""
        self._sandbox_lost.clear()
        life = asyncio.create_task(self._start())
        lost = asyncio.create_task(_wait(self._sandbox_lost))
        try:
            await asyncio.wait({life, lost}, return_when=asyncio.FIRST_COMPLETED)
            return not life.done() or bool(life.exception() and lost.done())
        finally:
            for task in (life, lost):
                task.cancel()
            results = await asyncio.gather(life, lost, return_exceptions=True)
            if isinstance(results[0], Exception) and not self._sandbox_lost.is_set():
                raise results[0]

    async def _end_sandbox(self) -> None:
        """As a kubelet: all containers are killed, the network is released, and the pod begins
        anew in another sandbox, under its UID. Its status shows the old addresses until then."""
        self.event("Normal", "SandboxChanged", _SANDBOX_CHANGED)
        await self._stop_containers()
        await self._release()
        for container in [*self.inits, *self.containers]:
            container.begin_anew()
        self.changed()

    async def _start(self) -> None:
        if self.pod["spec"].get("hostNetwork"):
            self.pod_ips = [self.host_ip]
        else:
            await self._retry("FailedCreatePodSandBox", self._connect)
        self._network = True
        self.files = self._files()
        self.changed()
        for container in self.inits:
            await container.supervise()
            if container.exit_code != 0:
                return
        refresher = asyncio.create_task(self._refresh())
        try:
            await asyncio.gather(*(container.supervise() for container in self.containers))
        finally:
            refresher.cancel()

    async def _retry(self, reason: str, step: Any) -> None:
        pause = _RETRY_FIRST
        while True:
            try:
                await step()
                return
            except (CniError, VolumeError, MachineError, ApiError) as error:
                self.event("Warning", reason, str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, _RETRY_LAST)

    async def _prepare_volumes(self) -> None:
        await self._volumes.prepare(self.pod)

    async def _connect(self) -> None:
        container_id = uuid.uuid4().hex * 2
        name = f"cni-{uuid.uuid4()}"
        meta = self.pod["metadata"]
        sandbox = Sandbox(
            container_id=container_id,
            netns=f"/run/netns/{name}",
            namespace=meta["namespace"],
            name=meta["name"],
            uid=self.uid,
            annotations=meta.get("annotations") or {},
            port_mappings=_port_mappings(self.pod),
        )
        try:
            await self.node.create_netns(name)
            result = await self._cni.add(sandbox)
        except BaseException as error:
            # Also when the pod is deleted meanwhile: neither the namespace, which the machine may
            # make all the same, nor what ADD did so far must stay.
            await asyncio.shield(self._abandon(sandbox, name, error))
            if isinstance(error, CniError):
                raise CniError(
                    f"Failed to create pod sandbox: failed to setup network: {error}", error.code
                ) from error
            raise
        self._sandbox = sandbox
        self.netns = sandbox.netns
        self.pod_ips = [str(address) for address in result_addresses(result)]

    async def _abandon(self, sandbox: Sandbox, name: str, error: BaseException) -> None:
        with contextlib.suppress(CniError, MachineError):
            if not isinstance(error, CniError):
                await self._cni.delete(sandbox)
        await self._remove_netns(name)

    async def _remove_netns(self, name: str) -> None:
        """Again until it works, or the machine is off: on a read-only file system it does not."""
        while not self.node.stopped.is_set():
            try:
                await self.node.delete_netns(name)
                return
            except MachineError as error:
                self.event("Warning", "FailedKillPod", f"error removing network: {error}")
                await asyncio.sleep(_RETRY_FIRST)

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH)
            try:
                await self._volumes.refresh(self.pod)
            except VolumeError as error:
                self.event("Warning", "FailedMount", str(error))

    async def _stop_containers(self) -> None:
        meta = self.pod["metadata"]
        spec: Object = self.pod["spec"]
        grace = meta.get("deletionGracePeriodSeconds")
        if grace is None:
            grace = spec.get("terminationGracePeriodSeconds", 30)
        seconds = 0.0 if self._gone else float(grace)
        await asyncio.gather(*(c.stop(seconds) for c in [*self.inits, *self.containers]))
        for container in [*self.inits, *self.containers]:
            await container.settle()

    async def _release(self) -> None:
        """DEL until it works, then the namespace. A DEL that goes on failing is reported, and the
        namespace is removed all the same: a kubelet would try for ever, a lab must not leak."""
        self._network = False
        if self._sandbox is None:
            return
        for attempt in range(_DELETE_TRIES):
            try:
                await self._cni.delete(self._sandbox)
                break
            except (CniError, MachineError) as error:
                self.event("Warning", "FailedKillPod", f"error killing pod: {error}")
                await asyncio.sleep(0.2 * 2**attempt)
        await self._remove_netns(self._sandbox.netns.rsplit("/", 1)[-1])
        self._sandbox = None
        self.netns = None

    async def _delete_object(self) -> None:
        with contextlib.suppress(ApiError):
            await self._api.delete(
                self._path(), {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
            )

    # Status.

    async def _publish(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            if not await self._post_status():
                await asyncio.sleep(_RETRY_FIRST)
                self._dirty.set()

    async def _post_status(self) -> bool:
        """False if the API server did not take it."""
        status = self._status()
        if status == self._posted and not self._contradicted:
            return True
        self._contradicted = False
        try:
            answer = await self._api.patch(
                f"{self._path()}/status", {"metadata": {"uid": self.uid}, "status": status}
            )
        except ApiError as error:
            log.warning("status of pod %s refused: %s", self._path(), error)
            return False
        if answer is not None:
            self._posted = status
        return True

    def _status(self) -> Object:
        phase = podstatus.phase(self.containers, self.inits, created=True)
        states = podstatus.condition_states(
            phase, self.containers, self.inits, network=self._network
        )
        previous = self._posted.get("conditions") or []
        known = {condition["type"] for condition in previous}
        others = [
            condition
            for condition in self.pod.get("status", {}).get("conditions") or []
            if condition["type"] not in known
        ]
        status: Object = {
            "phase": phase,
            "conditions": podstatus.conditions([*others, *previous], states, now()),
            "hostIP": self.host_ip,
            "hostIPs": [{"ip": self.host_ip}],
            "startTime": self._started_at,
            "containerStatuses": [c.status() for c in self.containers],
        }
        if self.inits:
            status["initContainerStatuses"] = [c.status() for c in self.inits]
        if self.pod_ips:
            status["podIP"] = self.pod_ips[0]
            status["podIPs"] = [{"ip": address} for address in self.pod_ips]
        return status

    def _path(self) -> str:
        meta: Mapping[str, str] = self.pod["metadata"]
        return f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"

    def _files(self) -> dict[str, str]:
        own = self.pod_ips[0] if self.pod_ips else "127.0.0.1"
        hosts = f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n{own}\t{self.hostname}\n"
        for alias in self.pod["spec"].get("hostAliases") or []:
            hosts += f"{alias['ip']}\t{' '.join(alias.get('hostnames') or [])}\n"
        return {
            "/etc/hosts": hosts,
            "/etc/hostname": f"{self.hostname}\n",
            "/etc/resolv.conf": resolv_conf(self.pod["spec"], self._platform.nameserver),
        }


def resolv_conf(spec: Mapping[str, Any], nameserver: str) -> str:
    """A pod's resolver configuration: the platform's DNS unless ``dnsPolicy: None``."""
    config = spec.get("dnsConfig") or {}
    servers = list(config.get("nameservers") or [])
    if spec.get("dnsPolicy") != "None":
        servers = [nameserver, *servers]
    lines = [f"nameserver {server}" for server in servers]
    if config.get("searches"):
        lines.append("search " + " ".join(config["searches"]))
    for option in config.get("options") or []:
        value = f":{option['value']}" if option.get("value") else ""
        lines.append(f"options {option['name']}{value}")
    return "\n".join(lines) + "\n"


def _hostname(pod: Object, node: str) -> str:
    spec: Object = pod["spec"]
    if spec.get("hostNetwork"):
        return node
    return str(spec.get("hostname") or pod["metadata"]["name"])[:63]


def _port_mappings(pod: Object) -> tuple[Object, ...]:
    return tuple(
        {
            "hostPort": port["hostPort"],
            "containerPort": port["containerPort"],
            "protocol": port.get("protocol", "TCP").lower(),
            **({"hostIP": port["hostIP"]} if port.get("hostIP") else {}),
        }
        for container in pod["spec"]["containers"]
        for port in container.get("ports") or []
        if port.get("hostPort")
    )


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


def _ready(status: Object) -> str:
    found = (c["status"] for c in status.get("conditions") or [] if c["type"] == "Ready")
    return next(found, "")
