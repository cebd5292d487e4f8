"""What has to be true after a storm, by questions that know nothing of how it came about.

``missing`` is asked until it is empty: then everything is as if nothing had happened. Then the
product's own plan, computed from nothing by a process that has just begun, must find nothing to
do; agents that begin anew must change nothing; nobody may complain any more; and when users take
away what is theirs, nothing of ours may stay behind anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping
from itertools import chain
from typing import Any, Final

from egress_gateway.api import names
from egress_gateway_lab.apiserver.wire.client import KubeError
from egress_gateway_lab.demo.world import is_ready
from tests.storms import processes
from tests.storms.place import Place
from tests.storms.processes import COMPONENTS, Holding
from tests.storms.script import WORKERS, Event
from tests.storms.storm import Storm

CONVERGED: Final = 30.0
"""Seconds in which everything has to be as it should (the issue's bar)."""
_FRESH: Final = 3.0
"""Seconds within which a pod's every way to talk has to have worked."""
_SILENT: Final = 2.0
_AGENTS: Final = ("node", "gateway", "controller")
_RESTART_SECONDS: Final = 120
_CONFIGURATION: Final = "staticgatewayconfigurations"


async def missing(storm: Storm) -> list[str]:
    """What is not yet as it should be, in words."""
    kube = storm.place.world.kube
    listed = await asyncio.gather(
        kube.list("nodes"),
        kube.list("pods"),
        kube.list(_CONFIGURATION, namespace="default"),
        kube.list("podendpoints", namespace="default"),
    )
    nodes, pods, configurations, endpoints = listed
    found = [f"node {_name(n)} is not ready" for n in nodes if not is_ready(n)]
    if len(nodes) != len(WORKERS) + storm.gateways:
        found.append(f"{len(nodes)} nodes")
    ours = [p for p in pods if p["metadata"]["namespace"] == names.SYSTEM_NAMESPACE]
    found += [f"{_name(p)} of ours is not ready" for p in ours if not is_ready(p)]
    theirs = {_name(p): p for p in pods if p["metadata"]["namespace"] == "default"}
    found += _differ("pods", set(theirs), set(storm.pods))
    found += _differ(
        "configurations", {_name(c) for c in configurations}, set(storm.configurations)
    )
    for one in configurations:
        found += _configuration(storm, one)
    attached = {n for n in storm.pods if storm.pods[n][1] in storm.configurations}
    unserved = {n for n in storm.pods if storm.pods[n][1]} - attached
    found += _differ("endpoints", {_name(e) for e in endpoints} - unserved, attached)
    for name in set(storm.pods) & set(theirs):
        found += _pod(storm, name, theirs[name])
    return found


def _configuration(storm: Storm, one: Mapping[str, Any]) -> list[str]:
    name, status = _name(one), one.get("status", {})
    if name not in storm.configurations:
        return []
    network = storm.place.prefixes[storm.configurations[name]]
    wrong = []
    if not is_ready(dict(one)) or status.get("observedGeneration") != one["metadata"]["generation"]:
        said = [
            f"{c['reason']}: {c['message']}"
            for c in status.get("conditions", [])
            if c["status"] != "True"
        ]
        wrong.append(f"configuration {name} is not ready: {said}")
    if status.get("egressIpPrefix") != str(network):
        wrong.append(f"configuration {name} uses {status.get('egressIpPrefix')}, not {network}")
    phase = status.get("keyRotation", {}).get("phase", "")
    if phase not in ("", "Done", "Abandoned"):
        wrong.append(f"the keys of configuration {name} are being changed: {phase}")
    if len(status.get("gateways", [])) != storm.gateways:
        wrong.append(f"configuration {name} has {len(status.get('gateways', []))} gateways")
    return wrong


def _pod(storm: Storm, name: str, pod: Mapping[str, Any]) -> list[str]:
    expected, now = storm.expected(name), time.time()
    if not expected:
        newest = max((s.at for s in storm.edge.seen() if s.pod == name), default=0.0)
        return [f"pod {name} without a configuration talks"] if now - newest < _SILENT else []
    life = storm.edge.lives.get(name)
    if not is_ready(dict(pod)):
        return [f"pod {name} is not ready"]
    if life is None or now - life.since() > _FRESH:
        return [f"pod {name} ({storm.pods[name][1] or 'plain'}) is not answered: {_ages(life)}"]
    if not any(life.source in network for network in expected):
        return [f"pod {name} leaves from {life.source}, not from {expected}"]
    return []


def _ages(life: Any) -> str:
    if life is None:
        return "never"
    now = time.time()
    ages = [*life.heard_at, life.asked_at, life.loaded_at]
    return ", ".join(f"{kind} {now - at:.1f} s" if at else f"{kind} never" for kind, at in
                     zip(("life", "fresh", "asked", "loaded"), ages, strict=True))  # fmt: skip


async def converged(storm: Storm, *, limit: float = CONVERGED * 3) -> tuple[float, list[str]]:
    """Seconds until nothing was missing, and nothing went missing again for two; and what was
    still missing after ``limit``."""
    began, since, seen = time.monotonic(), None, ["nobody has looked"]
    while True:
        seen = await missing(storm)
        storm.last_missing = seen or storm.last_missing
        now = time.monotonic()
        since = None if seen else since or now
        if since is not None and now - since >= 2.0:
            return since - began, []
        if since is None and now - began > limit:
            return now - began, seen
        await asyncio.sleep(0.25)


async def evidence(storm: Storm) -> list[str]:
    """What those who are not well say of themselves: last Events, last lines."""
    world, found = storm.place.world, []
    for pod in await world.kube.list("pods"):
        if is_ready(pod):
            continue
        name, namespace = _name(pod), pod["metadata"]["namespace"]
        state = [c.get("state") for c in pod.get("status", {}).get("containerStatuses", [])]
        found.append(f"{name} on {pod['spec'].get('nodeName')}: {state}")
        found.append(f"  Events: {await world.why(name, namespace=namespace)}")
        if namespace == names.SYSTEM_NAMESPACE:
            with contextlib.suppress(KubeError):
                log = await world.kube.logs(namespace, name, tail=8)
                found += [f"  {line[:400]}" for line in log.splitlines()]
    return found


async def planned(place: Place) -> list[str]:
    """What the product's own plan, from nothing, would still write to Azure."""
    command = [sys.executable, "-m", "egress_gateway.cli.main", "migrate", "--dry-run"]
    command += ["--output", "json", "--kubeconfig", str(place.handle.kubeconfig)]
    command += ["--azure-config", str(await place.azure_json())]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    said, words = await process.communicate()
    if process.returncode:
        return [f"the rehearsal ended with {process.returncode}: {words.decode()[-300:]}"]
    found = json.loads(said)["azure"]
    wrong = [f"a plan from nothing would {write}" for write in found["writes"]]
    return wrong + [f"a plan from nothing has a problem: {p}" for p in found["problems"].items()]


async def complaints(place: Place, since: float) -> list[str]:
    """What our components have said more than once since that moment, warnings and errors."""
    kube = place.world.kube
    wrong = []
    for pod in await kube.list("pods", namespace=names.SYSTEM_NAMESPACE):
        log = await kube.logs(names.SYSTEM_NAMESPACE, _name(pod), tail=300)
        counted: Counter[str] = Counter()
        for line in log.splitlines():
            with contextlib.suppress(ValueError, KeyError):
                said = json.loads(line)
                at = datetime.datetime.fromisoformat(said["time"].replace("Z", "+00:00"))
                told = said["level"] in ("warning", "error") and said["msg"] not in _MOVES
                if told and at.timestamp() > since:
                    counted[gist(said)] += 1
        wrong += [f"{_name(pod)} says {n} times: {said}" for said, n in counted.items() if n > 1]
    return wrong


def gist(said: Mapping[str, Any]) -> str:
    """What lines that say the same have in common: numbers are left out, but for those in the name
    of the object that it is said of."""
    about = {k: v for k, v in said.items() if k not in ("time", "level", "logger", "object")}
    return f"{said.get('object', '')} {re.sub(r'[0-9]+', '#', json.dumps(about)[:300])}".lstrip()


_KERNEL: Final = """
show() { nft -s list ruleset; ip -o -br link; ip rule; ip route show table all; }
show
for n in $(ls /run/netns | grep static-egress); do nsenter --net=/run/netns/$n sh -c "
nft -s list ruleset; ip -o -br link; ip rule; ip route show table all"; done
ls /run/egress-gateway/pods /run/egress-gateway/attached
"""
_VOLATILE: Final = re.compile(
    r"# handle \d+|@if\d+|expires \S+|counter packets \d+ bytes \d+|egspare\w+"
    # What a set holds: meters, and listen ports and gateways, which are others after each move.
    r"|elements = .*|^(udp \. )?[0-9][0-9a-fx.:, ]*( \}|,)$|^\"wg-\d+\" \. .* limit rate over .*"
)
_OF_A_SANDBOX: Final = re.compile(
    r"(?<=^cni-)\S+|\b10\.244\.[0-9.]+|(?<=veth)\w+|(?<= )[0-9a-f:]{17}\b"
)
"""Our own controller is a pod too: after its node began anew its sandbox has other names."""
_MOVES: Final = ("moved pod to another gateway", "gateway is lost", "gateway is alive")
"""What a machine that is busy with other things makes nodes say: late answers are lost ones."""


async def kernel(place: Place) -> dict[str, Counter[str]]:
    """By machine: rules, links, routes and files of ours, without what changes by itself."""

    async def one(role: str) -> Counter[str]:
        lines = (await place.run(role, _KERNEL)).splitlines()
        bare = (_VOLATILE.sub("", line.strip()).strip() for line in lines)
        return Counter(line for line in bare if line)

    roles = list(await place.machines())
    return dict(zip(roles, await asyncio.gather(*map(one, roles)), strict=True))


async def _tidied(place: Place, *, limit: float = 20.0) -> None:
    """Returns when nothing is left that agents take away at their next routine look, ten seconds
    later at most."""
    ends = time.monotonic() + limit
    for role in await place.machines():
        while _stale(await place.run(role, _TIDY)):
            if time.monotonic() > ends:
                return
            await asyncio.sleep(0.5)


_TIDY: Final = (
    "nft list ruleset; ip -o link; ls -d /run/egress-gateway/attached/* 2>/dev/null || true"
)


def _stale(text: str) -> bool:
    """Whether there is a chain that nothing leads to, or a tunnel made in advance on a machine
    without attached pods."""
    chains = re.findall(r"chain (to_[0-9a-f]+) \{", text)
    unled = any(text.count(name) == chains.count(name) for name in chains)
    return unled or (" egspare" in text and "attached/" not in text)


async def _hopeless_deleted(storm: Storm) -> None:
    """Pods whose configuration is gone cannot start: where their node began anew they are tried all
    the time, whatever their status still says. Their sandboxes come and go, and are no part of what
    lasts."""
    pods = await storm.place.world.kube.list("pods", namespace="default")
    hopeless = [_name(p) for p in pods if not storm.expected(_name(p))]
    for name in hopeless:
        await storm.acts["pod_deleted"](Event(0, "pod_deleted", name, {"grace": 0}))
    if hopeless:
        await converged(storm)


async def renewed(storm: Storm) -> list[str]:
    """All our agents begin anew, from nothing: what they find is what they want."""
    place = storm.place
    await _hopeless_deleted(storm)
    await _tidied(place)
    before = await kernel(place)
    ended = {component: await place.ours(component) for component in _AGENTS}
    for pid in chain.from_iterable(ended.values()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for component, pids in ended.items():
        async with asyncio.timeout(_RESTART_SECONDS):
            while len(set(await place.ours(component)) - set(pids)) < len(pids):
                await asyncio.sleep(0.1)
    seconds, still = await converged(storm)
    if still:
        return [f"{seconds:.0f} s after all agents began anew: {s}" for s in still]
    await _tidied(place)
    after = await kernel(place)
    wrong = []
    for role in before:
        left, new = before[role] - after[role], after[role] - before[role]
        if left or new:
            wrong.append(
                f"agents that began anew changed {role}: took {dict(left)}, put {dict(new)}"
            )
    return wrong


async def cleared(storm: Storm, *, limit: float = 40) -> list[str]:
    """Users take away what is theirs; nothing of ours stays."""
    place, kube = storm.place, storm.place.world.kube
    for name in list(storm.pods):
        await kube.delete("pods", name, namespace="default", grace_seconds=0)
    for name in list(storm.configurations):
        await kube.delete(_CONFIGURATION, name, namespace="default")
    if storm.gateways != 2:
        await place.scale(2)
        storm.gateways = 2
    storm.pods.clear()
    storm.configurations.clear()
    deadline = time.monotonic() + limit
    while True:
        left = await _left(storm)
        if not left or time.monotonic() > deadline:
            return left
        await asyncio.sleep(0.5)


_FILES: Final = "cd /run/egress-gateway && ls -1 pods/* attached/* 2>/dev/null; ls -1 /run/netns"


def settled(line: str) -> str:
    """A line of an inventory without what is another one after each restart."""
    return _OF_A_SANDBOX.sub("", _VOLATILE.sub("", " ".join(line.split())))


async def _left(storm: Storm) -> list[str]:
    place, kube = storm.place, storm.place.world.kube
    found = []
    for kind in (_CONFIGURATION, "podendpoints", "secrets", "roles", "rolebindings"):
        for item in await kube.list(kind):
            if kind in (_CONFIGURATION, "podendpoints") or _name(item).startswith("sgw-"):
                found.append(f"{kind} {_name(item)} is left")
    azure = await place.world.fingerprint()
    for one in azure.keys() | place.azure.keys():
        if azure.get(one) != place.azure.get(one):
            found.append(f"Azure: {one.rpartition('/')[2]} is not what it was")
    inventory = await place.world.inventory()
    found += _differ("machines", set(inventory), set(place.inventory))
    for node in set(inventory) & set(place.inventory):
        for kind in place.inventory[node]:
            before, now = (
                Counter(settled(line) for line in one[node].get(kind, []))
                for one in (place.inventory, inventory)
            )
            if before != now:
                found.append(
                    f"{node}: {kind}: left {list(now - before)}, lost {list(before - now)}"
                )
    for role in WORKERS:
        files = (await place.run(role, _FILES)).split()
        attached = [f for f in files if f.startswith("attached/") and f.endswith(".json")]
        records = [f for f in files if f.startswith("pods/") and f.endswith(".json")]
        found += [f"{role}: file {f}" for f in attached]
        # One of each sandbox that there is: whoever runs may be annotated yet.
        if len(records) > sum(f.startswith("cni-") for f in files):
            found.append(f"{role}: files {records} of {files}")
    return found


async def holdings(place: Place) -> dict[str, Holding]:
    """What the hungriest process of each component holds."""
    found: dict[str, Holding] = {}
    for component in COMPONENTS:
        held = [h for pid in await place.ours(component) if (h := processes.holding(pid))]
        if held:
            found[component] = Holding(
                max(h.memory for h in held),
                max(h.descriptors for h in held),
                max(h.threads for h in held),
            )
    return found


def grown(before: Mapping[str, Holding], after: Mapping[str, Holding]) -> list[str]:
    """Components that hold more than before, beyond what a fresh process and a used one differ."""
    wrong = []
    for component, now in after.items():
        was = before.get(component)
        if was is None:
            continue
        for what, most in (
            ("memory", was.memory * 1.5 + (32 << 20)),
            ("descriptors", 2 * was.descriptors + 32),
            ("threads", was.threads + 8),
        ):
            if getattr(now, what) > most:
                wrong.append(f"{component} holds {what}: {getattr(was, what)} before, now {now}")
    return wrong


def _differ(what: str, found: set[str], wanted: set[str]) -> list[str]:
    left, lost = sorted(found - wanted), sorted(wanted - found)
    return [f"{what}: left {left}, lost {lost}"] if left or lost else []


def _name(item: Mapping[str, Any]) -> str:
    return str(item["metadata"]["name"])
