"""``python -m bench [NAME] [--output json]``: runs one benchmark, or all of them in turn."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import signal
import sys
from typing import Any, Final

from bench import compare, machine
from bench.errors import BenchError
from bench.options import Options, fleet, numbers, runs
from egress_gateway_lab import wireguard
from egress_gateway_lab.azure.client import RequestFailed
from egress_gateway_lab.demo.report import StepFailed
from egress_gateway_lab.host import LabError
from egress_gateway_lab.realcluster import binaries

NAMES: Final = (
    "attach",
    "failover",
    "drain",
    "throughput",
    "connections",
    "peers",
    "flood",
    "controller",
    "fleet",
)


def main() -> None:
    parser = _parser()
    given = parser.parse_args()
    options = Options(
        attach_pods=given.pods,
        losses=given.losses,
        kinds=tuple(given.kinds.split(",")) if given.kinds else (),
        by_pods=given.by_pods,
        peers=given.peers,
        connections=given.connections,
        connection_pods=given.connection_pods,
        departures=tuple(given.departures.split(",")),
        stream_seconds=given.seconds,
        rounds=given.rounds,
        configurations=given.configurations,
        idle_seconds=given.idle,
        flood_pods=given.flood_pods,
        fleet=given.fleet,
        azure_headers=given.azure_headers,
    )
    # What is set up by hand to compare with runs the same wireguard-go as the lab.
    os.environ["PATH"] = wireguard.path(os.environ["PATH"])
    signal.signal(signal.SIGTERM, _interrupt)
    found: dict[str, Any] = {}
    worse = False
    try:
        before = _read(given.compare, given.name) if given.compare else None
        for name in [given.name] if given.name else _all():
            found[name] = _run(name, options, as_json=given.output == "json")
            if before is not None and name in before:
                worse |= _compared(name, before[name], found[name])
    except (LabError, BenchError, StepFailed, RequestFailed, binaries.Unavailable) as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    if given.output == "json":
        print(json.dumps(found[given.name] if given.name else found, indent=2))
    sys.exit(1 if worse else 0)


def _all() -> list[str]:
    """Every benchmark that this machine has the programs for."""
    try:
        binaries.find(*binaries.CONTROL_PLANE)
    except binaries.Unavailable as error:
        machine.say(f"fleet: left out: {error}")
        return [name for name in NAMES if name != "fleet"]
    return list(NAMES)


def _read(path: str, name: str | None) -> dict[str, Any]:
    """An earlier run's JSON: of one benchmark, or of several by name."""
    try:
        with open(path, encoding="utf-8") as file:
            known = json.load(file)
    except (OSError, ValueError) as error:
        raise BenchError(f"--compare {path}: {error}; it is made by --output json") from None
    # One benchmark's figures, or several benchmarks' by name.
    found = {name: known} if name and isinstance(known, dict) and "machine" in known else known
    if not isinstance(found, dict) or not found.keys() & set(NAMES):
        raise BenchError(f"--compare {path}: holds the figures of none of {', '.join(NAMES)}")
    return found


def _compared(name: str, before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Tells the two runs apart, on standard error; whether something is worse."""
    if not now.get("samples"):
        machine.say(f"{name}: keeps no samples, so nothing is compared")
        return False
    differs = compare.other_machine(before, now)
    if differs:
        machine.say(f"{name}: another machine before ({differs}): ratios alone may compare")
    found = compare.compare(before, now)
    print(f"\n{name}, compared\n\n{compare.shown(found)}\n", file=sys.stderr, flush=True)
    return any(one.verdict == "worse" for one in found)


def _run(name: str, options: Options, *, as_json: bool) -> dict[str, Any]:
    module = importlib.import_module(f"bench.benchmarks.{name}")
    before = machine.describe()
    machine.say(f"{name}: load average {before['load_average']}")
    result: dict[str, Any] = asyncio.run(module.run(options))
    result["machine"] = before
    if not as_json:
        print(f"\n{name}\n\n{module.shown(result)}\n", flush=True)
    return result


def _parser() -> argparse.ArgumentParser:
    usual = Options()
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", nargs="?", choices=NAMES, help="which; all without")
    parser.add_argument("--output", choices=("text", "json"), default="text")
    parser.add_argument(
        "--compare",
        metavar="OLD.json",
        help="what --output json printed before; exits with 1 if a figure is worse than there",
    )
    parser.add_argument("--pods", type=int, default=usual.attach_pods, help="attach: how many")
    parser.add_argument("--losses", type=int, default=usual.losses, help="failover: of each kind")
    parser.add_argument("--kinds", default=",".join(usual.kinds), help="failover: which kinds")
    parser.add_argument(
        "--by-pods", type=numbers, default=usual.by_pods, help="failover: power cuts, e.g. 1,100"
    )
    parser.add_argument(
        "--peers", type=numbers, default=usual.peers, help="peers: how many pods, e.g. 100,1000"
    )
    parser.add_argument(
        "--connections", type=int, default=usual.connections, help="drain: how many"
    )
    parser.add_argument(
        "--departures", default=",".join(usual.departures), help="drain: which of them"
    )
    parser.add_argument(
        "--connection-pods",
        type=numbers,
        default=usual.connection_pods,
        help="connections: of how many pods, e.g. 1,100",
    )
    parser.add_argument(
        "--seconds",
        type=int,
        default=usual.stream_seconds,
        help="throughput, connections: of each stream, of each round",
    )
    parser.add_argument(
        "--rounds", type=int, default=usual.rounds, help="throughput, connections: of each path"
    )
    parser.add_argument(
        "--configurations",
        type=runs,
        default=usual.configurations,
        help="controller: how many on how many pools, e.g. 1,50,1000x4",
    )
    parser.add_argument(
        "--idle", type=int, default=usual.idle_seconds, help="controller: seconds of rest, 0: none"
    )
    parser.add_argument(
        "--fleet",
        type=fleet,
        default=usual.fleet,
        metavar="NODES,PODS,CONFIGURATIONS,GATEWAYS",
        help="fleet: how large",
    )
    parser.add_argument(
        "--flood-pods", type=int, default=usual.flood_pods, help="flood: how many pods, 2 to 60"
    )
    parser.add_argument(
        "--azure-headers",
        action="store_true",
        help="controller: operations of 3 s, polled as in Azure; deletion is measured too",
    )
    return parser


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
