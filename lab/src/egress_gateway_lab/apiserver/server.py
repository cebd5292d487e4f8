"""The embedded API server: one object that serves the Kubernetes API.

``ApiServer`` lives in an asyncio loop and serves HTTPS on sockets that its owner has opened (a
socket keeps the network namespace it was opened in, so one server is reachable from the host's
loopback and from inside the lab). Controllers that a control plane has besides run with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

import msgspec
import yaml
from aiohttp import web

from egress_gateway_lab.apiserver import discovery, errors
from egress_gateway_lab.apiserver.access.auth import TokenError, certificate_user
from egress_gateway_lab.apiserver.api import Api
from egress_gateway_lab.apiserver.controllers import Controllers, Timing
from egress_gateway_lab.apiserver.kubeconfig import token_kubeconfig
from egress_gateway_lab.apiserver.objects import clone
from egress_gateway_lab.apiserver.requests import ADMIN, ANONYMOUS, Reply, Request, User, parse_path
from egress_gateway_lab.apiserver.storage.watch import closing
from egress_gateway_lab.apiserver.tables import METADATA, TABLE
from egress_gateway_lab.apiserver.wire import protobuf, streams
from egress_gateway_lab.apiserver.wire.transport import KubeError
from egress_gateway_lab.protocols import Answer, PodRuntime

_OPENAPI_V2 = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
_BODY_LIMIT = 3 << 20
"""As kube-apiserver's limit of a request body."""


