"""A running pod that is annotated keeps no connection on the cluster's address, on real nodes.

It holds a TCP download and a UDP flow in which the other side sends, asks anew all the time, and
talks on one UDP socket for life. Every packet of it that reaches the Internet is looked at.
"""

from __future__ import annotations

import asyncio
import base64
import time
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from egress_gateway.api import names
from egress_gateway_lab.demo.world import World, until
from egress_gateway_lab.realcluster.filesystems.trees import PYTHON
from tests.kube.lab.conftest import Operator
from tests.lab.conftest import configured
from tests.lab.test_bad_input import remove
from tests.storms.judge import talker
from tests.storms.judge.edge import Edge
from tests.storms.judge.ledger import Ledger
from tests.storms.place import CLUSTER

pytestmark = [pytest.mark.root, pytest.mark.kube]
SETTLE = 5.0
"""Seconds in which the node has acted on an annotation, also on a busy machine."""
LONG = 15.0
"""Seconds for which nothing old may go on: the other side repeats what nobody acknowledged."""


async def test_a_running_pod_that_is_annotated_keeps_nothing_on_the_clusters_address(
    lab: Operator,
) -> None:
    world = lab.world
    prefix = IPv4Network(await configured(world, "longlived"))
    inside = (await world.control.call("status"))["internet"]
    async with Edge(f"/proc/{world.lab.pid}/fd/{inside.rpartition('/')[2]}") as edge:
        book, address = Ledger(settle=SETTLE), str(edge.address("longlived"))
        book.begins("longlived", "")
        book.allow("longlived", [CLUSTER], time.time())
        await world.run("longlived")
        async with asyncio.TaskGroup() as group:
            talking = group.create_task(talk(world, "longlived", address))
            await answered(edge, CLUSTER)
            book.allow("longlived", [prefix], time.time())
            patch = {"metadata": {"annotations": {names.POD_ANNOTATION: "longlived"}}}
            await world.kube.patch("pods", "longlived", patch, namespace="default")
            book.keep("longlived", [prefix], time.time())
            await answered(edge, prefix)
            began = time.time()
            await asyncio.sleep(LONG)
            talking.cancel()
        seen = list(edge.seen())
        assert book.judged(seen) == []
        protocols = {s.protocol for s in seen if s.source in prefix and s.at > began}
        assert protocols == {"tcp", "udp"}
        print(f"\n{edge.packets} packets")
    await world.kube.delete("pods", "longlived", namespace="default", grace_seconds=0)
    await remove(world, "longlived")


async def talk(world: World, pod: str, address: str) -> None:
    """The storms' talker inside the pod, until cancelled."""
    text = base64.b64encode(Path(talker.__file__).read_bytes()).decode()
    script = f'import base64; exec(base64.b64decode("{text}"))'
    command = [PYTHON, "-IS", "-c", script, address]
    async for words in world.kube.exec_stream("default", pod, command):
        assert not words, f"the talker in {pod} said {words!r}"
    raise AssertionError(f"the talker in {pod} ended")


async def answered(edge: Edge, network: IPv4Network) -> None:
    """Every way to talk works, and the last word came from the network."""

    async def whole() -> bool:
        life = edge.lives.get("longlived")
        return life is not None and life.source in network and time.time() - life.since() < 3

    await until(whole, timeout=180, what=f"the pod to be answered as one of {network}")
