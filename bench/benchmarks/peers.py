"""What thousands of pods cost a gateway's agent: memory, and the time until it serves again.

The pods exist on paper: a Pod and a PodEndpoint each, with keys and addresses of their own, on a
Node that is an object and no machine. The gateway is real, its agent the shipped one, and one real
pod asks the Internet twenty times a second through it while its agent is killed: its session must
not notice. Then the agent is killed together with the process that hosts the tunnels, so that the
interface and all its peers are made anew (kernel WireGuard has no such process and loses nothing).
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import ipaddress
import json
import time
from collections.abc import Iterable
from typing import Any, Final

from bench.errors import BenchError
from bench.figures import Answer, milliseconds, outage, table
from bench.machine import say
from bench.options import Options
from bench.place.process import until
from bench.place.site import CONFIGURATION, DESTINATION, LeanPod, Site, site
from egress_gateway.api import keys, names
from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.node.reporting.endpoints import NODE_LABEL

_NODE: Final = "paper"
_ADDRESSES: Final = ipaddress.IPv4Network("10.250.0.0/16")
_POLICY: Final = (
    "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
    "/egress-gateway-podendpoints"
)
"""Lets nobody but a node's own agent write PodEndpoints. There is none on a node of paper."""
_AT_ONCE: Final = 16
_PATIENCE: Final = 120.0
_RATE: Final = 20.0
_AGENT: Final = "egress.gateway[^ ]* gateway"
_HOST: Final = "egress.gateway[^ ]* wireguard"
_TUNNEL: Final = "^wireguard-go wg-"
_REST: Final = 3.0
_DIRECT: Final = 14.0
"""Seconds until pods that found no tunnel working try their gateway directly again, and more."""


async def run(options: Options) -> dict[str, Any]:
    async with site(workers=1, gateways=1) as lab:
        await _prepare(lab)
        (witness,) = await lab.make_pods(1, stem="witness", nodes=lab.workers)
        await lab.attach(witness)
        by_peers: dict[str, Any] = {}
        there = 1
        for count in sorted(options.peers):
            say(f"peers: {count}")
            await _announce(lab, range(there, count))
            began = time.monotonic()
            known = functools.partial(_known, lab, count)
            await until(known, f"the gateway to know {count} pods", limit=_PATIENCE)
            lag = time.monotonic() - began
            there = count
            restarted = await _restart(lab, witness, count)
            from_nothing = await _restart(lab, witness, count, tunnels_too=True)
            await asyncio.sleep(_DIRECT)
            by_peers[str(count)] = {
                "lag_s": round(lag, 2),
                "restart": restarted,
                "from_nothing": from_nothing,
            }
            say(f"peers: {count}: {by_peers[str(count)]}")
        return {"by_peers": by_peers}


def shown(result: dict[str, Any]) -> str:
    memory = ("agent MB", "at most", "tunnel MB")
    restart = ("list s", "rebuild s", "silence ms")
    head = ("pods", *memory, *restart, "anew: rebuild s", "silence ms")
    rows = [
        (
            f"{int(count):,}",
            *(found["restart"][key] for key in ("memory_mb", "memory_peak_mb", "tunnel_memory_mb")),
            *(found["restart"][key] for key in ("start_and_list_s", "rebuild_s", "silence_ms")),
            *(found["from_nothing"][key] for key in ("rebuild_s", "silence_ms")),
        )
        for count, found in result["by_peers"].items()
    ]
    return table(head, rows)


async def _prepare(lab: Site) -> None:
    kube = lab.world.kube
    await kube.create("nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": _NODE}})
    await kube.call("DELETE", _POLICY)


async def _announce(lab: Site, numbers: Iterable[int]) -> None:
    kube, turn = lab.world.kube, asyncio.Semaphore(_AT_ONCE)

    async def announce(number: int) -> None:
        async with turn:
            name, address = f"paper-{number}", _ADDRESSES[number + 1]
            pod = await kube.create("pods", _pod(name))
            await kube.create("podendpoints", _endpoint(name, pod["metadata"]["uid"], address))
            status = {"phase": "Running", "podIP": str(address), "podIPs": [{"ip": str(address)}]}
            await kube.patch(
                "pods", name, {"status": status}, namespace="default", subresource="status"
            )
        if number % 1000 == 0:
            say(f"peers: {number} pods announced")

    await asyncio.gather(*(announce(number) for number in numbers))


def _pod(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "annotations": {names.POD_ANNOTATION: CONFIGURATION},
        },
        "spec": {"nodeName": _NODE, "containers": [{"name": "none", "image": "busybox"}]},
    }


