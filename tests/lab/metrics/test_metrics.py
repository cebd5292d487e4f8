"""What a real Prometheus makes of the lab's metrics."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from egress_gateway_lab.demo.world import World
from tests.lab.conftest import configured
from tests.lab.metrics.prometheus import scraping, targets
from tests.lab.test_bad_input import remove
from tests.lab.test_promises import WHATSMYIP
from tests.lab.test_running_pods import becomes, cut, gateways

pytestmark = pytest.mark.root


async def test_prometheus_scrapes_every_component_and_promtool_finds_no_fault(
    world: World, tmp_path: Path
) -> None:
    prefix = await configured(world, "metered")
    (pod,) = await world.deploy("metered", configuration="metered", replicas=1)
    await becomes(world, pod, "Connected")
    await world.curl(pod, WHATSMYIP)
    known = await targets(world)
    async with scraping(world, tmp_path) as prometheus:
        await prometheus.becomes(f"count(up == 1) == {len(known)}")
        for target in known:
            text = await prometheus.get("/metrics", host=target["targets"][0])
            checked = subprocess.run(
                ["promtool", "check", "metrics"],
                input=text,
                capture_output=True,
                text=True,
                check=False,
            )
            assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", ""), text
            assert "_created" not in text
        of = '{namespace="default",configuration="metered"}'
        connected = of.replace("}", ',state="Connected"}')
        for expression in (
            f"sum(egress_gateway_node_pods{connected}) == 1",
            f"max(egress_gateway_controller_configuration_ready{of}) == 1",
            f"max(egress_gateway_controller_configuration_pods{connected.replace('C', 'c')}) == 1",
            f"sum(egress_gateway_received_bytes_total{of}) > 0",
            f"sum(egress_gateway_sent_packets_total{of}) > 0",
            f"sum(egress_gateway_peers{of}) == 2",
            "sum(egress_gateway_controller_leader) == 1",
            'sum(egress_gateway_cloud_requests_total{code="200"}) > 0',
            "min(egress_gateway_node_gateway_up) == 1",
            "max(egress_gateway_node_gateway_round_trip_seconds) > 0",
            "count(egress_gateway_build_info) > 3",
            "sum(egress_gateway_controller_reconcile_seconds_count) > 0",
        ):
            await prometheus.becomes(expression)
        size = 2 ** (32 - int(prefix.split("/")[1]))
        addresses = f"max by (state) (egress_gateway_controller_configuration_addresses{of})"
        await prometheus.becomes(f"sum({addresses}) == {size}")
        async with cut(world, "tunnels", *await gateways(world)):
            lost = of.replace("}", ',state="Lost"}')
            await prometheus.becomes(f"sum(egress_gateway_node_pods{lost}) == 1")
        await prometheus.becomes(f"sum(egress_gateway_node_pods{connected}) == 1")
        await world.kube.delete("deployments", "metered", namespace="default")
        await remove(world, "metered")
        # Nothing of what is gone is told any more.
        gone = '{configuration="metered",__name__!~"ALERTS.*"}'
        await prometheus.becomes(f"absent({gone})", timeout=180)
