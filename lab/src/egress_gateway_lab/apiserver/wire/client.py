"""The lab's own Kubernetes client: for the kubelet emulation, the demo and the tests.

``KubeClient`` works over any ``KubeTransport``, so the same code drives the embedded server in
process, the embedded server over HTTPS, and a real kube-apiserver. It is a convenience over paths,
not a cache: what it returns is what the server answered, as plain JSON values.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp

from egress_gateway.api import names
from egress_gateway_lab.apiserver.objects import Object
from egress_gateway_lab.apiserver.wire.transport import EXEC_PROTOCOL, HttpTransport, KubeError
from egress_gateway_lab.apiserver.writes.patch import (
    APPLY_PATCH,
    JSON_PATCH,
    MERGE_PATCH,
    STRATEGIC_PATCH,
)
from egress_gateway_lab.protocols import Answer, KubeTransport

__all__ = [
    "APPLY_PATCH",
    "JSON_PATCH",
    "MERGE_PATCH",
    "STRATEGIC_PATCH",
    "ExecResult",
    "HttpTransport",
    "KubeClient",
    "KubeError",
    "path_of",
]

_GROUPS = {
    "deployments": "apps/v1",
    "replicasets": "apps/v1",
    "daemonsets": "apps/v1",
    "leases": "coordination.k8s.io/v1",
    "roles": "rbac.authorization.k8s.io/v1",
    "rolebindings": "rbac.authorization.k8s.io/v1",
    "clusterroles": "rbac.authorization.k8s.io/v1",
    "clusterrolebindings": "rbac.authorization.k8s.io/v1",
    "customresourcedefinitions": "apiextensions.k8s.io/v1",
    "poddisruptionbudgets": "policy/v1",
    "priorityclasses": "scheduling.k8s.io/v1",
    "networkpolicies": "networking.k8s.io/v1",
    "staticgatewayconfigurations": names.API_VERSION,
    "podendpoints": names.API_VERSION,
    "gatewaystatuses": names.API_VERSION,
}


@dataclass(frozen=True, slots=True)
class ExecResult:
    """A command that ended in a container."""

    code: int
    stdout: bytes
    stderr: bytes


def path_of(resource: str, name: str = "", *, namespace: str = "", subresource: str = "") -> str:
    """The path of a resource: ``pods``, ``deployments`` … as written, or ``plural.group/version``
    as in ``widgets.example.com/v1``."""
    plural, dot, api_version = resource.partition(".")
    if not dot:
        api_version = _GROUPS.get(plural, "v1")
    parts = ["apis" if "/" in api_version else "api", api_version]
    if namespace:
        parts += ["namespaces", quote(namespace)]
    parts.append(plural)
    if name:
        parts.append(quote(name, safe=":"))
    if subresource:
        parts.append(subresource)
    return "/" + "/".join(parts)


class KubeClient:
    """Conveniences over a transport. Methods raise ``KubeError`` for every failure status."""

    def __init__(self, transport: KubeTransport, *, manager: str = "lab") -> None:
        self.transport = transport
        self._manager = manager

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Any:
        answer = await self.transport.request(
            method, path, query=query, body=body, content_type=content_type
        )
        if answer.status >= 400:
            raise KubeError(answer)
        return answer.body

    def _writing(self, **query: str | None) -> dict[str, str]:
        given = {k: v for k, v in query.items() if v is not None}
        return {"fieldManager": self._manager, **given}

    async def get(
        self, resource: str, name: str, *, namespace: str = "", subresource: str = ""
    ) -> Object:
        path = path_of(resource, name, namespace=namespace, subresource=subresource)
        found: Object = await self.call("GET", path)
        return found

    async def find(self, resource: str, name: str, *, namespace: str = "") -> Object | None:
        """Like ``get``, but None where there is none."""
        try:
            return await self.get(resource, name, namespace=namespace)
        except KubeError as error:
            if error.code == 404:
                return None
            raise

    async def list(
        self, resource: str, *, namespace: str = "", labels: str = "", fields: str = ""
    ) -> list[Object]:
        return list((await self.list_page(resource, namespace, labels, fields))["items"])

    async def list_page(
        self, resource: str, namespace: str = "", labels: str = "", fields: str = ""
    ) -> Object:
        """The whole List object; its ``metadata.resourceVersion`` is where a watch goes on."""
        query = {k: v for k, v in (("labelSelector", labels), ("fieldSelector", fields)) if v}
        page: Object = await self.call("GET", path_of(resource, namespace=namespace), query=query)
        return page

    async def create(
        self, resource: str, obj: Object, *, namespace: str = "", name: str = "", sub: str = ""
    ) -> Object:
        """``name`` and ``sub`` address a subresource such as ``token`` or ``binding``."""
        namespace = namespace or (obj.get("metadata") or {}).get("namespace", "")
        path = path_of(resource, name, namespace=namespace, subresource=sub)
        made: Object = await self.call("POST", path, body=obj, query=self._writing())
        return made

    async def replace(self, resource: str, obj: Object, *, subresource: str = "") -> Object:
        meta = obj["metadata"]
        path = path_of(
            resource,
            meta["name"],
            namespace=meta.get("namespace", ""),
            subresource=subresource,
        )
        stored: Object = await self.call("PUT", path, body=obj, query=self._writing())
        return stored

    async def patch(
        self,
        resource: str,
        name: str,
        patch: Any,
        *,
        namespace: str = "",
        subresource: str = "",
        content_type: str = MERGE_PATCH,
    ) -> Object:
        path = path_of(resource, name, namespace=namespace, subresource=subresource)
        stored: Object = await self.call(
            "PATCH", path, body=patch, content_type=content_type, query=self._writing()
        )
        return stored

    async def apply(
        self,
        obj: Object,
        *,
        resource: str = "",
        subresource: str = "",
        force: bool = True,
    ) -> Object:
        """Server-side apply. ``resource`` may be left out where discovery tells it."""
        meta = obj["metadata"]
        path = path_of(
            resource or await self.resource_of(obj["apiVersion"], obj["kind"]),
            meta["name"],
            namespace=meta.get("namespace", ""),
            subresource=subresource,
        )
        query = self._writing(force="true" if force else None)
        stored: Object = await self.call(
            "PATCH", path, body=obj, content_type=APPLY_PATCH, query=query
        )
        return stored

    async def resource_of(self, api_version: str, kind: str) -> str:
        """``plural.group/version`` of a kind, by discovery."""
        root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        listed = await self.call("GET", root)
        for entry in listed["resources"]:
            if entry["kind"] == kind and "/" not in entry["name"]:
                return f"{entry['name']}.{api_version}"
        raise LookupError(f"{api_version} has no kind {kind}")

    async def delete(
        self,
        resource: str,
        name: str,
        *,
        namespace: str = "",
        grace_seconds: int | None = None,
        uid: str | None = None,
        propagation: str | None = None,
        missing_ok: bool = True,
    ) -> None:
        options: Object = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if propagation is not None:
            options["propagationPolicy"] = propagation
        try:
            await self.call("DELETE", path_of(resource, name, namespace=namespace), body=options)
        except KubeError as error:
            if error.code != 404 or not missing_ok:
                raise

    def watch(
        self,
        resource: str,
        *,
        namespace: str = "",
        since: str = "",
        labels: str = "",
        fields: str = "",
    ) -> AsyncIterator[dict[str, Any]]:
        """Changes after resource version ``since`` (empty: the present state first)."""
        query = {
            "resourceVersion": since,
            "labelSelector": labels,
            "fieldSelector": fields,
            "allowWatchBookmarks": "true",
        }
        given = {k: v for k, v in query.items() if v}
        return self.transport.watch(path_of(resource, namespace=namespace), query=given)

    async def wait_for(
        self,
        resource: str,
        name: str,
        accept: Callable[[Object | None], bool],
        *,
        namespace: str = "",
        timeout: float = 60.0,
    ) -> Object | None:
        """Waits until ``accept`` is true of the object (None while there is none); returns it.
        Raises ``TimeoutError``."""
        async with asyncio.timeout(timeout):
            while True:
                found = await self._wait_once(resource, name, accept, namespace)
                if found is not False:
                    return found  # type: ignore[return-value]

    async def _wait_once(
        self,
        resource: str,
        name: str,
        accept: Callable[[Object | None], bool],
        namespace: str,
    ) -> Object | bool | None:
        selector = f"metadata.name={name}"
        page = await self.list_page(resource, namespace, "", selector)
        current = page["items"][0] if page["items"] else None
        if accept(current):
            return current
        events = self.watch(
            resource,
            namespace=namespace,
            since=page["metadata"]["resourceVersion"],
            fields=selector,
        )
        try:
            async for event in events:
                if event["type"] == "ERROR":
                    return False
                if event["type"] == "BOOKMARK":
                    continue
                current = None if event["type"] == "DELETED" else event["object"]
                if accept(current):
                    return current
        finally:
            await events.aclose()  # type: ignore[attr-defined]
        return False

    async def exec(
        self,
        namespace: str,
        pod: str,
        command: Sequence[str],
        *,
        container: str | None = None,
        stdin: bytes | None = None,
        timeout: float = 60.0,
    ) -> ExecResult:
        """Runs a command in a container, over the WebSocket of a real client."""
        transport = self.transport
        if not isinstance(transport, HttpTransport):
            raise TypeError("exec needs the API over HTTPS: use an HttpTransport")
        query = [("command", part) for part in command]
        query += [("stdout", "true"), ("stderr", "true")]
        if stdin is not None:
            query.append(("stdin", "true"))
        if container:
            query.append(("container", container))
        path = path_of("pods", pod, namespace=namespace, subresource="exec")
        async with asyncio.timeout(timeout):
            socket = await transport.connect(path, urlencode(query))
            try:
                return await _run(socket, stdin)
            finally:
                await socket.close()

    async def exec_stream(
        self, namespace: str, pod: str, command: Sequence[str]
    ) -> AsyncIterator[bytes]:
        """A command's standard output as it comes. Closing the iterator ends the command."""
        transport = self.transport
        if not isinstance(transport, HttpTransport):
            raise TypeError("exec needs the API over HTTPS: use an HttpTransport")
        query = [("command", part) for part in command] + [("stdout", "true")]
        path = path_of("pods", pod, namespace=namespace, subresource="exec")
        socket = await transport.connect(path, urlencode(query))
        try:
            async for message in socket:
                if message.type is aiohttp.WSMsgType.BINARY and message.data[:1] == b"\x01":
                    yield message.data[1:]
        finally:
            await socket.close()

    async def logs(
        self, namespace: str, pod: str, *, container: str | None = None, tail: int | None = None
    ) -> str:
        query = {k: v for k, v in (("container", container), ("tailLines", tail)) if v is not None}
        path = path_of("pods", pod, namespace=namespace, subresource="log")
        text = await self.call("GET", path, query={k: str(v) for k, v in query.items()})
        return str(text)


async def _run(socket: aiohttp.ClientWebSocketResponse, stdin: bytes | None) -> ExecResult:
    """The client's side of the channel protocol: first byte is the stream's number."""
    if stdin is not None:
        if stdin:
            await socket.send_bytes(b"\x00" + stdin)
        if socket.protocol == EXEC_PROTOCOL:
            await socket.send_bytes(b"\xff\x00")
    streams = {1: b"", 2: b"", 3: b""}
    async for message in socket:
        if message.type is aiohttp.WSMsgType.BINARY and message.data:
            channel = message.data[0]
            if channel in streams:
                streams[channel] += message.data[1:]
    return ExecResult(_exit_code(streams[3]), streams[1], streams[2])


def _exit_code(status: bytes) -> int:
    """From the Status that ends the error channel."""
    if not status:
        raise KubeError(Answer(500, {"message": "the stream ended without an exit status"}))
    decoded = json.loads(status)
    if decoded.get("status") == "Success":
        return 0
    for cause in (decoded.get("details") or {}).get("causes") or []:
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise KubeError(Answer(decoded.get("code", 500), decoded))
