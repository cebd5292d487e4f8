"""``egress-gateway test`` proves a live cluster, says what is wrong with a broken one, and leaves
nothing."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

import pytest

from egress_gateway.cli.proof.plan import RUN_LABEL
from egress_gateway_lab.demo.world import World, until
from tests.lab.conftest import configured
from tests.lab.test_bad_input import remove
from tests.lab.test_running_pods import command, cut, gateways

pytestmark = pytest.mark.root
SECOND = "198.51.100.31"
"""One of the Internet's STUN servers, which one configuration keeps from its gateways."""


async def left(world: World) -> list[dict[str, Any]]:
    return await world.kube.list("pods", labels=RUN_LABEL)


async def proven(world: World, *arguments: str) -> tuple[int, dict[tuple[str, str], Any]]:
    """Exit code, and verdicts by node and check."""
    code, said = await command(world, "test", "--output", "json", *arguments)
    found = json.loads(said.splitlines()[-1])
    for one in found:
        print(one)
    assert await left(world) == []
    components = [one for one in found if one["configuration"] == "-"]
    assert len(components) == 4
    return code, {(one["node"], one["check"]): one for one in found if one not in components}


async def test_a_live_cluster_is_proven_and_a_broken_one_is_not(world: World) -> None:
    await configured(world, "tried", exclude=[f"{SECOND}/32"])
    code, found = await proven(world, "--configuration", "default/tried", "--nodes", "2")
    assert code == 0
    assert {check for _, check in found} == {"dns", "egress", "full size", "excluded"}
    assert len({node for node, _ in found}) == 2
    assert {one["passed"] for one in found.values()} == {True}
    sgc = await world.kube.get("staticgatewayconfigurations", "tried", namespace="default")
    public = [g["publicIp"] for g in sgc["status"]["gateways"]]
    for (_, check), one in found.items():
        if check == "egress":
            assert any(address in one["text"] for address in public)
        if check == "excluded":
            # Real packets: the server that is excluded saw the cluster's own address.
            assert SECOND in one["text"] or "sees" in one["text"]
            assert not any(address in one["text"] for address in public)
    async with cut(world, "tunnels", *await gateways(world)):
        code, found = await proven(
            world, "--configuration", "default/tried", "--nodes", "1", "--timeout", "45"
        )
        assert code == 1
        ((_, check),) = found
        assert check == "start"
        assert "UDP" in next(iter(found.values()))["text"]


async def test_a_failover_on_request_moves_a_pod_and_gives_the_node_back(world: World) -> None:
    code, found = await proven(
        world, "--configuration", "default/tried", "--nodes", "1", "--failover"
    )
    assert code == 0
    (moved,) = [one for (_, check), one in found.items() if check == "failover"]
    assert "moved from" in moved["text"]
    for node in await world.nodes():
        assert not node["spec"].get("unschedulable"), node["metadata"]["name"]


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("failover", [False, True])
async def test_who_is_interrupted_leaves_nothing(
    world: World, number: signal.Signals, failover: bool
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "egress_gateway.cli.main", "test", "--nodes", "2"),
        *(("--failover",) if failover else ()),
        *("--kubeconfig", str(world.lab.kubeconfig)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )

    async def busy() -> bool:
        if process.returncode is not None:
            said, _ = await process.communicate()
            raise AssertionError(f"it ended before it was interrupted:\n{said.decode()}")
        if failover:
            return any(n["spec"].get("unschedulable") for n in await world.nodes())
        return bool(await left(world))

    await until(busy, timeout=120, what="the test to be at work")
    process.send_signal(number)
    said, _ = await process.communicate()
    assert process.returncode == 130, said
    assert b"Traceback" not in said
    assert await left(world) == []
    assert not any(n["spec"].get("unschedulable") for n in await world.nodes())


async def test_nothing_of_it_stays(world: World) -> None:
    code, _ = await command(world, "test", "--configuration", "default/nowhere")
    assert code == 1
    await remove(world, "tried")
