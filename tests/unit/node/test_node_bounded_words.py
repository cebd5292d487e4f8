"""What a pod's owner writes, and what goes wrong, never floods logs, Events or answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway.api.types import ObjectMeta
from egress_gateway.cni import protocol
from egress_gateway.kube.resources import Pod
from egress_gateway.node import server
from egress_gateway.node.attachment.model import want
from egress_gateway.node.cluster.knowledge import annotation
from egress_gateway.node.lifecycle import Refused

LONG = "n" * 200_000


def record(annotation: str) -> protocol.Call:
    runtime = {names.CNI_CAPABILITY: {names.POD_ANNOTATION: annotation}}
    call = {"command": "ADD", "containerID": "c", "ifName": "eth0", "args": "K8S_POD_UID=u"}
    return protocol.decode(json.dumps(call | {"config": {"runtimeConfig": runtime}}).encode())


def test_a_name_is_cut_wherever_it_comes_from() -> None:
    pod = Pod(metadata=ObjectMeta(name="p", annotations={names.POD_ANNOTATION: LONG}))
    called = record(LONG)
    wanted = want(called, pod, known=True)
    assert wanted == annotation(pod) == called.configuration
    assert 253 < len(wanted or "") <= 256, "longer than any name: it can be nobody's"


@pytest.mark.parametrize("length", [1, 253])
def test_names_that_may_be_are_left_alone(length: int) -> None:
    assert record("n" * length).configuration == "n" * length


class _Failing:
    def __init__(self, error: Exception) -> None:
        self._error = error

    async def attach_pod(self, call: protocol.Call) -> None:
        raise self._error


@pytest.mark.parametrize("error", [Refused(LONG), ValueError(LONG), protocol.ProtocolError(LONG)])
async def test_answers_are_bounded(error: Exception) -> None:
    raw = json.dumps({"command": "ADD", "config": {}}).encode()
    agent: Any = _Failing(error)
    assert len(await server.answer(agent, raw)) < 1500


@pytest.mark.parametrize("error", [RecursionError("deep"), MemoryError(), TypeError("odd")])
async def test_a_call_that_cannot_even_be_read_is_answered(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(raw: bytes) -> protocol.Call:
        raise error

    monkeypatch.setattr(protocol, "decode", fail)
    agent: Any = _Failing(error)
    reply = await server.answer(agent, b"{}")
    assert json.loads(reply.removeprefix(b"error\n"))["code"] == protocol.TRY_AGAIN


async def test_an_unknown_command_is_named_in_a_few_words() -> None:
    agent: Any = _Failing(ValueError())
    raw = json.dumps({"command": LONG, "config": {}}).encode()
    assert len(await server.answer(agent, raw)) < 1024
