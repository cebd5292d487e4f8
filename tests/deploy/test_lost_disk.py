"""A worker loses its disk under pods that are bound to it: no policy sends those elsewhere. With
``admission.waitForTunnel`` they start behind the hold even so."""

from __future__ import annotations

from pathlib import Path

import pytest

from egress_gateway.api import names
from tests.kube.chart import rendered
from tests.lab import conftest as lab
from tests.lab.test_node_losses import goes_on, started

pytestmark = pytest.mark.root


async def test_pods_that_wait_for_their_tunnel_never_leave_by_the_side(clients: Path) -> None:
    async with lab.started() as world:
        for document in rendered(clients, "admission.waitForTunnel=true"):
            if document["kind"].startswith("MutatingAdmissionPolicy"):
                await world.kube.apply(document)
        name, prefix, pod = await started(world, "disk")
        assert [c["name"] for c in pod["spec"]["initContainers"]] == [names.WAIT_CONTAINER]
        node = pod["spec"]["nodeName"]
        for _ in range(2):
            await world.control.call("power_cut", node=node)
            await world.control.call("power_on", node=node, reimage=True)
            await goes_on(world, name, prefix)
