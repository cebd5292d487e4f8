"""What the loss of a gateway costs pods: time without an answer, requests that failed.

Every pod sends 20 requests a second on time, answered or not. A loss takes the gateway that serves
most of them; afterwards it is given back and the next loss takes the other one. The node agents run
as shipped, but for a hold-down of 50 ms in place of 3 s and more: it plays no part in noticing a
loss, and with it a hundred losses would take hours. Gateways ask the Internet
every 100 ms instead of every second.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from bench.compare import samples
from bench.errors import BenchError
from bench.figures import Answer, outage, spread, table
from bench.machine import say
from bench.options import Options
from bench.place.losses import LOSSES, Loss
from bench.place.site import DESTINATION, LeanPod, Site, answering, site

RATE: Final = 20.0
"""Requests a second of each pod."""
_MOST: Final = 1000.0
"""Requests a second of all pods together: beyond, the machine itself is what is measured."""
_SAMPLE: Final = 100
"""Of hundreds of pods so many send requests, spread over all nodes; all of them have to move."""
_PODS: Final = 6
"""Pods that send requests in the losses by kind; about half are on the gateway that goes."""
_BEFORE: Final = 1.0
_WINDOW: Final = 5.0
"""Seconds in which an outage must end to be counted as ended; a hundred pods get 15."""
_AFTER: Final = 0.5
_PER_NODE: Final = 220
_TARGETS: Final = "198.51.100.22:80,198.51.100.23"
"""Hosts that gateways ask whether their Internet side lives; without any they would not know."""
_ASKED_EVERY: Final = 0.1
"""Seconds; shipped with 1, since three lost rounds in a row move pods and break connections, and
the Internet loses packets for a fraction of a second now and then."""
_GIVE_UP: Final = 3
"""A kind of loss that nobody recovers from is tried so often and no more."""
_TIMES_BY_PODS: Final = {1: 5, 100: 2}


@dataclass(slots=True)
class Tally:
    """What was seen over several losses."""

    outages: list[float] = field(default_factory=list)
    unrecovered: int = 0
    failed: int = 0
    requests: int = 0
    wrong_requests: int = 0
    wrong_packets: int = 0
    losses: int = 0

    def figures(self) -> dict[str, Any]:
        return {
            **spread(self.outages, "p50", "p99", "max"),
            "failed_requests": self.failed,
            "wrong_address_requests": self.wrong_requests,
            "wrong_address_packets": self.wrong_packets,
            "losses": self.losses,
            "outages": len(self.outages),
            "unrecovered": self.unrecovered,
            "requests": self.requests,
        }


async def run(options: Options) -> dict[str, Any]:
    unknown = set(options.kinds) - LOSSES.keys()
    if unknown:
        raise BenchError(f"unknown kinds of loss: {sorted(unknown)}; there are: {sorted(LOSSES)}")
    most = max([_PODS, *options.by_pods])
    workers = max(2, -(-most // _PER_NODE))
    async with (
        site(
            workers=workers,
            node_settings={"EGRESS_GATEWAY_HOLD_DOWN": "0.05"},
            gateway_settings={
                "EGRESS_GATEWAY_INTERNET_TARGETS": _TARGETS,
                "EGRESS_GATEWAY_INTERNET_INTERVAL": str(_ASKED_EVERY),
            },
        ) as lab,
        answering(lab),
    ):
        pods = await lab.make_pods(_PODS, stem="pod", nodes=lab.workers)
        await lab.attach_all(pods)
        kinds, outages = {}, {}
        for kind in options.kinds:
            tally = await _losses(lab, LOSSES[kind], options.losses, pods)
            kinds[kind], outages[f"outage, {kind}"] = tally.figures(), tally.outages
        by_pods = {}
        for count in sorted(options.by_pods):
            # All that are attached have to move: none more than ``count``.
            if count < len(pods):
                for pod in pods[count:]:
                    await lab.detach(pod)
                del pods[count:]
            pods += await _more(lab, count - len(pods))
            times = _TIMES_BY_PODS.get(count, 1)
            sample = pods[: min(count, _SAMPLE)]
            tally = await _losses(lab, LOSSES["power_cut"], times, sample, kind="datagrams")
            sampled = {"sampled_pods": len(sample), "requests_per_second": _rate(len(sample))}
            by_pods[str(count)] = {**tally.figures(), **sampled}
            outages[f"outage, power cut, {count} pods"] = tally.outages
        return {
            "requests_per_second": RATE,
            "kinds": kinds,
            "by_pods": by_pods,
            "samples": {name: samples("lower", values) for name, values in outages.items()},
        }


async def _more(lab: Site, count: int) -> list[LeanPod]:
    if count <= 0:
        return []
    say(f"failover: attaching {count} more pods")
    pods = await lab.make_pods(count, stem=f"more{count}", nodes=lab.workers)
    await lab.attach_all(pods)
    return pods


def _rate(pods: int) -> float:
    return min(RATE, _MOST / pods)


async def _losses(
    lab: Site, loss: Loss, times: int, pods: list[LeanPod], *, kind: str = "requests"
) -> Tally:
    tally = Tally()
    say(f"failover: {loss.name}, {times} times, {len(pods)} pods")
    window = _WINDOW if len(pods) < 100 else 3 * _WINDOW
    for number in range(times):
        await lose(lab, loss, pods, kind, tally, window=window)
        if (number + 1) % 5 == 0 or number + 1 == times:
            shown = spread(tally.outages, "p50", "max")
            say(f"failover: {loss.name}: {number + 1} of {times}: {shown}")
        if tally.unrecovered and tally.unrecovered == len(tally.outages) and number >= _GIVE_UP - 1:
            say(f"failover: {loss.name}: nobody recovers; giving up")
            break
    return tally


async def lose(
    lab: Site, loss: Loss, pods: list[LeanPod], kind: str, tally: Tally, *, window: float
) -> None:
    """Takes the gateway of most ``pods`` while they send traffic of ``kind``, and gives it back.
    ``window``: seconds in which an outage must end to be counted as ended."""
    by_gateway = await served(lab, pods)
    counted = Counter(by_gateway.values())
    victim = max(sorted(counted), key=lambda gateway: counted[gateway])
    affected = {pod for pod, gateway in by_gateway.items() if gateway == victim}
    wrong = await lab.wrong_packets()
    await _start(lab, pods, kind)
    await asyncio.sleep(_BEFORE)
    undo, event = await loss.strike(lab, victim)
    await _recovered(lab, pods, affected, event + window)
    await asyncio.sleep(_AFTER)
    end = time.monotonic()
    answers = await _stop(lab, pods)
    await undo()
    tally.losses += 1
    prefix = ipaddress.ip_network(lab.prefix)
    for pod in pods:
        mine = [Answer(*one) for one in answers[pod.name]]
        during = [a for a in mine if a.sent <= end - _AFTER]
        tally.requests += len(during)
        tally.failed += sum(a.answered is None for a in during)
        tally.wrong_requests += sum(
            a.source is not None and ipaddress.ip_address(a.source) not in prefix for a in mine
        )
        if pod.name in affected:
            seconds = outage(mine, event, end)
            tally.outages.append(seconds)
            tally.unrecovered += seconds >= window - 0.1
    tally.wrong_packets += await lab.wrong_packets() - wrong


async def served(
    lab: Site, pods: list[LeanPod], *, attempts: int = 30, strict: bool = True
) -> dict[str, str]:
    """The gateway of each pod, told by the address that the Internet sees. Raises ``BenchError``
    if some have no answer, or with ``strict`` off leaves them out."""
    status = (await lab.configuration())["status"]
    by_public = {g["publicIp"]: g["node"] for g in status["gateways"]}
    found: dict[str, str] = {}
    for _ in range(attempts):
        missing = by_node(p for p in pods if p.name not in found)
        programs = {node: await lab.program(node) for node in missing}
        calls = (
            programs[node].call("ask", pods=names, destination=DESTINATION)
            for node, names in missing.items()
        )
        for seen in await asyncio.gather(*calls):
            found |= {pod: by_public[a] for pod, a in seen.items() if a in by_public}
        if len(found) == len(pods):
            return found
        if strict:
            await asyncio.sleep(0.5)
    if not strict:
        return found
    silent = sorted({p.name for p in pods} - found.keys())
    raise BenchError(f"{len(silent)} pods get no answer before the loss: {silent[:3]} …")


async def _start(lab: Site, pods: list[LeanPod], kind: str) -> None:
    for node, names in by_node(pods).items():
        await (await lab.program(node)).call(
            "start", pods=names, destination=DESTINATION, rate=_rate(len(pods)), kind=kind
        )


async def _recovered(lab: Site, pods: list[LeanPod], affected: set[str], end: float) -> None:
    """Returns when every affected pod has had answers to recent requests, or at ``end``."""
    nodes = sorted({pod.node for pod in pods if pod.name in affected})
    recent = max(0.5, 2 / _rate(len(pods)))
    await asyncio.sleep(1.0)
    while time.monotonic() < end:
        answered: set[str] = set()
        for node in nodes:
            since = time.monotonic() - recent
            found = await (await lab.program(node)).call("answered", since=since)
            answered |= set(found["pods"])
        if affected <= answered:
            return
        await asyncio.sleep(0.25)


async def _stop(lab: Site, pods: list[LeanPod]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    programs = [await lab.program(node) for node in by_node(pods)]
    for answers in await asyncio.gather(*(program.call("stop") for program in programs)):
        found |= answers
    return found


def by_node(pods: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pod in pods:
        found.setdefault(pod.node, []).append(pod.name)
    return found


def shown(result: dict[str, Any]) -> str:
    columns = ("p50_ms", "p99_ms", "max_ms", "failed_requests", "wrong_address_requests")
    more = ("wrong_address_packets", "outages", "unrecovered")
    head = ("p50 ms", "p99 ms", "max ms", "failed", "wrong", "wrong packets", "outages", "not over")
    kinds = [(k, *(v[c] for c in (*columns, *more))) for k, v in result["kinds"].items()]
    by_pods = [
        (f"power cut, {k} pods", *(v[c] for c in (*columns, *more)))
        for k, v in result["by_pods"].items()
    ]
    return table(("loss", *head), [*kinds, *by_pods])
