"""When a tunnel's handshake is looked for."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from egress_gateway.node.liveness.pace import Pacer
from egress_gateway.node.liveness.schedule import Schedule
from egress_gateway.node.liveness.verify import Verifier
from egress_gateway.node.sandboxes.sandbox import Sandbox


@pytest.mark.virtual_time
@pytest.mark.parametrize("starting", [False, True])
async def test_no_look_comes_before_a_gateway_can_have_answered(starting: bool) -> None:
    now = asyncio.get_running_loop().time
    looks: list[float] = []

    async def verify() -> bool:
        looks.append(now() - began)
        return True

    began = now()
    moved: Any = SimpleNamespace(
        attachment=SimpleNamespace(id="x", active=None, listen_port=1),
        gone=False,
        initiated=began,
        starting=starting,
        verifier=None,
        verify=verify,
    )
    verified: list[object] = []
    verifier = Verifier(Pacer(100.0), on_verified=verified.append, on_silence=lambda _: None)
    verifier.start(cast("Sandbox", moved))
    await moved.verifier
    least = Schedule.at(began, starting=starting).shortest_look
    assert looks == [pytest.approx(least, abs=0.001)]
    assert verified == [moved]
