"""Each alert fires by the fault that it is for, and the dashboard's queries are ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from egress_gateway.api import names
from egress_gateway_lab.demo.world import World, until
from tests.lab.addresses.test_verified import verified
from tests.lab.conftest import configured
from tests.lab.metrics.prometheus import Prometheus, scraping
from tests.lab.test_bad_input import annotated, remove
from tests.lab.test_running_pods import becomes, cut, gateways

pytestmark = pytest.mark.root
_FILES = Path(__file__).parents[3] / "deploy/chart/static-egress-gateway/files"
_PATIENCE = 120


def at_once() -> dict[str, Any]:
    """The chart's rules, without their patience."""
    files = [yaml.safe_load((_FILES / name).read_text()) for name in ("alerts.yaml", "slo.yaml")]
    groups = [group for file in files for group in file["groups"]]
    for group in groups:
        for rule in group["rules"]:
            if "alert" in rule:
                rule["for"] = "0s"
    return {"groups": groups}


async def fires(prometheus: Prometheus, alert: str, **labels: str) -> None:
    async def look() -> bool:
        found = (await prometheus.firing()).get(alert, [])
        return any(labels.items() <= one.items() for one in found)

    await until(look, timeout=_PATIENCE, what=f"{alert} {labels} to fire")


async def ends(prometheus: Prometheus, alert: str, **labels: str) -> None:
    async def look() -> bool:
        found = (await prometheus.firing()).get(alert, [])
        return not any(labels.items() <= one.items() for one in found)

    await until(look, timeout=_PATIENCE, what=f"{alert} {labels} to end")


async def test_each_alert_fires_by_its_fault_and_none_without(world: World, tmp_path: Path) -> None:
    await configured(world, "watched")
    (pod,) = await world.deploy("watched", configuration="watched", replicas=1)
    await becomes(world, pod, "Connected")
    # Rules without patience fire, too, while the second gateway is still on its way.
    await world.configuration_condition(
        "watched", lambda c: c["reason"] == "AllGatewaysReady", timeout=_PATIENCE
    )
    await verified(world, "watched", "True")
    of = {"namespace": "default", "configuration": "watched"}
    async with scraping(world, tmp_path, at_once()) as prometheus:
        await prometheus.becomes("sum(egress_gateway_controller_leader) == 1")
        firing = await prometheus.firing()
        assert [n for n, found in firing.items() if of.items() <= found[0].items()] == []
        async with cut(world, "tunnels", *await gateways(world)):
            await fires(prometheus, "EgressPodsWithoutTunnel", **of)
            await fires(prometheus, "EgressBudgetBurnsFast", severity="critical", **of)
            await fires(prometheus, "EgressBudgetBurnsSlowly", severity="warning", **of)
            await world.kube.create("pods", annotated("late", "watched"))
            await fires(prometheus, "EgressPodsDoNotStart")
            await fires(prometheus, "EgressAttachBudgetBurnsFast")
            await fires(prometheus, "EgressAttachBudgetBurnsSlowly")
            await fires(prometheus, "EgressConfigurationNotReady", reason="PodsWithoutTunnel", **of)
        await ends(prometheus, "EgressPodsWithoutTunnel", **of)
        await prometheus.becomes('configuration:egress_lost:ratio{configuration="watched"} == 0')
        await world.kube.delete("pods", "late", namespace="default", grace_seconds=0)
        lost = (await gateways(world))[0]
        async with cut(world, "both", lost):
            await fires(prometheus, "EgressGatewayUnreachable", gateway=lost)
            await fires(prometheus, "EgressGatewayNotReached", gateway=lost)
            await fires(prometheus, "EgressRedundancyLost", **of)
        await ends(prometheus, "EgressRedundancyLost", **of)
        async with cut(world, "internet", lost):
            await fires(prometheus, "EgressAddressNotVerified", **of)
        fault = {"kind": "error", "status": 401, "code": "ExpiredAuthenticationToken"}
        await world.control.call("fault", times=None, **fault)
        try:
            await fires(prometheus, "EgressAzureNotReachable", code="401")
        finally:
            await world.control.call("fault", clear=True)
        await without_a_controller(world, prometheus)
        await the_dashboards_queries_are_answered(prometheus)
    await world.kube.delete("deployments", "watched", namespace="default")
    await remove(world, "watched")


async def without_a_controller(world: World, prometheus: Prometheus) -> None:
    where = {"namespace": names.SYSTEM_NAMESPACE}
    await world.kube.patch(
        "deployments", "egress-gateway-controller", {"spec": {"replicas": 0}}, **where
    )
    try:
        await fires(prometheus, "EgressNoLeader")
    finally:
        await world.kube.patch(
            "deployments", "egress-gateway-controller", {"spec": {"replicas": 1}}, **where
        )

    async def back() -> bool:
        found = await world.kube.get("deployments", "egress-gateway-controller", **where)
        return bool(found.get("status", {}).get("readyReplicas", 0) == 1)

    await until(back, timeout=_PATIENCE, what="the controller to be back")


async def the_dashboards_queries_are_answered(prometheus: Prometheus) -> None:
    dashboard = json.loads((_FILES / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$namespace", ".*").replace("$configuration", ".*")
            await prometheus.query(expression)
