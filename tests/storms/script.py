"""A storm as a list of events, written from a seed. Pure: the same seed, the same storm.

Events name their subjects by role (``w0``, ``g1``, ``p3``, ``c1``), never by what a lab happens to
call them, so a script can be replayed on any lab, and one with events left out still makes sense:
who acts on a pod that was never created acts on nothing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from egress_gateway_lab.realcluster.binaries import CONTROL_PLANE
from tests.storms.processes import PROGRAMS

SECONDS: Final = 30.0
"""How long events come. Faults that last are over by then."""
WORKERS: Final = ("w0", "w1")
GATEWAYS: Final = ("g0", "g1")
PREFIXES: Final = ("p0", "p1", "p2")
FIRST_CONFIGURATIONS: Final = {"c0": "p0", "c1": "p1"}
"""Ready before the storm begins, with the prefixes that they use."""
FIRST_PODS: Final = {
    "a0": ("w0", "c0"),
    "a1": ("w1", "c0"),
    "b0": ("w0", "c1"),
    "b1": ("w1", "c1"),
    "n0": ("w0", ""),
    "n1": ("w1", ""),
}
"""Running before the storm begins: worker and configuration (empty: a plain pod)."""


@dataclass(frozen=True, slots=True)
class Event:
    """``at``: seconds after the storm's beginning. ``subject``: whom it concerns, by role."""

    at: float
    kind: str
    subject: str = ""
    how: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        more = " ".join(f"{k}={v}" for k, v in self.how.items())
        return f"{self.at:5.1f} {self.kind} {self.subject} {more}".rstrip()


Script = tuple[Event, ...]


@dataclass(slots=True)
class _World:
    """What exists at a moment of the script, so that actions make sense."""

    pods: dict[str, tuple[str, str]]
    configurations: dict[str, str]
    gateways: int = 2
    made: int = 0
    kubernetes: str = "embedded"
    down: dict[str, float] = field(default_factory=dict)
    """Machines that are off or cut, until when: the last way out is left to the pods of a storm,
    or all that it shows is silence."""


Writer = Callable[[random.Random, _World, float], Event | None]


def _lasting(least: float, most: float) -> Callable[[random.Random], float]:
    return lambda rng: round(rng.uniform(least, most), 1)


_machine = (*WORKERS, *GATEWAYS)
RUN_FILES: Final = (
    "/run/egress-gateway/pods/*",
    "/run/egress-gateway/attached/*",
    "/run/egress-gateway/cni.sock",
    "/run/egress-gateway/tunnels.sock",
    "/run/egress-gateway/*",
)
POD_DAMAGES: Final = (
    "nft flush ruleset",
    "nft delete table inet egress_gateway",
    # The main table's rule is nobody's to make again in a pod that is plain later.
    "ip rule delete priority 32765",
    "ip route flush table all dev wg0",
    "ip link delete wg0",
    "ip link set wg0 down",
    "ip address flush dev wg0",
)
INSIDE: Final = "ip netns exec ns-static-egress-gateway "
GATEWAY_DAMAGES: Final = (
    # All of the node's tables would be the masquerade's too, which nobody makes again here.
    "nft delete table inet egress_gateway_gateway",
    INSIDE + "nft flush ruleset",
    INSIDE + "ip route flush table main",
    INSIDE + "ip rule flush",
    INSIDE + "ip link set host0 down",
    INSIDE + "ip link delete wg-6000",
    "ip link delete gateway0",
    "ip route flush dev gateway0",
    "ip netns delete ns-static-egress-gateway",
)
AZURE_FAULTS: Final[tuple[dict[str, Any], ...]] = (
    {"kind": "throttle", "times": 4, "retry_after": 2},
    {"kind": "error", "times": 4, "status": 503, "code": "ServiceUnavailable"},
    {"kind": "error", "times": 3, "status": 500, "code": "InternalServerError"},
    {"kind": "conflict", "times": 4},
    {"kind": "cut", "method": "PUT", "times": 2},
    {"kind": "delay", "times": 6, "seconds": 2},
    {"kind": "fail-operation", "method": "PUT", "times": 1},
    {"kind": "cancel-operation", "method": "PUT", "times": 1},
    {"kind": "html", "times": 3, "status": 502},
    {"kind": "hang", "method": "PUT", "times": 1},
)


def _agent_killed(rng: random.Random, world: _World, at: float) -> Event:
    machine, component = rng.choice(_components(world))
    return Event(at, "agent_killed", machine, {"component": component})


def _agent_stopped(rng: random.Random, world: _World, at: float) -> Event:
    machine, component = rng.choice(_components(world))
    return Event(
        at, "agent_stopped", machine, {"component": component, "seconds": _lasting(1, 6)(rng)}
    )


