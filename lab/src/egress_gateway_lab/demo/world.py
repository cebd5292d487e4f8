"""The lab as a spectator holds it: Azure, Kubernetes and the control socket, over loopback.

The story does what a person would do with ``az`` and ``kubectl``, by the same requests; only what
nobody can do to a cloud (pulling a cable, reading the Internet's log) goes over the control socket.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from egress_gateway.api import names
from egress_gateway_lab.apiserver.wire.client import HttpTransport, KubeClient
from egress_gateway_lab.azure.client import ArmClient, RequestFailed
from egress_gateway_lab.control import ControlClient
from egress_gateway_lab.demo.report import StepFailed
from egress_gateway_lab.host import LabHandle
from egress_gateway_lab.realcluster import binaries

SUBSCRIPTION: Final = "00000000-0000-0000-0000-000000000001"
LOCATION: Final = "swedencentral"
GROUP: Final = "rg"
CLUSTER: Final = "aks"
VM_SIZE: Final = "standard_d2pds_v6"
NETWORK_CONTRIBUTOR: Final = "4d97b98b-1d4f-4787-a291-c67834d212e7"
VERSIONS: Final = {"embedded": "1.30.5", "real": binaries.KUBERNETES.rpartition(".")[0]}
"""The version to ask for, by the lab's kind of Kubernetes: the real one can only be what it is."""
PATIENCE: Final = 120.0
"""Seconds until a wait for something is called failed; a busy machine takes its time."""
_SGCS: Final = "staticgatewayconfigurations"


