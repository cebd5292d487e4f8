"""The kubelet of one machine: its Node object, its heartbeat, its pods.

It speaks to the API server as ``system:node:<name>``, hears only while the machine can reach the
control plane over the machine's own network (a heartbeat is sent only after a TCP connection
through it), and keeps pods running meanwhile, as a real one does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Network
from typing import Any

from egress_gateway_lab.protocols import ExecSession, KubeTransport, LogOptions, MachineSpec
from egress_gateway_lab.runtime.containers.containers import Container, now
from egress_gateway_lab.runtime.containers.sessions import attach, execute
from egress_gateway_lab.runtime.kubelet import images
from egress_gateway_lab.runtime.kubelet.api import Api, ApiError
from egress_gateway_lab.runtime.kubelet.events import Events
from egress_gateway_lab.runtime.kubelet.pod import Platform, Pod
from egress_gateway_lab.runtime.nodes.netsocket import connect
from egress_gateway_lab.runtime.nodes.node import Node

log = logging.getLogger(__name__)

Object = dict[str, Any]

_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_RETRY = 0.5
_MIRROR = "kubernetes.io/config.mirror"
"""Annotation of a pod that something else on the machine runs; the API only shows it. See
https://kubernetes.io/docs/reference/labels-annotations-taints/#kubernetes-io-config-mirror"""


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeletSettings:
    """``heartbeat``: seconds between Lease renewals. ``probe_control_plane``: whether a heartbeat
    needs a connection through the machine's network first (False where there is none: tests)."""

    heartbeat: float = 1.0
    kubernetes_version: str = "v1.36.3"
    probe_control_plane: bool = True


