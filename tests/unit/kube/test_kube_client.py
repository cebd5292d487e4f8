"""Requests as the API server wants them, and its refusals as typed errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import pytest
from aiohttp import web

from egress_gateway.api.types import ObjectMeta, PodEndpoint, PodEndpointSpec
from egress_gateway.kube import client as kube_client
from egress_gateway.kube import errors
from egress_gateway.kube.client import Client
from egress_gateway.kube.config import ClusterAccess
from egress_gateway.kube.resources import POD_ENDPOINTS, PODS, SGCS
from tests.unit.kube.kube_scripted import (
    Script,
    bookmark,
    event,
    gone,
    listed,
    pod,
    serving,
    status,
    watched,
)

OK = web.json_response


@asynccontextmanager
async def scripted(script: Callable[[Script], None]) -> AsyncIterator[tuple[Client, Script]]:
    server = Script()
    script(server)
    async with serving(server) as client:
        yield client, server


def echo(body: dict[str, object]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def step(_: web.Request) -> web.StreamResponse:
        return web.json_response(body)

    return step


ENDPOINT = PodEndpoint(
    metadata=ObjectMeta(name="p", namespace="ns", resource_version="4"),
    spec=PodEndpointSpec(pod_uid="u"),
)
ANSWER: dict[str, object] = {"metadata": {"name": "p", "namespace": "ns"}, "spec": {}}


async def test_a_long_list_is_fetched_in_pages() -> None:
    async with scripted(
        lambda s: s.then(listed(9, pod("a", 1), token="more"), listed(9, pod("b", 2)))
    ) as (client, server):
        page = await client.list(PODS, "ns", labels="a=b", fields="spec.nodeName=n")
        assert [p.metadata.name for p in page.items] == ["a", "b"]
        assert page.resource_version == "9"
        first, second = server.requests
        assert first.path == "/api/v1/namespaces/ns/pods"
        assert first.query["labelSelector"] == "a=b"
        assert first.query["fieldSelector"] == "spec.nodeName=n"
        assert second.query["continue"] == "more"


@pytest.mark.parametrize("most", [600, 1])
async def test_a_page_of_huge_objects_is_fetched_in_smaller_ones(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Who may write objects does not end whoever reads them. One object is read in any case."""
    monkeypatch.setattr(kube_client, "LARGEST_PAGE", most)
    huge = listed(9, *(pod(f"p{n}", n) for n in range(50)), token="more")
    small = listed(9, pod("a", 1), token="more"), listed(9, pod("b", 2))
    steps = (huge, huge, *small) if most == 600 else (huge, huge, huge, *small)
    async with scripted(lambda s: s.then(*steps)) as (client, server):
        page = await client.list(PODS)
        assert [p.metadata.name for p in page.items] == ["a", "b"]
        limits = [request.query["limit"] for request in server.requests]
        assert limits == (["500", "62", "7", "7"] if most == 600 else ["500", "62", "7", "1", "1"])


