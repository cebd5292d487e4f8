"""The webhook as an API server meets it: TLS, AdmissionReview documents, its own objects kept."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import aiohttp
from prometheus_client import REGISTRY

from egress_gateway.api import names
from egress_gateway.api.types import ObjectMeta
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import Conflict, NotFound, Unavailable
from egress_gateway.kube.informer.cache import Cache
from egress_gateway.kube.resources import Key, Namespace, Resource, Secret
from egress_gateway.webhook import certificates
from egress_gateway.webhook.certificates import SETTLE, Generation
from egress_gateway.webhook.keeper import REGISTRATIONS, Keeper
from egress_gateway.webhook.registration import ANNOTATED, DEFAULTED, PATH
from egress_gateway.webhook.server import Namespaces, WebhookServer
from egress_gateway.webhook.settings import Settings

SETTINGS = Settings(system_namespace="system", certificate_validity=90 * 86400.0)
HOST = "egress-gateway-webhook.system.svc"


class Api:
    """The three kinds that the webhook uses, with the API server's optimistic concurrency."""

    def __init__(self) -> None:
        self.secret: dict[str, Any] | None = {"data": {}}
        self.registration: dict[str, Any] | None = {"webhooks": []}
        self.namespaces: dict[str, str] = {}
        self.version = 1
        self.writes = 0
        self.down = False

    async def get(self, resource: Resource[Any], name: str, namespace: str | None = None) -> Any:
        await asyncio.sleep(0)
        if self.down:
            raise Unavailable(0, "Unreachable", "down")
        if resource.plural == "namespaces":
            if name not in self.namespaces:
                raise NotFound(404, "NotFound", name)
            return made(name, self.namespaces[name])
        held = self.secret if resource.plural == "secrets" else self.registration
        if held is None:
            raise NotFound(404, "NotFound", name)
        if resource.plural == "secrets":
            meta = ObjectMeta(name=name, namespace="system", resource_version=str(self.version))
            return Secret(metadata=meta, data=dict(held["data"]))
        return copy.deepcopy(held)

    async def merge_patch(
        self, resource: Resource[Any], name: str, patch: dict[str, Any], namespace: str
    ) -> None:
        await asyncio.sleep(0)
        assert (resource.plural, name, namespace) == ("secrets", SETTINGS.name, "system")
        if patch["metadata"]["resourceVersion"] != str(self.version):
            raise Conflict(409, "Conflict", "changed")
        assert self.secret is not None
        merged = self.secret["data"] | patch["data"]
        self.secret["data"] = {k: v for k, v in merged.items() if v is not None}
        self.version += 1
        self.writes += 1

    async def apply(self, resource: Resource[Any], document: dict[str, Any]) -> None:
        assert resource is REGISTRATIONS
        self.registration = copy.deepcopy(document)
        self.writes += 1

    @property
    def generations(self) -> list[Generation]:
        assert self.secret is not None
        return certificates.decode(self.secret["data"])

    def webhook(self, name: str) -> dict[str, Any]:
        assert self.registration is not None
        found: dict[str, Any] = next(w for w in self.registration["webhooks"] if w["name"] == name)
        return found


def made(name: str, annotation: str) -> Namespace:
    annotations = {names.POD_ANNOTATION: annotation} if annotation else {}
    return Namespace(metadata=ObjectMeta(name=name, annotations=annotations))


class Heard:
    """What this replica has heard of Namespaces so far."""

    def __init__(self) -> None:
        self._known: dict[str, Namespace] = {}
        self._callbacks: list[Callable[..., None]] = []

    def on_change(self, callback: Callable[..., None]) -> None:
        self._callbacks.append(callback)

    def put(self, namespace: Namespace) -> None:
        name = namespace.metadata.name
        old, self._known[name] = self._known.get(name), namespace
        for callback in self._callbacks:
            callback(Key("", name), old, namespace)

    def get(self, namespace: str, name: str) -> Namespace | None:
        return self._known.get(name)

    def values(self) -> list[Namespace]:
        return list(self._known.values())

    async def synced(self) -> None: ...


