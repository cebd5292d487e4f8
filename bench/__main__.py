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

from bench import machine
from bench.errors import BenchError
from bench.options import Options, numbers, runs
from egress_gateway_lab import wireguard
from egress_gateway_lab.demo.report import StepFailed
from egress_gateway_lab.host import LabError

NAMES: Final = ("attach", "failover", "drain", "throughput", "peers", "flood", "controller")


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
        departures=tuple(given.departures.split(",")),
        stream_seconds=given.seconds,
        rounds=given.rounds,
        configurations=given.configurations,
        idle_seconds=given.idle,
        flood_pods=given.flood_pods,
        azure_headers=given.azure_headers,
    )
    # What is set up by hand to compare with runs the same wireguard-go as the lab.
    os.environ["PATH"] = wireguard.path(os.environ["PATH"])
    signal.signal(signal.SIGTERM, _interrupt)
    found: dict[str, Any] = {}
    try:
        for name in [given.name] if given.name else NAMES:
            found[name] = _run(name, options, as_json=given.output == "json")
    except (LabError, BenchError, StepFailed) as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    if given.output == "json":
        print(json.dumps(found[given.name] if given.name else found, indent=2))


def _run(name: str, options: Options, *, as_json: bool) -> dict[str, Any]:
    module = importlib.import_module(f"bench.{name}")
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
        "--seconds", type=int, default=usual.stream_seconds, help="throughput: of each stream"
    )
    parser.add_argument(
        "--rounds", type=int, default=usual.rounds, help="throughput: runs of each path"
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
