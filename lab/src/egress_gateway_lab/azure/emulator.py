"""Azure Resource Manager on one machine: an HTTPS server that Azure's own clients take for Azure.

``Emulator`` owns the state, serves the requests and shows the resources to the fabric. It
answers for whatever name it was reached by (links follow the Host header), so one emulator
serves a person on loopback and components inside the lab. Everything it knows is in memory and
used from the event loop that it runs in.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import uuid
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import msgspec
from aiohttp import web

from egress_gateway.api import names
from egress_gateway_lab.azure import snapshot
from egress_gateway_lab.azure.arm import errors, ids
from egress_gateway_lab.azure.arm.addressing import Addresses
from egress_gateway_lab.azure.arm.buckets import Buckets
from egress_gateway_lab.azure.arm.dispatch import dispatch, forbidden, parse_path
from egress_gateway_lab.azure.arm.errors import ArmError
from egress_gateway_lab.azure.arm.kinds import Answer, Azure, Call
from egress_gateway_lab.azure.arm.operations import Clock, Operations, SystemClock
from egress_gateway_lab.azure.arm.store import Store
from egress_gateway_lab.azure.faults import Fault, Faults, without
from egress_gateway_lab.azure.identity import signin
from egress_gateway_lab.azure.identity.directory import Directory, Principal
from egress_gateway_lab.azure.identity.rbac import Access
from egress_gateway_lab.azure.providers import authorization, graph, registry
from egress_gateway_lab.azure.providers.compute import rollout
from egress_gateway_lab.azure.resources import StoredResources
from egress_gateway_lab.azure.state import StateError, StateFile
from egress_gateway_lab.protocols import ClusterBackend, Resources, TokenVerifier

log = logging.getLogger(__name__)

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
TENANT = "00000000-0000-0000-0000-0000000000aa"
LOCATION = "swedencentral"
COMPUTE_SHARE = 0.5
"""What AKS and the autoscaler leave of Microsoft.Compute's token buckets."""
ADDON_SUBJECT = f"system:serviceaccount:{names.SYSTEM_NAMESPACE}:egress-gateway-controller"
"""Whoever runs as this ServiceAccount may sign in as its cluster's own identity: in the lab the
controller plays the AKS add-on."""

