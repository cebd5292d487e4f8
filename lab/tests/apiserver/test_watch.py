"""Watches: every change once and in order, from wherever the client left off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lab.tests.apiserver.conftest import Cluster, Serving
from lab.tests.apiserver.test_custom_resources import WIDGETS, define, spec_schema, widget
from lab.tests.apiserver.test_objects import config_map

Events = AsyncIterator[dict[str, Any]]


async def take(events: Events, count: int) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            event = await anext(events)
            if event["type"] != "BOOKMARK":
                found.append((event["type"], event["object"]["metadata"]["name"]))
    return found


async def close(events: Events) -> None:
    await events.aclose()  # type: ignore[attr-defined]


async def write(cluster: Cluster, name: str, value: str) -> None:
    await cluster.admin.patch("configmaps", name, {"data": {"a": value}}, namespace="default")


async def test_a_watch_goes_on_where_a_list_ended(cluster: Cluster) -> None:
    await cluster.admin.create("configmaps", config_map("before"))
    page = await cluster.admin.list_page("configmaps", "default")
    await cluster.admin.create("configmaps", config_map("between"))
    events = cluster.admin.watch(
        "configmaps", namespace="default", since=page["metadata"]["resourceVersion"]
    )
    assert await take(events, 1) == [("ADDED", "between")]
    await write(cluster, "between", "2")
    await cluster.admin.delete("configmaps", "between", namespace="default")
    assert await take(events, 2) == [("MODIFIED", "between"), ("DELETED", "between")]
    await close(events)


async def test_a_watch_from_nowhere_begins_with_what_is_there(cluster: Cluster) -> None:
    await cluster.admin.create("configmaps", config_map("a", watched="yes"))
    events = cluster.admin.watch("configmaps", namespace="default", labels="watched")
    assert await take(events, 1) == [("ADDED", "a")]
    await cluster.admin.create("configmaps", config_map("b", watched="yes"))
    assert await take(events, 1) == [("ADDED", "b")]
    await close(events)


async def test_leaving_a_selection_is_a_deletion_and_entering_an_addition(cluster: Cluster) -> None:
    await cluster.admin.create("configmaps", config_map("a", app="x"))
    events = cluster.admin.watch("configmaps", namespace="default", labels="app=x")
    assert await take(events, 1) == [("ADDED", "a")]
    relabel = {"metadata": {"labels": {"app": "y"}}}
    await cluster.admin.patch("configmaps", "a", relabel, namespace="default")
    relabel = {"metadata": {"labels": {"app": "x"}}}
    await cluster.admin.patch("configmaps", "a", relabel, namespace="default")
    assert await take(events, 2) == [("DELETED", "a"), ("ADDED", "a")]
    await close(events)


@pytest.mark.embedded_only("a real one forgets after minutes")
async def test_a_revision_that_is_forgotten_is_410_and_a_list_helps(serving: Serving) -> None:
    async with serving(history=10) as cluster:
        await cluster.admin.create("configmaps", config_map("a"))
        page = await cluster.admin.list_page("configmaps", "default")
        old = page["metadata"]["resourceVersion"]
        # A real server remembers each kind from when it first served it.
        await define(cluster, spec_schema(a={"type": "string"}))
        await cluster.admin.create(WIDGETS, widget({}))
        for i in range(20):
            change = {"spec": {"a": str(i)}}
            await cluster.admin.patch(WIDGETS, "w", change, namespace="default")
        events = cluster.admin.watch(WIDGETS, since=old)
        event = await anext(events)
        assert event["type"] == "ERROR", event
        assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")
        await close(events)
        new = (await cluster.admin.list_page("configmaps", "default"))["metadata"]
        events = cluster.admin.watch(
            "configmaps", namespace="default", since=new["resourceVersion"]
        )
        await write(cluster, "a", "last")
        assert await take(events, 1) == [("MODIFIED", "a")]
        await close(events)


async def test_a_watch_ends_when_its_time_is_up(cluster: Cluster) -> None:
    path = "/api/v1/namespaces/default/secrets"
    events = cluster.admin.transport.watch(path, query={"timeoutSeconds": "1"})
    assert [event async for event in events] == []


async def test_initial_events_end_with_a_marked_bookmark(cluster: Cluster) -> None:
    await cluster.admin.create("configmaps", config_map("a", watched="yes"))
    query = {
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
        "labelSelector": "watched",
    }
    path = "/api/v1/namespaces/default/configmaps"
    events = cluster.admin.transport.watch(path, query=query)
    async with asyncio.timeout(60):
        first, second = await anext(events), await anext(events)
    assert first["type"] == "ADDED"
    assert second["type"] == "BOOKMARK"
    assert second["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    await close(events)


async def test_many_changes_arrive_complete_and_in_order(cluster: Cluster) -> None:
    await cluster.admin.create("configmaps", config_map("a"))
    page = await cluster.admin.list_page("configmaps", "default")
    events = cluster.admin.watch(
        "configmaps", namespace="default", since=page["metadata"]["resourceVersion"]
    )
    # A few at a time: a real server tries again for each that another overtook.
    at_once = asyncio.Semaphore(8)

    async def change(number: int) -> None:
        async with at_once:
            await write(cluster, "a", str(number))

    await asyncio.gather(*(change(i) for i in range(200)))
    versions: list[int] = []
    async with asyncio.timeout(60):
        while len(versions) < 200:
            event = await anext(events)
            if event["type"] == "MODIFIED":
                versions.append(int(event["object"]["metadata"]["resourceVersion"]))
    assert versions == sorted(set(versions))
    await close(events)


@pytest.mark.embedded_only("the real one is shared by all tests")
async def test_a_server_that_stops_ends_its_watches(cluster: Cluster) -> None:
    events = cluster.admin.watch("configmaps", namespace="default", since="")
    await take(events, 1)
    await cluster.server.stop()
    with pytest.raises((StopAsyncIteration, OSError, asyncio.IncompleteReadError, Exception)):
        await take(events, 1)
