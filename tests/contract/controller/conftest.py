"""A running controller between the Azure emulator and an API server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.controller.azure_lab import azure_lab
from tests.contract.controller.test_controller import World, api_server, controller


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with azure_lab(tmp_path) as azure, api_server(tmp_path) as (_, kube, path):
        (tmp_path / "azure.json").write_text(json.dumps(azure.config))
        await azure.add_pool("npegress")
        made = World(azure, kube)
        await made.add_gateway_nodes()
        async with controller(tmp_path, path):
            yield made
