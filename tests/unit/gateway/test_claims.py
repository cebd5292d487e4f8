"""Which claims become peers: the scenarios of ``claims.yaml``, one test each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from egress_gateway.gateway.peers.rules import AcceptedClaim
from tests.unit.gateway.test_gateway_peers import endpoint, judged, nets, pod

SCENARIOS: list[dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("claims.yaml").read_text()
)
WORDS = {"scenario", "claim", "pod", "others", "podcidrs", "mirror pods", "verdict"}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s["scenario"])
def test_claims(scenario: dict[str, Any]) -> None:
    assert scenario.keys() <= WORDS, "a misspelt word would be ignored"
    known = None if scenario.get("pod") == "none" else pod(**scenario.get("pod", {}))
    others = [pod(**{"name": "b", **other}) for other in scenario.get("others", [])]
    more: dict[str, Any] = {}
    if "podcidrs" in scenario:
        more["networks"] = nets(*scenario["podcidrs"])
    if "mirror pods" in scenario:
        more["mirror_pods"] = scenario["mirror pods"] == "allowed"
    claim = endpoint(**scenario.get("claim", {}))
    verdict = judged(claim, known, *others, **more)
    if isinstance(verdict, AcceptedClaim):
        assert scenario["verdict"] == "accepted"
        assert verdict.networks == nets(*(claim.spec.pod_ips or [claim.spec.pod_ip_address]))
    else:
        assert verdict.reason == scenario["verdict"]
        assert 0 < len(verdict.message) < 400
