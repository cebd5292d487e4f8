"""The session with Azure Resource Manager: whom it trusts, how long and how often it asks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from egress_gateway.cloud import errors
from egress_gateway.cloud.azure.account.config import AzureConfig
from egress_gateway.cloud.azure.requests.arm import ForeignHost, _OwnHosts, _OwnPath
from egress_gateway.cloud.azure.requests.client import POLL, ArmClient
from egress_gateway.cloud.azure.requests.pacing import Pace


class Asked:
    def __init__(self, url: str) -> None:
        self.http_request = self
        self.url = url


HOME = "https://management.azure.com"


@pytest.mark.parametrize(
    "url",
    [
        "https://management.azure.com/subscriptions/s?x=y",
        "https://swedencentral.management.azure.com/operations/1",
        "https://MANAGEMENT.azure.com:443/x",
    ],
)
def test_the_token_goes_to_azure_and_its_regions(url: str) -> None:
    _OwnHosts(HOME).on_request(Asked(url))


@pytest.mark.parametrize(
    "url",
    [
        "https://localhost:8443/poll",
        "https://management.azure.com.evil.example/poll",
        "https://evilmanagement.azure.com/poll",
        "https://azure.com/poll",
        "http://management.azure.com/poll",
        "https://management.azure.com:8443/poll",
        "https://management.azure.com@evil.example/poll",
        "https://10.0.0.1/poll",
        "https://user:word@management.azure.com/x",
        "https://evil.example\\@management.azure.com/x",
        "https://evil.example%2f.management.azure.com/x",
        "https://evil.example\u3002management.azure.com/x",
        "https://management.azure.com:99999/x",
        "https://management.azure.com:https/x",
        "//management.azure.com/x",
    ],
)
def test_and_to_nobody_else(url: str) -> None:
    with pytest.raises(ForeignHost):
        _OwnHosts(HOME).on_request(Asked(url))


@pytest.mark.parametrize("name", ["..", "."])
def test_no_request_goes_where_a_name_of_dots_leads(name: str) -> None:
    """The HTTP client takes ``..`` for a step upwards, also as ``%2E%2E``: of all groups then."""
    for written in (name, name.replace(".", "%2E"), name.replace(".", "%2e")):
        path = f"/subscriptions/s/resourceGroups/{written}/providers/Microsoft.Compute/x"
        with pytest.raises(ForeignHost):
            _OwnPath().on_request(Asked(f"{HOME}{path}"))
    _OwnPath().on_request(Asked(f"{HOME}/subscriptions/s/resourceGroups/a..b/providers/x"))


def config(**fields: Any) -> AzureConfig:
    return AzureConfig(
        subscription_id="s",
        resource_group="g",
        location="l",
        use_managed_identity=True,
        **fields,
    )


async def test_azure_is_polled_every_five_seconds_unless_it_says_otherwise() -> None:
    client = ArmClient(config())
    assert client.interval == POLL == 5.0
    await client.close()


async def test_a_group_of_dots_lists_nobody_s_pools() -> None:
    client = ArmClient(config())
    try:
        with pytest.raises(errors.Unavailable, match="dots"):
            await client.scale_sets("..")
    finally:
        await client.close()


class Silent(Pace):
    """Azure never answers."""

    async def on_request(self, request: Any) -> None:
        await asyncio.Event().wait()


async def test_a_write_that_does_not_end_is_overdue() -> None:
    client = ArmClient(config(machine_timeout=0.01), Silent())
    with pytest.raises(errors.Overdue, match="has not finished within"):
        await client.delete_prefix("g", "p")
    await client.close()
