"""How a configuration's key pair is changed while pods use it: phases, and what ends each. Pure.

=========== ===================== =================================== ======================
phase       the profile's pair    the second pair                     ends when
=========== ===================== =================================== ======================
Preparing   the former one        the next one: gateways serve it     all of them do
Moving      the former one        the next one: pods move to it       all have (or in time)
Retiring    the next one          the former one: late pods leave it  nobody uses it
Closing     the next one          the former one: only heard          no gateway sends by it
Settling    the next one          none: its rule takes the usual name Azure has it so
=========== ===================== =================================== ======================

The record lies beside the keys, on their Secret, and a step writes both at once: the next leader
continues from there. Nothing that works is given up before its successor has been seen to work, up
to the end of ``Moving``; a rotation whose next pair nobody could use is abandoned and costs
nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from egress_gateway.api import keys, keysecret, names
from egress_gateway.api.conditions import Reason
from egress_gateway.api.types import GatewayServerProfile, KeyRotation, PodEndpoint, RotationPhase
from egress_gateway.kube.resources import Secret

Phase = Literal["Preparing", "Moving", "Retiring", "Closing", "Settling", "Done", "Abandoned"]

TWO_PAIRS: Final = frozenset({"Preparing", "Moving", "Retiring", "Closing"})
ACTIVE: Final = TWO_PAIRS | {"Settling"}
RETIRING_SECONDS: Final = 2.0
"""At least: pods that were just being attached with the former pair are seen by then."""
LATE_SECONDS: Final = 60.0
"""At most, for pods that had not moved in time and hear of the profile only now."""
CLOSING_SECONDS: Final = 1.0
"""At least: answers that left by the former pair have arrived by then."""
_NAMED: Final = 10
"""Nodes that a message names."""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is kept on the key Secret. ``since``: when the phase began, in seconds since the epoch.
    ``port``: what the rule of the usual name must have (``Settling``). ``note``: how it ended."""

    request: str = ""
    phase: Phase | Literal[""] = ""
    since: float = 0.0
    port: int = 0
    note: str = ""


_NONE: Final = Record()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """A key Secret as far as a rotation is concerned: the record, and the public keys of the
    profile's pair and of the second one (empty: none)."""

    record: Record = _NONE
    public: str = ""
    second: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """Pods by what they use. ``lagging``: how many of each node use no other than the former
    pair, or have not said; nodes that are down are left out, their pods attach anew."""

    moved: int = 0
    lagging: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Pods, moved and not."""
        return self.moved + sum(self.lagging.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationFacts:
    """What a step is decided by. ``port`` and ``second_port``: of the load balancer's rules of the
    usual name and of the second; 0: none. ``phase``: in which they were looked at.
    ``gateways``: nodes that should serve it and are up;
    ``prepared`` of them serve the second pair too. ``timeout`` in seconds; 0: for ever."""

    now: float = 0.0
    request: str = ""
    phase: Phase | Literal[""] = ""
    in_service: bool = False
    port: int = 0
    second_port: int = 0
    gateways: frozenset[str] = frozenset()
    prepared: frozenset[str] = frozenset()
    users: Users = Users()
    timeout: float = 0.0


def pairs_of(secret: Secret | None) -> Pairs:
    """What is not to be read counts as not there."""
    if secret is None:
        return Pairs()
    record = record_of(secret)
    return Pairs(
        record=record,
        public=keysecret.public_key(secret.data),
        second=keysecret.public_key(secret.data, names.SECRET_SECOND_KEY)
        if record.phase in TWO_PAIRS
        else "",
    )


def record_of(secret: Secret | None) -> Record:
    """How far a rotation is; costs no look at the keys."""
    written = secret.metadata.annotations.get(names.KEY_ROTATION_ANNOTATION) if secret else None
    try:
        return msgspec.json.decode(written, type=Record) if written else _NONE
    except msgspec.DecodeError:
        return _NONE


def users_of(
    endpoints: Iterable[PodEndpoint], name: str, public: str, alive: frozenset[str]
) -> Users:
    """``public``: the pair that pods should use. ``alive``: nodes that are up."""
    lagging: Counter[str] = Counter()
    moved = 0
    for endpoint in endpoints:
        spec = endpoint.spec
        if spec.static_gateway_configuration != name or spec.node_name not in alive:
            continue
        if spec.gateway_public_key == public:
            moved += 1
        else:
            lagging[spec.node_name] += 1
    return Users(moved=moved, lagging=dict(lagging))


def following(record: Record, facts: RotationFacts) -> Record:
    """The record after what there is to see; the same one while nothing has come to an end."""
    waited = facts.now - record.since
    late = 0 < facts.timeout <= waited
    match record.phase:
        case "Preparing":
            return _prepared(record, facts, late)
        case "Moving" if not facts.users.lagging:
            return _to(record, "Retiring", facts)
        case "Moving" if late and not facts.users.moved:
            why = (
                f"no pod got a handshake with the next key pair within {facts.timeout:g} s; check "
                f"that UDP {facts.second_port} reaches the gateway nodes, then ask again"
            )
            return _to(record, "Abandoned", facts, note=why)
        case "Moving" if late:
            why = f"pods had not moved within {facts.timeout:g} s: {_listed(facts.users)}"
            return _to(record, "Retiring", facts, note=why)
        case "Retiring" if waited >= LATE_SECONDS or (
            waited >= RETIRING_SECONDS and not facts.users.lagging
        ):
            return _to(record, "Closing", facts)
        case "Closing" if waited >= LATE_SECONDS or (
            waited >= CLOSING_SECONDS and not facts.prepared
        ):
            return _to(record, "Settling", facts, port=facts.second_port)
        case "Settling" if (facts.port, facts.second_port) == (record.port, 0):
            return _to(record, "Done", facts, port=0)
        case "" | "Done" | "Abandoned" if facts.in_service and asks(record, facts.request):
            return Record(request=facts.request, phase="Preparing", since=facts.now)
    return record


def asks(record: Record, request: str) -> bool:
    """Whether ``request`` is a new one."""
    return bool(request) and request != record.request and record.phase not in ACTIVE


def _prepared(record: Record, facts: RotationFacts, late: bool) -> Record:
    if not facts.request:
        return _to(record, "Abandoned", facts, note="the request was withdrawn")
    missing = sorted(facts.gateways - facts.prepared)
    if facts.second_port and facts.gateways and not missing:
        return _to(record, "Moving", facts)
    if not late:
        return record
    why = f"within {facts.timeout:g} s the load balancer got no second rule: {_PORTS}"
    if facts.second_port:
        who = ", ".join(missing[:_NAMED]) or "no gateway node"
        why = f"not ready for the next key pair within {facts.timeout:g} s: {who}"
    return _to(record, "Abandoned", facts, note=f"{why}; see conditions and Events, then ask again")


_PORTS: Final = f"is a port of {names.PORT_FIRST}-{names.PORT_LAST} free?"


def _to(
    record: Record, phase: Phase, facts: RotationFacts, *, note: str | None = None, port: int = 0
) -> Record:
    return Record(
        request=record.request,
        phase=phase,
        since=facts.now,
        port=port,
        note=record.note if note is None else note,
    )


def change_of(secret: Secret, before: Record, after: Record) -> dict[str, str | None]:
    """What a step writes into the Secret's data; None removes. The pairs change places when the
    next one becomes the profile's."""
    old, second = (
        secret.data.get(name) for name in (names.SECRET_PRIVATE_KEY, names.SECRET_SECOND_KEY)
    )
    if after.phase == "Preparing":
        return {names.SECRET_SECOND_KEY: keysecret.encoded(keys.generate().private)}
    if (before.phase, after.phase) == ("Moving", "Retiring") and old and second:
        public = keysecret.public_key(secret.data, names.SECRET_SECOND_KEY)
        return {
            names.SECRET_PRIVATE_KEY: second,
            names.SECRET_PUBLIC_KEY: keysecret.encoded(public),
            names.SECRET_SECOND_KEY: old,
        }
    if after.phase not in TWO_PAIRS:
        return {names.SECRET_SECOND_KEY: None}
    return {}


