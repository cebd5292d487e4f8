"""Two who look at the same objects cost one request, and see the same."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import pytest

from egress_gateway.cli.once import Once
from egress_gateway.kube import resources, wire
from egress_gateway.kube.errors import Forbidden


class Server:
    """Counts what it is asked for."""

    def __init__(self, items: list[dict[str, Any]], error: Exception | None = None) -> None:
        self.asked: list[tuple[str | None, ...]] = []
        self._items = items
        self._error = error

    def now(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC)

    async def list(
        self,
        resource: Any,
        namespace: str | None = None,
        *,
        labels: str | None = None,
        fields: str | None = None,
    ) -> Any:
        self.asked.append((resource.plural, namespace, labels, fields))
        await asyncio.sleep(0)
        if self._error:
            raise self._error
        if resource.type is not dict:
            return wire.decode_list(resource, b'{"items": [{"metadata": {"name": "read"}}]}')
        return wire.ListPage(items=self._items, resource_version="1")


POD = {"metadata": {"name": "p", "namespace": "shop"}, "spec": {"nodeName": "n"}, "extra": 1}


async def test_one_request_serves_whoever_asks_for_the_same() -> None:
    server = Server([POD])
    once = Once(server)
    typed, whole, again = await asyncio.gather(
        once.list(resources.PODS, "shop"),
        once.list(resources.PODS.untyped(), "shop"),
        once.list(resources.PODS, "shop"),
    )
    assert [p.spec.node_name for p in typed.items] == ["n"]
    assert whole.items == [POD]
    assert again.items == typed.items
    await once.list(resources.PODS)
    await once.list(resources.PODS, labels="a=b")
    await once.list(resources.PODS, fields="a=b")
    assert server.asked == [
        ("pods", "shop", None, None),
        ("pods", None, None, None),
        ("pods", None, "a=b", None),
        ("pods", None, None, "a=b"),
    ]


async def test_what_is_no_such_object_is_left_out_as_a_client_does() -> None:
    page = await Once(Server([POD, {"metadata": {"name": "q"}, "spec": 7}])).list(resources.PODS)
    assert [p.metadata.name for p in page.items] == ["p"]
    assert len(page.undecodable) == 1


async def test_a_refusal_is_heard_by_everybody() -> None:
    server = Server([], Forbidden(403, "Forbidden", "not yours"))
    once = Once(server)
    for _ in range(2):
        with pytest.raises(Forbidden):
            await once.list(resources.NODES)
    assert len(server.asked) == 1


async def test_what_is_nested_too_deep_to_be_written_again_is_read_again() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"f:a": deep}
    pod = {"metadata": {"name": "p", "managedFields": [{"fieldsV1": deep}]}}
    page = await Once(Server([pod])).list(resources.PODS)
    assert [p.metadata.name for p in page.items] == ["read"]
