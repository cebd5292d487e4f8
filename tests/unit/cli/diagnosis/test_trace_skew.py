"""`trace` beside an agent of another version, which answers in a form that it does not know."""

from __future__ import annotations

from typing import Any, cast

import pytest

from egress_gateway.api.types import ObjectMeta
from egress_gateway.cli.diagnosis.packets.trace import _sent
from egress_gateway.kube import wire
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import ApiError
from egress_gateway.kube.resources import Pod, PodSpec


class Cluster:
    """Has one node agent, which answers ``out``."""

    def __init__(self, out: bytes) -> None:
        self._out = out

    async def list(self, *_: object, **__: object) -> Any:
        agent = Pod(metadata=ObjectMeta(name="agent-1"), spec=PodSpec(node_name="n1"))
        return wire.ListPage(items=[agent], resource_version="1")

    async def get(self, *_: object, **__: object) -> Any:
        raise ApiError(404, "NotFound", "no such thing")

    async def execute(self, *_: object) -> tuple[int, bytes, bytes]:
        return 0, self._out, b""


@pytest.mark.parametrize(
    "out", [b"", b"{", b"[]", b'{"asked": 1}', b"{}", b'{"ways": {"\xff": ""}}']
)
async def test_an_answer_in_another_form_is_told(out: bytes) -> None:
    said = await _sent(cast(Client, Cluster(out)), "n1", "default/app", "system", ["--server", "s"])
    assert isinstance(said, str)
    assert said.startswith("agent-1, of another version, answers in another form: ")
