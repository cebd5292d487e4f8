"""What a pod's traffic reaches through a gateway, and what the same path reaches without us.

Three ways from a pod to the lab's Internet, measured in turn within each round:

- ``gateway``: an annotated pod, its gateway, our filters and translation;
- ``bare_wireguard``: the same hops and the same WireGuard back end, set up by hand with forwarding
  and the node's one masquerade rule (see ``byhand``);
- ``plain_veth``: a plain pod, no tunnel.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.compare import samples as comparable
from bench.errors import BenchError
from bench.figures import table
from bench.machine import say
from bench.options import Options
from bench.place import byhand
from bench.place.site import DESTINATION, LeanPod, Site, site

_PORT: Final = 5201
_GIVE_UP: Final = 20.0
_UDP_PAYLOAD: Final = 1380
"""Fits the tunnel's 1,440 bytes with room."""
_MODES: Final[dict[str, list[str]]] = {
    "tcp_1": ["-P", "1"],
    "tcp_16": ["-P", "16"],
    "udp": ["-u", "-l", str(_UDP_PAYLOAD)],
}
_UDP_SHARE: Final = 0.8
"""UDP is offered this share of what one TCP stream reached on the bare path: more would measure
how fast the sender can throw packets away."""
_WARM_UP: Final = 1


async def run(options: Options) -> dict[str, Any]:
    if shutil.which("iperf3") is None:
        raise BenchError("throughput needs iperf3: apt-get install --no-install-recommends iperf3")
    async with site(workers=2) as lab:
        pods = await byhand.ways(lab)
        samples: dict[str, dict[str, list[dict[str, float]]]] = {
            mode: {way: [] for way in byhand.WAYS} for mode in _MODES
        }
        for number in range(options.rounds + 1):
            # The first round warms up: pages, connection tracking, Go's garbage collector.
            seconds = options.stream_seconds if number else _WARM_UP
            offered = _offered(samples)
            for mode in _MODES:
                for way in byhand.turned(byhand.WAYS, number):
                    found = await _stream(lab, pods[way], mode, seconds, offered)
                    if number:
                        samples[mode][way].append(found)
            if number:
                _tell(number, options.rounds, samples)
        return result(options, samples)


def _offered(samples: dict[str, dict[str, list[dict[str, float]]]]) -> int:
    """Mbit/s that UDP is sent at."""
    bare = [one["mbits"] for one in samples["tcp_1"]["bare_wireguard"]]
    return max(round(median(bare) * _UDP_SHARE), 10) if bare else 100


