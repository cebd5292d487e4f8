"""Alerts and dashboard: every metric in them exists, every alert has its paragraph."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.tools.docs.test_metrics_page import EVERY

ROOT = Path(__file__).parents[4]
FILES = ROOT / "deploy/chart/static-egress-gateway/files"
BOTH = ("alerts.yaml", "slo.yaml")
RULES: list[dict[str, Any]] = [
    rule
    for file in BOTH
    for group in yaml.safe_load((FILES / file).read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
]
DASHBOARD = json.loads((FILES / "dashboard.json").read_text())

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool: apt install prometheus"
)


def metrics_of(expression: str) -> set[str]:
    return set(re.findall(r"\begress_gateway_[a-z_]+", expression))


def known() -> set[str]:
    names = {d.name for d in EVERY}
    histograms = {d.name for d in EVERY if d.kind == "histogram"}
    return names | {f"{n}_{end}" for n in histograms for end in ("bucket", "count", "sum")}


@pytest.mark.parametrize("rule", RULES, ids=lambda r: str(r["alert"]))
def test_an_alert_has_metrics_that_exist_a_severity_and_a_paragraph(rule: dict[str, Any]) -> None:
    assert metrics_of(rule["expr"]) <= known()
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"]["summary"]
    page = (ROOT / "docs/reference/alerts.md").read_text()
    assert f"\n## {rule['alert']}\n" in page


def test_the_page_has_no_alert_that_there_is_not() -> None:
    page = (ROOT / "docs/reference/alerts.md").read_text()
    assert re.findall(r"\n## (\w+)\n", page) == [rule["alert"] for rule in RULES]


@pytest.mark.parametrize("panel", DASHBOARD["panels"], ids=lambda p: str(p["title"]))
def test_a_panel_has_metrics_that_exist(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        assert metrics_of(target["expr"])
        assert metrics_of(target["expr"]) <= known()


@needs_promtool
@pytest.mark.parametrize("file", BOTH)
def test_promtool_finds_no_fault(file: str) -> None:
    done = subprocess.run(
        ["promtool", "check", "rules", str(FILES / file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


PLAYED = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: 'egress_gateway_ports_used{{namespace="shop",configuration="partner"}}'
        values: '100 100 100 60000x10'
      - series: 'egress_gateway_ports_limit'
        values: '64512x20'
      - series: 'egress_gateway_node_plugin_in_place{{node="n1"}}'
        values: '1 0x10'
      - series: 'egress_gateway_cloud_requests_total{{code="429",method="GET",type="x"}}'
        values: '0+60x40'
      - series: 'egress_gateway_controller_leader'
        values: '1x40'
    alert_rule_test:
      - {{eval_time: 2m, alertname: EgressPortsRunningOut, exp_alerts: []}}
      - eval_time: 8m
        alertname: EgressPortsRunningOut
        exp_alerts:
          - exp_labels: {{severity: warning, namespace: shop, configuration: partner}}
            exp_annotations:
              summary: >-
                an address of shop/partner nears its last free port towards one destination
      - {{eval_time: 2m, alertname: EgressPluginMissing, exp_alerts: []}}
      - eval_time: 8m
        alertname: EgressPluginMissing
        exp_alerts:
          - exp_labels: {{severity: warning, node: n1}}
            exp_annotations:
              summary: "annotated pods do not come to node n1: the CNI plugin is not in place"
      - {{eval_time: 5m, alertname: EgressAzureThrottled, exp_alerts: []}}
      - eval_time: 30m
        alertname: EgressAzureThrottled
        exp_alerts:
          - exp_labels: {{severity: info}}
            exp_annotations: {{summary: Azure throttles the controller}}
      - {{eval_time: 30m, alertname: EgressNoLeader, exp_alerts: []}}
"""


