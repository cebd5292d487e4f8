"""What the Go project's controller sent and what it left, met by the emulator as it was then."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from egress_gateway_lab.azure import snapshot
from lab.tests.azure.conftest import Person, send
from lab.tests.azure.running import Running

GOLDEN = Path(__file__).parent / "golden"
CONFIGURATION = "egressgateway-4b015864-070c-4dab-8cb8-223265aa6ea5"
NOT_OURS = ("egressgateway-734399aa", "egressgateway-759719fd", "aks-npvms")
"""Names of what belongs to the other configurations of the recorded end."""
ON_THE_BALANCER = ("160fe5b4-e5f2-5be5-a1b6-27ff69b2a0e3", "2761680d-3bfb-4330-9dbc-3bceb3583106")
"""The pool's and the rule's names in the recorded requests."""


def end_state() -> list[dict[str, Any]]:
    state = json.loads((GOLDEN / "end-state.json").read_text())
    documents: list[dict[str, Any]] = state["arm"]
    return documents


def before() -> list[dict[str, Any]]:
    """The recorded end without anything that a configuration had brought."""
    kept = []
    for document in copy.deepcopy(end_state()):
        words = document["id"]
        if "egressgateway" in words or "kubeegressgateway" in words or "npvms" in words:
            continue
        without_configurations(document)
        kept.append(document)
    return kept


def without_configurations(value: Any) -> None:
    """Drops gateway ipConfigs and memberships in the gateway's balancer, in place."""
    if isinstance(value, list):
        value[:] = [v for v in value if not is_gateway_configuration(v)]
        for item in value:
            without_configurations(item)
    elif isinstance(value, dict):
        value.pop("loadBalancerBackendAddressPools", None)
        for item in value.values():
            without_configurations(item)


def is_gateway_configuration(value: Any) -> bool:
    return isinstance(value, dict) and str(value.get("name", "")).startswith("egressgateway-")


def lacking(golden: Any, ours: Any, path: str = "") -> Iterator[str]:
    """Where the recorded document has something of a kind that ours has not."""
    if isinstance(golden, dict):
        for key, value in golden.items():
            if not isinstance(ours, dict) or key not in ours:
                yield f"{path}/{key}"
            else:
                yield from lacking(value, ours[key], f"{path}/{key}")
    elif isinstance(golden, list):
        mine = {i.get("name") or i.get("id"): i for i in ours if isinstance(i, dict)}
        for item in golden:
            name = item.get("name") or item.get("id") if isinstance(item, dict) else None
            if name and not any(other in name for other in NOT_OURS):
                yield from lacking(item, mine.get(name), f"{path}[{name}]")
    elif type(golden) is not type(ours):
        yield path


def misshapen(step: dict[str, Any], answer: Any) -> Iterator[str]:
    """What a Go client of that time could not read in an answer. The recording has no bodies;
    what they must hold is known from the resources that it ended with."""
    path = step["path"]
    if step["status"] == 404:
        if (
            answer["error"]["code"] != "ResourceNotFound"
            or path.rpartition("/")[2] not in (answer["error"]["message"])
        ):
            yield f"not ARM's refusal: {answer}"
        return
    if (path.count("/") - 2) % 2:  # a collection: /subscriptions/S, then pairs
        if not isinstance(answer["value"], list):
            yield "a list has no value"
        for item in answer["value"]:
            yield from header(item, under=path)
        return
    yield from header(answer, under=path.rpartition("/")[0])
    sent = step.get("body") or {}
    for section, value in sent.get("properties", {}).items():
        if section != "networkProfileConfiguration" and section != "virtualMachineProfile":
            yield from lacking(value, answer["properties"].get(section), section)


def header(item: dict[str, Any], *, under: str) -> Iterator[str]:
    """Every resource says who it is and how it fares, whatever the case of the request."""
    for field in ("id", "name", "properties"):
        if field not in item:
            yield f"no {field}"
    if not item.get("id", "").lower().startswith(under.lower()):
        yield f"{item.get('id')} is not under {under}"
    if "provisioningState" not in item.get("properties", {}):
        yield f"{item.get('id')} has no provisioningState"


async def test_every_recorded_request_gets_the_recorded_kind_of_answer(
    azure: Running, person: Person
) -> None:
    recorded = [json.loads(line) for line in (GOLDEN / "apply-one.jsonl").read_text().splitlines()]

    async def seed() -> None:
        snapshot.load(azure.emulator.azure, before())

    azure.call(seed())
    async with person() as client:
        for number, step in enumerate(recorded):
            url = f"{azure.base}{step['path']}?api-version={step['api_version']}"
            status, answer, headers = await send(client, step["method"], url, step.get("body"))
            assert status == step["status"], f"request {number}: {step['path']}"
            assert list(misshapen(step, answer)) == [], f"request {number}: {step['path']}"
            await client.wait(headers)
    for golden in end_state():
        if any(other in golden["id"] for other in NOT_OURS):
            continue
        ours = azure.emulator.resources.get(golden["id"])
        assert ours is not None, golden["id"]
        properties = golden["properties"]
        if golden["type"] == "Microsoft.Network/loadBalancers":
            properties = {
                section: [i for i in items if i["name"] in ON_THE_BALANCER]
                for section, items in properties.items()
                if isinstance(items, list)
            }
            assert all(properties[section] for section in ("loadBalancingRules", "probes"))
        assert list(lacking(properties, ours["properties"])) == [], golden["id"]
    nic = next(
        n
        for n in azure.emulator.resources.list("Microsoft.Network/networkInterfaces")
        if n["id"].endswith("/virtualMachines/1/networkInterfaces/npegress")
    )
    configuration = next(
        c for c in nic["properties"]["ipConfigurations"] if c["name"] == CONFIGURATION
    )
    public = azure.emulator.resources.get(configuration["properties"]["publicIPAddress"]["id"])
    assert public is not None
    assert public["properties"]["ipAddress"] == "203.0.113.1"


async def test_the_recorded_end_can_be_loaded_and_is_answered_as_it_was(
    azure: Running, person: Person
) -> None:
    async def seed() -> None:
        snapshot.load(azure.emulator.azure, end_state())

    azure.call(seed())
    async with person() as client:
        for golden in end_state():
            ours = await client.get(golden["id"], "2024-05-01")
            missing = list(lacking(golden["properties"], ours["properties"]))
            assert missing == [], golden["id"]
            assert ours["properties"].get("ipAddress") == golden["properties"].get("ipAddress")
