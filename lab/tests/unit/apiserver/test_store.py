"""The store against a plain dictionary, and watches against the store."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_gateway_lab.apiserver.errors import StatusError
from egress_gateway_lab.apiserver.storage.store import Store

_OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["put", "delete"]), st.sampled_from("abc"), st.sampled_from("xyz")),
    max_size=40,
)


def write(store: Store, operation: tuple[str, str, str], value: int) -> None:
    verb, namespace, name = operation
    key = (namespace, name)
    obj: dict[str, Any] = {"metadata": {"namespace": namespace, "name": name}, "value": value}
    there = store.get("things", key) is not None
    if verb == "delete":
        if there:
            store.remove("things", key)
    elif there:
        store.replace("things", key, obj)
    else:
        store.create("things", key, obj)


@given(_OPERATIONS, st.integers(0, 40))
async def test_a_watch_from_anywhere_arrives_at_the_present(
    operations: list[tuple[str, str, str]], start: int
) -> None:
    store = Store()
    for i, operation in enumerate(operations[:start]):
        write(store, operation, i)
    seen = {_key(o): o for o in store.list("things")}
    subscription = store.subscribe("things", store.revision)
    for i, operation in enumerate(operations[start:]):
        write(store, operation, 100 + i)
    last = store.revision
    while not subscription.idle:
        event = await subscription.next()
        last = event.revision
        if event.type == "DELETED":
            del seen[_key(event.obj)]
        else:
            seen[_key(event.obj)] = event.obj
    assert last == store.revision
    assert [seen[k] for k in sorted(seen)] == list(store.list("things"))


def _key(obj: dict[str, Any]) -> tuple[str, str]:
    return (obj["metadata"]["namespace"], obj["metadata"]["name"])


@given(_OPERATIONS)
def test_lists_are_sorted_and_filtered(operations: list[tuple[str, str, str]]) -> None:
    store = Store()
    for i, operation in enumerate(operations):
        write(store, operation, i)
    everything = [_key(o) for o in store.list("things")]
    assert everything == sorted(everything)
    for namespace in "abcd":
        inside = [_key(o) for o in store.list("things", namespace)]
        assert inside == [k for k in everything if k[0] == namespace]


def test_what_is_forgotten_is_expired_and_never_skipped() -> None:
    store = Store(history=3)
    for i in range(5):
        write(store, ("put", "a", f"n{i}"), i)
    with pytest.raises(StatusError) as caught:
        store.subscribe("things", 2)
    assert (caught.value.code, caught.value.reason) == (410, "Expired")
    subscription = store.subscribe("things", 3)
    assert not subscription.idle


async def test_a_watch_from_the_future_is_silent_until_then() -> None:
    store = Store()
    subscription = store.subscribe("things", store.revision + 2)
    for i in range(3):
        write(store, ("put", "a", f"n{i}"), i)
    assert (await subscription.next()).obj["value"] == 2


async def test_a_reader_that_falls_behind_is_told() -> None:
    store = Store(backlog=2)
    subscription = store.subscribe("things", store.revision)
    for i in range(3):
        write(store, ("put", "a", f"n{i}"), i)
    assert (await subscription.next()).obj["value"] == 0
    assert (await subscription.next()).obj["value"] == 1
    with pytest.raises(StatusError):
        await subscription.next()
