"""What attaching costs a pod's start: CNI ADD, as a container runtime calls it.

On one node, in turn: an annotated pod (tunnel verified by a handshake), a plain pod through the
chain with us, a plain pod through the chain without us. Annotated pods stay, so the later ones are
attached beside up to as many others.
"""

from __future__ import annotations

import asyncio
from operator import truediv
from typing import Any, Final

from bench.compare import samples
from bench.figures import milliseconds, percentile, spread, table
from bench.machine import say
from bench.options import Options
from bench.place.site import DESTINATION, Site, site

_MOST: Final = 240
"""Pods that a node's range of addresses holds, with room for the cluster's own."""

_PAUSE: Final = 0.2
"""Seconds before each ADD: the kernel takes the namespace of the pod before down behind DEL's back,
and holds links of all others up meanwhile."""


async def run(options: Options) -> dict[str, Any]:
    count = min(options.attach_pods, _MOST)
    async with site(workers=1) as lab:
        return await _measure(lab, count)


async def _measure(lab: Site, count: int) -> dict[str, Any]:
    node = lab.workers[:1]
    program = await lab.program(node[0])
    annotated = await lab.make_pods(count, stem="annotated", nodes=node)
    plain = await lab.make_pods(count, stem="plain", nodes=node, annotated=False)
    times: dict[str, list[float]] = {
        name: []
        for name in ("annotated", "attaching", "ours", "with", "without", "first", "process")
    }
    failures = 0
    before = await lab.wrong_packets()
    for number, (one, other) in enumerate(zip(annotated, plain, strict=True)):
        # In turn, so that whatever else the machine does falls on all of them alike.
        await asyncio.sleep(_PAUSE)
        added = await lab.attach(one)
        first = await program.call("first", name=one.name, url=f"http://{DESTINATION}/first")
        failures += first["failures"]
        await asyncio.sleep(_PAUSE)
        chained = await lab.attach(other)
        await lab.detach(other)
        await asyncio.sleep(_PAUSE)
        bare = await lab.attach(other, plain_chain=True)
        await program.call("del", name=other.name)
        times["annotated"].append(added["seconds"])
        times["attaching"].append(added["ours"])
        times["first"].append(first["seconds"])
        times["with"].append(chained["seconds"])
        times["ours"].append(chained["ours"])
        times["without"].append(bare["seconds"])
        times["process"].append((await program.call("process"))["seconds"])
        if (number + 1) % 20 == 0:
            median = milliseconds(percentile(times["annotated"][-20:], 50))
            say(f"attach: {number + 1} of {count}, median of the last 20: {median} ms")
    return result(times, failures=failures, wrong=await lab.wrong_packets() - before)


def result(times: dict[str, list[float]], *, failures: int, wrong: int) -> dict[str, Any]:
    """The figures. ``times``: seconds by what was timed; ``failures``: first requests that had
    to be made again; ``wrong``: packets that the Internet saw from outside the prefix."""
    usual = ("p50", "p95", "p99")
    medians = {name: percentile(values, 50) for name, values in times.items()}
    return {
        "pods": len(times["annotated"]),
        "annotated": spread(times["annotated"], *usual, "max"),
        "annotated_overhead": spread(times["attaching"], *usual, "max"),
        "unannotated_overhead": spread(times["ours"], *usual, "max"),
        "unannotated_chain": spread(times["with"], *usual, "max"),
        "chain_without_us": spread(times["without"], *usual, "max"),
        "any_process": spread(times["process"], *usual, "max"),
        "difference_of_medians_ms": milliseconds(medians["with"] - medians["without"]),
        "annotated_to_chain_without_us": round(medians["annotated"] / medians["without"], 2),
        "last_to_first_quarter": {
            "annotated": _growth(times["annotated"]),
            "chain_without_us": _growth(times["without"]),
        },
        "samples": {
            label: samples("lower", list(map(truediv, times[ours], times[other])))
            for label, ours, other in (
                ("ADD, annotated, to chain without us", "annotated", "without"),
                ("ADD, plain, with us to without", "with", "without"),
                ("our part for a plain pod to any process", "ours", "process"),
            )
        },
        "first_request_ms": milliseconds(medians["first"]),
        "first_request": {
            **spread(times["first"], *usual, "max"),
            "failed_attempts": failures,
            "wrong_address_packets": wrong,
        },
    }


def _growth(seconds: list[float]) -> float:
    """How the median changed from the first quarter of the pods to the last."""
    quarter = max(len(seconds) // 4, 1)
    return round(percentile(seconds[-quarter:], 50) / percentile(seconds[:quarter], 50), 2)


def shown(result: dict[str, Any]) -> str:
    rows = [
        (label, *(result[key][f"{name}_ms"] for name in ("p50", "p95", "p99", "max")))
        for label, key in (
            ("ADD, annotated, tunnel verified", "annotated"),
            ("  our plugin's part for an annotated pod", "annotated_overhead"),
            ("ADD, plain pod, chain with us", "unannotated_chain"),
            ("ADD, plain pod, chain without us", "chain_without_us"),
            ("  our plugin's part for a plain pod", "unannotated_overhead"),
            ("  starting any process (/bin/true)", "any_process"),
            ("first request, from its process's start", "first_request"),
        )
    ]
    first = result["first_request"]
    return (
        table((f"ms, {result['pods']} pods", "p50", "p95", "p99", "max"), rows)
        + f"\n\nfailed first attempts: {first['failed_attempts']}, packets from a wrong address: "
        f"{first['wrong_address_packets']}; medians of the last quarter against the first: "
        f"{result['last_to_first_quarter']['annotated']}x, chain without us "
        f"{result['last_to_first_quarter']['chain_without_us']}x"
    )
