"""Names that others read from a benchmark's JSON, and what its command line takes."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import pytest

from bench.benchmarks import connections, controller, drain, failover, fleet, peers, throughput
from bench.benchmarks.attach import result as attach_result
from bench.benchmarks.failover import Tally
from bench.options import Options, numbers, runs
from bench.options import fleet as fleet_of
from bench.place.departures import DEPARTURES
from bench.place.process import Usage


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_attach_names_its_figures() -> None:
    times = {
        name: [0.01, 0.02]
        for name in ("annotated", "attaching", "ours", "with", "without", "first", "process")
    }
    found = plain(attach_result(times, failures=0, wrong=0))
    for name in ("annotated", "unannotated_overhead"):
        assert {"p50_ms", "p95_ms", "p99_ms"} <= found[name].keys()
    assert found["first_request_ms"] == 10.0
    assert found["first_request"]["wrong_address_packets"] == 0


def test_drain_names_its_figures() -> None:
    kinds = {
        name: {
            "connections": 1000,
            "survived": 1000,
            "lost": 0,
            "new_elsewhere_ms": None,
            "wrong_address_packets": 0,
        }
        for name in DEPARTURES
    }
    assert set(Options().departures) == DEPARTURES.keys()
    assert "upgrade" in drain.shown({"kinds": kinds})
    assert drain.shares(1000, [7, 13]) == [350, 650]
    assert sum(drain.shares(1000, [3, 3, 1])) == 1000


def test_peers_names_its_figures() -> None:
    restart = {
        "start_and_list_s": 3.0,
        "rebuild_s": 1.2,
        "memory_mb": 120.0,
        "memory_peak_mb": 130.0,
        "tunnel_memory_mb": None,
        "silence_ms": 60.0,
        "failed_requests": 0,
    }
    found = {"lag_s": 0.1, "restart": restart, "from_nothing": restart}
    assert "10,000" in peers.shown({"by_peers": {"10000": found}})
    assert Options().peers == (100, 1000, 10_000)


def test_fleet_names_its_figures() -> None:
    asked = {"bytes_a_second": 1, "requests_a_second": 1, "requests_a_minute": 1, "cpu_percent": 1}
    agent = {
        "start": {
            "seconds": 1.0,
            "cpu_seconds": 0.4,
            "memory_mb": 60.0,
            "private_mb": 40.0,
            "kilobytes": 4321.0,
        },
        "rest": asked,
        "churn": asked,
        "api_restart": {"kilobytes": 9.0},
    }
    size = fleet_of("1000,10000,1000,16")
    assert size == Options().fleet
    found = {
        "fleet": dataclasses.asdict(size),
        "agents": {"node": agent, "gateway": agent},
        "peers": {"samples": 9, "p50_ms": 12, "p99_ms": 71},
        "status": {"wall_s": 0.9},
    }
    assert "4,321" in fleet.shown(found)
    with pytest.raises(ValueError, match="not enough values"):
        fleet_of("1000,10000")


def test_what_a_process_uses_is_read_from_the_kernel() -> None:
    used = Usage.of(os.getpid())
    assert 0 < used.private_mb < used.memory_mb
    assert used.cpu_seconds > 0
    with pytest.raises(FileNotFoundError):
        Usage.of(1 << 30)


def test_failover_names_its_figures() -> None:
    tally = Tally(outages=[0.2, 0.4], failed=3, losses=2)
    found = plain(tally.figures())
    assert found["p50_ms"] == 200.0
    assert found["p99_ms"] == found["max_ms"] == 400.0
    assert (found["failed_requests"], found["wrong_address_requests"]) == (3, 0)
    shown = failover.shown({"kinds": {"power_cut": found}, "by_pods": {"100": found}})
    assert "power cut, 100 pods" in shown


def test_throughput_compares_within_a_round() -> None:
    """A slow round is slow for all ways: it must not show in the ratio."""

    def round_of(mbits: float) -> dict[str, float]:
        return {"mbits": mbits, "cpu_per_gbit": 1.0, "tunnel_cpu_per_gbit": 0.5}

    ways = {
        "gateway": [round_of(98), round_of(9.8), round_of(98)],
        "bare_wireguard": [round_of(100), round_of(10), round_of(100)],
        "plain_veth": [round_of(1000), round_of(100), round_of(1000)],
    }
    samples = {mode: ways for mode in ("tcp_1", "tcp_16", "udp")}
    found = plain(throughput.result(Options(), samples))
    assert found["ratio_to_bare_wireguard"] == 0.98
    assert found["tcp_1"]["gateway"]["mbits"] == 98
    assert found["samples"]["tcp_16 to bare"]["values"] == [0.98] * 3
    assert "tcp_16, plain_veth" in throughput.shown(found)


def test_connections_compares_within_a_round() -> None:
    def round_of(per_second: float) -> dict[str, float]:
        figures = dict.fromkeys(("per_cpu_second", "p50_ms", "p99_ms", "failed", "wrong"), 1.0)
        return {"per_second": per_second, **figures}

    ways = {
        "gateway": [round_of(90), round_of(9), round_of(90)],
        "bare_wireguard": [round_of(100), round_of(10), round_of(100)],
        "gateway_100": [round_of(80), round_of(80), round_of(80)],
    }
    found = plain(connections.result(Options(), {"tcp": ways, "udp": ways}))
    assert found["ratios_to_bare_wireguard"] == {"tcp": 0.9, "udp": 0.9}
    assert found["wrong_address_packets"] == 18
    assert found["tcp"]["gateway_100"]["per_second"] == 80
    assert "udp, gateway_100" in connections.shown(found)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/s/x/providers/Microsoft.Network/loadBalancers/lb", "loadBalancers"),
        ("/s/x/providers/Microsoft.Network/publicIPPrefixes", "publicIPPrefixes"),
        (
            "/s/providers/Microsoft.Compute/virtualMachineScaleSets/a/virtualMachines/0",
            "virtualMachineScaleSets/virtualMachines",
        ),
        ("/s/providers/Microsoft.Network/locations/l/operations/1", "operations"),
    ],
)
def test_requests_are_told_apart_by_kind(path: str, kind: str) -> None:
    assert controller.kind_of(path) == kind


def test_the_controller_s_table_shows_every_run_and_the_rest() -> None:
    run: dict[str, Any] = {"configurations": 50, "pools": 1, "seconds": 7.5, "requests": 229}
    idle: dict[str, Any] = {"configurations": 50, "seconds": 150, "requests": 20}
    idle |= {"per_hour": 480.0, "per_configuration": 9.6}
    shown = controller.shown({"runs": [run], "idle": idle})
    assert "229" in shown
    assert "9.6" in shown


def test_what_the_command_line_takes() -> None:
    assert runs("1,50,1000x4") == ((1, 1), (50, 1), (1000, 4))
    assert numbers("1,100") == (1, 100)
    assert numbers("") == ()
    with pytest.raises(ValueError, match="invalid literal"):
        runs("ten")
