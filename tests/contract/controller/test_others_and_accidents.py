"""What else is in Azure, what goes wrong there, and what people bring that cannot work: the whole
controller on the emulator."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway_lab.azure.emulator import SUBSCRIPTION
from egress_gateway_lab.azure.providers.compute.scalesets import ScaleSets
from tests.contract.controller.azure_lab import GROUP, AzureLab, azure_lab
from tests.contract.controller.pools.test_own_scale_set import (
    SUBNET,
    VERSION,
    build,
    damage_set,
    grant,
    write,
)
from tests.contract.controller.test_as_azure_answers import (
    MODEL,
    delete,
    provisioned,
    scale_set,
    whole,
)
from tests.contract.controller.test_controller import (
    SGCS,
    SYSTEM,
    World,
    api_server,
    condition,
    controller,
    reason,
    running,
)

PREFIXES = f"{GROUP}/providers/Microsoft.Network/publicIPPrefixes"
SOON = 180.0
"""Seconds, on a machine with other work, where a leader may lose its Lease: a few are enough."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Compute's buckets are another matter: here a dozen things happen in seconds."""
    async with running(tmp_path, share=None, drift_interval=2.0) as made:
        yield made


def network(lab: AzureLab) -> str:
    group = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{lab.node_group}"
    return f"{group}/providers/Microsoft.Network"


def balancer_id(lab: AzureLab) -> str:
    return f"{network(lab)}/loadBalancers/{names.LOAD_BALANCER}"


async def gone(world: World, name: str) -> None:
    await delete(world, name)
    await world.kube.wait_for(
        SGCS, name, lambda found: found is None, namespace="default", timeout=SOON
    )


# --- what goes between our look and our write -------------------------------------------------


@pytest.mark.parametrize("write_of", [MODEL, r"virtualMachines/\d+$"])
async def test_a_scale_set_that_goes_while_it_is_written_stays_gone(
    world: World, write_of: str
) -> None:
    before = await world.azure.resources()
    pool = (await scale_set(world))["id"]
    fault = world.azure.emulator.faults.add(
        "delay", method="PUT", path=write_of, seconds=1.5, times=2
    )
    await world.write("a")
    async with asyncio.timeout(SOON):
        while not fault.hits:
            await asyncio.sleep(0.02)
    await world.azure.person.delete(pool, VERSION)
    sgc = await world.until("a", lambda s: reason(s) == "GatewayPoolNotFound", timeout=SOON)
    assert "nodepool add" in condition(sgc, "Ready")["message"]
    left = world.azure.emulator.azure.store.of_type(ScaleSets.type)
    assert pool not in {s["id"] for s in left}, "a part of it does not bring it back"
    await gone(world, "a")
    async with asyncio.timeout(SOON):
        while await world.azure.resources() != before:
            await asyncio.sleep(0.1)


async def test_an_instance_that_is_scaled_in_while_it_is_written_accuses_nobody(
    world: World,
) -> None:
    for name in ("one", "two"):
        await world.write(name)
        await world.until(name, whole)
    told: list[str] = []
    fault = world.azure.emulator.faults.add(
        "delay", method="PUT", path=r"virtualMachines/1$", seconds=1.5
    )
    await world.write("three")
    async with asyncio.timeout(SOON):
        while not fault.hits:
            await asyncio.sleep(0.02)
    pool = (await scale_set(world))["id"]
    await world.azure.person.post(f"{pool}/delete", {"instanceIds": ["1"]}, VERSION)
    for name in ("one", "two", "three"):
        sgc = await world.until(
            name, lambda s: provisioned(s) and len(s["status"].get("gateways", [])) == 1, SOON
        )
        told.append(condition(sgc, "Provisioned")["message"])
    told += [e["message"] for e in await world.kube.list("events", namespace="default")]
    assert not any("a prefix of yours" in each for each in told), told


