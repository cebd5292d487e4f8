"""Whatever a client sends, the answer is Azure's: accepted, or refused in ARM's shape."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from egress_gateway_lab.azure.arm.errors import ArmError
from lab.tests.azure.running import GROUP, NODE_GROUP
from lab.tests.unit.azure.in_process import InProcess, documents, in_process

DOCUMENTS = documents()
IDS = [
    *DOCUMENTS,
    f"{NODE_GROUP}/providers/Microsoft.Network/loadBalancers/kubernetes",
    "/subscriptions/x",
    "/",
    "",
    "not an id",
    f"{GROUP}/providers",
]
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 70000),
    st.sampled_from([2**63, -(2**63), 10**30, 1.5]),
    st.sampled_from(["", "/", "a/b", "x" * 300, "10.1.0.5", "10.1.0.0/33", "fe80::1", "1.34.x"]),
    st.text(max_size=4),
    st.sampled_from([{}, [], [None], [{}], {"id": None}, {"id": 5}, {"properties": None}]).map(
        copy.deepcopy
    ),
    st.sampled_from(IDS).map(lambda i: {"id": i}),
)
PLAIN_ODD = st.sampled_from([None, True, 5, "text", [], {}, [1], {"a": 1}])


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document."""
    if at:
        yield at
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(item, (*at, key))


@st.composite
def mutated(draw: st.DrawFn, document: Any) -> Any:
    """A document with one to three things wrong or just different."""
    found = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = list(paths(found))
        if not places:
            break
        *way, last = draw(st.sampled_from(places))
        owner = found
        for key in way:
            owner = owner[key]
        change = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if change == "replace":
            owner[last] = draw(ODD)
        elif change == "remove":
            del owner[last]
        elif isinstance(owner, list):
            owner.append(copy.deepcopy(owner[last]))
        else:
            owner[draw(st.sampled_from(["name", "id", "properties", "etag", "x"]))] = draw(ODD)
    return found


def fresh(world: InProcess, path: str) -> None:
    """All that the document at ``path`` needs."""
    for other, body in DOCUMENTS.items():
        if other == path:
            return
        if "roleAssignments" not in other:
            world.put(other, body)


def in_order(world: InProcess, answer: Any) -> None:
    if isinstance(answer, ArmError):
        assert 400 <= answer.status < 500, answer
        error = answer.error()
        assert isinstance(error["code"], str)
        assert error["message"]
    for operation in world.settle():
        assert operation.error is None or operation.error["code"] != "InternalServerError", (
            operation.error
        )


def read_everything(world: InProcess) -> None:
    for entry in world.azure.store.everything():
        if "/providers/" in entry.id:
            answer = world.ask("GET", entry.id)
            assert not isinstance(answer, ArmError), answer
            assert not isinstance(world.ask("GET", entry.id.rpartition("/")[0]), ArmError)


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.rpartition("/providers/")[2][-40:])
def test_no_document_breaks_the_emulator(path: str, method: str) -> None:
    with in_process() as world:
        fresh(world, path)
        if method == "PATCH" and "roleAssignments" not in path:
            world.put(path, DOCUMENTS[path])

        @settings(
            max_examples=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            phases=[Phase.generate],
        )
        @given(st.one_of(mutated(DOCUMENTS[path]), PLAIN_ODD))
        def send(body: Any) -> None:
            in_order(world, world.ask(method, path, body))
            read_everything(world)

        send()


def test_the_documents_themselves_are_accepted() -> None:
    with in_process() as world:
        fresh(world, "")
        for path, body in DOCUMENTS.items():
            if "roleAssignments" not in path:
                world.put(path, body)


def test_a_scale_set_without_the_size_of_its_machines_is_refused_by_name() -> None:
    """It was accepted, and broke the operation that made the first machine."""
    path = next(
        p for p in DOCUMENTS if "virtualMachineScaleSets" in p and "/virtualMachines/" not in p
    )
    body = copy.deepcopy(DOCUMENTS[path])
    body["sku"] = {"capacity": 2}
    with in_process() as world:
        fresh(world, path)
        answer = world.ask("PUT", path, body)
        assert isinstance(answer, ArmError)
        assert (answer.status, "sku.name" in answer.error()["message"]) == (400, True)
