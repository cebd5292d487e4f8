"""People are told once a minute, however often the agent tries."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from egress_gateway.api.types import ObjectMeta
from egress_gateway.kube.resources import Pod, PodSpec, Reference
from egress_gateway.node.reporting.tell import Teller


class Recorder:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def event(self, target: Reference, type: str, reason: str, message: str) -> None:
        self.events.append((target.name, reason, message))


def test_repeats_wait_and_news_do_not() -> None:
    recorder, now = Recorder(), [1000.0]
    teller = Teller(recorder, clock=lambda: now[0])  # type: ignore[arg-type]
    for _ in range(5):
        teller.not_ready(("default", "web", "u"), "no gateway")
        now[0] += 10
    assert len(recorder.events) == 1
    teller.not_ready(("default", "web", "u"), "something else")
    teller.not_ready(("default", "other", "v"), "no gateway")
    assert len(recorder.events) == 3
    now[0] += 60
    teller.not_ready(("default", "web", "u"), "no gateway")
    assert len(recorder.events) == 4


def test_host_network_pod_is_told_what_to_change() -> None:
    recorder = Recorder()
    meta = ObjectMeta(name="web", namespace="default", uid="u")
    pod = Pod(metadata=meta, spec=PodSpec(host_network=True))
    Teller(recorder).host_network(pod)  # type: ignore[arg-type]
    [(name, reason, message)] = recorder.events
    assert (name, reason) == ("web", "EgressRefused")
    assert "hostNetwork" in message


def test_pods_that_find_no_gateway_do_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A hundred of them, each of which tries the next gateway every three seconds."""
    now = [1000.0]
    teller = Teller(Recorder(), clock=lambda: now[0])  # type: ignore[arg-type]
    configuration = SimpleNamespace(name="partner")
    pods = [
        SimpleNamespace(
            namespace="shop", pod=f"web-{n}", uid=f"u{n}", configuration=configuration, active=None
        )
        for n in range(100)
    ]

    def lines_of(minutes: int) -> int:
        caplog.clear()
        for _ in range(minutes * 20):
            for pod in pods:
                teller.moved(pod, pod)  # type: ignore[arg-type]
            now[0] += 3
        return len(caplog.records)

    with caplog.at_level(logging.INFO):
        assert 100 <= lines_of(1) <= 110, "each pod's first move"
        assert 1 <= lines_of(10) <= 50
        assert caplog.records[-1].unsaid > 100  # type: ignore[attr-defined]
        now[0] += 600
        teller.moved(pods[0], pods[0])  # type: ignore[arg-type]
        assert caplog.records[-1].pod == "shop/web-0", "another day"  # type: ignore[attr-defined]
