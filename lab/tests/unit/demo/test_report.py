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