class Replica:
    def __init__(self, api: Api, clock: Callable[[], float] = time.time) -> None:
        self.heard = Heard()
        client, cache = cast(Client, api), cast("Cache[Namespace]", self.heard)
        lookup = Namespaces(client, cache)
        self.server = WebhookServer(address="127.0.0.1", port=0, default=lookup.default)
        self.served: list[Generation] = []
        self.keeper = Keeper(client, cache, SETTINGS, on_certificate=self._use, clock=clock)

    def _use(self, generation: Generation) -> None:
        self.served.append(generation)
        self.server.use(generation)


@asynccontextmanager
async def caller(replica: Replica, trust: bytes) -> AsyncIterator[aiohttp.ClientSession]:
    """An API server's client: it believes ``trust`` and insists on the Service's name."""
    context = ssl.create_default_context(cadata=trust.decode())
    connector = aiohttp.TCPConnector(ssl=context, force_close=True)
    base = f"https://127.0.0.1:{replica.server.port}"
    async with aiohttp.ClientSession(base, connector=connector) as session:
        yield session


def document(annotations: dict[str, str] | None = None, namespace: str = "shop") -> dict[str, Any]:
    """As kube-apiserver 1.30 sends it, managedFields and all."""
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    resource = {"group": "", "version": "v1", "resource": "pods"}
    metadata: dict[str, Any] = {
        "generateName": "web-",
        "namespace": namespace,
        "labels": {"a": "b"},
    }
    metadata["managedFields"] = [{"manager": "kubectl", "operation": "Update", "fieldsV1": {}}]
    if annotations is not None:
        metadata["annotations"] = annotations
    pod = {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": metadata,
        "spec": {"containers": [{"name": "c", "image": "nginx"}], "dnsPolicy": "ClusterFirst"},
        "status": {},
    }
    return {
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": kind,
            "resource": resource,
            "requestKind": kind,
            "requestResource": resource,
            "namespace": namespace,
            "operation": "CREATE",
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
            "object": pod,
            "oldObject": None,
            "dryRun": False,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    }


async def posted(session: aiohttp.ClientSession, body: Any) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    async with session.post(
        f"{PATH}?timeout=5s", data=data, headers=headers, server_hostname=HOST
    ) as response:
        raw = await response.read()
        return response.status, json.loads(raw) if response.status == 200 else raw.decode()


def patched(answer: Any) -> list[str]:
    assert answer["response"]["allowed"] is True
    return [
        o["path"] for o in json.loads(base64.b64decode(answer["response"].get("patch", b"W10=")))
    ]


@asynccontextmanager
async def serving_replica() -> AsyncIterator[tuple[Api, Replica]]:
    api = Api()
    replica = Replica(api)
    async with asyncio.timeout(60):
        assert await replica.keeper.step()
        await replica.server.start()
        try:
            yield api, replica
        finally:
            await replica.server.close()


async def test_reviews_over_tls() -> None:
    async with serving_replica() as (api, replica):
        api.namespaces = {"shop": "", "late": "d"}
        replica.heard.put(made("told", "d"))
        trust = base64.b64decode(api.webhook(ANNOTATED)["clientConfig"]["caBundle"])
        selector, annotations = "/spec/nodeSelector", "/metadata/annotations"
        async with caller(replica, trust) as session:
            for body, paths in (
                (document({names.POD_ANNOTATION: "e"}), [selector]),
                (document(), []),
                (document(namespace="told"), [annotations, selector]),
                # The other replica has heard of it, this one not yet.
                (document(namespace="late"), [annotations, selector]),
                (document({names.POD_ANNOTATION: ""}, namespace="late"), []),
            ):
                status, answer = await posted(session, body)
                assert status == 200
                assert answer["response"]["uid"] == body["request"]["uid"]
                assert patched(answer) == paths


async def test_what_cannot_be_judged_is_no_yes() -> None:
    async with serving_replica() as (api, replica):
        api.namespaces = {"shop": ""}
        async with caller(replica, certificates.trust(api.generations)) as session:
            for body in (b"", b"{", b"[]", b"{}", b"\xff", document() | {"kind": "Pod"}):
                status, _ = await posted(session, body)
                assert status == 400
            api.down = True
            status, said = await posted(session, document())
            assert status == 503
            assert "Namespace cannot be read" in said
            # One that says itself what it wants needs nobody.
            status, _ = await posted(session, document({names.POD_ANNOTATION: "e"}))
            assert status == 200