def _components(world: _World) -> list[tuple[str, str]]:
    """Machines and what runs there; the controller is wherever it is."""
    theirs = PROGRAMS if world.kubernetes == "real" else ()
    return [
        *((machine, "node") for machine in WORKERS),
        *((machine, "wireguard") for machine in WORKERS),
        *((machine, component) for machine in GATEWAYS for component in ("gateway", "wireguard")),
        ("", "controller"),
        *((machine, program) for machine in _machine for program in theirs),
    ]


def _other_way_out(world: _World, gateway: str, at: float, seconds: float) -> bool:
    """Whether another gateway is up; remembers that this one is not."""
    if any(until > at for name, until in world.down.items() if name != gateway):
        return False
    world.down[gateway] = at + seconds + 8
    return True


def _link_cut(rng: random.Random, world: _World, at: float) -> Event | None:
    machine, seconds = rng.choice(_machine), _lasting(2, 7)(rng)
    if machine in GATEWAYS and not _other_way_out(world, machine, at, seconds):
        return None
    directions = ["both", "inbound", "outbound"] + ["internet"] * (machine in GATEWAYS)
    how = {"direction": rng.choice(directions), "seconds": seconds}
    return Event(at, "link_cut", machine, how)


def _power_cut(rng: random.Random, world: _World, at: float) -> Event | None:
    # A lab's real machines lose their disks, and a worker has to be drained before that.
    workers = WORKERS if world.kubernetes == "embedded" else ()
    machine, seconds = rng.choice((*GATEWAYS, *GATEWAYS, *workers)), _lasting(1, 5)(rng)
    if machine in GATEWAYS and not _other_way_out(world, machine, at, seconds):
        return None
    return Event(at, "power_cut", machine, {"seconds": seconds})


def _api_cut(rng: random.Random, _: _World, at: float) -> Event:
    return Event(at, "api_cut", rng.choice(_machine), {"seconds": _lasting(2, 8)(rng)})


def _api_lost(rng: random.Random, _: _World, at: float) -> Event:
    program = rng.choice(("kube-apiserver", "kube-apiserver", *CONTROL_PLANE))
    return Event(at, "api_lost", "", {"program": program, "seconds": _lasting(1, 4)(rng)})


def _azure_fault(rng: random.Random, _: _World, at: float) -> Event:
    return Event(at, "azure_fault", "", {**rng.choice(AZURE_FAULTS)})


def _state_lost(rng: random.Random, _: _World, at: float) -> Event:
    how = {"files": rng.choice(RUN_FILES), "damage": rng.choice(("removed", "truncated"))}
    return Event(at, "state_lost", rng.choice(WORKERS), how)


def _pod_damaged(rng: random.Random, world: _World, at: float) -> Event | None:
    """Of pods that are ours to mend: nobody gives a plain pod its rules back."""
    ours = sorted(pod for pod, (_, configuration) in world.pods.items() if configuration)
    if not ours:
        return None
    return Event(at, "pod_damaged", rng.choice(ours), {"command": rng.choice(POD_DAMAGES)})


def _gateway_damaged(rng: random.Random, world: _World, at: float) -> Event | None:
    gateway = rng.choice(GATEWAYS)
    return Event(at, "gateway_damaged", gateway, {"command": rng.choice(GATEWAY_DAMAGES)})


def _sandbox_lost(rng: random.Random, world: _World, at: float) -> Event | None:
    return Event(at, "sandbox_lost", rng.choice(sorted(world.pods))) if world.pods else None


def _object_lost(rng: random.Random, _: _World, at: float) -> Event:
    kind = rng.choice(("podendpoints", "gatewaystatuses", "secrets", "leases"))
    return Event(at, "object_lost", kind, {"which": rng.randrange(8)})


def _pod_annotated(rng: random.Random, world: _World, at: float) -> Event | None:
    if not world.pods:
        return None
    pod = rng.choice(sorted(world.pods))
    worker, before = world.pods[pod]
    choices = [c for c in ("", *sorted(world.configurations)) if c != before]
    world.pods[pod] = worker, rng.choice(choices)
    return Event(at, "pod_annotated", pod, {"configuration": world.pods[pod][1]})


def _pod_created(rng: random.Random, world: _World, at: float) -> Event | None:
    if len(world.pods) >= 10:
        return None
    world.made += 1
    pod = f"x{world.made}"
    choice = rng.choice(("", *sorted(world.configurations) * 3))
    world.pods[pod] = rng.choice(WORKERS), choice
    worker, configuration = world.pods[pod]
    return Event(at, "pod_created", pod, {"worker": worker, "configuration": configuration})