@needs_promtool
def test_alerts_whose_fault_a_lab_cannot_make_fire_when_they_should(tmp_path: Path) -> None:
    """64,000 connections, fifteen minutes of throttling."""
    play = tmp_path / "play.yaml"
    play.write_text(PLAYED.format(rules=FILES / "alerts.yaml"))
    done = subprocess.run(
        ["promtool", "test", "rules", str(play)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


BURNS = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      # Half of the pods for 20 minutes, then none.
      - series: 'egress_gateway_node_pods{{namespace="shop",configuration="a",state="Connected"}}'
        values: '10x30 5x19 10x400'
      - series: 'egress_gateway_node_pods{{namespace="shop",configuration="a",state="Lost"}}'
        values: '0x30 5x19 0x400'
      # No pod is connected, and no series says 0; later they are gone.
      - series: 'egress_gateway_node_pods{{namespace="shop",configuration="b",state="Lost"}}'
        values: '_x60 3x60 _x300'
      # One gateway of two that nobody sees moves pods, and costs nothing; both do.
      - series: 'egress_gateway_address_verified{{namespace="shop",configuration="c",node="g1"}}'
        values: '1x30 0x300'
      - series: 'egress_gateway_address_verified{{namespace="shop",configuration="c",node="g2"}}'
        values: '1x150 0x200'
      # 0.4 %: slow, for a day.
      - series: 'egress_gateway_node_pods{{namespace="shop",configuration="d",state="Connected"}}'
        values: '996x3000'
      - series: 'egress_gateway_node_pods{{namespace="shop",configuration="d",state="Waiting"}}'
        values: '4x3000'
      - series: 'egress_gateway_node_attach_failures_total'
        values: '0x100 0+10x60 600x400'
      - series: 'egress_gateway_node_attach_seconds_count'
        values: '0+10x600'
    promql_expr_test:
      - {{expr: "configuration:egress_lost:ratio{{configuration='a'}}", eval_time: 35m,
          exp_samples: [{{labels: "configuration:egress_lost:ratio{{namespace='shop',
          configuration='a'}}", value: 0.5}}]}}
      - {{expr: "configuration:egress_lost:ratio{{configuration='c'}}", eval_time: 100m,
          exp_samples: [{{labels: "configuration:egress_lost:ratio{{namespace='shop',
          configuration='c'}}", value: 0}}]}}
    alert_rule_test:
      - {{eval_time: 29m, alertname: EgressBudgetBurnsFast, exp_alerts: []}}
      - {{eval_time: 45m, alertname: EgressBudgetBurnsFast, exp_alerts: [{a}]}}
      # The outage of a is over, though the hours are still bad ones: the short windows let go.
      - {{eval_time: 85m, alertname: EgressBudgetBurnsFast, exp_alerts: [{b}]}}
      - {{eval_time: 200m, alertname: EgressBudgetBurnsFast, exp_alerts: [{c}]}}
      - {{eval_time: 1600m, alertname: EgressBudgetBurnsSlowly, exp_alerts: [{d}]}}
      - {{eval_time: 99m, alertname: EgressAttachBudgetBurnsFast, exp_alerts: []}}
      - eval_time: 130m
        alertname: EgressAttachBudgetBurnsFast
        exp_alerts:
          - exp_labels: {{severity: critical}}
            exp_annotations: {{summary: "annotated pods are told to wait at their start, more than 6
              times as fast as the objective allows"}}
"""


@needs_promtool
def test_a_budget_that_burns_is_told_by_how_fast_it_burns(tmp_path: Path) -> None:
    def of(name: str, severity: str, times: int) -> str:
        summary = (
            f"shop/{name} loses egress, more than {times} times as fast as the objective allows"
        )
        labels = {"severity": severity, "namespace": "shop", "configuration": name}
        return json.dumps({"exp_labels": labels, "exp_annotations": {"summary": summary}})

    play = tmp_path / "play.yaml"
    told = {name: of(name, "critical", 6) for name in "abc"} | {"d": of("d", "warning", 1)}
    play.write_text(BURNS.format(rules=FILES / "slo.yaml", **told))
    done = subprocess.run(
        ["promtool", "test", "rules", str(play)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
