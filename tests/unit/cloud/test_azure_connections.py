"""Connections to Azure are used again, also where a CA bundle verifies them.

A soak found up to 72 idle connections of one controller: one for each request.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from egress_gateway.cloud import errors
from egress_gateway.cloud.azure.account.config import AzureConfig
from egress_gateway.cloud.azure.requests.client import ArmClient
from egress_gateway_lab.pki import Authority


@dataclass
class Azure:
    """Issues tokens and answers every question with a resource. ``asked``: questions to Resource
    Manager by connection."""

    bundle: Path
    authority: Authority = field(default_factory=Authority)
    url: str = ""
    asked: Counter[object] = field(default_factory=Counter)

    async def answer(self, request: web.Request) -> web.Response:
        if "/oauth2/" in request.path:
            token = {"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}
            return web.json_response(token)
        assert request.transport is not None
        self.asked[request.transport.get_extra_info("peername")] += 1
        await asyncio.sleep(0.01)
        return web.json_response({"id": "/n", "name": "n", "properties": {}})

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[AzureConfig]:
        identity = self.authority.server(addresses=["127.0.0.1"], names=["localhost"])
        for name, content in (("crt", identity.certificate), ("key", identity.key)):
            self.bundle.with_suffix(f".{name}").write_bytes(content)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.bundle.with_suffix(".crt"), self.bundle.with_suffix(".key"))
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        self.url = f"https://localhost:{runner.addresses[0][1]}"
        self.bundle.write_bytes(identity.ca)
        try:
            yield AzureConfig(
                subscription_id="s",
                resource_group="g",
                location="l",
                tenant_id="t",
                client_id="c",
                client_secret="secret",
                resource_manager_endpoint=self.url,
                active_directory_endpoint=self.url,
                ca_bundle=str(self.bundle),
            )
        finally:
            await runner.cleanup()


@contextlib.asynccontextmanager
async def asking(config: AzureConfig) -> AsyncIterator[ArmClient]:
    client = ArmClient(config)
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
def azure(tmp_path: Path) -> Azure:
    return Azure(tmp_path / "ca.crt")


async def test_one_question_after_the_other_takes_one_connection(azure: Azure) -> None:
    async with azure.serving() as config, asking(config) as arm:
        for _ in range(8):
            await arm.balancer("g", "n")
    assert list(azure.asked.values()) == [8]


async def test_questions_side_by_side_take_as_many_as_there_are_and_no_more(azure: Azure) -> None:
    async with azure.serving() as config, asking(config) as arm:
        for _ in range(4):
            await asyncio.gather(*(arm.balancer("g", "n") for _ in range(3)))
    assert sum(azure.asked.values()) == 12
    assert len(azure.asked) <= 3


async def test_a_bundle_that_is_replaced_is_read_again(azure: Azure) -> None:
    async with azure.serving() as config, asking(config) as arm:
        await arm.balancer("g", "n")
        azure.bundle.write_bytes(Authority().ca)
        with pytest.raises(errors.CloudError):
            await arm.balancer("g", "n")
        azure.bundle.write_bytes(azure.authority.ca)
        await arm.balancer("g", "n")