class ApiServer:
    """See the module. Construct, ``start()``, ``stop()``; ``transport()`` works before start."""

    def __init__(
        self,
        *,
        sockets: Sequence[socket.socket],
        tls: ssl.SSLContext,
        ca_pem: str,
        services: IPv4Network,
        issuer: str = "https://kubernetes.default.svc.cluster.local",
        address: str = "10.225.0.4:443",
        runtime: PodRuntime | None = None,
        timing: Timing | None = None,
        history: int = 2000,
    ) -> None:
        """``tls`` serves the certificate (ask for a client's with ``CERT_OPTIONAL`` to accept
        them); ``issuer`` is the ServiceAccount tokens' ``iss``; ``address`` is where pods reach
        the server; ``runtime`` may be set later."""
        self.api = Api(
            issuer=issuer, services=services, address=address, ca_pem=ca_pem, history=history
        )
        self.runtime = runtime
        self.controllers = Controllers(self.api, timing or Timing())
        self._sockets = list(sockets)
        self._tls = tls
        self._runner: web.ServerRunner | None = None
        self._streams: set[asyncio.Task[Any]] = set()

    # -- life

    async def start(self) -> None:
        await self.controllers.start()
        server = web.Server(self._serve, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.5)
        await self._runner.setup()
        for sock in self._sockets:
            site = web.SockSite(self._runner, sock, ssl_context=self._tls, backlog=256)
            await site.start()

    async def stop(self) -> None:
        await self.controllers.stop()
        for task in list(self._streams):
            task.cancel()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # -- what others of the lab use

    def transport(self, user: str = "", groups: Sequence[str] = ()) -> LocalTransport:
        """The API in process. Without a name: the administrator."""
        if not user:
            return LocalTransport(self, ADMIN)
        return LocalTransport(self, User(name=user, groups=(*groups, "system:authenticated")))

    def node_transport(self, node: str) -> LocalTransport:
        """The API as a node's kubelet."""
        return self.transport(f"system:node:{node}", ("system:nodes",))

    @property
    def admin_token(self) -> str:
        return self.api.authenticator.admin_token

    def kubeconfig(self, server_url: str, *, name: str = "lab", user: str = "admin") -> bytes:
        """An administrator's kubeconfig for the server under that URL; ``user`` is what the file
        calls the administrator."""
        ca, token = self.api.ca_pem.encode(), self.admin_token
        return token_kubeconfig(server_url, ca, token, name=name, user=user)

    def verify(self, assertion: str) -> tuple[str, str]:
        """``protocols.TokenVerifier``."""
        return self.api.authenticator.verify(assertion)

    def logs(self, request: Request) -> AsyncIterator[bytes]:
        """Raises ``StatusError``."""
        self.api.rbac.check(request)
        return streams.open_logs(self.api.store, self._needed_runtime(), request)

    def _needed_runtime(self) -> PodRuntime:
        if self.runtime is None:
            raise errors.unsupported("node runtime: logs, exec and attach are not available")
        return self.runtime

    # -- HTTP

    async def _serve(self, http: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answer(http)
        except errors.StatusError as error:
            return _response(Reply(error.code, error.status()))

    async def _answer(self, http: web.BaseRequest) -> web.StreamResponse:
        user = self._impersonated(http, self._user(http))
        if http.path == "/openapi/v2":
            return web.Response(body=discovery.openapi_v2_protobuf(), content_type=_OPENAPI_V2)
        request = await _request(http, user)
        if request.target.subresource in streams.STREAMS and request.target.plural == "pods":
            return await self._tracked(self._stream(http, request))
        if request.watching:
            return await self._tracked(self._watch(http, request))
        if (found := _aggregated(self.api, http)) is not None:
            self.api.rbac.check(request)
            return found
        return _response(self.api.handle(request))

    def _user(self, http: web.BaseRequest) -> User:
        scheme, _, token = http.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            try:
                return self.api.authenticator.bearer(token.strip())
            except TokenError as error:
                raise errors.unauthorized() from error
        transport = http.transport
        tls = transport.get_extra_info("ssl_object") if transport is not None else None
        return certificate_user(tls.getpeercert()) if tls is not None else ANONYMOUS

    def _impersonated(self, http: web.BaseRequest, user: User) -> User:
        """``kubectl --as``: for those who may ``impersonate`` users."""
        name = http.headers.get("Impersonate-User")
        if not name:
            return user
        if not self.api.rbac.allows(user, "impersonate", group="", resource="users", name=name):
            raise errors.forbidden(
                "users",
                "",
                name,
                f'User "{user.name}" cannot impersonate resource "users" in API group "" at the '
                "cluster scope",
            )
        groups = list(http.headers.getall("Impersonate-Group", []))
        if name.startswith("system:serviceaccount:") and not groups:
            groups = ["system:serviceaccounts", f"system:serviceaccounts:{name.split(':')[2]}"]
        return User(name=name, groups=(*groups, "system:authenticated"))

    async def _tracked(self, work: Any) -> web.StreamResponse:
        """Long answers are cancelled when the server stops."""
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            response: web.StreamResponse = await work
            return response
        finally:
            self._streams.discard(task)

    async def _watch(self, http: web.BaseRequest, request: Request) -> web.StreamResponse:
        events = self.api.watch(request)
        form = f";as={request.form};g=meta.k8s.io;v=v1" if request.form else ""
        response = web.StreamResponse(headers={"Content-Type": f"application/json{form}"})
        response.enable_chunked_encoding()
        await response.prepare(http)
        try:
            async for event in events:
                line = msgspec.json.encode({"type": event.type, "object": event.obj})
                await response.write(line + b"\n")
            await response.write_eof()
        except (ConnectionError, RuntimeError):
            pass
        finally:
            await closing(events)
        return response

    async def _stream(self, http: web.BaseRequest, request: Request) -> web.StreamResponse:
        if request.target.subresource == "log":
            return await self._log(http, request)
        # Reading or writing a process is ``create``, whatever method a WebSocket starts with.
        self.api.rbac.check(replace(request, method="POST"))
        streams.check_upgrade(http)
        command = list(http.query.getall("command", []))
        runtime = self._needed_runtime()
        session = await streams.open_session(self.api.store, runtime, request, command)
        attached = request.target.subresource == "attach"
        return await streams.serve(http, session, attached=attached)

    async def _log(self, http: web.BaseRequest, request: Request) -> web.StreamResponse:
        chunks = self.logs(request)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        # The first chunk decides whether there is a log at all; following may wait for it long.
        started = False
        try:
            if request.query.get("follow") in ("true", "1"):
                await response.prepare(http)
                started = True
            async for chunk in chunks:
                if not started:
                    await response.prepare(http)
                    started = True
                await response.write(chunk)
            if not started:
                await response.prepare(http)
            await response.write_eof()
        except errors.StatusError as error:
            if not started:
                raise
            await response.write(f"{error.message}\n".encode())
        finally:
            await chunks.aclose()  # type: ignore[attr-defined]
        return response


async def _request(http: web.BaseRequest, user: User) -> Request:
    raw = await http.read()
    if len(raw) > _BODY_LIMIT:
        raise errors.StatusError(413, "RequestEntityTooLarge", "the request is too large")
    content_type = http.content_type if raw else "application/json"
    body = _decode(raw, content_type) if raw else None
    return Request(
        method="GET" if http.method == "HEAD" else http.method,
        target=parse_path(http.path),
        query=dict(http.query),
        body=body,
        content_type=content_type,
        user=user,
        agent=http.headers.get("User-Agent", ""),
        form=_form(http.headers.get("Accept", "")),
    )


def _decode(raw: bytes, content_type: str) -> Any:
    try:
        if content_type in ("application/yaml", "application/apply-patch+yaml"):
            if not raw.lstrip().startswith(b"{"):
                return yaml.load(raw, _SafeLoader)  # noqa: S506  (derives from the safe one)
            return json.loads(raw)
        if content_type == protobuf.CONTENT_TYPE:
            return protobuf.decode(raw)
        return json.loads(raw)
    except (ValueError, yaml.YAMLError) as error:
        raise errors.bad_request(f"the request's body cannot be decoded: {error}") from error


class _SafeLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as Kubernetes reads it: a time stays the text it is."""


_SafeLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in listed if tag != "tag:yaml.org,2002:timestamp"]
    for first, listed in _SafeLoader.yaml_implicit_resolvers.items()
}


def _form(accept: str) -> str:
    """Which other form of an object, or of a list, the client would like best: the first that is
    JSON. (Those who ask for protobuf too take JSON.)"""
    for one in accept.replace(" ", "").split(","):
        media, *parameters = one.split(";")
        if media == "application/json":
            asked = dict(p.partition("=")[::2] for p in parameters)
            form = asked.get("as", "").removesuffix("List")
            return form if asked.get("v") == "v1" and form in (TABLE, METADATA) else ""
    return ""


def _aggregated(api: Api, http: web.BaseRequest) -> web.Response | None:
    path = http.path.rstrip("/")
    accept = http.headers.get("Accept", "")
    if path not in ("/api", "/apis") or "APIGroupDiscoveryList" not in accept:
        return None
    version = (
        "v2" if "v=v2;" in accept or "v=v2," in accept or accept.endswith("v=v2") else "v2beta1"
    )
    found = discovery.aggregated(api.registry, core=path == "/api", api_version=version)
    kind = f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
    return web.Response(body=msgspec.json.encode(found), headers={"Content-Type": kind})


def _response(reply: Reply) -> web.Response:
    body = reply.body
    raw = body.encode() if isinstance(body, str) else msgspec.json.encode(body)
    response = web.Response(status=reply.status, body=raw)
    response.content_type = reply.content_type
    for warning in reply.warnings:
        response.headers.add("Warning", f'299 - "{warning}"'.replace('\\"', "'"))
    if reply.status in (429, 504):
        response.headers["Retry-After"] = "1"
    return response


class LocalTransport:
    """``protocols.KubeTransport`` without a network, as one user. What it returns is the caller's
    own copy."""

    def __init__(self, server: ApiServer, user: User) -> None:
        self._server = server
        self._user = user

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Request:
        return Request(
            method=method,
            target=parse_path(path),
            query=dict(query or {}),
            body=body,
            content_type=content_type,
            user=self._user,
            agent=self._user.name,
        )

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Answer:
        # A request is a point where others get their turn, as it is with a network.
        await asyncio.sleep(0)
        request = self._request(method, path, query, body, content_type)
        if request.target.subresource == "log":
            return await self._log(request)
        reply = self._server.api.handle(request)
        return Answer(reply.status, clone(reply.body))

    async def _log(self, request: Request) -> Answer:
        try:
            chunks = [chunk async for chunk in self._server.logs(request)]
        except errors.StatusError as error:
            return Answer(error.code, error.status())
        return Answer(200, b"".join(chunks).decode(errors="replace"))

    async def watch(
        self, path: str, *, query: Mapping[str, str] | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        request = self._request("GET", path, {**(query or {}), "watch": "true"})
        try:
            events = self._server.api.watch(request)
        except errors.StatusError as error:
            raise KubeError(Answer(error.code, error.status())) from error
        try:
            async for event in events:
                yield {"type": event.type, "object": clone(event.obj)}
        finally:
            with contextlib.suppress(RuntimeError):
                await closing(events)
