"""Operations that never end, and others who write what we write: rollouts, policies, Services."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest

from egress_gateway_lab.azure.client import ArmClient, RequestFailed
from lab.tests.azure.conftest import make_cluster, make_gateway_pool, make_prefix, send
from lab.tests.azure.running import GROUP, NODE_GROUP, Running
from lab.tests.azure.test_access import scale_set_with

VERSION = "2024-05-01"
SETS = f"{NODE_GROUP}/providers/Microsoft.Compute/virtualMachineScaleSets"
BALANCER = f"{NODE_GROUP}/providers/Microsoft.Network/loadBalancers/kubernetes"
OWN = f"{GROUP}/providers/Microsoft.Compute/virtualMachineScaleSets/own"
SUBNET = f"{GROUP}/providers/Microsoft.Network/virtualNetworks/net/subnets/one"


async def gateway_set(client: ArmClient) -> dict[str, Any]:
    return next(s for s in await client.list(SETS, VERSION) if "npegress" in s["name"])


async def make_pool(client: ArmClient) -> tuple[dict[str, Any], dict[str, Any]]:
    """A gateway pool of two, and the write that gives its model an address of a prefix."""
    await make_cluster(client)
    await make_gateway_pool(client)
    prefix = await make_prefix(client)
    model = await gateway_set(client)
    return model, scale_set_with(copy.deepcopy(model), prefix["id"])


def instance_body(wanted: dict[str, Any]) -> dict[str, Any]:
    network = wanted["properties"]["virtualMachineProfile"]["networkProfile"]
    properties = {"networkProfileConfiguration": network}
    return {"location": wanted["location"], "properties": properties}


def ip_configs(nic: dict[str, Any]) -> list[str]:
    return [c["name"] for c in nic["properties"]["ipConfigurations"]]


async def set_by_hand(client: ArmClient, *ip_configurations: dict[str, Any]) -> dict[str, Any]:
    """A scale set as ``az vmss create`` makes it: no word of ``primary`` on its ipConfig."""
    await client.put(GROUP, {"location": "swedencentral"}, VERSION)
    subnets = [{"name": "one", "properties": {"addressPrefix": "10.77.1.0/24"}}]
    network = {"addressSpace": {"addressPrefixes": ["10.77.0.0/16"]}, "subnets": subnets}
    body: dict[str, Any] = {"location": "swedencentral", "properties": network}
    await client.put(SUBNET.partition("/subnets/")[0], body, VERSION)
    nic = {"primary": True, "ipConfigurations": list(ip_configurations)}
    nics = [{"name": "nic", "properties": nic}]
    profile = {"networkProfile": {"networkInterfaceConfigurations": nics}}
    body = {
        "location": "swedencentral",
        "sku": {"name": "Standard_D2pds_v6", "capacity": 1},
        "properties": {"virtualMachineProfile": profile, "upgradePolicy": {"mode": "Manual"}},
    }
    return await client.put(OWN, body, VERSION)


def ip_config(name: str, **properties: Any) -> dict[str, Any]:
    return {"name": name, "properties": {"subnet": {"id": SUBNET}, **properties}}


# -- operations that do not end


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        (r"virtualMachines/0\?|virtualMachines/0$", "instance"),
        ("virtualMachineScaleSets/[^/]+$", "model"),
        ("loadBalancers/kubernetes$", "balancer"),
        ("publicIPPrefixes/other$", "prefix"),
    ],
)
async def test_an_operation_hangs_until_the_fault_is_cleared(
    azure: Running, client: ArmClient, path: str, wanted: str
) -> None:
    model, body = await make_pool(client)
    target, document = {
        "instance": (f"{model['id']}/virtualMachines/0", instance_body(body)),
        "model": (model["id"], body),
        "balancer": (BALANCER, await client.get(BALANCER, VERSION)),
        "prefix": (
            f"{GROUP}/providers/Microsoft.Network/publicIPPrefixes/other",
            {"location": "swedencentral", "properties": {"prefixLength": 31}},
        ),
    }[wanted]
    rule = azure.emulator.faults.add("hang", method="PUT", path=path)
    url = f"{azure.base}{target}?api-version={VERSION}"
    status, _, headers = await send(client, "PUT", url, document)
    assert status in (200, 201)
    poll = headers["Azure-AsyncOperation"]
    azure.emulator.azure.operations.hold = 0.05
    for _ in range(3):
        assert (await send(client, "GET", poll, None))[1]["status"] == "InProgress"
    state = (await client.get(target, VERSION))["properties"]["provisioningState"]
    assert state in ("Creating", "Updating")
    assert (await send(client, "PUT", url, document))[0] == 409, "one write at a time"

    azure.emulator.azure.operations.hold = 60
    azure.emulator.faults.remove(rule.id)
    assert (await send(client, "GET", poll, None))[1]["status"] == "Succeeded"
    state = (await client.get(target, VERSION))["properties"]["provisioningState"]
    assert state == "Succeeded"


async def test_an_operation_goes_on_whose_fault_is_cleared_before_it_gets_there(
    azure: Running, client: ArmClient
) -> None:
    """Accepted, and its fault cleared while it takes its time: nobody would clear it again."""
    await make_pool(client)
    document = await client.get(BALANCER, VERSION)
    operations = azure.emulator.azure.operations
    operations.seconds = 0.5
    azure.emulator.faults.add("hang", method="PUT", path="loadBalancers/kubernetes$")
    url = f"{azure.base}{BALANCER}?api-version={VERSION}"
    status, _, headers = await send(client, "PUT", url, document)
    assert status in (200, 201)
    azure.emulator.faults.clear()
    operations.hold = 60
    poll = headers["Azure-AsyncOperation"]
    assert (await send(client, "GET", poll, None))[1]["status"] == "Succeeded"


async def test_an_instance_that_hangs_stops_neither_its_scale_set_nor_its_siblings(
    azure: Running, client: ArmClient
) -> None:
    model, body = await make_pool(client)
    azure.emulator.faults.add("hang", method="PUT", path="virtualMachines/0$")
    url = f"{azure.base}{model['id']}/virtualMachines/0?api-version={VERSION}"
    assert (await send(client, "PUT", url, instance_body(body)))[0] == 200
    await client.put(model["id"], body, VERSION)
    await client.put(f"{model['id']}/virtualMachines/1", instance_body(body), VERSION)
    nics = await client.list(f"{model['id']}/networkInterfaces", VERSION)
    assert [len(ip_configs(n)) for n in nics] == [1, 2]


# -- ETags of scale sets and instances


@pytest.mark.parametrize("which", ["", "/virtualMachines/0"])
async def test_compute_numbers_its_versions_in_body_and_header(
    azure: Running, client: ArmClient, which: str
) -> None:
    model, body = await make_pool(client)
    target = f"{model['id']}{which}"
    url = f"{azure.base}{target}?api-version={VERSION}"
    _, before, headers = await send(client, "GET", url, None)
    assert before["etag"] == headers["Etag"] == '"1"' or not which
    wanted = instance_body(body) if which else body
    after = await client.put(target, wanted, VERSION)
    assert int(after["etag"].strip('"')) == int(before["etag"].strip('"')) + 1
    assert (await client.put(target, wanted, VERSION))["etag"] == after["etag"], "no change"
    listed = await client.list(target.rpartition("/")[0], VERSION)
    assert after["etag"] in [item["etag"] for item in listed]


@pytest.mark.parametrize("which", ["", "/virtualMachines/0"])
async def test_a_write_for_another_version_is_refused_in_compute_s_words(
    azure: Running, client: ArmClient, which: str
) -> None:
    model, body = await make_pool(client)
    target = f"{model['id']}{which}"
    wanted = instance_body(body) if which else body
    etag = (await client.get(target, VERSION))["etag"]
    await client.put(target, wanted, VERSION)
    now = (await client.get(target, VERSION))["etag"]
    status, answer = await put_if(client, azure, target, wanted, etag)
    assert (status, answer["error"]["code"]) == (412, "PreconditionFailed")
    assert answer["error"]["message"] == (
        f"Etag provided in if-match header {etag} does not match etag {now} of resource."
    )
    for good in (now, "*"):
        assert (await put_if(client, azure, target, wanted, good))[0] == 200
        await client.get(target, VERSION)
        await ended(azure)


async def ended(azure: Running) -> None:
    while azure.emulator.azure.operations.under_way():
        await asyncio.sleep(0.01)


async def put_if(
    client: Any, azure: Running, target: str, body: Any, etag: str
) -> tuple[int, dict[str, Any]]:
    token = await client.sign_in()
    headers = {"Authorization": f"Bearer {token}", "If-Match": etag}
    url = f"{azure.base}{target}?api-version={VERSION}"
    async with client.session.put(url, json=body, headers=headers, ssl=client.tls) as response:
        return response.status, await response.json()


# -- scale sets by hand


async def test_no_primary_is_added_to_the_ip_config_of_a_scale_set_by_hand(
    azure: Running, client: ArmClient
) -> None:
    made = await set_by_hand(client, ip_config("ipconfig1"))
    profile = made["properties"]["virtualMachineProfile"]["networkProfile"]
    (nic,) = profile["networkInterfaceConfigurations"]
    assert "primary" not in nic["properties"]["ipConfigurations"][0]["properties"]
    (instance,) = await client.list(f"{OWN}/virtualMachines", VERSION)
    (nic,) = instance["properties"]["networkProfileConfiguration"]["networkInterfaceConfigurations"]
    assert "primary" not in nic["properties"]["ipConfigurations"][0]["properties"]
    (nic,) = await client.list(f"{OWN}/networkInterfaces", VERSION)
    assert nic["properties"]["ipConfigurations"][0]["properties"]["primary"] is True


@pytest.mark.parametrize(
    ("flags", "fits"),
    [
        ([None, None], False),
        ([None, False], False),
        ([False, False], False),
        ([True, True], False),
        ([True, None], True),
        ([True, False], True),
        ([None], True),
        ([False], True),
    ],
)
async def test_one_of_several_ip_configs_is_flagged_primary(
    azure: Running, client: ArmClient, flags: list[bool | None], fits: bool
) -> None:
    configurations = [
        ip_config(f"c{i}", **({} if flag is None else {"primary": flag}))
        for i, flag in enumerate(flags)
    ]

    if fits:
        await set_by_hand(client, *configurations)
        return
    with pytest.raises(RequestFailed) as error:
        await set_by_hand(client, *configurations)
    assert (error.value.status, error.value.code) == (
        400,
        "VMScaleSetNetworkInterfaceConfigurationMustHaveOneIpConfigAsPrimary",
    )


async def test_a_partial_write_of_a_scale_set_that_is_gone_does_not_bring_it_back(
    azure: Running, client: ArmClient
) -> None:
    model, body = await make_pool(client)
    await client.delete(model["id"], VERSION)
    with pytest.raises(RequestFailed, match=r"'sku' is missing \(null\)") as error:
        await client.put(model["id"], body, VERSION)
    assert (error.value.status, error.value.code) == (400, "InvalidParameter")
    assert all(s["id"] != model["id"] for s in await client.list(SETS, VERSION))


# -- writers beside us


@pytest.mark.parametrize("rolled_out_by", ["manualupgrade", "instance"])
async def test_a_rollout_strips_nics_and_leaves_the_documents(
    azure: Running, client: ArmClient, rolled_out_by: str
) -> None:
    model, body = await make_pool(client)
    await client.put(model["id"], body, VERSION)
    path = "manualupgrade$" if rolled_out_by == "manualupgrade" else "virtualMachines/[01]$"
    azure.emulator.faults.add("strip", method="PUT", path=path, times=2)
    azure.emulator.faults.add("strip", method="POST", path=path)
    if rolled_out_by == "manualupgrade":
        await client.post(f"{model['id']}/manualupgrade", {"instanceIds": ["*"]}, VERSION)
    else:
        for number in "01":
            target = f"{model['id']}/virtualMachines/{number}"
            await client.put(target, instance_body(body), VERSION)
    for instance in await client.list(f"{model['id']}/virtualMachines", VERSION):
        assert instance["properties"]["provisioningState"] == "Succeeded"
        (nic,) = instance["properties"]["networkProfileConfiguration"][
            "networkInterfaceConfigurations"
        ]
        assert len(ip_configs(nic)) == 2
    nics = await client.list(f"{model['id']}/networkInterfaces", VERSION)
    assert [ip_configs(n) for n in nics] == [["ipconfig1"], ["ipconfig1"]]
    assert await client.list(f"{model['id']}/publicIPAddresses", VERSION) == []

    azure.emulator.faults.clear()
    await client.put(f"{model['id']}/virtualMachines/0", instance_body(body), VERSION)
    nics = await client.list(f"{model['id']}/networkInterfaces", VERSION)
    assert [len(ip_configs(n)) for n in nics] == [2, 1], "written again, given again"


async def test_a_policy_takes_a_field_out_of_what_is_written(
    azure: Running, client: ArmClient
) -> None:
    model, body = await make_pool(client)
    rule = azure.emulator.faults.add(
        "modify", method="PUT", path="virtualMachineScaleSets", drop="publicIPPrefix"
    )
    await client.put(model["id"], body, VERSION)
    kept = await client.get(model["id"], VERSION)
    assert kept["properties"]["provisioningState"] == "Succeeded"
    assert "egressgateway-x" in str(kept)
    assert "publicIPPrefix" not in str(kept)
    assert rule.hits == 1


async def test_a_service_s_backend_pool_is_added_between_a_look_and_a_write(
    azure: Running, client: ArmClient
) -> None:
    model, body = await make_pool(client)
    balancer = await client.get(BALANCER, VERSION)
    balancer["properties"]["backendAddressPools"].append({"name": "service"})
    await client.put(BALANCER, balancer, VERSION)
    pool = f"{BALANCER}/backendAddressPools/service"
    look = await client.get(model["id"], VERSION)
    azure.emulator.faults.add(
        "join-pool", method="PUT", path=f"{model['name']}$", pool=pool, times=1
    )
    status, answer = await put_if(client, azure, model["id"], body, look["etag"])
    assert (status, answer["error"]["code"]) == (412, "PreconditionFailed")
    assert pool in str(await client.get(model["id"], VERSION))
    await client.put(model["id"], body, VERSION)
    assert pool not in str(await client.get(model["id"], VERSION)), "without an ETag it is lost"