def _endpoint(name: str, uid: str, address: IPAddress) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "PodEndpoint",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {NODE_LABEL: _NODE},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}],
        },
        "spec": {
            "staticGatewayConfiguration": CONFIGURATION,
            "podIpAddress": str(address),
            "podIps": [str(address)],
            "podPublicKey": keys.generate().public,
            "podUid": uid,
            "nodeName": _NODE,
        },
    }


async def _known(lab: Site, count: int) -> bool:
    """Whether the agent says that it has told its interface of ``count`` pods."""
    ask = "curl -s --max-time 2 http://127.0.0.1:9082/metrics"
    for line in (await lab.run(lab.gateways[0], ask, check=False)).splitlines():
        if line.startswith("egress_gateway_peers{"):
            return float(line.split()[-1]) == count
    return False


async def _restart(
    lab: Site, witness: LeanPod, count: int, *, tunnels_too: bool = False
) -> dict[str, Any]:
    """Kills the agent and waits until its successor has told all peers."""
    (gateway,) = lab.gateways
    victims = set(await _processes(lab, _AGENT))
    if not victims:
        raise BenchError(f"no gateway agent runs on {gateway}")
    if tunnels_too:
        victims.update(await _processes(lab, _HOST))
    program = await lab.program(witness.node)
    talk = {"destination": DESTINATION, "rate": _RATE, "kind": "requests"}
    await program.call("start", pods=[witness.name], **talk)
    await asyncio.sleep(1)
    event = time.monotonic()
    numbers = " ".join(map(str, sorted(victims)))
    await lab.run(gateway, f"kill -KILL {numbers}", check=False)

    async def told() -> bool:
        agents = set(await _processes(lab, _AGENT))
        return bool(agents) and not agents & victims and await _known(lab, count)

    await until(told, f"the agent's successor to tell {count} peers", limit=_PATIENCE)
    await asyncio.sleep(_REST)
    answers = [Answer(*one) for one in (await program.call("stop"))[witness.name]]
    end = time.monotonic()
    (agent,) = await _processes(lab, _AGENT)
    memory = await _memory(lab, agent)
    tunnels = [await _memory(lab, pid) for pid in await _processes(lab, _TUNNEL)]
    started = await _started(lab, agent)
    listed, served = await _moments(lab)
    return {
        "start_and_list_s": round(listed - started, 2),
        "rebuild_s": round(served - listed, 2),
        "memory_mb": memory["VmRSS"],
        "memory_peak_mb": memory["VmHWM"],
        "tunnel_memory_mb": max((t["VmRSS"] for t in tunnels), default=None),
        "silence_ms": milliseconds(outage(answers, event, end)),
        "failed_requests": sum(a.answered is None for a in answers if a.sent < end - _REST),
    }


async def _processes(lab: Site, pattern: str) -> list[int]:
    """Of the gateway's machine alone, by their command lines."""
    found = await lab.run(
        lab.gateways[0],
        "for p in /proc/[0-9]*; do"
        f" if tr '\\0' ' ' < $p/cmdline 2>/dev/null | grep -q '{pattern}'; then"
        " echo ${p#/proc/}; fi; done",
        check=False,
    )
    return [int(number) for number in found.split()]


async def _memory(lab: Site, pid: int) -> dict[str, float]:
    """Megabytes (10^6 bytes), as Linux counts them (proc_pid_status(5))."""
    text = await lab.run(lab.gateways[0], f"cat /proc/{pid}/status")
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name: round(int(fields[name].split()[0]) * 1.024e-3, 1) for name in ("VmRSS", "VmHWM")}


async def _started(lab: Site, pid: int) -> float:
    """When a process began, in seconds since the epoch."""
    stat = await lab.run(lab.gateways[0], f"cat /proc/{pid}/stat /proc/uptime; date +%s.%N")
    line, uptime, now = stat.splitlines()
    ticks = int(line.rpartition(")")[2].split()[19])
    hertz = int(await lab.run(lab.gateways[0], "getconf CLK_TCK"))
    return float(now) - (float(uptime.split()[0]) - ticks / hertz)


async def _moments(lab: Site) -> tuple[float, float]:
    """When the agent's caches were complete, and when its first pass was done."""
    kube, space = lab.world.kube, names.SYSTEM_NAMESPACE
    labels, fields = "app.kubernetes.io/component=gateway", f"spec.nodeName={lab.gateways[0]}"
    (pod,) = await kube.list("pods", namespace=space, labels=labels, fields=fields)
    text = await kube.logs(space, pod["metadata"]["name"], container="gateway")
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("{"):
            told = json.loads(line)
            found[told["msg"]] = datetime.datetime.fromisoformat(told["time"]).timestamp()
    return found["read the cluster"], found["served configurations"]