def _pod_deleted(rng: random.Random, world: _World, at: float) -> Event | None:
    if len(world.pods) < 4:
        return None
    pod = rng.choice(sorted(world.pods))
    del world.pods[pod]
    return Event(at, "pod_deleted", pod, {"grace": rng.choice((0, 2))})


def _configuration_created(rng: random.Random, world: _World, at: float) -> Event | None:
    free = [c for c in ("c0", "c1", "c2") if c not in world.configurations]
    if not free:
        return None
    name = rng.choice(free)
    unused = [p for p in PREFIXES if p not in world.configurations.values()]
    world.configurations[name] = rng.choice(unused)
    return Event(at, "configuration_created", name, {"prefix": world.configurations[name]})


def _configuration_changed(rng: random.Random, world: _World, at: float) -> Event | None:
    if not world.configurations:
        return None
    name = rng.choice(sorted(world.configurations))
    unused = [p for p in PREFIXES if p not in world.configurations.values()]
    if unused and rng.random() < 0.5:
        world.configurations[name] = rng.choice(unused)
        return Event(at, "configuration_changed", name, {"prefix": world.configurations[name]})
    exclude = [f"172.{16 + rng.randrange(16)}.0.0/16"]
    return Event(at, "configuration_changed", name, {"exclude": exclude})


def _configuration_deleted(rng: random.Random, world: _World, at: float) -> Event | None:
    """Its pods keep the annotation: they have no way out until it is made again."""
    if len(world.configurations) < 2:
        return None
    name = rng.choice(sorted(world.configurations))
    del world.configurations[name]
    return Event(at, "configuration_deleted", name)


def _keys_rotated(rng: random.Random, world: _World, at: float) -> Event | None:
    if not world.configurations:
        return None
    return Event(at, "keys_rotated", rng.choice(sorted(world.configurations)))


def _scaled(rng: random.Random, world: _World, at: float) -> Event | None:
    world.gateways = 3 if world.gateways == 2 else 2
    return Event(at, "scaled", "", {"count": world.gateways})


WRITERS: Final[dict[str, tuple[Writer, int]]] = {
    "agent_killed": (_agent_killed, 4),
    "agent_stopped": (_agent_stopped, 3),
    "link_cut": (_link_cut, 3),
    "power_cut": (_power_cut, 2),
    "api_cut": (_api_cut, 2),
    "azure_fault": (_azure_fault, 3),
    "state_lost": (_state_lost, 3),
    "pod_damaged": (_pod_damaged, 3),
    "gateway_damaged": (_gateway_damaged, 3),
    "sandbox_lost": (_sandbox_lost, 1),
    "object_lost": (_object_lost, 1),
    "pod_annotated": (_pod_annotated, 5),
    "pod_created": (_pod_created, 5),
    "pod_deleted": (_pod_deleted, 3),
    "configuration_created": (_configuration_created, 2),
    "configuration_changed": (_configuration_changed, 2),
    "configuration_deleted": (_configuration_deleted, 1),
    "keys_rotated": (_keys_rotated, 1),
    "scaled": (_scaled, 1),
}
"""Each kind of event, who writes one, and how often compared with the others."""


KINDS: Final = {"embedded": WRITERS, "real": WRITERS | {"api_lost": (_api_lost, 2)}}
"""By the lab's kind of Kubernetes."""


def written(
    seed: int,
    *,
    seconds: float = SECONDS,
    kinds: Sequence[str] = (),
    kubernetes: str = "embedded",
) -> Script:
    """The storm of a seed: an event every second or so. ``kinds``: these alone, if any."""
    rng = random.Random(seed)
    world = _World(dict(FIRST_PODS), dict(FIRST_CONFIGURATIONS), kubernetes=kubernetes)
    chosen = {k: v for k, v in KINDS[kubernetes].items() if not kinds or k in kinds}
    names, weights = list(chosen), [weight for _, weight in chosen.values()]
    events: list[Event] = []
    at = 0.5
    while at < seconds - 1:
        (kind,) = rng.choices(names, weights)
        event = chosen[kind][0](rng, world, round(at, 1))
        if event is not None:
            events.append(_over_by(event, seconds))
        at += rng.uniform(0.5, 1.8)
    return tuple(events)


def _over_by(event: Event, seconds: float) -> Event:
    if event.at + event.how.get("seconds", 0) <= seconds or event.kind == "azure_fault":
        return event
    how = {**event.how, "seconds": round(seconds - event.at, 1)}
    return Event(event.at, event.kind, event.subject, how)


def dumped(script: Iterable[Event]) -> str:
    """As one line of JSON, for ``--events``."""
    return json.dumps([asdict(event) for event in script])


def loaded(text: str) -> Script:
    return tuple(Event(**one) for one in json.loads(text))
