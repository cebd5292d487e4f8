"""Answers that are no answers: what a proxy, a front door or Azure itself sends in place of a
document. Whoever asked looks again: nobody is accused, nothing is taken for gone or overwritten."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from egress_gateway_lab.azure.faults import Kind
from tests.contract.controller.test_as_azure_answers import MODEL, whole
from tests.contract.controller.test_controller import World, running
from tests.contract.controller.test_others_and_accidents import SOON, gone


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path, share=None, drift_interval=2.0) as made:
        yield made


ODD: dict[str, dict[str, Any]] = {
    "truncated": {"status": 200, "body": '{"id": "/subscr'},
    "object": {"status": 200, "body": "{}"},
    "page": {"status": 200, "body": "<html>Sign in</html>", "content_type": "text/html"},
    "forbidden": {"status": 403},
    "missing": {"status": 404},
}
"""Every other kind: ``tests/unit/cloud/test_odd_answers.py``."""
PLACES: dict[str, tuple[Kind, str, str]] = {
    "look": ("answer", "GET", "/providers/Microsoft.(Compute|Network)/(?!locations)"),
    "poll": ("answer", "GET", "/operations/"),
    "prefix": ("answer", "PUT", "publicIPPrefixes/"),
    "balancer": ("garble", "PUT", "loadBalancers/"),
    "model": ("garble", "PUT", MODEL),
    "instance": ("garble", "PUT", r"virtualMachines/\d+$"),
}
ACCUSED = ("smaller groups", "correct spec", "prefix of yours", "deny ass", "nodepool add")


@pytest.mark.parametrize("place", PLACES)
async def test_what_is_no_answer_accuses_nobody_and_costs_nobody_anything(
    world: World, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each in turn, three times; then everything is as it was meant."""
    await world.write("old")
    await world.until("old", whole, timeout=SOON)
    kind, method, path = PLACES[place]
    faults = world.azure.emulator.faults
    wrong: list[str] = []
    for number, (odd, answer) in enumerate(ODD.items()):
        rule = faults.add(kind, method=method, path=path, times=3, **answer)
        name = f"n{number}"
        await world.write(name)
        wrong += [f"{odd}: {problem}" for problem in await problems(world, name, caplog)]
        if not rule.hits:
            wrong.append(f"{odd}: not met")
        faults.clear()
    assert not wrong, "\n".join(wrong)


async def problems(world: World, name: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What is amiss until ``name`` and "old" are whole, and ``name`` has gone again."""
    for each in (name, "old"):
        await world.until(each, whole, timeout=SOON)
    await gone(world, name)
    events = await world.kube.list("events", namespace="default")
    for event in events:
        await world.kube.delete("events", event["metadata"]["name"], namespace="default")
    told = [e["message"] for e in events if e["type"] == "Warning"]
    ours = (r for r in caplog.records if r.name.startswith("egress_gateway."))
    traces = [f"{r.getMessage()}: {r.exc_info}" for r in ours if r.exc_info]
    caplog.clear()
    return traces + [each for each in told if any(words in each for words in ACCUSED)]
