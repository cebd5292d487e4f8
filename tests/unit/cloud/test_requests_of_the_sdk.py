"""Our requests to Azure are those of Microsoft's generated clients, which we do not ship."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from azure.core.exceptions import AzureError
from azure.mgmt.compute.aio import ComputeManagementClient
from azure.mgmt.network.aio import NetworkManagementClient

from egress_gateway.cloud import errors
from egress_gateway.cloud.azure.account.config import AzureConfig
from egress_gateway.cloud.azure.account.credentials import credential
from egress_gateway.cloud.azure.requests.client import ArmClient
from egress_gateway.cloud.azure.requests.pacing import Pace

CONFIG = AzureConfig(
    subscription_id="s-1", resource_group="g", location="l", use_managed_identity=True
)
DOCUMENT = {"location": "l", "properties": {"a": [1, {"b": True}]}}
MATCH = {"If-Match": 'W/"7"'}
ETAG = MATCH["If-Match"]
HEADERS = ("Content-Type", "If-Match")


class Caught(AzureError):
    """What happens to a request in here."""


class Net(Pace):
    """Keeps the first request, and lets none go."""

    def __init__(self) -> None:
        super().__init__()
        self.caught: list[Any] = []

    async def on_request(self, request: Any) -> None:
        asked = request.http_request
        headers = {name: asked.headers.get(name) for name in HEADERS}
        self.caught.append((asked.method, asked.url, headers, asked.content))
        raise Caught("caught")


class Sdk:
    """Microsoft's clients."""

    def __init__(self, net: Net) -> None:
        who = credential(CONFIG)
        options: dict[str, Any] = {"per_retry_policies": [net], "retry_total": 0}
        network = NetworkManagementClient(who, "s-1", **options)
        compute = ComputeManagementClient(who, "s-1", **options)
        self.opened = (network, compute, who)
        self.balancers = network.load_balancers
        self.prefixes = network.public_ip_prefixes
        self.subnets = network.subnets
        self.nics = network.network_interfaces
        self.addresses = network.public_ip_addresses
        self.sets: Any = compute.virtual_machine_scale_sets
        self.machines: Any = compute.virtual_machine_scale_set_vms


Call = Callable[[Any], Any]
CALLS: dict[str, tuple[Callable[[ArmClient], Awaitable[Any]], Call]] = {
    "balancer": (lambda c: c.balancer("g", "a b"), lambda s: s.balancers.get("g", "a b")),
    "put_balancer": (
        lambda c: c.put_balancer("g", "b", DOCUMENT, ETAG),
        lambda s: s.balancers.begin_create_or_update("g", "b", DOCUMENT, headers=MATCH),
    ),
    "put_balancer_anew": (
        lambda c: c.put_balancer("g", "b", DOCUMENT, None),
        lambda s: s.balancers.begin_create_or_update("g", "b", DOCUMENT),
    ),
    "delete_balancer": (
        lambda c: c.delete_balancer("g", "b"),
        lambda s: s.balancers.begin_delete("g", "b"),
    ),
    "prefix": (lambda c: c.prefix("g", "p", "/p"), lambda s: s.prefixes.get("g", "p")),
    "subnet": (lambda c: c.subnet("g", "v", "s"), lambda s: s.subnets.get("g", "v", "s")),
    "prefixes": (lambda c: c.prefixes("g"), lambda s: s.prefixes.list("g")),
    "put_prefix": (
        lambda c: c.put_prefix("g", "p", DOCUMENT),
        lambda s: s.prefixes.begin_create_or_update("g", "p", DOCUMENT),
    ),
    "delete_prefix": (
        lambda c: c.delete_prefix("g", "p"),
        lambda s: s.prefixes.begin_delete("g", "p"),
    ),
    "machine_nics": (lambda c: c.machine_nics("g"), lambda s: s.nics.list("g")),
    "put_nic": (
        lambda c: c.put_nic("g", "n", DOCUMENT, ETAG),
        lambda s: s.nics.begin_create_or_update("g", "n", DOCUMENT, headers=MATCH),
    ),
    "addresses": (lambda c: c.addresses("g"), lambda s: s.addresses.list("g")),
    "put_address": (
        lambda c: c.put_address("g", "a", DOCUMENT),
        lambda s: s.addresses.begin_create_or_update("g", "a", DOCUMENT),
    ),
    "delete_address": (
        lambda c: c.delete_address("g", "a"),
        lambda s: s.addresses.begin_delete("g", "a"),
    ),
    "scale_sets": (lambda c: c.scale_sets("g"), lambda s: s.sets.list("g")),
    "scale_set": (lambda c: c.scale_set("g", "s"), lambda s: s.sets.get("g", "s")),
    "put_scale_set": (
        lambda c: c.put_scale_set("g", "s", DOCUMENT, ETAG),
        lambda s: s.sets.begin_create_or_update("g", "s", DOCUMENT, headers=MATCH),
    ),
    "instances": (lambda c: c.instances("g", "s"), lambda s: s.machines.list("g", "s")),
    "put_instance": (
        lambda c: c.put_instance("g", "s", "3", DOCUMENT, ETAG),
        lambda s: s.machines.begin_update("g", "s", "3", DOCUMENT, headers=MATCH),
    ),
    "interfaces": (
        lambda c: c.interfaces("g", "s"),
        lambda s: s.nics.list_virtual_machine_scale_set_network_interfaces("g", "s"),
    ),
    "public_addresses": (
        lambda c: c.public_addresses("g", "s"),
        lambda s: s.addresses.list_virtual_machine_scale_set_public_ip_addresses("g", "s"),
    ),
}


async def made_by_us(ask: Callable[[ArmClient], Awaitable[Any]]) -> Any:
    net = Net()
    client = ArmClient(CONFIG, net)
    with pytest.raises(errors.Unavailable):
        await ask(client)
    await client.close()
    return net.caught


async def made_by_sdk(ask: Call) -> Any:
    net = Net()
    sdk = Sdk(net)
    with pytest.raises(Caught):
        await _first(ask(sdk))
    for opened in sdk.opened:
        await opened.close()
    return net.caught


async def _first(answer: Awaitable[Any] | AsyncIterator[Any]) -> None:
    if isinstance(answer, Awaitable):
        await answer
        return
    async for _ in answer:
        return


@pytest.mark.parametrize("name", CALLS)
async def test_a_request_is_the_sdk_s(name: str) -> None:
    ours, theirs = CALLS[name]
    (asked,) = set(map(repr, await made_by_us(ours)))
    assert {asked} == set(map(repr, await made_by_sdk(theirs)))


def test_every_request_of_ours_is_compared() -> None:
    asks = {name for name in vars(ArmClient) if not name.startswith("_")} - {"close"}
    assert asks == {name.removesuffix("_anew") for name in CALLS}
