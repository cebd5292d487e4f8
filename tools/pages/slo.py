"""The service level objective: the chart's ``files/slo.yaml`` and ``docs/reference/slo.md``.

Both come from one table: how fast an error budget may burn, over which windows. Values and method
are those of Google's SRE workbook, chapter 5 (multiwindow, multi-burn-rate alerts): the long window
says that it matters, the short one that it still goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
RULES: Final = ROOT / "deploy/chart/static-egress-gateway/files/slo.yaml"
PAGE: Final = ROOT / "docs/reference/slo.md"
OBJECTIVE: Final = 99.9
"""Percent of 30 days; ``prometheusRule.objective`` of the chart."""
BUDGET: Final = "egress:error_budget:ratio"
LOST: Final = "configuration:egress_lost:ratio"


@dataclass(frozen=True)
class Burn:
    """``rate`` times as fast as the budget allows, over both windows; ``spent``: what has gone by
    then, of 30 days' budget."""

    rate: float
    long: str
    short: str
    spent: str


FAST: Final = (Burn(14.4, "1h", "5m", "2 %"), Burn(6, "6h", "30m", "5 %"))
SLOW: Final = (Burn(3, "1d", "2h", "10 %"), Burn(1, "3d", "6h", "10 %"))
_BY: Final = "by (namespace, configuration)"
_LOST: Final = (
    f"1 - min {_BY} ("
    f'label_replace((sum {_BY} (egress_gateway_node_pods{{state="Connected"}})'
    f" or 0 * sum {_BY} (egress_gateway_node_pods)) / sum {_BY} (egress_gateway_node_pods),"
    ' "part", "tunnels", "", "")'
    f' or label_replace(max {_BY} (egress_gateway_address_verified), "part", "address", "", ""))'
)
"""Of the pods, those without a working tunnel; all, if the Internet sees no gateway as it should.
Where a pod has none, the first is 0 and not missing."""


def _lost(window: str) -> str:
    return f"avg_over_time({LOST}[{window}])"


def _refused(window: str) -> str:
    failed = f"sum(rate(egress_gateway_node_attach_failures_total[{window}]))"
    return f"{failed} / ({failed} + sum(rate(egress_gateway_node_attach_seconds_count[{window}])))"


_KINDS: Final = (
    (
        "EgressBudget",
        _lost,
        "{{ $labels.namespace }}/{{ $labels.configuration }} loses egress",
        "pods without a working tunnel, or an address that nobody sees",
    ),
    (
        "EgressAttachBudget",
        _refused,
        "annotated pods are told to wait at their start",
        "CNI ADDs of annotated pods that were told to try again",
    ),
)
_SPEEDS: Final = (
    ("BurnsFast", FAST, "2m", "critical"),
    ("BurnsSlowly", SLOW, "15m", "warning"),
)


def rules() -> list[dict[str, Any]]:
    """Recording rules first: the alerts read them."""
    found: list[dict[str, Any]] = [
        {"record": BUDGET, "expr": f"vector((100 - {OBJECTIVE:g}) / 100)"},
        {"record": LOST, "expr": _LOST},
    ]
    for kind, ratio, what, _ in _KINDS:
        for speed, burns, patience, severity in _SPEEDS:
            expr = " or ".join(
                f"({ratio(b.long)} > {b.rate:g} * scalar({BUDGET})"
                f" and {ratio(b.short)} > {b.rate:g} * scalar({BUDGET}))"
                for b in burns
            )
            summary = f"{what}, more than {burns[-1].rate:g} times as fast as the objective allows"
            found.append(
                {
                    "alert": kind + speed,
                    "expr": expr,
                    "for": patience,
                    "labels": {"severity": severity},
                    "annotations": {"summary": summary},
                }
            )
    return found


def rules_text() -> str:
    groups = {"groups": [{"name": "egress-gateway-slo", "rules": rules()}]}
    head = (
        "# The objective of egress (docs/reference/slo.md), for the chart's PrometheusRule or a\n"
        "# Prometheus without the operator. Made by tools/pages/slo.py: change its first rule.\n"
    )
    return head + yaml.safe_dump(groups, sort_keys=False, width=100)


def page_text() -> str:
    rows = "\n".join(
        f"| `…{speed}` | {severity} | {b.rate:g} | {b.long} | {b.short} | {b.spent} |"
        for speed, burns, _, severity in _SPEEDS
        for b in burns
    )
    kinds = "\n".join(f"- `{kind}…`: {means}." for kind, _, _, means in _KINDS)
    return f"""# The objective of egress

<!-- Made by tools/pages/slo.py: change it there, and run `make manifests`. -->

{OBJECTIVE:g} % of 30 days: that is the default of `prometheusRule.objective`, and leaves
{(100 - OBJECTIVE) / 100 * 30 * 24 * 60:.0f} minutes a month. The chart's PrometheusRule has the
rules (`prometheusRule.enabled`); a Prometheus without the operator reads
[`files/slo.yaml`](../../deploy/chart/static-egress-gateway/files/slo.yaml), whose first rule is the
budget. What counts against it:

{kinds}

`{LOST}` is the first as a recorded series, by `namespace` and `configuration`: 0 is
good, 1 is an outage of all pods. It counts time, whatever pods send meanwhile. A failover that the
pods survive costs what it lasts, times the share of pods that it moves.

An alert fires when the budget burns this many times faster than it may, over the long window and
still over the short one (the method of Google's
[SRE workbook](https://sre.google/workbook/alerting-on-slos/), chapter 5):

| alert | severity | times as fast | long window | short window | of the budget by then |
|---|---|---|---|---|---|
{rows}

A Prometheus that keeps less than three days sees the slowest burn late. What to do at each:
[alerts.md](alerts.md).
"""


def texts() -> dict[Path, str]:
    return {RULES: rules_text(), PAGE: page_text()}