def servers(
    pairs: Pairs, port: int, second_port: int, before: GatewayServerProfile
) -> tuple[int, KeyRotation]:
    """The profile's port, and what the status says of the rotation. ``port`` and ``second_port``
    as in ``RotationFacts``; ``before``: the profile so far, which stays while the rule is not
    there."""
    record = pairs.record
    switched = record.phase in ("Retiring", "Closing")
    profile = second_port or before.port if switched else record.port or port
    other = (port if switched else second_port) if record.phase in TWO_PAIRS else 0
    shown = KeyRotation(
        request=record.request,
        phase=_SHOWN.get(record.phase, ""),
        port=other if pairs.second else 0,
        public_key=pairs.second if other else "",
    )
    return profile, shown


_SHOWN: Final[dict[str, RotationPhase]] = {
    "Preparing": "Preparing",
    "Moving": "Moving",
    "Retiring": "Retiring",
    "Closing": "Closing",
    "Settling": "Closing",
    "Done": "Done",
    "Abandoned": "Abandoned",
}


def condition(
    record: Record, facts: RotationFacts
) -> tuple[Literal["True", "False", "Unknown"], str, str] | None:
    """Status, reason and message of ``KeysRotated``; None: no rotation was ever requested."""
    queued = facts.request and facts.request != record.request
    also = "; another rotation is requested and begins after it" if queued else ""
    # NB: what was counted in the phase before says nothing of this one.
    looked = facts.phase == record.phase
    users = facts.users if looked else Users()
    count = f"{users.moved} of {users.total} pods use the next key pair"
    match record.phase:
        case "" if not asks(record, facts.request):
            return None
        case "" | "Done" | "Abandoned" if asks(record, facts.request):
            why = "requested; begins when the configuration is in service"
            return "False", Reason.ROTATION_WAITING, why
        case "Preparing":
            ready = len(facts.gateways & facts.prepared)
            said = f"{ready} of {len(facts.gateways)} gateways serve the next key pair"
            said = said if looked else "waiting for gateways to serve the next key pair"
            return "False", Reason.ROTATION_PREPARING, said + also
        case "Moving":
            waits = f"; waiting for {_listed(users)}" if users.lagging else ""
            said = count + waits if looked else "waiting for pods to use the next key pair"
            return "False", Reason.ROTATION_MOVING, said + also
        case "Retiring" if users.lagging and record.note:
            left = f"although {_listed(users)} still use it"
            waits = f"{count}; the controller removes the previous one, {left}"
            return "False", Reason.ROTATION_LAGGING, waits + also
        case "Retiring" | "Closing" | "Settling":
            return (
                "False",
                Reason.ROTATION_RETIRING,
                "the controller is removing the previous key pair" + also,
            )
        case "Abandoned":
            return "False", Reason.ROTATION_ABANDONED, f"the key pair is unchanged: {record.note}"
        case "Done":
            amiss = f"; {record.note}" if record.note else ""
            return "True", Reason.ROTATED, f"the key pair has changed{amiss}"
    return None


def _listed(users: Users) -> str:
    nodes = sorted(users.lagging.items())
    named = ", ".join(f"{node} ({count})" for node, count in nodes[:_NAMED])
    more = f" and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else ""
    return f"pods on {named}{more}"