PUBLIC_AUDIENCES = frozenset({"management.azure.com", "management.core.windows.net"})


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that was answered (polls of operations included)."""

    method: str
    path: str
    status: int
    client_id: str


class Emulator:
    """One subscription of one tenant."""

    def __init__(
        self,
        *,
        backend: ClusterBackend,
        verifier: TokenVerifier | None = None,
        clock: Clock | None = None,
        operation_seconds: float = 0.2,
        poll_hold_seconds: float = 1.0,
        page_size: int = 100,
        prefix_networks: Sequence[IPv4Network] = (IPv4Network("203.0.113.0/24"),),
        prefix6_networks: Sequence[IPv6Network] = (IPv6Network("2001:db8:203::/64"),),
        public_ip_quota: int = 1000,
        compute_share: float | None = COMPUTE_SHARE,
        least_gateways: int = 2,
        state: Path | None = None,
    ) -> None:
        """``operation_seconds``: how long each long-running operation takes.
        ``poll_hold_seconds``: how long a status answer may be kept back for an operation that
        is about to end (0 counts polls as Azure would have them).
        ``compute_share``: the part of Microsoft.Compute's token buckets that is left for us, when
        AKS and others have taken theirs; None: no request is too many, whoever asks.
        ``least_gateways``: how few nodes a gateway pool may have, as AKS sees it.
        ``public_ip_quota``: public addresses that the subscription may have.
        ``state``: a file that everything is kept in and taken from; raises ``StateError``."""
        clock = clock or SystemClock()
        store = Store()
        self.directory = Directory(TENANT, clock.time, verifier)
        self.azure = Azure(
            subscription=SUBSCRIPTION,
            tenant=TENANT,
            location=LOCATION,
            store=store,
            operations=Operations(clock, seconds=operation_seconds, hold=poll_hold_seconds),
            directory=self.directory,
            access=Access(store),
            addresses=Addresses(
                outbound=(IPv4Network("192.0.2.0/24"),),
                prefixes=prefix_networks,
                prefixes6=prefix6_networks,
                quota=public_ip_quota,
            ),
            backend=backend,
            clock=clock,
            buckets=Buckets(clock, compute_share),
            least_gateways=least_gateways,
            addon_subject=ADDON_SUBJECT,
        )
        self.faults = Faults(removed=self.azure.operations.release)
        registry.register(self.azure)
        self.directory.welcome = self._welcome
        self.resources: Resources = StoredResources(self.azure)
        self.requests: deque[Seen] = deque(maxlen=20_000)
        self.app = web.Application(client_max_size=16 * 2**20)
        self.app.router.add_route("*", "/{path:.*}", self._handle)
        self._page_size = page_size
        self._state = StateFile(state) if state else None
        if self._state is not None:
            self._state.load_tenant(self.directory)
            snapshot.restore(self.azure, self._state.entries())
            self.azure.operations.restore(self._state.operations(clock.time()))
            self._state.follow(store, self.directory, self.azure.operations)
        self._runner: web.AppRunner | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def serve(
        self, sockets: Iterable[socket.socket], ssl_context: ssl.SSLContext | None
    ) -> None:
        """Starts answering on listening sockets; returns at once. ``ssl_context`` is the
        caller's: clients refuse bearer tokens over plain HTTP."""
        self._runner = web.AppRunner(self.app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        for listening in sockets:
            await web.SockSite(self._runner, listening, ssl_context=ssl_context).start()
        self._keeper = asyncio.create_task(self._keep())
        self._resume()

    def _resume(self) -> None:
        """Goes on with what the state file was in the middle of, and boots its machines. What
        lies in a group that goes, goes with it."""
        for entry in self.azure.store.everything():
            kind = self.azure.kind(ids.parse(entry.id).type)
            if kind is not None and not self._goes_with_its_group(entry.id):
                kind.resume(entry.document)
        self.azure.operations.conclude(self._state_of)

    def _state_of(self, resource_id: str) -> str | None:
        document = self.azure.store.get(resource_id)
        return document["properties"].get("provisioningState") if document else None

    def _goes_with_its_group(self, resource_id: str) -> bool:
        group = self.azure.store.get("/".join(resource_id.split("/")[:5]))
        if group is None or ids.same(group["id"], resource_id):
            return False
        return bool(group["properties"]["provisioningState"] == "Deleting")

    async def _keep(self) -> None:
        """Writes what operations change; requests write for themselves before they answer."""
        while self._state is not None:
            seen = self.azure.store.revision
            try:
                self._state.flush()
            except StateError:
                log.exception("what just changed is not in the state file")
            await self.azure.store.changed(seen)

    async def close(self) -> None:
        """Stops serving and ends operations under way."""
        await self.azure.operations.close()
        if self._runner is None:
            self._let_go()
            return
        for site in list(self._runner.sites):
            await site.stop()
        server = self._runner.server
        for connection in server.connections if server else ():
            if connection.transport is not None:
                connection.transport.abort()  # a TLS goodbye waits for a peer who may be gone
        for _ in range(100):
            if server is None or not server.connections:
                break
            await asyncio.sleep(0.01)
        await self._runner.cleanup()
        self._let_go()

    def _let_go(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
        if self._state is not None:
            self._state.close()

    def machine_token(self, resource: str, client_id: str) -> dict[str, Any]:
        """What the instance metadata service's identity endpoint answers for an identity that a
        machine holds; raises ``LookupError`` if there is none of that client id."""
        principal = self.directory.find(client_id)
        if principal is None or not principal.managed:
            raise LookupError(f"no managed identity has client id {client_id}")
        body = signin.token_body(self.directory, principal, resource)
        return {**body, "client_id": principal.client_id}

    def _welcome(self, principal: Principal) -> None:
        scope = f"/subscriptions/{self.azure.subscription}"
        authorization.assign(self.azure, scope, "Owner", principal.object_id)

    # -- HTTP ----------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = unquote(request.rel_url.raw_path)
        fault = self.faults.take(request.method, path)
        if fault is not None and fault.kind in ("html", "answer"):
            self.requests.append(Seen(request.method, path, fault.status, ""))
            return _spoilt(fault)
        who = ""
        try:
            self._apply_before(fault, path)
            if fault is not None and fault.kind == "delay":
                await self.azure.clock.sleep(fault.seconds)
            if signin.TOKEN_PATH.match(path) and request.method == "POST":
                return await self._token(request)
            found = signin.discover(_base(request), path, _query(request), self.azure.tenant)
            if found is not None:
                return _respond(Answer(200, found))
            principal = self._authenticate(request)
            who = principal.client_id
            answer = await self._answer(request, path, principal, fault)
            answer = self._apply_after(fault, answer)
        except ArmError as error:
            answer = Answer(error.status, {"error": error.error()}, error.headers)
        except Exception as error:
            log.exception("%s %s broke", request.method, path)
            body = {"code": "InternalServerError", "message": repr(error)}
            answer = Answer(500, {"error": body})
        self.requests.append(Seen(request.method, path, answer.status, who))
        if self._state is not None:
            self._state.flush()
        if fault is not None and fault.kind == "cut":
            return await _cut(request, answer)
        if fault is not None and fault.kind == "garble":
            return _spoilt(fault)
        return _respond(answer)

    async def _answer(
        self, request: web.Request, path: str, principal: Principal, fault: Fault | None
    ) -> Answer:
        body = await _body(request)
        if fault is not None and fault.kind == "modify":
            body = without(body, fault.drop)
        query = _query(request)
        if path.lower().startswith(("/v1.0/", "/beta/")):
            return Answer(200, graph.answer(self.directory, request.method, path, query, body))
        if "api-version" not in query:
            raise errors.invalid(
                "The api-version query parameter (?api-version=) is required for all requests.",
                code="MissingApiVersionParameter",
            )
        call = Call(
            method=request.method,
            id=parse_path(path),
            body=body,
            query=query,
            base=_base(request),
            principal=principal,
            if_match=request.headers.get("If-Match"),
            if_none_match=request.headers.get("If-None-Match"),
        )
        if fault is not None and fault.kind == "deny":
            raise forbidden(self.azure, call, fault.denial)
        answer = await dispatch(self.azure, call)
        return self._page(request, query, answer)

    def _page(self, request: web.Request, query: Mapping[str, str], answer: Answer) -> Answer:
        """Cuts long lists into pages, as ARM does."""
        items = answer.body.get("value") if isinstance(answer.body, dict) else None
        if not isinstance(items, list) or len(items) <= self._page_size:
            return answer
        token = query.get("$skiptoken") or "0"
        if not token.isdecimal():
            raise errors.invalid("The skip token is invalid.", code="InvalidSkipToken")
        start = int(token)
        end = start + self._page_size
        body: dict[str, Any] = {"value": items[start:end]}
        if end < len(items):
            following = urlencode({**query, "$skiptoken": str(end)})
            body["nextLink"] = f"{_base(request)}{request.rel_url.raw_path}?{following}"
        return Answer(answer.status, body, answer.headers)

    async def _token(self, request: web.Request) -> web.Response:
        form = dict(parse_qsl((await request.read()).decode(errors="replace")))
        try:
            body = signin.token(self.directory, _base(request), form)
        except ArmError as error:
            return _respond(Answer(error.status, signin.refusal(error)))
        if self._state is not None:
            self._state.flush()
        return _respond(Answer(200, body))

    def _authenticate(self, request: web.Request) -> Principal:
        authority = f"{_base(request)}/{self.azure.tenant}"
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise errors.unauthenticated(
                "The 'Authorization' header is not present or not a bearer token.", authority
            )
        try:
            principal, audience = self.directory.identify(token.strip())
        except PermissionError as error:
            raise errors.unauthenticated(str(error), authority) from error
        host = _host(audience)
        if host not in PUBLIC_AUDIENCES and host != _host(_base(request)):
            raise ArmError(
                401,
                "InvalidAuthenticationTokenAudience",
                f"The access token has been obtained for wrong audience or resource "
                f"'{audience}'. It should exactly match '{_base(request)}/'.",
            )
        return principal

    def _apply_before(self, fault: Fault | None, path: str) -> None:
        error = fault.error() if fault else None
        if error is not None:
            raise error
        if fault is not None and fault.kind == "join-pool":
            rollout.join_pool(self.azure, path, fault.pool)

    def _apply_after(self, fault: Fault | None, answer: Answer) -> Answer:
        url = answer.headers.get("Azure-AsyncOperation") or answer.headers.get("Location", "")
        if fault is None or not url:
            return answer
        operations, name = self.azure.operations, urlsplit(url).path.rpartition("/")[2]
        if fault.kind == "fail-operation":
            operations.fail(name, ArmError(fault.status, fault.code, fault.message))
        if fault.kind == "cancel-operation":
            operations.cancel(name)
        if fault.kind == "hang":
            operations.hang(name, fault.id)
        if fault.kind == "strip":
            operation = operations.get(name)
            if operation is not None:
                target = operation.target
                operations.follow_with(name, lambda: rollout.strip(self.azure, target))
        if fault.kind == "shape":
            return replace(answer, headers=_announced(answer.headers, url, fault.shape))
        return answer


_FRONT_DOOR = (
    "<!DOCTYPE html><html><head><title>{status}</title></head><body><h2>Our services aren't "
    "available right now</h2><p>We're working to restore all services as soon as possible. Please "
    "check back soon.</p></body></html>"
)


def _base(request: web.Request) -> str:
    return f"{request.scheme}://{request.host}"


def _announced(headers: Mapping[str, str], url: str, shape: str) -> dict[str, str]:
    """The headers of an accepted operation in another shape."""
    announced = dict(headers)
    announced["Azure-AsyncOperation"] = url.replace("/operationResults/", "/operations/")
    announced["Location"] = url.replace("/operations/", "/operationResults/")
    if shape != "both":
        del announced["Location" if shape == "async" else "Azure-AsyncOperation"]
    return announced


def _host(url: str) -> str:
    """Host and port of a URL, without the default port."""
    return urlsplit(url).netloc.lower().removesuffix(":443")


def _query(request: web.Request) -> dict[str, str]:
    return dict(request.rel_url.query)


async def _body(request: web.Request) -> Any:
    raw = await request.read()
    if not raw:
        return None
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise errors.invalid(
            f"The request content was invalid and could not be deserialized: '{error}'.",
            code="InvalidRequestContent",
        ) from error


def _respond(answer: Answer) -> web.Response:
    headers = {
        "x-ms-request-id": str(uuid.uuid4()),
        "x-ms-correlation-request-id": str(uuid.uuid4()),
        "Cache-Control": "no-cache",
        **answer.headers,
    }
    if answer.body is None:
        return web.Response(status=answer.status, headers=headers)
    return web.Response(
        status=answer.status,
        headers=headers,
        body=msgspec.json.encode(answer.body),
        content_type="application/json",
        charset="utf-8",
    )


def _spoilt(fault: Fault) -> web.Response:
    """What a front door or a proxy answers in Azure's place."""
    if fault.kind == "html":
        page = _FRONT_DOOR.format(status=fault.status)
        return web.Response(status=fault.status, text=page, content_type="text/html")
    told = {**fault.headers, "Content-Type": fault.content_type}
    return web.Response(status=fault.status, body=fault.body.encode(), headers=told)


async def _cut(request: web.Request, answer: Answer) -> web.StreamResponse:
    """Sends the first half of an answer and breaks the connection."""
    body = msgspec.json.encode(answer.body) or b"{}"
    response = web.StreamResponse(status=answer.status, headers=dict(answer.headers))
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    await asyncio.sleep(0)
    if request.transport is not None:
        request.transport.abort()
    return response
