"""`trace` beside an agent of another version, which answers in a form that it does not know."""

from __future__ import annotations

from typing import cast

import pytest

from egress_gateway.cli.diagnosis.packets.trace import _sent
from egress_gateway.kube.client import Client


class Cluster:
    """Has one node agent, which answers ``out``."""

    def __init__(self, out: bytes) -> None:
        self._out = out

    async def execute(self, *_: object) -> tuple[int, bytes, bytes]:
        return 0, self._out, b""


@pytest.mark.parametrize(
    "out", [b"", b"{", b"[]", b'{"asked": 1}', b"{}", b'{"ways": {"\xff": ""}}']
)
async def test_an_answer_in_another_form_is_told(out: bytes) -> None:
    said = await _sent(
        cast(Client, Cluster(out)), "agent-1", "default/app", "system", ["--server", "s"]
    )
    assert isinstance(said, str)
    assert said.startswith("agent-1, of another version, answers in another form: ")