# --- what passes by itself --------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "cancel-operation"},
        {"kind": "fail-operation", "status": 409, "code": "Canceled"},
        {"kind": "fail-operation", "status": 500, "code": "InternalExecutionError"},
        {"kind": "error", "status": 500, "code": "InternalExecutionError"},
        {"kind": "error", "status": 503, "code": "ServerBusy"},
        {"kind": "html", "status": 502},
        {"kind": "html", "status": 503},
    ],
    ids=lambda fault: "-".join(str(v) for v in fault.values()),
)
@pytest.mark.parametrize("path", [MODEL, r"virtualMachines/\d+$", r"loadBalancers/"])
async def test_what_passes_by_itself_accuses_nobody(
    world: World, fault: dict[str, Any], path: str, caplog: pytest.LogCaptureFixture
) -> None:
    await world.write("old")
    await world.until("old", whole)
    kind, options = fault["kind"], {k: v for k, v in fault.items() if k != "kind"}
    rule = world.azure.emulator.faults.add(kind, method="PUT", path=path, times=4, **options)
    for name in ("a", "b"):
        await world.write(name)
    for name in ("a", "b", "old"):
        await world.until(name, whole, timeout=SOON)
    assert rule.hits >= 1
    events = await world.kube.list("events", namespace="default")
    told = [e["message"] for e in events if e["type"] == "Warning"]
    assert not any("smaller groups" in each or "correct spec" in each for each in told), told
    traces = [r for r in caplog.records if r.exc_info and r.name.startswith("egress_gateway.")]
    assert traces == []
    assert not any("<html" in r.getMessage().lower() for r in caplog.records), "a page in the log"


async def test_a_front_door_in_place_of_every_look_costs_nobody_anything(world: World) -> None:
    await world.write("old")
    await world.until("old", whole)
    world.azure.emulator.faults.add("html", method="GET", status=502, times=30)
    await world.write("new")
    await world.until("new", whole, timeout=SOON)
    sgc = await world.until("old", whole)
    assert len(sgc["status"]["gateways"]) == 2


# --- what belongs to others -------------------------------------------------------------------


async def test_what_others_have_on_our_load_balancer_stays(world: World) -> None:
    """A frontend of IPv6 and a pool of addresses are neither ours nor in our way."""
    await world.azure.add_ipv6("2001:db8:24::/64", "2001:db8:24::/56")
    await world.write("first")
    await world.until("first", whole)
    person, where = world.azure.person, balancer_id(world.azure)
    document = await person.get(where, VERSION)
    properties = document["properties"]
    subnet = properties["frontendIPConfigurations"][0]["properties"]["subnet"]
    member = {"name": "theirs", "properties": {"ipAddress": "10.224.9.9"}}
    properties["frontendIPConfigurations"].append(
        {
            "name": "theirs6",
            "properties": {"privateIPAddressVersion": "IPv6", "subnet": {"id": subnet["id"]}},
        }
    )
    properties["backendAddressPools"].append(
        {"name": "by-address", "properties": {"loadBalancerBackendAddresses": [member]}}
    )
    await person.put(where, document, VERSION)
    before = theirs(await person.get(where, VERSION))
    assert len(before) == 2
    await world.write("second")
    await world.until("second", whole, timeout=SOON)
    assert theirs(await person.get(where, VERSION)) == before
    for name in ("first", "second"):
        await gone(world, name)
    assert theirs(await person.get(where, VERSION)) == before


def theirs(balancer: dict[str, Any]) -> list[dict[str, Any]]:
    """What is not ours, without what changes with every write."""
    found = []
    for collection in ("frontendIPConfigurations", "backendAddressPools"):
        for item in copy.deepcopy(balancer["properties"][collection]):
            if item["name"] in ("theirs6", "by-address"):
                item.pop("etag", None)
                found.append(item)
    return found