class Kubelet:
    """One machine's kubelet. ``start`` returns when the node is registered and Ready."""

    def __init__(
        self,
        node: Node,
        spec: MachineSpec,
        pod_cidr: IPv4Network,
        transport: KubeTransport,
        platform: Platform,
        settings: KubeletSettings | None = None,
    ) -> None:
        self.node = node
        self._spec = spec
        self._pod_cidr = pod_cidr
        self._platform = platform
        self._settings = settings or KubeletSettings()
        asked = spec.kubernetes_version
        self._version = f"v{asked}" if asked else self._settings.kubernetes_version
        self.api = Api(transport)
        self._events = Events(self.api, spec.name)
        self._pods: dict[str, Pod] = {}  # by UID
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Registers the node, makes it Ready and begins to run pods. Raises ``ApiError``."""
        await self._register()
        for work in (self._heartbeat(), self._watch_pods(), self._events.run()):
            self._spawn(work)

    async def stop(self) -> None:
        """Ends the kubelet and leaves pods as they are (the machine goes next)."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def silence(self) -> None:
        """From now on the API server hears nothing, as when the power fails."""
        for task in self._tasks:
            task.cancel()
        self.api.reachable.clear()

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.node.stopped.is_set():
            log.error("kubelet of %s: %r", self._spec.name, error, exc_info=error)

    # The Node object.

    async def _register(self) -> None:
        path = f"/api/v1/nodes/{self._spec.name}"
        existing = await self.api.get(path)
        desired = self._node_object()
        if existing is None:
            with contextlib.suppress(ApiError):
                await self.api.create("/api/v1/nodes", desired)
        else:
            await self.api.patch(
                path,
                {"metadata": {"labels": desired["metadata"]["labels"]}, "spec": desired["spec"]},
            )
        # The heartbeat goes first: who is Ready but silent is given up at once.
        await self._renew()
        await self.api.patch(f"{path}/status", {"status": self._node_status()})

    def _node_object(self) -> Object:
        spec = self._spec
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": spec.name,
                "labels": {
                    "kubernetes.io/hostname": spec.name,
                    "kubernetes.io/os": "linux",
                    "kubernetes.io/arch": "amd64",
                    **spec.labels,
                },
            },
            "spec": {
                "providerID": spec.provider_id,
                "podCIDR": str(self._pod_cidr),
                "podCIDRs": [str(self._pod_cidr)],
                "taints": [
                    {"key": key, "value": value, "effect": effect}
                    for key, value, effect in spec.taints
                ],
            },
        }

    def _node_status(self) -> Object:
        time = now()
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "kubelet is posting ready status",
            "lastHeartbeatTime": time,
            "lastTransitionTime": time,
        }
        capacity = {"cpu": "2", "memory": "8Gi", "pods": "250", "ephemeral-storage": "100Gi"}
        return {
            "addresses": [
                {"type": "InternalIP", "address": str(self._spec.address)},
                {"type": "Hostname", "address": self._spec.name},
            ],
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": [ready],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "nodeInfo": {
                "architecture": "amd64",
                "operatingSystem": "linux",
                "kernelVersion": _kernel(),
                "osImage": "static-egress-gateway lab",
                "containerRuntimeVersion": "lab://1",
                "kubeletVersion": self._version,
                "kubeProxyVersion": self._version,
                "machineID": self._spec.vm_id,
                "systemUUID": self._spec.vm_id,
                "bootID": str(self.node.pid),
            },
        }

    async def _heartbeat(self) -> None:
        ready = True
        while True:
            await asyncio.sleep(self._settings.heartbeat)
            if not await self._reaches_control_plane():
                self.api.reachable.clear()
                ready = False
                continue
            self.api.reachable.set()
            with contextlib.suppress(ApiError):
                await self._renew()
                if not ready or not await self._still_ready():
                    await self.api.patch(
                        f"/api/v1/nodes/{self._spec.name}/status", {"status": self._node_status()}
                    )
                ready = True

    async def _still_ready(self) -> bool:
        """False when the node controller has given us up meanwhile. A deleted node stays deleted:
        kubelets register when they start, not later. A node that somebody has made say that it is
        not ready, as one does that shuts down gracefully, goes on saying so."""
        node = await self.api.get(f"/api/v1/nodes/{self._spec.name}")
        if node is None:
            return True
        conditions = node.get("status", {}).get("conditions") or []
        return any(c["type"] == "Ready" and c["status"] != "Unknown" for c in conditions)

    async def _reaches_control_plane(self) -> bool:
        if not self._settings.probe_control_plane:
            return True
        try:
            async with asyncio.timeout(1):
                probe = await connect(
                    self.node.pid, self._platform.api_host, self._platform.api_port
                )
        except (OSError, TimeoutError):
            return False
        probe.close()
        return True

    async def _renew(self) -> None:
        path = f"{_LEASES}/{self._spec.name}"
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {
            "holderIdentity": self._spec.name,
            "leaseDurationSeconds": 40,
            "renewTime": moment,
        }
        if await self.api.patch(path, {"spec": spec}) is None:
            lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._spec.name, "namespace": "kube-node-lease"},
                "spec": spec,
            }
            with contextlib.suppress(ApiError, LookupError):
                await self.api.create(_LEASES, lease)

    # Pods.

    async def _watch_pods(self) -> None:
        query = {"fieldSelector": f"spec.nodeName={self._spec.name}"}
        version = ""
        while True:
            try:
                if not version:
                    version = await self._list_pods(query)
                watch = {**query, "resourceVersion": version, "allowWatchBookmarks": "true"}
                async for event in self.api.watch("/api/v1/pods", watch):
                    if event["type"] == "ERROR":
                        version = ""
                        break
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        self._observe(event["type"], event["object"])
            except Exception as error:  # whatever ended it: list and watch anew
                log.warning("kubelet of %s: watching pods: %r", self._spec.name, error)
                version = ""
                await asyncio.sleep(_RETRY)

    async def _list_pods(self, query: dict[str, str]) -> str:
        page = await self.api.list("/api/v1/pods", query)
        seen = set()
        for pod in page.get("items") or []:
            seen.add(pod["metadata"]["uid"])
            self._observe("MODIFIED", pod)
        for uid in self._pods.keys() - seen:
            self._pods[uid].vanished()
        return str(page["metadata"]["resourceVersion"])

    def _observe(self, kind: str, pod: Object) -> None:
        if _MIRROR in (pod["metadata"].get("annotations") or {}):
            return
        uid = pod["metadata"]["uid"]
        known = self._pods.get(uid)
        if kind == "DELETED":
            if known is not None:
                known.vanished()
            return
        if known is not None:
            known.update(pod)
            return
        if pod.get("status", {}).get("phase") in ("Succeeded", "Failed") and not pod[
            "metadata"
        ].get("deletionTimestamp"):
            return  # finished before this kubelet began
        known = self._pods[uid] = Pod(
            pod,
            node=self.node,
            address=self._spec.address,
            api=self.api,
            platform=self._platform,
            record=self._events,
        )
        self._spawn(self._run_pod(known))

    async def _run_pod(self, pod: Pod) -> None:
        try:
            await pod.run()
        finally:
            self._pods.pop(pod.uid, None)

    # exec, attach, logs (``protocols.PodRuntime`` for this machine's pods).

    def find(self, namespace: str, name: str) -> Pod | None:
        """The pod of that name which runs here."""
        for pod in self._pods.values():
            meta = pod.pod["metadata"]
            if meta["name"] == name and meta["namespace"] == namespace:
                return pod
        return None

    async def exec(
        self, pod: Pod, container: str, command: list[str], *, stdin: bool, tty: bool
    ) -> ExecSession:
        found = choose(pod, container)
        line = images.ours(command, images.find(found.spec["image"]))
        return await execute(self.node, found, line, pod.base_env, stdin=stdin, tty=tty)

    async def attach(self, pod: Pod, container: str, *, stdin: bool) -> ExecSession:
        return attach(choose(pod, container), stdin=stdin)

    async def logs(self, pod: Pod, container: str, options: LogOptions) -> AsyncIterator[bytes]:
        found = choose(pod, container)
        source = found.previous_log if options.previous else found.log
        if source is None:
            kind = "previous terminated" if options.previous else "running"
            raise LookupError(f"{kind} container {found.name} in pod not found")
        async for chunk in source.read(
            follow=options.follow, tail_lines=options.tail_lines, timestamps=options.timestamps
        ):
            yield chunk


def choose(pod: Pod, name: str | None) -> Container:
    """A pod's container by name; the first one without. Raises ``LookupError``."""
    for container in [*pod.containers, *pod.inits]:
        if name in (None, "", container.name):
            return container
    raise LookupError(f'container "{name}" not found in pod "{pod.pod["metadata"]["name"]}"')


def _kernel() -> str:
    with open("/proc/sys/kernel/osrelease", encoding="ascii") as file:
        return file.read().strip()
