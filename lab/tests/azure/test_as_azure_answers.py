"""Answers as Azure was seen to give them: throttled, forbidden, canceled, out of place."""

from __future__ import annotations

import copy
from itertools import takewhile
from typing import Any

import pytest

from egress_gateway_lab.azure.arm.buckets import Buckets
from egress_gateway_lab.azure.arm.errors import ArmError
from egress_gateway_lab.azure.client import ArmClient, RequestFailed
from egress_gateway_lab.azure.emulator import ADDON_SUBJECT, TENANT
from lab.tests.azure.conftest import make_prefix, send
from lab.tests.azure.running import CLUSTER, GROUP, Running
from lab.tests.azure.test_access import federated
from lab.tests.azure.test_beside_us import (
    BALANCER,
    OWN,
    SUBNET,
    instance_body,
    ip_config,
    make_pool,
    set_by_hand,
)

VERSION = "2024-05-01"
NETWORK = f"{GROUP}/providers/Microsoft.Network"
REGION = {"location": "swedencentral"}


# -- when to ask again


@pytest.mark.parametrize(
    ("provider", "silent"), [("Network", True), ("Compute", True), ("ContainerService", False)]
)
async def test_only_the_container_service_says_when_to_ask_again(
    azure: Running, client: ArmClient, provider: str, silent: bool
) -> None:
    model, _ = await make_pool(client)
    azure.emulator.azure.operations.hold = 0
    azure.emulator.azure.operations.seconds = 600
    target = {"Network": BALANCER, "Compute": model["id"], "ContainerService": CLUSTER}[provider]
    body = await client.get(target, VERSION)
    url = f"{azure.base}{target}?api-version={VERSION}"
    status, _, accepted = await send(client, "PUT", url, body)
    assert status == 200
    poll = accepted["Azure-AsyncOperation"]
    _, answer, polled = await send(client, "GET", poll, None)
    assert answer["status"] == "InProgress"
    assert ("Retry-After" not in accepted) == ("Retry-After" not in polled) == silent


# -- token buckets