@pytest.mark.parametrize("zones", [[], ["1", "2", "3"]])
async def test_frontend_and_managed_prefixes_are_in_the_zones_of_the_setting(
    tmp_path: Path, zones: list[str]
) -> None:
    async with azure_lab(tmp_path) as azure, api_server(tmp_path) as (_, kube, path):
        (tmp_path / "azure.json").write_text(json.dumps(azure.config | {"zones": zones}))
        await azure.add_pool("npegress")
        world = World(azure, kube)
        async with controller(tmp_path, path):
            await world.write("a")
            await world.until("a", provisioned)
            balancer = await azure.person.get(balancer_id(azure), VERSION)
            (frontend,) = balancer["properties"]["frontendIPConfigurations"]
            (prefix,) = await azure.person.list(f"{network(azure)}/publicIPPrefixes", VERSION)
            assert frontend.get("zones", []) == prefix.get("zones", []) == zones
        (tmp_path / "azure.json").write_text(json.dumps(azure.config | {"zones": ["1", "2", "3"]}))
        async with controller(tmp_path, path):  # what exists keeps its zones
            await world.write("b")
            await world.until("b", provisioned)
            balancer = await azure.person.get(balancer_id(azure), VERSION)
            (frontend,) = balancer["properties"]["frontendIPConfigurations"]
            assert frontend.get("zones", []) == zones


# --- what people bring ------------------------------------------------------------------------


BAD_PREFIXES: dict[str, tuple[dict[str, Any], str]] = {
    "region": ({"location": "westeurope"}, "westeurope"),
    "SKU": ({"sku": {"name": "StandardV2"}}, "StandardV2"),
    "tier": ({"sku": {"name": "Standard", "tier": "Global"}}, "Global"),
    "length": ({"properties": {"prefixLength": 29}}, "length 29"),
}


@pytest.mark.parametrize("bad", BAD_PREFIXES)
async def test_a_prefix_that_cannot_serve_is_one_s_own_problem(world: World, bad: str) -> None:
    changes, named = BAD_PREFIXES[bad]
    body = {
        "location": "swedencentral",
        "sku": {"name": "Standard"},
        "properties": {"prefixLength": 30},
    } | changes
    await world.azure.person.put(f"{PREFIXES}/bad", body, VERSION)
    await world.azure.grant(f"{PREFIXES}/bad")
    await world.write("bad", publicIpPrefixId=f"{PREFIXES}/bad")
    sgc = await world.until("bad", lambda s: reason(s).startswith("PublicIPPrefix"))
    message = condition(sgc, "Ready")["message"]
    assert named in message
    assert "use " in message, "what mends it"
    await world.write("good")
    await world.until("good", whole, timeout=SOON)
    await gone(world, "bad")


async def test_a_prefix_of_another_zone_than_the_nodes_is_one_s_own_problem(world: World) -> None:
    pool = await scale_set(world)
    ScaleSets(world.azure.emulator.azure).save(
        copy.deepcopy(world.azure.emulator.azure.store.get(pool["id"])) | {"zones": ["1", "2"]}  # type: ignore[operator]
    )
    body = {
        "location": "swedencentral",
        "sku": {"name": "Standard"},
        "zones": ["3"],
        "properties": {"prefixLength": 30},
    }
    await world.azure.person.put(f"{PREFIXES}/bad", body, VERSION)
    await world.azure.grant(f"{PREFIXES}/bad")
    await world.write("bad", publicIpPrefixId=f"{PREFIXES}/bad")
    sgc = await world.until("bad", lambda s: reason(s) == "PublicIPPrefixUnusable")
    assert "zone 3" in condition(sgc, "Ready")["message"]
    assert "use a prefix in all zones" in condition(sgc, "Ready")["message"]
    await world.write("good")
    await world.until("good", whole, timeout=SOON)


def flexible(properties: dict[str, Any]) -> None:
    properties["orchestrationMode"] = "Flexible"


def without_subnet(properties: dict[str, Any]) -> None:
    profile = properties["virtualMachineProfile"]["networkProfile"]
    (nic,) = profile["networkInterfaceConfigurations"]
    nic["properties"]["ipConfigurations"][0]["properties"].pop("subnet")


