"""What a gateway agent reports of itself, and when it says that it did."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any, cast

from egress_gateway.api.types import (
    GatewayStatus,
    GatewayStatusSpec,
    ObjectMeta,
    ReadyGatewayConfiguration,
)
from egress_gateway.gateway.health.report import Reporter
from egress_gateway.kube.client import Client
from egress_gateway.kube.resources import Node


class ApiServer:
    """Has its own time, and keeps what was applied."""

    def __init__(self) -> None:
        self.applied: list[GatewayStatus] = []

    def now(self) -> datetime.datetime:
        return datetime.datetime(2030, 1, 1, 3, 0, tzinfo=datetime.UTC)

    async def apply(self, _: Any, document: GatewayStatus) -> None:
        self.applied.append(document)
        await asyncio.sleep(0)


async def test_a_heartbeat_is_of_the_api_servers_time_whatever_the_machines_clock_says() -> None:
    """A gateway whose clock is minutes behind would be called silent by whoever reads it."""
    api = ApiServer()
    node = Node(metadata=ObjectMeta(name="gw0"))
    reporter = Reporter(cast(Client, api), node, "system", heartbeat=30.0)
    assert await reporter.publish(GatewayStatusSpec())
    assert [one.spec.heartbeat for one in api.applied] == ["2030-01-01T03:00:00Z"]


async def test_a_report_belongs_to_the_node_as_it_is_registered_now() -> None:
    """The garbage collector deletes what belongs to a Node that is gone, each time it comes back;
    a kubelet registers a deleted Node anew while the agent runs on."""
    api = ApiServer()
    first, second = (Node(metadata=ObjectMeta(name="gw0", uid=uid)) for uid in ("1", "2"))
    reporter = Reporter(cast(Client, api), first, "system", heartbeat=30.0)
    await reporter.registered(second)
    assert not api.applied, "nothing is reported before the first pass"
    for now in (first, second, second):
        await reporter.registered(now)
        await reporter.publish(GatewayStatusSpec())
    assert [one.metadata.owner_references[0].uid for one in api.applied] == ["1", "2"]
    changed = GatewayStatusSpec(
        ready_gateway_configurations=[ReadyGatewayConfiguration(static_gateway_configuration="n/a")]
    )
    await asyncio.gather(reporter.publish(changed), reporter.registered(first))
    assert [one.metadata.owner_references[0].uid for one in api.applied[2:]] == ["2", "1"]
