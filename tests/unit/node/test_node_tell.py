"""People are told once a minute, however often the agent tries."""

from __future__ import annotations

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