def two_and_none_primary(properties: dict[str, Any]) -> None:
    profile = properties["virtualMachineProfile"]["networkProfile"]
    (nic,) = profile["networkInterfaceConfigurations"]
    nic["properties"]["ipConfigurations"] = [
        {"name": name, "properties": {"subnet": {"id": SUBNET}}} for name in ("x", "y")
    ]


@pytest.mark.parametrize(
    ("damage", "named", "mend"),
    [
        (flexible, "Flexible", "--orchestration-mode Uniform"),
        (without_subnet, "subnet", "az vmss update"),
        (two_and_none_primary, "primary", "az vmss update"),
    ],
)
async def test_a_scale_set_that_cannot_serve_is_one_s_own_problem(
    world: World, damage: Any, named: str, mend: str
) -> None:
    await build(world)
    await grant(world)
    damage_set(world, damage)
    await write(world, "bad")
    sgc = await world.until("bad", lambda s: reason(s) == "GatewayPoolUnusable")
    assert named in condition(sgc, "Ready")["message"]
    assert mend in condition(sgc, "Ready")["message"]
    await world.write("good")
    await world.until("good", whole, timeout=SOON)
    await gone(world, "bad")


@pytest.mark.parametrize(
    ("denial", "path", "told", "mend"),
    [
        ("assignment", "publicIPPrefixes/egressgateway-", "deny assignment", "nrg-lockdown"),
        ("tenant", "publicIPPrefixes/egressgateway-", "tenant", "own tenant"),
    ],
)
async def test_what_is_denied_is_told_as_such_and_others_go_on(
    world: World, denial: str, path: str, told: str, mend: str
) -> None:
    brought = await world.azure.add_prefix("pip")
    await world.azure.grant(brought)
    faults = world.azure.emulator.faults
    faults.add("deny", method="PUT", path=path, denial=denial, times=None)
    await world.write("denied")
    await world.write("good", publicIpPrefixId=brought)
    sgc = await world.until(
        "denied", lambda s: told in condition(s, "Provisioned").get("message", "")
    )
    message = condition(sgc, "Provisioned")["message"]
    assert mend in message
    assert "az role assignment create" not in message
    await world.until("good", whole, timeout=SOON)
    faults.clear()
    await world.until("denied", whole, timeout=SOON)


async def test_what_one_machine_is_denied_is_told_where_the_others_serve(world: World) -> None:
    faults = world.azure.emulator.faults
    faults.add("deny", method="PUT", path="virtualMachines/1$", times=None)
    await world.write("a")
    sgc = await world.until(
        "a", lambda s: reason(s, "Provisioned") == "GatewayInstanceFailed", SOON
    )
    assert provisioned(sgc)
    assert len(sgc["status"]["gateways"]) == 1
    assert "deny assignment" in condition(sgc, "Provisioned")["message"]
    faults.clear()
    await world.until("a", whole, timeout=SOON)


@pytest.mark.parametrize("code", ["OperationNotAllowed", "AnotherOperationInProgress", "SoNew"])
@pytest.mark.parametrize("pause", ["4", "Fri, 31 Dec 1999 23:59:59 GMT", "-1", "soon"])
async def test_another_operation_is_waited_for_whatever_its_words(
    world: World, code: str, pause: str
) -> None:
    body = json.dumps({"error": {"code": code, "message": "Not now."}})
    rule = world.azure.emulator.faults.add(
        "answer",
        method="PUT",
        path=MODEL,
        times=3,
        status=409,
        body=body,
        headers={"Retry-After": pause},
    )
    for name in ("a", "b"):
        await world.write(name)
    for name in ("a", "b"):
        await world.until(name, whole, timeout=SOON)
    assert rule.hits == 3
    told = [e["message"] for e in await world.kube.list("events", namespace="default")]
    assert not any("smaller groups" in each for each in told)


