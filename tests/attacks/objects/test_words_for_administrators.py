"""Actor: a stolen token of an agent that writes to whoever looks.

What agents report are texts, and administrators read them in a terminal, which obeys commands.
"""

from __future__ import annotations

import datetime
import json
from logging import Formatter, LogRecord

import pytest

from egress_gateway.api import names
from egress_gateway.api.types import (
    GatewayProblem,
    GatewayStatus,
    GatewayStatusSpec,
    ObjectMeta,
    PodEndpoint,
    PodEndpointSpec,
    PodEndpointStatus,
    RefusedClaim,
    StaticGatewayConfiguration,
)
from egress_gateway.cli.diagnosis import status
from egress_gateway.cli.diagnosis.checks.check import text as checked
from egress_gateway.cli.diagnosis.checks.findings import findings
from egress_gateway.cli.diagnosis.overview import Facts, summarize
from egress_gateway.cli.terminal import plain
from egress_gateway.kube.resources import Event, Reference
from egress_gateway.service import logging

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
COMMANDS = {
    "clears what was above": "\x1b[2J",
    "fills the clipboard": "\x1b]52;c;Y3VybCBldmlsIHwgc2g=\x07",
    "hides what follows": "\x1b[8m",
    "is black on black": "\x1b[30m",
    "one byte that is two": "\x9b31m",
    "overwrites its line": "\rready",
    "turns the direction": "\u202eevil",
    "goes back": "\b\b\b\x7f",
}


def facts(words: str) -> Facts:
    """All that agents may write, with ``words`` in it."""
    named = ObjectMeta(name="a", namespace="default", uid="u")
    said = PodEndpointStatus(
        state="Lost", reason=words, message=words, gateway=words, egress_ip=words
    )
    used = PodEndpointSpec(static_gateway_configuration="a", node_name="w")
    report = GatewayStatusSpec(
        problems=[GatewayProblem(static_gateway_configuration="default/a", message=words)],
        refused_claims=[
            RefusedClaim(pod=words, static_gateway_configuration=words, reason=words, message=words)
        ],
    )
    event = Event(
        metadata=ObjectMeta(name="e", namespace="default"),
        involved_object=Reference(kind="Node", name="w"),
        reason=names.PORT_FLOOD,
        message=words,
        last_timestamp="2029-12-31T23:59:00Z",
    )
    return Facts(
        at=NOW,
        configurations=[StaticGatewayConfiguration(metadata=named)],
        endpoints=[PodEndpoint(metadata=named, spec=used, status=said)],
        gateways=[GatewayStatus(metadata=ObjectMeta(name="gw"), spec=report)],
        events=[event],
    )


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_nothing_that_an_agent_writes_commands_an_administrators_terminal(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = facts(f"honest{words}words")
    monkeypatch.setenv("FORCE_COLOR", "1")
    for output in ("text", "wide"):
        status.show(summarize(found), output)
    shown = capsys.readouterr().out
    assert words not in shown
    assert "honest" in shown
    assert words not in plain(checked(findings(found, summarize(found)), []))


@pytest.mark.parametrize("formatter", [logging.JsonFormatter(), logging.TextFormatter()])
@pytest.mark.parametrize("words", [*COMMANDS.values(), "\n", "\u2028"])
def test_nor_does_a_line_of_a_log(formatter: Formatter, words: str) -> None:
    record = LogRecord("egress_gateway.x", 20, "", 0, f"a{words}b", None, None)
    record.__dict__["error"] = f"c{words}d"
    line = formatter.format(record)
    assert line.isprintable()
    if isinstance(formatter, logging.JsonFormatter):
        assert json.loads(line)["error"] == f"c{words}d"


def test_a_line_of_its_own_is_not_forged() -> None:
    found = facts("x\n✓ no faults found\nother/b: ready")
    seen = status.render(summarize(found), wide=True)
    for shown in (seen, checked(findings(found, summarize(found)), [])):
        assert "\nother/b" not in shown
        assert "\n✓" not in shown
