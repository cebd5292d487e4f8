"""A script always has a document to read, also after a failure."""

from __future__ import annotations

import io
import json

import pytest

from egress_gateway_lab.demo.report import Report, StepFailed
from egress_gateway_lab.demo.traffic import Request, Traffic


def test_the_document_holds_steps_and_facts() -> None:
    stream = io.StringIO()
    report = Report(as_json=True, stream=stream)
    with report.step("one", "First"):
        report.command("kubectl get pods")
        report.see("none")
    assert stream.getvalue() == ""
    report.facts["failover_ms"] = 321
    report.finish(ok=True)
    document = json.loads(stream.getvalue())
    assert document["steps"][0]["name"] == "one"
    assert document["steps"][0]["commands"] == ["kubectl get pods"]
    assert document["failover_ms"] == 321
    assert {"default_address", "prefixes", "pod_addresses", "wrong_address_requests"} < set(
        document
    )


def test_a_failed_step_is_told_with_its_reason() -> None:
    stream = io.StringIO()
    report = Report(as_json=False, stream=stream)
    with pytest.raises(StepFailed), report.step("one", "First"):
        raise StepFailed("the pod left from 192.0.2.4")
    assert "FAILED: the pod left from 192.0.2.4" in stream.getvalue()
    assert not report.steps[0].ok


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_last_figures_stand_under_each_other() -> None:
    stream = io.StringIO()
    report = Report(as_json=False, stream=stream)
    report.facts |= {"default_address": "192.0.2.1", "failover_ms": 321}
    report.facts |= {"wrong_address_requests": 0, "prefixes": {"a" * 40: "203.0.113.0/30"}}
    report.finish(ok=True)
    figures = stream.getvalue().splitlines()[2:]
    assert len(figures) == 4
    assert len({len(line) - len(line.split("  ")[-1].lstrip()) for line in figures}) == 1


@pytest.mark.parametrize(("asked", "coloured"), [("", True), ("1", False)])
def test_colours_are_for_who_wants_them(
    monkeypatch: pytest.MonkeyPatch, asked: str, coloured: bool
) -> None:
    """https://no-color.org: any value but an empty one."""
    monkeypatch.setenv("NO_COLOR", asked)
    stream = Terminal()
    with Report(as_json=False, stream=stream).step("one", "First"):
        pass
    assert ("\x1b[" in stream.getvalue()) is coloured


def test_what_was_seen_is_wrapped_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    for stream, lines in ((Terminal(), 5), (io.StringIO(), 3)):
        report = Report(as_json=False, stream=stream)
        with report.step("one", "First"):
            before = stream.getvalue().count("\n")
            report.see(f"refused: {'word ' * 16}\nnode-1  Ready\n203.0.113.0")
        assert stream.getvalue().count("\n") - before - 1 == lines
        assert all(len(line) <= 40 for line in stream.getvalue().splitlines()) == (lines == 5)
        assert "     node-1  Ready\n" in stream.getvalue()


@pytest.mark.parametrize(
    ("requests", "outage"),
    [
        # Answered until just before the cut, failed, answered again.
        ([Request(9.9, "a"), Request(10.2, None), Request(10.4, "b")], 0.4),
        # An answer that was under way at the cut still counts as before.
        ([Request(9.9, "a"), Request(10.03, "a"), Request(10.5, "b")], 0.47),
        ([Request(9.9, "a"), Request(11.0, None)], float("inf")),
    ],
)
def test_the_outage_runs_from_the_last_answer_by_the_old_way(
    requests: list[Request], outage: float
) -> None:
    traffic = Traffic.__new__(Traffic)
    traffic.requests = requests
    assert traffic.outage(10.0) == pytest.approx(outage)