@pytest.mark.parametrize("path", [MODEL, "loadBalancers/"])
async def test_a_deny_assignment_on_what_all_need_costs_nobody_what_he_has(
    world: World, path: str
) -> None:
    await world.write("old")
    await world.until("old", whole)
    faults = world.azure.emulator.faults
    faults.add("deny", method="PUT", path=path, times=None)
    await world.write("new")
    sgc = await world.until(
        "new", lambda s: "deny assignment" in condition(s, "Provisioned").get("message", "")
    )
    assert "nrg-lockdown" in condition(sgc, "Provisioned")["message"]
    assert whole(await world.until("old", lambda s: True))
    faults.clear()
    await world.until("new", whole, timeout=SOON)


# --- what is said of an edit that Azure has not heard of --------------------------------------


AWAY: dict[str, dict[str, Any]] = {
    "401": {"kind": "error", "status": 401, "code": "InvalidAuthenticationToken"},
    "403": {"kind": "deny"},
    "429": {"kind": "throttle"},
    "503": {"kind": "error", "status": 503, "code": "ServerBusy"},
    "cut": {"kind": "cut"},
}
EDITS: dict[str, dict[str, Any]] = {
    "prefix": {"publicIpPrefixId": f"{PREFIXES}/pip"},
    "private": {"provisionPublicIps": False},
    "pool": {"gatewayNodepoolName": "other"},
}


@pytest.mark.parametrize(
    ("edit", "away", "method"),
    [
        ("prefix", "403", "*"),
        ("prefix", "503", "*"),
        ("prefix", "cut", "*"),
        ("prefix", "429", "PUT"),
        ("private", "401", "*"),
        ("pool", "429", "*"),
        ("pool", "429", "PUT"),
    ],
)
async def test_an_edit_that_azure_has_not_heard_of_is_not_called_provisioned(
    world: World, edit: str, away: str, method: str
) -> None:
    await world.azure.add_pool("other")
    for machine in world.azure.machines.machines.values():
        if machine.pool == "other":
            await world.add_node(machine)
    await world.azure.grant(await world.azure.add_prefix("pip"))
    await world.write("a")
    before = await world.until("a", whole)
    world.azure.emulator.faults.add(method=method, times=None, **AWAY[away])
    await world.write("a", **EDITS[edit])
    lies: list[Any] = []

    def told(sgc: dict[str, Any]) -> bool:
        said = condition(sgc, "Provisioned")
        of_edit = bool(said["observedGeneration"] == sgc["metadata"]["generation"])
        if of_edit and (said["status"] == "True" or sgc["status"]["egressIpPrefix"] == ""):
            lies.append(sgc["status"])
        return of_edit

    await world.agents_are_ready(before)  # for which a status is written, whatever Azure says
    sgc = await world.until("a", told, SOON)
    assert lies == []
    assert sgc["status"]["gateways"] == before["status"]["gateways"]
    for gateway in before["status"]["gateways"]:  # that nobody waits for agents to let go
        await world.kube.delete("gatewaystatuses", gateway["node"], namespace=SYSTEM)
    world.azure.emulator.faults.clear()

    def done(sgc: dict[str, Any]) -> bool:
        return whole(sgc) and (
            condition(sgc, "Provisioned")["observedGeneration"] == sgc["metadata"]["generation"]
        )

    after = await world.until("a", done, SOON)
    assert after["status"]["gateways"] != before["status"]["gateways"]


async def test_an_edit_that_asks_nothing_of_azure_is_in_force_while_azure_is_away(
    world: World,
) -> None:
    await world.write("a")
    await world.until("a", whole)
    world.azure.emulator.faults.add("throttle", times=None)
    await world.write("a", excludeCidrs=["10.0.0.0/8"])
    sgc = await world.until("a", lambda s: s["status"]["observedGeneration"] == 2)
    assert condition(sgc, "Provisioned")["status"] == "True"
