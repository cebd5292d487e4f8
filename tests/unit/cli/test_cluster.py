"""A person's client reads a large cluster in few answers; agents keep little at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from egress_gateway.cli import cluster
from egress_gateway.kube.resources import PODS
from tests.unit.kube.kube_scripted import Script, listed, serving


@pytest.mark.parametrize(("person", "limit"), [(True, "10000"), (False, "500")])
async def test_how_much_is_asked_for_at_once(person: bool, limit: str, tmp_path: Path) -> None:
    server = Script()
    server.then(listed(9, token="more"), listed(9))
    async with serving(server) as agent:
        config = {
            "clusters": [{"name": "c", "cluster": {"server": agent.access.server}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        async with cluster.connect(str(tmp_path / "kubeconfig"), "person") as human:
            await (human if person else agent).list(PODS)
    assert [request.query["limit"] for request in server.requests] == [limit] * 2


async def test_a_list_may_take_long_as_long_as_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[aiohttp.ClientTimeout] = []
    really = aiohttp.ClientSession.request

    def noted(session: aiohttp.ClientSession, *of: Any, **options: Any) -> Any:
        limits.append(options["timeout"])
        return really(session, *of, **options)

    monkeypatch.setattr(aiohttp.ClientSession, "request", noted)
    server = Script()
    server.then(listed(9), listed(9))
    async with serving(server) as client:
        await client.list(PODS)
        await client.request("GET", "/version")
    of_list, of_others = limits
    assert of_list.total is None
    assert of_list.sock_read is not None
    assert of_list.sock_connect is not None
    assert of_others.total is not None