async def test_settled_state_is_not_written_again() -> None:
    async with serving_replica() as (api, replica):
        assert api.writes == 2
        assert (
            REGISTRY.get_sample_value("egress_gateway_webhook_certificate_ends_timestamp_seconds")
            == api.generations[0].ends
        )
        for _ in range(3):
            assert await replica.keeper.step()
        assert api.writes == 2


async def test_annotated_namespaces_are_followed() -> None:
    async with serving_replica() as (api, replica):
        replica.heard.put(made("shop", "d"))
        replica.heard.put(made("other", ""))
        await replica.keeper.step()
        [chosen] = api.webhook(DEFAULTED)["namespaceSelector"]["matchExpressions"]
        assert chosen["values"] == ["shop"]
        replica.heard.put(made("shop", ""))
        await replica.keeper.step()
        [chosen] = api.webhook(DEFAULTED)["namespaceSelector"]["matchExpressions"]
        assert chosen["operator"] == "DoesNotExist"


async def test_whatever_is_spoilt_is_mended() -> None:
    async with serving_replica() as (api, replica):
        assert api.registration is not None
        api.registration["webhooks"][0]["failurePolicy"] = "Ignore"
        await replica.keeper.step()
        assert api.webhook(ANNOTATED)["failurePolicy"] == "Fail"
        before = api.generations
        api.secret = {"data": {"tls.crt": "eA=="}}
        api.version += 1
        await replica.keeper.step()
        assert len(api.generations) == 1
        assert api.generations != before
        async with caller(replica, certificates.trust(api.generations)) as session:
            status, _ = await posted(session, document({names.POD_ANNOTATION: "e"}))
            assert status == 200


async def test_missing_objects_are_named_and_waited_for() -> None:
    async with serving_replica() as (api, replica):
        for field in ("secret", "registration"):
            held = getattr(api, field)
            setattr(api, field, None)
            assert not await replica.keeper.step()
            assert "is missing; install the chart again" in (replica.keeper.problem or "")
            setattr(api, field, held)
            assert await replica.keeper.step()


async def test_two_replicas_make_one_certificate_and_roll_together() -> None:
    async with asyncio.timeout(60):
        begin = time.time() - 61 * 86400
        api, now = Api(), [begin]
        replicas = [Replica(api, clock=lambda: now[0]) for _ in range(2)]

        async def settled() -> None:
            while not all([await r.keeper.step() for r in replicas]):
                pass

        async def meet() -> None:
            trust = base64.b64decode(api.webhook(ANNOTATED)["clientConfig"]["caBundle"])
            for replica in replicas:
                async with caller(replica, trust) as session:
                    body = document({names.POD_ANNOTATION: "e"})
                    assert (await posted(session, body))[0] == 200

        await asyncio.gather(*(r.keeper.step() for r in replicas))
        await settled()
        assert len(api.generations) == 1
        async with AsyncExitStack() as stack:
            for replica in replicas:
                await replica.server.start()
                stack.push_async_callback(replica.server.close)
            for days in (59.0, 60.1):
                now[0] = begin + days * 86400
                await asyncio.gather(*(r.keeper.step() for r in replicas))
                await meet()  # whichever of them has seen what
                await settled()
                await meet()
            assert len(api.generations) == 2
            for wait in (SETTLE + 1, SETTLE + 1):
                now[0] += wait
                for replica in replicas:  # one after the other
                    await replica.keeper.step()
                    await meet()
            await settled()
            assert [len(r.served) for r in replicas] == [2, 2]
            assert len(api.generations) == 1
            await meet()


async def test_loop_follows_by_itself_and_survives_the_api_server() -> None:
    async with asyncio.timeout(60):
        api = Api()
        replica = Replica(api)
        api.down = True
        task = asyncio.create_task(replica.keeper.run())
        while "down" not in (replica.keeper.problem or ""):
            await asyncio.sleep(0.01)
        api.down = False
        await replica.keeper.certified.wait()
        while replica.keeper.problem:
            await asyncio.sleep(0.01)
        replica.heard.put(made("shop", "d"))
        while "values" not in api.webhook(DEFAULTED)["namespaceSelector"]["matchExpressions"][0]:
            await asyncio.sleep(0.01)
        task.cancel()