class Minutes:
    """A clock that is put forward."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


SET = f"{GROUP}/providers/Microsoft.Compute/virtualMachineScaleSets/v"


def allowed(buckets: Buckets, method: str, target: str) -> int:
    """How many requests in a row get through, 1,000 at most."""
    return sum(1 for _ in takewhile(bool, (passes(buckets, method, target) for _ in range(1000))))


def passes(buckets: Buckets, method: str, target: str) -> bool:
    try:
        buckets.request(method, target)
    except ArmError:
        return False
    return True


def test_a_throttled_request_is_told_in_compute_s_words() -> None:
    buckets = Buckets(Minutes(), 0.5)
    allowed(buckets, "PUT", SET)
    with pytest.raises(ArmError) as error:
        buckets.request("PUT", SET)
    assert (error.value.status, error.value.code) == (429, "OperationNotAllowed")
    assert error.value.details[0]["code"] == "TooManyRequests"
    assert int(error.value.headers["Retry-After"]) == 30


@pytest.mark.parametrize(
    ("method", "target", "saved", "per_minute"),
    [
        ("GET", SET, 36, 12),
        ("PUT", SET, 12, 4),
        ("PATCH", SET, 12, 4),
        ("PUT", f"{SET}/virtualMachines/3", 12, 4),
    ],
)
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_each_resource_has_a_bucket(
    method: str, target: str, saved: int, per_minute: int, share: float
) -> None:
    clock = Minutes()
    buckets = Buckets(clock, share)
    assert allowed(buckets, method, target) == saved * share
    assert allowed(buckets, method, target) == 0
    assert allowed(buckets, method, f"{target}2") == saved * share, "of another resource"
    clock.now += 60
    assert allowed(buckets, method, target) == per_minute * share
    clock.now += 86_400
    assert allowed(buckets, method, target.upper()) == saved * share, "no more than is saved up"


def test_who_waits_as_long_as_told_gets_through() -> None:
    clock = Minutes()
    buckets = Buckets(clock, 0.5)
    allowed(buckets, "PUT", SET)
    for _ in range(5):
        with pytest.raises(ArmError) as error:
            buckets.request("PUT", SET)
        clock.now += int(error.value.headers["Retry-After"])
        buckets.request("PUT", SET)


def test_polls_have_a_bucket_and_others_requests_none() -> None:
    clock = Minutes()
    buckets = Buckets(clock, 0.5)
    for _ in range(7):
        buckets.poll(SET)
    with pytest.raises(ArmError):
        buckets.poll(SET)
    for _ in range(100):
        buckets.poll(BALANCER)
        buckets.request("GET", f"{SET}/virtualMachines")
        buckets.request("PUT", BALANCER)


async def test_answers_tell_what_is_left_and_429_when_to_come_again(
    azure: Running, client: ArmClient
) -> None:
    model, body = await make_pool(client)
    azure.emulator.azure.buckets.share = 0.5
    url = f"{azure.base}{model['id']}?api-version={VERSION}"
    _, _, headers = await send(client, "GET", url, None)
    left = headers["x-ms-ratelimit-remaining-resource"]
    assert left == "Microsoft.Compute/GetVMScaleSetResource;17"
    seen = [(await send(client, "PUT", url, body))[0] for _ in range(7)]
    assert seen[-1] == 429
    status, answer, headers = await send(client, "PUT", url, body)
    assert (status, answer["error"]["code"]) == (429, "OperationNotAllowed")
    assert 1 <= int(headers["Retry-After"]) <= 30


# -- three forms of 403


async def test_all_that_a_write_may_not_join_is_named_at_once(
    azure: Running, client: ArmClient
) -> None:
    model, body = await make_pool(client)
    second = await make_prefix(client, "second")
    network = body["properties"]["virtualMachineProfile"]["networkProfile"]
    (nic,) = network["networkInterfaceConfigurations"]
    other = copy.deepcopy(nic["properties"]["ipConfigurations"][-1])
    other["name"] = "egressgateway-y"
    public = other["properties"]["publicIPAddressConfiguration"]
    public["properties"]["publicIPPrefix"]["id"] = second["id"]
    nic["properties"]["ipConfigurations"].append(other)
    client_id = azure.machines.clusters[CLUSTER].identity_client_id
    async with federated(azure, client_id, ADDON_SUBJECT) as controller:
        with pytest.raises(RequestFailed) as error:
            await controller.put(model["id"], body, VERSION)
    assert (error.value.status, error.value.code) == (403, "LinkedAuthorizationFailed")
    scopes = f"'{NETWORK}/publicIPPrefixes/pip,{NETWORK}/publicIPPrefixes/second'"
    assert f"on the linked scope(s) {scopes} (respectively)" in error.value.message


@pytest.mark.parametrize(
    ("denial", "code", "words"),
    [
        ("assignment", "DenyAssignmentAuthorizationFailed", "because of the deny assignment"),
        ("links", "LinkedAuthorizationFailed", "is blocked by deny assignments on the '"),
        ("tenant", "LinkedAuthorizationFailed", f"the current tenant '{TENANT}' is not authorized"),
    ],
)
async def test_a_request_is_denied_whatever_roles_there_are(
    azure: Running, client: ArmClient, denial: str, code: str, words: str
) -> None:
    model, body = await make_pool(client)
    azure.emulator.faults.add("deny", method="PUT", path="ScaleSets/[^/]+$", denial=denial)
    with pytest.raises(RequestFailed) as error:
        await client.put(model["id"], body, VERSION)
    assert (error.value.status, error.value.code) == (403, code)
    assert words in error.value.message
    await client.put(model["id"], body, VERSION)


# -- canceled, broken, gone


@pytest.mark.parametrize(
    ("which", "error", "state"),
    [("balancer", "Canceled", "Failed"), ("instance", None, "Canceled"), ("set", None, "Canceled")],
)
async def test_an_operation_is_canceled(
    azure: Running, client: ArmClient, which: str, error: str | None, state: str
) -> None:
    model, body = await make_pool(client)
    target, document = {
        "balancer": (BALANCER, await client.get(BALANCER, VERSION)),
        "instance": (f"{model['id']}/virtualMachines/0", instance_body(body)),
        "set": (model["id"], body),
    }[which]
    azure.emulator.faults.add("cancel-operation", method="PUT", path=f"{target}$")
    url = f"{azure.base}{target}?api-version={VERSION}"
    _, _, headers = await send(client, "PUT", url, document)
    _, answer, _ = await send(client, "GET", headers["Azure-AsyncOperation"], None)
    assert answer["status"] == "Canceled"
    assert answer.get("error", {}).get("code") == error
    left = await client.get(target, VERSION)
    assert left["properties"]["provisioningState"] == state
    await client.put(target, document, VERSION)


async def test_a_front_door_answers_with_a_page(azure: Running, client: ArmClient) -> None:
    azure.emulator.faults.add("html", path="resourceGroups/rg$", status=502)
    token = await client.sign_in()
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{azure.base}{GROUP}?api-version={VERSION}"
    async with client.session.get(url, headers=headers, ssl=client.tls) as response:
        assert (response.status, response.content_type) == (502, "text/html")
        assert "<html>" in await response.text()
    await client.put(GROUP, REGION, VERSION)


@pytest.mark.parametrize(
    ("number", "status", "code"), [("77", 404, "NotFound"), ("x", 400, "InvalidParameter")]
)
@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_an_instance_that_is_not_there(
    azure: Running, client: ArmClient, number: str, status: int, code: str, method: str
) -> None:
    model, body = await make_pool(client)
    url = f"{azure.base}{model['id']}/virtualMachines/{number}?api-version={VERSION}"
    document = instance_body(body) if method == "PUT" else None
    got, answer, _ = await send(client, method, url, document)
    assert (got, answer["error"]["code"]) == (status, code)


# -- orchestration, regions, SKUs, zones


async def test_a_flexible_scale_set_has_no_instances_to_write(
    azure: Running, client: ArmClient
) -> None:
    made = await set_by_hand(client, ip_config("one", primary=True))
    assert made["properties"]["orchestrationMode"] == "Uniform"
    flexible = {
        "location": "swedencentral",
        "sku": {"name": "Standard_D2pds_v6", "capacity": 2},
        "properties": {"orchestrationMode": "Flexible", "platformFaultDomainCount": 1},
    }
    path = f"{OWN}-flex"
    made = await client.put(path, flexible, VERSION)
    assert made["properties"]["orchestrationMode"] == "Flexible"
    assert await client.list(f"{path}/virtualMachines", VERSION) == []
    with pytest.raises(RequestFailed, match="orchestration mode Flexible") as error:
        await client.put(f"{path}/virtualMachines/0", {**REGION, "properties": {}}, VERSION)
    assert error.value.code == "OperationNotAllowed"
    with pytest.raises(RequestFailed, match="orchestrationMode"):
        await client.put(path, {"properties": {"orchestrationMode": "Loose"}}, VERSION)


def address(prefix: str, **more: Any) -> dict[str, Any]:
    return {
        **REGION,
        "sku": {"name": "Standard"},
        "properties": {"publicIPPrefix": {"id": prefix}},
        **more,
    }


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"location": "westeurope"}, "InvalidResourceReference"),
        ({"sku": {"name": "StandardV2"}}, "PublicIpAddressSkuDoesNotMatchPublicIpPrefixSku"),
        (
            {"zones": ["3"]},
            "ComputeResourceZoneConstraintDoesNotMatchPublicIPAddressZoneConstraint",
        ),
        ({"zones": ["1", "2", "3"]}, ""),
        ({"zones": ["1"]}, ""),
        ({}, ""),
    ],
)
async def test_a_prefix_serves_machines_of_its_region_sku_and_zone(
    azure: Running, client: ArmClient, changes: dict[str, Any], code: str
) -> None:
    await client.put(GROUP, REGION, VERSION)
    prefix = f"{NETWORK}/publicIPPrefixes/pip"
    body = {
        **REGION,
        "sku": {"name": "Standard"},
        "properties": {"prefixLength": 30},
        **changes,
    }
    await client.put(prefix, body, VERSION)
    made = await set_by_hand(client, ip_config("one", primary=True))
    await client.put(made["id"], {"zones": ["1"], "sku": {"capacity": 0}}, VERSION)
    public = {"name": "pub", "properties": {"publicIPPrefix": {"id": prefix}}}
    second = ip_config("two", publicIPAddressConfiguration=public)
    wanted = copy.deepcopy(made)
    network = wanted["properties"]["virtualMachineProfile"]["networkProfile"]
    nic = network["networkInterfaceConfigurations"][0]["properties"]
    nic["ipConfigurations"].append(second)
    wanted["zones"], wanted["sku"] = ["1"], {"name": "Standard_D2pds_v6", "capacity": 1}
    if not code:
        await client.put(made["id"], wanted, VERSION)
        assert len(await client.list(f"{made['id']}/publicIPAddresses", VERSION)) == 1
        return
    with pytest.raises(RequestFailed) as error:
        await client.put(made["id"], wanted, VERSION)
    assert error.value.code == code


async def test_the_zones_of_what_exists_cannot_be_changed(
    azure: Running, client: ArmClient
) -> None:
    await client.put(GROUP, REGION, VERSION)
    prefix = f"{NETWORK}/publicIPPrefixes/pip"
    zoned = {**REGION, "zones": ["1", "2", "3"], "properties": {"prefixLength": 30}}
    made = await client.put(prefix, zoned, VERSION)
    assert made["zones"] == ["1", "2", "3"]
    one = await client.put(f"{NETWORK}/publicIPAddresses/one", address(prefix), VERSION)
    assert one["zones"] == ["1", "2", "3"], "those of its prefix"
    subnets = [{"name": "one", "properties": {"addressPrefix": "10.77.1.0/24"}}]
    network = {"addressSpace": {"addressPrefixes": ["10.77.0.0/16"]}, "subnets": subnets}
    await client.put(SUBNET.partition("/subnets/")[0], {**REGION, "properties": network}, VERSION)
    frontend = {"name": "f", "zones": ["1"], "properties": {"subnet": {"id": SUBNET}}}
    balancer = {**REGION, "properties": {"frontendIPConfigurations": [frontend]}}
    await client.put(f"{NETWORK}/loadBalancers/lb", balancer, VERSION)
    bare = {"name": "f", "properties": {"subnet": {"id": SUBNET}}}
    for target, body in (
        (prefix, {**REGION, "properties": {"prefixLength": 30}}),
        (f"{NETWORK}/publicIPAddresses/one", address(prefix)),
        (
            f"{NETWORK}/loadBalancers/lb",
            {**REGION, "properties": {"frontendIPConfigurations": [bare]}},
        ),
    ):
        with pytest.raises(RequestFailed) as error:
            await client.put(target, body, VERSION)
        assert error.value.code == "ResourceAvailabilityZonesCannotBeModified"
    await client.put(f"{NETWORK}/loadBalancers/lb", balancer, VERSION)


# -- members of somebody's pool by address


async def test_members_by_address_are_there_until_a_write_leaves_them_out(
    azure: Running, client: ArmClient
) -> None:
    await make_pool(client)
    balancer = await client.get(BALANCER, VERSION)
    pools = balancer["properties"]["backendAddressPools"]
    of_nics = pools[0]["properties"]["loadBalancerBackendAddresses"]
    members = pools[0]["properties"]["backendIPConfigurations"]
    shown = [m["properties"]["networkInterfaceIPConfiguration"] for m in of_nics]
    assert shown == members, "a NIC's membership shows as a member too"
    member = {"name": "theirs", "properties": {"ipAddress": "10.224.9.9"}}
    pools.append({"name": "by-address", "properties": {"loadBalancerBackendAddresses": [member]}})
    for _ in range(2):  # written back as read, they stay
        balancer = await client.put(BALANCER, balancer, VERSION)
        last = balancer["properties"]["backendAddressPools"][-1]
        assert last["properties"]["loadBalancerBackendAddresses"] == [member]
        first = balancer["properties"]["backendAddressPools"][0]
        assert len(first["properties"]["loadBalancerBackendAddresses"]) == len(members)
    del balancer["properties"]["backendAddressPools"][-1]["properties"]
    balancer = await client.put(BALANCER, balancer, VERSION)
    last = balancer["properties"]["backendAddressPools"][-1]
    assert last["properties"]["loadBalancerBackendAddresses"] == []


# -- what is not there yet, or not at all


async def test_a_prefix_has_its_addresses_when_its_operation_has_ended(
    azure: Running, client: ArmClient
) -> None:
    await client.put(GROUP, REGION, VERSION)
    azure.emulator.azure.operations.seconds = 600
    url = f"{azure.base}{NETWORK}/publicIPPrefixes/new?api-version={VERSION}"
    status, made, _ = await send(client, "PUT", url, {**REGION, "properties": {"prefixLength": 30}})
    assert status == 201
    assert "ipPrefix" not in made["properties"]
    assert "ipPrefix" not in (await send(client, "GET", url, None))[1]["properties"]
    azure.emulator.azure.operations.seconds = 0.01
    made = await make_prefix(client, "quick")
    assert made["properties"]["ipPrefix"].endswith("/30")


async def test_a_subnet_that_is_not_there(azure: Running, client: ArmClient) -> None:
    await set_by_hand(client, ip_config("one", primary=True))
    with pytest.raises(RequestFailed) as error:
        await client.get(f"{SUBNET}x", VERSION)
    assert (error.value.status, error.value.code) == (404, "NotFound")
