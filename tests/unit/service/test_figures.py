"""A scrape tells what there is at that moment: no more, no less, never half of it."""

from __future__ import annotations

import pytest
from prometheus_client.exposition import generate_latest

from egress_gateway.service.figures import Figure, Sample, Snapshot, Tally, build
from egress_gateway.service.metrics import together

PODS = Figure(name="egress_gateway_x_pods", help="Pods.", labels=("namespace",))
DROPS = Figure(
    name="egress_gateway_x_drops_total", help="Drops.", labels=("reason",), kind="counter"
)


def text(*snapshots: Snapshot) -> str:
    return generate_latest(together(*snapshots)).decode()


def test_a_series_is_there_as_long_as_what_it_tells_of() -> None:
    pods = {"a": 3, "b": 1}
    shown = Snapshot([PODS], lambda: [PODS(n, name) for name, n in pods.items()])
    assert 'egress_gateway_x_pods{namespace="b"} 1.0' in text(shown)
    del pods["b"]
    assert '"b"' not in text(shown)
    assert 'egress_gateway_x_pods{namespace="a"} 3.0' in text(shown)
    pods.clear()
    assert "# HELP egress_gateway_x_pods Pods." in text(shown)


def test_counters_are_counters_and_have_no_time_of_birth() -> None:
    tally = Tally(DROPS)
    tally.add(2, "stray")
    tally.add(3, "stray")
    found = text(Snapshot([DROPS], tally.samples))
    assert "# TYPE egress_gateway_x_drops_total counter" in found
    assert 'egress_gateway_x_drops_total{reason="stray"} 5.0' in found
    assert "_created" not in found
    tally.keep(lambda labels: labels != ("stray",))
    assert "stray" not in text(Snapshot([DROPS], tally.samples))


def test_the_same_labels_twice_are_one_series() -> None:
    found = text(Snapshot([PODS], lambda: [PODS(1, "a"), PODS(2, "a")]))
    assert found.count("egress_gateway_x_pods{") == 1
    assert 'egress_gateway_x_pods{namespace="a"} 3.0' in found


def test_what_is_not_declared_is_an_error_and_no_series() -> None:
    with pytest.raises(KeyError):
        text(Snapshot([PODS], lambda: [Sample(DROPS, 1.0, ("stray",))]))


def test_the_build_says_component_and_version() -> None:
    assert 'egress_gateway_build_info{component="node",version="' in text(build("node"))
