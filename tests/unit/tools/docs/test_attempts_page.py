"""docs/operate/security.md names every Event, condition and counter that an attempt shows in."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

from egress_gateway.api import names
from egress_gateway.api.conditions import Reason
from egress_gateway.controller.planning.grants import UNCLEAR
from egress_gateway.datapath.gateway.ruleset import GATEWAY_COUNTERS, NODE_COUNTERS
from egress_gateway.datapath.pod import linkguard, sources

ROOT = Path(__file__).parents[4]
sys.path.insert(0, str(ROOT / "tools"))
METRICS = {
    declared.name
    for found in importlib.import_module("pages.metrics_page").every().values()
    for declared in found
}
PAGE = (ROOT / "docs/operate/security.md").read_text()
SECTION = PAGE.partition("## What an administrator sees\n")[2]
TABLE = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in SECTION.partition("\n## ")[0].splitlines()
    if line.startswith("|")
][2:]
SOURCE = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
CONDITIONS = {Reason.PREFIX_NOT_ALLOWED, Reason.PREFIX_SHARE_USED, Reason.POOL_NOT_ALLOWED}


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_event_of_an_attempt_has_a_row_and_every_row_an_event_that_there_is() -> None:
    told = {reason for _, event, _, _ in TABLE for reason in quoted(event)}
    assert told >= names.ATTEMPTS | CONDITIONS | {UNCLEAR}
    for reason in told:
        assert f'"{reason}"' in SOURCE, reason


def test_what_status_shows_is_what_the_table_says() -> None:
    for tried, event, _, shown in TABLE:
        listed = bool({*quoted(event)} & {*names.ATTEMPTS, "EgressClaimRefused"})
        assert (shown == "yes") == listed, tried


def test_every_packet_that_is_dropped_and_counted_has_a_row() -> None:
    counted: dict[str, set[str]] = {}
    for _, _, metric, _ in TABLE:
        if found := quoted(metric):
            counted.setdefault(found[0], set()).update(found[1:])
    ours = {name for name in counted if name.startswith("egress_")}
    assert ours <= METRICS
    dropped = counted["egress_gateway_dropped_packets_total"]
    assert dropped == {*GATEWAY_COUNTERS, *NODE_COUNTERS}
    by_nodes = counted["egress_gateway_node_link_dropped_packets_total"]
    assert by_nodes == {linkguard.FORGED, linkguard.LEAVING, sources.FOREIGN_TUNNEL}
