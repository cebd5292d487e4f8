"""The story itself, as `make demo` plays it: the document is what scripts will read."""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
import sys
from typing import Any
from xml.sax.saxutils import escape

import pytest
from recording import PICTURE

pytestmark = pytest.mark.root


def test_the_story_plays_and_its_document_holds() -> None:
    document = check_story()
    shown = _named(PICTURE.read_text())
    missing = [
        c for s in document["steps"] for c in s["commands"] if _named(escape(c)) not in shown
    ]
    assert missing == [], "the README's recording is of another demo: run `make recording`"


def _named(text: str) -> str:
    """Without what differs from one lab to the next, and where lines break."""
    text = re.sub(r"<.*?>|\s", "", text)
    made = "[bcdfghjklmnpqrstvwxz2456789]"  # Kubernetes' letters of generated names: no vowels
    return re.sub(rf"-{made}{{10}}-{made}{{5}}|vmss\d+", "", text)


def check_story(*options: str) -> dict[str, Any]:
    """Plays it with these options of `lab demo`; its document, of which every figure holds."""
    command = [sys.executable, "-m", "egress_gateway.cli.main", "lab", "demo", "--output", "json"]
    done = subprocess.run(
        [*command, *options],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stdout, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    failed = [(s["name"], s["error"]) for s in document["steps"] if not s["ok"]]
    assert failed == []
    assert done.returncode == 0
    assert [s["name"] for s in document["steps"]] == [
        "lab",
        "problem",
        "gateway-pool",
        "configuration",
        "application",
        "second-application",
        "failover",
        "clean-up",
    ]
    assert all(s["commands"] and s["seconds"] > 0 for s in document["steps"])
    prefixes = {n: ipaddress.ip_network(p) for n, p in document["prefixes"].items()}
    assert len(prefixes) == 2
    default = ipaddress.ip_address(document["default_address"])
    assert not any(default in p for p in prefixes.values())
    for pod, address in document["pod_addresses"].items():
        name = "partner-b" if pod.startswith("partner-b") else "my-static-egress-gateway"
        assert ipaddress.ip_address(address) in prefixes[name], pod
    assert len(document["pod_addresses"]) == 5
    assert document["failover_ms"] > 0
    assert document["wrong_address_requests"] == 0
    return document