async def test_after_huge_objects_pages_grow_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a few of them would cost a request for each of all others."""
    monkeypatch.setattr(kube_client, "LARGEST_PAGE", 4000)
    huge = listed(9, *(pod(f"p{n}", n) for n in range(50)), token="more")
    small = [listed(9, pod(f"a{n}", 1), token="more") for n in range(10)]
    async with scripted(lambda s: s.then(huge, huge, huge, *small, listed(9))) as (client, server):
        assert len((await client.list(PODS)).items) == 10
        limits = [int(request.query["limit"]) for request in server.requests]
        assert limits == [500, 62, 7, *(min(500, 2**n) for n in range(11))]


async def test_apply_is_server_side_apply_by_the_field_manager() -> None:
    async with scripted(lambda s: s.then(echo(ANSWER))) as (client, server):
        await client.apply(POD_ENDPOINTS, ENDPOINT)
        (request,) = server.requests
        assert request.method == "PATCH"
        assert request.content_type == "application/apply-patch+yaml"
        assert dict(request.query) == {"fieldManager": "tester", "force": "true"}
        assert json.loads(server.bodies[0]) == {
            "apiVersion": "egressgateway.kubernetes.azure.com/v1alpha1",
            "kind": "PodEndpoint",
            "metadata": {"name": "p", "namespace": "ns"},
            "spec": {"podUid": "u"},
        }


async def test_delete_may_demand_a_uid() -> None:
    async with scripted(lambda s: s.then(echo({"kind": "Status", "status": "Success"}))) as (
        client,
        server,
    ):
        await client.delete(PODS, "p", "ns", uid="u", grace_seconds=0)
        assert json.loads(server.bodies[0])["preconditions"] == {"uid": "u"}
        assert json.loads(server.bodies[0])["gracePeriodSeconds"] == 0


async def test_replacing_a_status_is_conditional_on_the_version() -> None:
    async with scripted(lambda s: s.then(echo(ANSWER))) as (client, server):
        await client.replace_status(POD_ENDPOINTS, ENDPOINT)
        (request,) = server.requests
        assert (request.method, request.path.endswith("/podendpoints/p/status")) == ("PUT", True)
        assert json.loads(server.bodies[0])["metadata"]["resourceVersion"] == "4"


async def test_a_refusal_says_what_was_asked() -> None:
    async with scripted(lambda s: s.then(status(404, "NotFound"))) as (client, _):
        with pytest.raises(errors.NotFound, match="GET /api/v1/namespaces/ns/pods/p: NotFound"):
            await client.get(PODS, "p", "ns")


async def test_a_shedding_server_is_asked_again_after_the_time_it_names() -> None:
    async with scripted(
        lambda s: s.then(status(429, "TooManyRequests", **{"Retry-After": "0"}), echo(pod("a", 1)))
    ) as (client, server):
        assert (await client.get(PODS, "a", "ns")).metadata.name == "a"
        assert len(server.requests) == 2


async def test_an_expired_token_is_read_anew_once() -> None:
    server = Script()
    server.then(status(401, "Unauthorized"), echo(pod("a", 1)), status(401), status(401))
    asked: list[bool] = []

    def token(fresh: bool) -> str:
        asked.append(fresh)
        return "new" if fresh else "old"

    async with serving(server, token=token) as client:
        await client.get(PODS, "a", "ns")
        sent = [r.headers["Authorization"] for r in server.requests]
        assert sent == ["Bearer old", "Bearer new"]
        with pytest.raises(errors.Unauthorized):
            await client.get(PODS, "a", "ns")
        assert asked == [False, True, False, True]


async def test_no_server_is_unavailable() -> None:
    async with Client(ClusterAccess(server="http://127.0.0.1:9"), "t") as client:
        with pytest.raises(errors.Unavailable, match="GET /api/v1/namespaces/ns/pods/p"):
            await client.get(PODS, "p", "ns")


async def test_an_answer_that_is_no_object_is_unavailable_rather_than_a_crash() -> None:
    async with scripted(lambda s: s.then(echo({"unexpected": 1}))) as (client, _):
        with pytest.raises(errors.Unavailable, match="does not decode"):
            await client.get(SGCS, "p", "ns")


async def test_a_watch_yields_changes_and_bookmarks_and_ends_with_the_server() -> None:
    async with scripted(lambda s: s.then(watched(event("ADDED", pod("a", 6)), bookmark(8)))) as (
        client,
        server,
    ):
        seen = [e async for e in client.watch(PODS, "ns", resource_version="5")]
        assert [(e.type, e.resource_version) for e in seen] == [("ADDED", "6"), ("BOOKMARK", "8")]
        query = server.requests[0].query
        assert query["resourceVersion"] == "5"
        assert query["allowWatchBookmarks"] == "true"


@pytest.mark.parametrize("text", [b'{"metadata": {"name": "\xff"}}', b"[" * 100_000])
async def test_text_that_cannot_be_read_is_unavailable_too(text: bytes) -> None:
    def answers(body: bytes) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def step(_: web.Request) -> web.StreamResponse:
            return web.Response(body=body, content_type="application/json")

        return step

    steps = answers(text), answers(b'{"items": [%b]}' % text)
    async with scripted(lambda s: s.then(*steps)) as (client, _):
        with pytest.raises(errors.Unavailable, match="does not decode"):
            await client.get(PODS, "p", "ns")
        with pytest.raises(errors.Unavailable, match="does not decode"):
            await client.list(PODS, "ns")


async def test_a_watch_of_a_forgotten_version_is_gone() -> None:
    async with scripted(lambda s: s.then(watched(gone()), status(410, "Expired"))) as (client, _):
        for _attempt in range(2):
            with pytest.raises(errors.Gone):
                async for _event in client.watch(PODS, resource_version="1"):
                    pass


async def test_a_silent_watch_is_given_up() -> None:
    async with scripted(lambda s: s.then(watched(hold=True))) as (client, _):
        with pytest.raises(errors.Unavailable):
            async for _event in client.watch(PODS, resource_version="1", inactivity=0.05):
                pass


async def test_a_torn_watch_is_unavailable() -> None:
    async with scripted(lambda s: s.then(watched(event("ADDED", pod("a", 6)), tear=True))) as (
        client,
        _,
    ):
        changes = client.watch(PODS, resource_version="1")
        assert (await anext(changes)).resource_version == "6"
        with pytest.raises(errors.Unavailable):
            await anext(changes)


async def test_leaving_a_watch_early_closes_its_connection() -> None:
    async with scripted(lambda s: s.then(watched(event("ADDED", pod("a", 6)), hold=True))) as (
        client,
        _,
    ):
        async with aclosing(client.watch(PODS, resource_version="1")) as changes:
            async for _change in changes:
                break


async def test_a_very_long_watch_line_is_read() -> None:
    big = pod("a", 6)
    big["metadata"]["annotations"] = {"x": "y" * 3_000_000}
    async with scripted(lambda s: s.then(watched(event("ADDED", big)))) as (client, _):
        seen = [e async for e in client.watch(PODS, resource_version="5")]
        assert len(seen) == 1