class World:
    """An async context manager around the clients of one lab. ``transport``: how Kubernetes is
    asked."""

    def __init__(self, lab: LabHandle, *, transport: type[HttpTransport] = HttpTransport) -> None:
        self.lab = lab
        self._transport = transport
        self._stack = AsyncExitStack()
        self._tls = ssl.create_default_context(cafile=str(lab.ca))
        self.kube: KubeClient

    async def __aenter__(self) -> World:
        self.arm = await self._stack.enter_async_context(
            ArmClient(self.lab.azure, self._tls, client_id="demo", secret="any")  # noqa: S106
        )
        self.control = await self._stack.enter_async_context(ControlClient(self.lab.control))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # -- Azure, as `az` does it

    @property
    def group_id(self) -> str:
        return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}"

    @property
    def cluster_id(self) -> str:
        return f"{self.group_id}/providers/Microsoft.ContainerService/managedClusters/{CLUSTER}"

    def prefix_id(self, name: str) -> str:
        return f"{self.group_id}/providers/Microsoft.Network/publicIPPrefixes/{name}"

    async def create_group(self) -> None:
        await self.arm.put(self.group_id, {"location": LOCATION}, "2024-11-01")

    async def groups(self) -> list[dict[str, Any]]:
        """All resource groups."""
        return await self.arm.list(f"/subscriptions/{SUBSCRIPTION}/resourceGroups", "2024-11-01")

    async def cluster_at_rest(self) -> dict[str, Any] | None:
        """The cluster, or None while something happens to it; ``RequestFailed`` if there is
        none."""
        cluster = await self.arm.get(self.cluster_id, "2026-06-01")
        state = cluster["properties"]["provisioningState"]
        return cluster if state in ("Succeeded", "Failed") else None

    async def create_cluster(
        self, *, nodes: int, version: str = VERSIONS["embedded"]
    ) -> dict[str, Any]:
        pool = {
            "name": "nodepool1",
            "count": nodes,
            "mode": "System",
            "vmSize": VM_SIZE,
            "osType": "Linux",
            "type": "VirtualMachineScaleSets",
        }
        body = {
            "location": LOCATION,
            "identity": {"type": "SystemAssigned"},
            "properties": {
                "kubernetesVersion": version,
                "dnsPrefix": CLUSTER,
                "agentPoolProfiles": [pool],
                "networkProfile": {
                    "networkPlugin": "azure",
                    "networkPluginMode": "overlay",
                    "loadBalancerSku": "standard",
                    "outboundType": "loadBalancer",
                    "staticEgressGatewayProfile": {"enabled": True},
                },
            },
        }
        return await self.arm.put(self.cluster_id, body, "2026-06-01")

    async def add_gateway_pool(self, name: str, *, nodes: int, prefix_size: int) -> dict[str, Any]:
        properties = {
            "count": nodes,
            "mode": "Gateway",
            "vmSize": VM_SIZE,
            "osType": "Linux",
            "type": "VirtualMachineScaleSets",
            "scaleDownMode": "Delete",
            "gatewayProfile": {"publicIPPrefixSize": prefix_size},
        }
        body = {"properties": properties}
        return await self.arm.put(f"{self.cluster_id}/agentPools/{name}", body, "2026-06-01")

    async def create_prefix(self, name: str, *, length: int) -> dict[str, Any]:
        body = {
            "location": LOCATION,
            "sku": {"name": "Standard"},
            "properties": {
                "prefixLength": length,
                "publicIPAddressVersion": "IPv6" if length > 32 else "IPv4",
            },
        }
        return await self.arm.put(self.prefix_id(name), body, "2025-09-01")

    async def grant(self, principal: str, role: str, scope: str) -> None:
        """As ``az role assignment create``: one that is there already will do. It may be older than
        what it is about, for it outlives that."""
        definitions = (
            f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Authorization/roleDefinitions"
        )
        assignment = f"{scope}/providers/Microsoft.Authorization/roleAssignments/{uuid.uuid4()}"
        properties = {
            "roleDefinitionId": f"{definitions}/{role}",
            "principalId": principal,
            "principalType": "ServicePrincipal",
        }
        try:
            await self.arm.put(assignment, {"properties": properties}, "2022-04-01")
        except RequestFailed as error:
            if error.code != "RoleAssignmentExists":
                raise

    async def node_group_id(self) -> str:
        cluster = await self.arm.get(self.cluster_id, "2026-06-01")
        group = cluster["properties"]["nodeResourceGroup"]
        return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}"

    async def fingerprint(self) -> dict[str, Any]:
        """What the node resource group holds, without what changes by itself."""
        group = await self.node_group_id()
        found = {}
        for kind in (
            "Network/loadBalancers",
            "Network/publicIPPrefixes",
            "Compute/virtualMachineScaleSets",
        ):
            listed = await self.arm.get(f"{group}/providers/Microsoft.{kind}", "2024-07-01")
            for item in listed["value"]:
                found[item["id"].lower()] = _settled(item)
        return found

    async def inventory(self) -> dict[str, dict[str, list[str]]]:
        """By node: links, network namespaces, rules, routes, nftables tables."""
        found: dict[str, dict[str, list[str]]] = await self.control.call("inventory")
        return found

    async def wrong_packets(self, host: str, *expected: str) -> int:
        """Packets that reached ``host`` on the Internet from outside the networks ``expected``,
        counted on the wire: requests that failed and strays of closed connections included."""
        seen = await self.control.call("unexpected", host=host, expected=list(expected))
        return sum(one["packets"] for one in seen)

    # -- Kubernetes, as `kubectl` does it

    async def get_credentials(self) -> None:
        """Writes the kubeconfig and talks to the cluster by it from here on."""
        answer = await self.arm.post(
            f"{self.cluster_id}/listClusterUserCredential", None, "2026-06-01"
        )
        content = base64.b64decode(answer["kubeconfigs"][0]["value"])
        self.lab.kubeconfig.touch(mode=0o600)
        self.lab.kubeconfig.write_bytes(content)
        await self.connect()

    async def connect(self) -> None:
        import yaml

        config = yaml.safe_load(self.lab.kubeconfig.read_text())
        token = config["users"][0]["user"].get("token")
        server = config["clusters"][0]["cluster"]["server"]
        transport = self._transport(server, self._tls, token, agent="egress-gateway-demo")
        await self._stack.enter_async_context(transport)
        self.kube = KubeClient(transport, manager="kubectl")

    async def nodes(self, *, pool: str | None = None) -> list[dict[str, Any]]:
        labels = f"{names.AKS_POOL_LABEL}={pool}" if pool else ""
        return await self.kube.list("nodes", labels=labels)

    async def run(self, name: str, *, image: str = "nginx") -> None:
        """``kubectl run`` and ``kubectl wait``."""
        container = {"name": name, "image": image}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"run": name}},
            "spec": {"containers": [container]},
        }
        await self.kube.create("pods", pod)
        await self.pod_ready(name)

    async def pod_ready(self, name: str, *, timeout: float = PATIENCE) -> None:
        try:
            await self.kube.wait_for("pods", name, is_ready, namespace="default", timeout=timeout)
        except TimeoutError:
            raise StepFailed(f"pod {name} did not become ready: {await self.why(name)}") from None

    async def why(self, name: str, *, namespace: str = "default") -> str:
        """The last Events about an object, for an error message."""
        events = await self.kube.list(
            "events", namespace=namespace, fields=f"involvedObject.name={name}"
        )
        return (
            "; ".join(f"{e.get('reason')}: {e.get('message')}" for e in events[-3:]) or "no Event"
        )

    async def deploy(self, name: str, *, configuration: str, replicas: int) -> list[str]:
        """Applies an annotated Deployment and waits for it; returns its pods' names."""
        labels = {"app": name}
        annotations = {names.POD_ANNOTATION: configuration}
        container = {"name": "nginx", "image": "nginx"}
        deployment = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": "default", "labels": labels},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels, "annotations": annotations},
                    "spec": {"containers": [container]},
                },
            },
        }
        await self.kube.apply(deployment, resource="deployments")

        def complete(found: dict[str, Any] | None) -> bool:
            return (
                bool(found) and (found or {}).get("status", {}).get("readyReplicas", 0) >= replicas
            )

        try:
            await self.kube.wait_for(
                "deployments", name, complete, namespace="default", timeout=PATIENCE
            )
        except TimeoutError:
            pods = await self.kube.list("pods", namespace="default", labels=f"app={name}")
            reasons = [await self.why(p["metadata"]["name"]) for p in pods]
            raise StepFailed(f"deployment {name} did not become ready: {reasons}") from None
        pods = await self.kube.list("pods", namespace="default", labels=f"app={name}")
        return sorted(p["metadata"]["name"] for p in pods)

    async def curl(self, pod: str, url: str) -> str:
        """``kubectl exec POD -- curl URL``: what the pod was answered."""
        result = await self.kube.exec("default", pod, ["curl", "-sS", "--max-time", "30", url])
        if result.code != 0:
            raise StepFailed(
                f"curl {url} in pod {pod} ended with {result.code}: "
                f"{result.stderr.decode(errors='replace').strip()}"
            )
        return result.stdout.decode().strip()

    async def configure(self, name: str, spec: dict[str, Any]) -> None:
        """``kubectl apply`` of a StaticGatewayConfiguration."""
        document = {
            "apiVersion": names.API_VERSION,
            "kind": "StaticGatewayConfiguration",
            "metadata": {"name": name, "namespace": "default"},
            "spec": spec,
        }
        await self.kube.apply(document, resource=_SGCS)

    async def provide(self, name: str, pool: str, *, exclude: Sequence[str] = ()) -> str:
        """A ready configuration with a prefix of its own, ``pip-NAME``, as a person brings one with
        ``az``; returns its addresses."""
        made = await self.create_prefix(f"pip-{name}", length=30)
        scope = self.prefix_id(f"pip-{name}")
        cluster = await self.arm.get(self.cluster_id, "2026-06-01")
        await self.grant(cluster["identity"]["principalId"], NETWORK_CONTRIBUTOR, scope)
        spec: dict[str, Any] = {"gatewayNodepoolName": pool, "publicIpPrefixId": scope}
        if exclude:
            spec["excludeCidrs"] = list(exclude)
        await self.configure(name, spec)
        await self.configuration_condition(
            name, lambda c: c["type"] == "Ready" and c["status"] == "True", timeout=PATIENCE
        )
        prefix: str = made["properties"]["ipPrefix"]
        return prefix

    async def configuration_condition(
        self, name: str, accept: Callable[[dict[str, Any]], bool], *, timeout: float
    ) -> dict[str, Any]:
        """Waits until one of the configuration's conditions is as wanted; returns the object."""

        def wanted(found: dict[str, Any] | None) -> bool:
            conditions = (found or {}).get("status", {}).get("conditions", [])
            return any(accept(c) for c in conditions)

        try:
            found = await self.kube.wait_for(
                _SGCS, name, wanted, namespace="default", timeout=timeout
            )
        except TimeoutError:
            found = await self.kube.find(_SGCS, name, namespace="default")
            raise StepFailed(
                f"configuration {name} after {timeout:.0f} s: {_conditions(found)}"
                f"{await self._ailing()}"
            ) from None
        assert found is not None
        return found

    async def _ailing(self) -> str:
        """Our components' pods that do not run, with their last Events; empty if all do."""
        pods = await self.kube.list("pods", namespace=names.SYSTEM_NAMESPACE)
        reasons = [
            f"\n{p['metadata']['name']} is not ready: "
            + await self.why(p["metadata"]["name"], namespace=names.SYSTEM_NAMESPACE)
            for p in pods
            if not is_ready(p)
        ]
        return "".join(reasons)

    async def event(self, name: str, reason: str, *, timeout: float = PATIENCE) -> str:
        """The message of an Event about ``name`` with ``reason``."""

        async def look() -> str | None:
            events = await self.kube.list(
                "events", namespace="default", fields=f"involvedObject.name={name}"
            )
            return next((e["message"] for e in events if e.get("reason") == reason), None)

        message: str = await until(look, timeout=timeout, what=f"an Event {reason} about {name}")
        return message


async def until(look: Callable[[], Awaitable[Any]], *, timeout: float, what: str) -> Any:
    """Asks ``look`` until it answers something true; ``StepFailed`` after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        found = await look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise StepFailed(f"waited {timeout:.0f} s for {what}; last seen: {found!r}")
        await asyncio.sleep(0.1)


def is_ready(pod: dict[str, Any] | None) -> bool:
    """Whether a Pod's (or Node's) Ready condition is True."""
    conditions = (pod or {}).get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _conditions(found: dict[str, Any] | None) -> str:
    """An object's conditions in words, for an error message."""
    if found is None:
        return "there is no such object"
    conditions = found.get("status", {}).get("conditions")
    if not conditions:
        return "no condition yet, so no controller has looked at it"
    return "; ".join(
        f"{c['type']} {c['status']}, {c['reason']}: {c['message']}" for c in conditions
    )


def _settled(item: Any) -> Any:
    """A resource without etags and states, for comparison before and after."""
    volatile = ("etag", "provisioningState", "timeCreated", "resourceGuid")
    if isinstance(item, dict):
        return {k: _settled(v) for k, v in item.items() if k not in volatile}
    if isinstance(item, list):
        return [_settled(v) for v in item]
    return item