async def _stream(
    lab: Site, pod: LeanPod, mode: str, seconds: int, offered: int
) -> dict[str, float]:
    """One iperf3 run from the pod to the Internet."""
    serve = ["iperf3", "-s", "-1", "-B", DESTINATION, "-p", str(_PORT)]
    server = await asyncio.create_subprocess_exec(
        *await lab.on_internet(*serve),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    ask = ["iperf3", "-c", DESTINATION, "-p", str(_PORT), "-J", "-t", str(seconds), *_MODES[mode]]
    if mode == "udp":
        ask += ["-b", f"{offered}M"]
    command = await lab.on(pod.node, "nsenter", f"--net=/run/netns/cni-{pod.name}", "--", *ask)
    before = _tunnel_seconds(lab.handle.pid)
    try:
        # The server may need a moment to listen; iperf3 does not try twice.
        answer = await _client(command, seconds)
        if "error" in answer:
            await asyncio.sleep(0.5)
            answer = await _client(command, seconds)
        if "error" in answer:
            raise BenchError(f"iperf3 {mode} on {pod.node}: {answer['error']}")
        return _figures(answer, mode, _tunnel_seconds(lab.handle.pid) - before)
    finally:
        await _ended(server)


async def _client(command: list[str], seconds: int) -> dict[str, Any]:
    client = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        out, _ = await asyncio.wait_for(client.communicate(), seconds + _GIVE_UP)
    except TimeoutError:
        client.kill()
        await client.wait()
        return {"error": f"no end after {seconds + _GIVE_UP:.0f} s"}
    try:
        found: dict[str, Any] = json.loads(out)
    except ValueError:
        return {"error": out.decode(errors="replace").strip() or "no answer"}
    return found


async def _ended(server: asyncio.subprocess.Process) -> None:
    """It serves one client and ends; what is stuck ends with the lab."""
    try:
        await asyncio.wait_for(server.wait(), 2)
    except TimeoutError:
        server.kill()
        await server.wait()


def _figures(answer: dict[str, Any], mode: str, tunnels: float) -> dict[str, float]:
    end = answer["end"]
    received = end.get("sum_received") or end["sum"]
    gigabits = received["bytes"] * 8 / 1e9
    used = end["cpu_utilization_percent"]
    ends = (used["host_total"] + used["remote_total"]) / 100 * received["seconds"]
    found = {
        "mbits": received["bytes"] * 8 / received["seconds"] / 1e6,
        "cpu_per_gbit": (tunnels + ends) / gigabits if gigabits else 0.0,
        "tunnel_cpu_per_gbit": tunnels / gigabits if gigabits else 0.0,
    }
    if mode == "udp":
        found["lost_percent"] = float(end["sum"]["lost_percent"])
    return found


def _tunnel_seconds(lab: int) -> float:
    """Processor seconds of all wireguard-go processes of the lab so far."""
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            text = Path("/proc", entry, "stat").read_text()
        except OSError:
            continue
        name = text[text.index("(") + 1 : text.rindex(")")]
        fields = text.rpartition(")")[2].split()
        parents[int(entry)] = int(fields[1])
        if name == "wireguard-go":
            used[int(entry)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return sum(seconds for pid, seconds in used.items() if _below(pid, lab, parents))


def _below(pid: int, root: int, parents: dict[int, int]) -> bool:
    while pid > 1 and pid != root:
        pid = parents.get(pid, 0)
    return pid == root


def _tell(number: int, rounds: int, samples: dict[str, dict[str, list[dict[str, float]]]]) -> None:
    last = {way: round(samples["tcp_1"][way][-1]["mbits"]) for way in byhand.WAYS}
    say(f"throughput: round {number} of {rounds}: one TCP stream, Mbit/s: {last}")


def result(
    options: Options, samples: dict[str, dict[str, list[dict[str, float]]]]
) -> dict[str, Any]:
    """The figures: medians over the rounds."""

    def ratios(mode: str, way: str, other: str) -> list[float]:
        """The rounds' own: what disturbs a round disturbs both."""
        pairs = zip(samples[mode][way], samples[mode][other], strict=True)
        return [a["mbits"] / b["mbits"] for a, b in pairs if b["mbits"]]

    def ratio(mode: str, way: str, other: str) -> float:
        return round(median(ratios(mode, way, other)), 3)

    return {
        "ratio_to_bare_wireguard": ratio("tcp_1", "gateway", "bare_wireguard"),
        "ratio_to_plain_veth": ratio("tcp_1", "gateway", "plain_veth"),
        "ratios_to_bare_wireguard": {m: ratio(m, "gateway", "bare_wireguard") for m in _MODES},
        "samples": {
            f"{mode} to bare": comparable("higher", ratios(mode, "gateway", "bare_wireguard"))
            for mode in _MODES
        },
        "rounds": options.rounds,
        "seconds": options.stream_seconds,
        **{
            mode: {
                way: {key: round(median(one[key] for one in found), 3) for key in (found[0])}
                | {"all_mbits": [round(one["mbits"]) for one in found]}
                for way, found in ways.items()
            }
            for mode, ways in samples.items()
        },
    }


def shown(result: dict[str, Any]) -> str:
    rows = [
        (
            f"{mode}, {way}",
            found["mbits"],
            found["cpu_per_gbit"],
            found["tunnel_cpu_per_gbit"],
            found.get("lost_percent"),
        )
        for mode in _MODES
        for way, found in result[mode].items()
    ]
    head = ("medians", "Mbit/s", "CPU s/Gbit", "of it tunnels", "lost %")
    ratios = ", ".join(f"{m} {r}" for m, r in result["ratios_to_bare_wireguard"].items())
    return f"{table(head, rows)}\n\nthrough the gateway against bare WireGuard: {ratios}"
