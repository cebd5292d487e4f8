"""From a verdict to the object's status and Events: pure.

The controller alone writes a StaticGatewayConfiguration's status. A problem never wipes what is
in service: address, port, key and gateways stay as reported until something better is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Final, Literal

import msgspec

from egress_gateway.api import conditions, names
from egress_gateway.api.conditions import Reason
from egress_gateway.api.types import (
    Condition,
    Gateway,
    GatewayProblem,
    GatewayServerProfile,
    ObjectReference,
    PodCount,
    PodEndpoint,
    SeenAddress,
    StaticGatewayConfiguration,
    StaticGatewayConfigurationStatus,
)
from egress_gateway.api.unreached import Unreached, unreached
from egress_gateway.controller.planning.meant import sends_nothing
from egress_gateway.controller.planning.problem import Note
from egress_gateway.controller.planning.verdict import Serving, ServingGateway, Verdict
from egress_gateway.controller.rotation.phases import Pairs, servers

STAYS: Final = "existing addresses stay in service, but the controller cannot apply changes"
Truth = Literal["True", "False", "Unknown"]
Said = tuple[Truth, str, str]
"""Status, reason and message of a condition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateways:
    """The cluster's side of gateway nodes. ``nodes`` maps a provider id (lower case) to the
    Node's name, ``ready`` holds the nodes whose agent serves the configuration at this moment,
    ``problems`` what agents say against it, by node."""

    nodes: Mapping[str, str]
    ready: frozenset[str]
    problems: Mapping[str, GatewayProblem]
    seen: Mapping[str, SeenAddress] = field(default_factory=dict)
    """What the Internet sees, by node that has asked."""
    answered: bool = False
    """Somebody answers some gateway of the cluster."""
    arriving: frozenset[str] = frozenset()
    """Provider ids (lower case) of gateways that have not served it yet and may be about to (see
    ``arrivals``)."""
    claimed: frozenset[str] = frozenset()
    """The nodes whose agent said last that it serves the configuration, whether they are up or
    not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pods:
    """How the attached pods of a configuration stand. ``lost``: how many have no tunnel, by the
    reason that their agents give."""

    attached: int = 0
    connected: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)
    unreached: Mapping[str, Unreached] = field(default_factory=dict)
    """By gateway, the nodes that do not reach it."""

    @property
    def counted(self) -> str:
        """A sentence for conditions."""
        return f"{self.connected} of {self.attached} pods have a working tunnel"


def pods_of(endpoints: Iterable[PodEndpoint], alive: Collection[str]) -> Pods:
    """``endpoints`` of one configuration; ``alive``: nodes that are up. A pod that its agent has
    not reported yet is not counted."""
    endpoints = list(endpoints)
    said = [e for e in endpoints if e.spec.node_name in alive and e.status.state]
    lost = Counter(e.status.reason for e in said if e.status.state != "Connected")
    return Pods(
        attached=len(said),
        connected=len(said) - lost.total(),
        lost=dict(lost),
        unreached=unreached(endpoints, up=alive),
    )


@dataclass(frozen=True, slots=True)
class Notice:
    """An Event to be recorded."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def status_of(
    sgc: StaticGatewayConfiguration,
    verdict: Verdict,
    gateways: Gateways,
    *,
    pairs: Pairs,
    keys_namespace: str,
    now: str,
    rotated: Said | None = None,
    pods: Pods = Pods(),
    departing: Mapping[str, bool] = {},
) -> StaticGatewayConfigurationStatus:
    """The status after ``verdict``. Equal to the present one when nothing has changed.
    ``rotated``: what ``KeysRotated`` is to say. ``pods``: how its attached pods stand.
    ``departing``: nodes of gateways that are going and still listed, and whether they are marked
    (see ``departures``)."""
    before = sgc.status
    verdict = _taken_on(sgc, verdict)
    serving = verdict.serving
    if serving is None:
        status = before
    else:
        port, rotation = servers(
            pairs, serving.port, serving.second_port, before.gateway_server_profile
        )
        still = gateways.claimed | departing.keys()
        status = StaticGatewayConfigurationStatus(
            key_rotation=rotation,
            egress_ip_prefix=_egress(
                before.egress_ip_prefix,
                serving,
                [g for g in serving.going if gateways.nodes.get(g.provider_id.lower()) in still],
            ),
            gateway_server_profile=GatewayServerProfile(
                ip=str(serving.server),
                port=port,
                public_key=pairs.public,
                private_key_secret_ref=ObjectReference(
                    api_version="v1",
                    kind="Secret",
                    namespace=keys_namespace,
                    name=names.key_secret(sgc.metadata.uid),
                ),
            ),
            gateways=[
                *_gateways(serving.gateways, gateways),
                *(
                    msgspec.structs.replace(g, leaving=departing[g.node])
                    for g in _gateways(serving.going, gateways)
                    if g.node in departing
                ),
            ],
            conditions=before.conditions,
        )
    generation = verdict.generation or sgc.metadata.generation
    result = [c for c in before.conditions if verdict.ipv6 or c.type != conditions.IPV6_READY]
    said = _conditions(sgc, status, verdict, _of_its_own(status, gateways), pods)
    if rotated is not None:
        said[conditions.KEYS_ROTATED] = rotated
    for kind, (truth, reason, message) in said.items():
        result = conditions.with_condition(
            result, kind, truth, reason=reason, message=message, now=now, generation=generation
        )
    count = PodCount(attached=pods.attached, connected=pods.connected)
    return msgspec.structs.replace(
        status, pods=count, conditions=result, observed_generation=generation
    )


def _taken_on(sgc: StaticGatewayConfiguration, verdict: Verdict) -> Verdict:
    """A controller that begins anew and may not look at the cloud: what the last one has said of
    this spec stands, and gateways' agents go by it."""
    said, problem = conditions.find(sgc.status.conditions, conditions.PROVISIONED), verdict.problem
    if not verdict.unseen or problem is None or said is None or sgc.metadata.deletion_timestamp:
        return verdict
    if said.status != "True" or said.observed_generation != sgc.metadata.generation:
        return verdict
    ipv6 = conditions.find(sgc.status.conditions, conditions.IPV6_READY) is not None
    told = replace(problem, message=f"{STAYS}: {problem.message}")
    note = Note(problem.reason, told.message)
    return replace(verdict, problem=None, note=note, cloud=told, ipv6=ipv6)


def _of_its_own(status: StaticGatewayConfigurationStatus, gateways: Gateways) -> Gateways:
    """Without what agents of other pools say against the configuration: it is not their business,
    and its owner would read their words."""
    listed = {gateway.node for gateway in status.gateways}
    own = {node: said for node, said in gateways.problems.items() if node in listed}
    return replace(gateways, problems=own)


def _egress(before: str, serving: Serving, still: Iterable[ServingGateway]) -> str:
    """The prefixes of both families, IPv4 first. What is not known now is as it was said before,
    and so is what packets of the gateways ``still`` may leave by: the new comes before the old."""
    said = list(filter(None, before.split(",")))
    used = {a for g in still for a in (g.public or g.secondary, g.public6) if a}

    def family(six: bool, now: str | None) -> Iterator[str]:
        mine = [prefix for prefix in said if (":" in prefix) is six]
        yield from mine if now is None else filter(None, now.split(","))
        yield from (prefix for prefix in mine if _holds(prefix, used))

    return ",".join(dict.fromkeys([*family(False, serving.prefix), *family(True, serving.prefix6)]))


def _holds(prefix: str, addresses: Iterable[IPv4Address | IPv6Address]) -> bool:
    try:
        network = ip_network(prefix, strict=False)
    except ValueError:  # Somebody else wrote the status.
        return False
    return any(address in network for address in addresses)


def _gateways(serving: Iterable[ServingGateway], known: Gateways) -> list[Gateway]:
    return [
        Gateway(
            node=node,
            primary_ip=str(gateway.primary),
            secondary_ip=str(gateway.secondary),
            public_ip=str(gateway.public) if gateway.public else "",
            secondary_ip_v6=str(gateway.secondary6) if gateway.secondary6 else "",
            public_ip_v6=str(gateway.public6) if gateway.public6 else "",
            seen_ip=known.seen[node].seen_ip if node in known.seen else "",
            seen_ip_v6=known.seen[node].seen_ip_v6 if node in known.seen else "",
        )
        for gateway in serving
        if (node := known.nodes.get(gateway.provider_id.lower()))
    ]


def going(sgc: StaticGatewayConfiguration, serving: Serving, known: Gateways) -> set[str]:
    """Nodes of gateways that the status lists, that are to be dropped, and that still serve by the
    address that it lists."""
    listed = {(gateway.node, gateway.secondary_ip) for gateway in sgc.status.gateways}
    found = _gateways(serving.going, known)
    return {g.node for g in found if (g.node, g.secondary_ip) in listed}


def staying(serving: Serving, known: Gateways) -> set[str]:
    """Nodes of gateways that the status lists from now on."""
    return {gateway.node for gateway in _gateways(serving.gateways, known)}


def _conditions(
    sgc: StaticGatewayConfiguration,
    status: StaticGatewayConfigurationStatus,
    verdict: Verdict,
    gateways: Gateways,
    pods: Pods,
) -> dict[str, tuple[Truth, str, str]]:
    accepted, idle = _accepted(verdict), sends_nothing(sgc.spec)
    if idle and accepted[0] == "True":
        accepted = ("True", Reason.NOTHING_SENT, idle)
    provisioned = _provisioned(status, verdict)
    agents = _agents(status, verdict, gateways)
    tunnels = _tunnels(pods)
    bad = next((c for c in (accepted, provisioned, agents, tunnels) if c[0] != "True"), None)
    words = [idle or f"pods leave from {status.egress_ip_prefix}", agents[2]]
    ready: tuple[Truth, str, str] = (
        "True",
        Reason.READY,
        "; ".join([*words, pods.counted] if pods.attached else words),
    )
    if bad:
        ready = ("False", bad[1], bad[2])
    verified = _verified(status, gateways)
    found = {
        conditions.READY: ready,
        conditions.ACCEPTED: accepted,
        conditions.PROVISIONED: provisioned,
        conditions.GATEWAYS_READY: agents,
        conditions.EGRESS_VERIFIED: verified,
        conditions.DEGRADED: _degraded(
            status,
            verdict,
            agents if _lacking(status, verdict, gateways) else None,
            pods,
            verified,
            _not_reached(status, gateways, pods),
        )
        or ("False", Reason.AS_EXPECTED, "; ".join(filter(None, [agents[2], pods.counted]))),
    }
    if verdict.ipv6:
        idle = sends_nothing(sgc.spec, family=6)
        said = _ipv6(status, verdict, gateways)
        carried_for_nobody: Said = ("True", Reason.NOTHING_SENT, idle)
        found[conditions.IPV6_READY] = carried_for_nobody if idle and said[0] == "True" else said
    return found


def _tunnels(pods: Pods) -> Said:
    """False while no pod at all has a tunnel: whatever else is in order, nobody is served."""
    if pods.attached and not pods.connected:
        return "False", Reason.PODS_WITHOUT_TUNNEL, _lost(pods)
    return "True", Reason.READY, ""


def _lost(pods: Pods) -> str:
    why = ", ".join(f"{count} {reason}" for reason, count in sorted(pods.lost.items()))
    return f"{pods.counted} ({why}); kubectl get podendpoints shows which pods have none"


def _degraded(
    status: StaticGatewayConfigurationStatus,
    verdict: Verdict,
    agents: Said | None,
    pods: Pods,
    verified: Said,
    not_reached: Iterable[str],
) -> Said | None:
    """The gravest thing amiss gives the reason; all of them are in the message. None: nothing is.
    ``agents``: what they say where a gateway is missing."""
    if verdict.problem is not None and verdict.problem.reason == Reason.DELETING:
        return "False", Reason.DELETING, verdict.problem.message
    amiss: list[tuple[str, str]] = []
    if pods.connected < pods.attached:
        amiss.append((Reason.PODS_WITHOUT_TUNNEL, _lost(pods)))
    if verified[0] == "False":
        amiss.append((verified[1], verified[2]))
    if status.gateways and agents is not None:
        amiss.append((Reason.REDUNDANCY_LOST, agents[2]))
    amiss += [(Reason.REDUNDANCY_LOST, words) for words in not_reached]
    if verdict.cloud is not None:
        amiss.append((Reason.CLOUD_NOT_REACHABLE, verdict.cloud.message))
    if amiss:
        return "True", amiss[0][0], "; ".join(message for _, message in amiss)
    return None


def _lacking(
    status: StaticGatewayConfigurationStatus,
    verdict: Verdict,
    gateways: Gateways,
) -> bool:
    """Whether a gateway does not serve that has served, complains, or should have begun by now."""
    coming = {node for pid in gateways.arriving if (node := gateways.nodes.get(pid))}
    lost = {g.node for g in status.gateways} - gateways.ready - coming
    unknown = [
        g
        for g in (verdict.serving.gateways if verdict.serving else ())
        if (pid := g.provider_id.lower()) not in gateways.nodes and pid not in gateways.arriving
    ]
    return bool(lost or unknown or coming & (gateways.problems.keys() - gateways.ready))


def had_served(status: StaticGatewayConfigurationStatus) -> bool:
    """Whether all gateways that ``status`` lists have served, as far as it tells."""
    agents = conditions.find(status.conditions, conditions.GATEWAYS_READY)
    degraded = conditions.find(status.conditions, conditions.DEGRADED)
    whole = agents is not None and agents.reason == Reason.ALL_GATEWAYS
    if whole or degraded is None:
        return whole
    # Its reason is the gravest; beside whatever is graver, its words are those of the agents.
    words = agents.message if agents is not None and degraded.status == "True" else ""
    told = bool(words) and words in degraded.message
    return told or degraded.reason == Reason.REDUNDANCY_LOST


def _not_reached(
    status: StaticGatewayConfigurationStatus, gateways: Gateways, pods: Pods
) -> Iterator[str]:
    """What nodes say of listed gateways whose own agents say that they serve."""
    for gateway in status.gateways:
        found = pods.unreached.get(gateway.node)
        if found is not None and gateway.node in gateways.ready and not gateway.leaving:
            mend = found.mend(status.gateway_server_profile.port)
            yield f"{gateway.node}: {found.evidence}: {mend}"


def _verified(status: StaticGatewayConfigurationStatus, gateways: Gateways) -> Said:
    """Where nobody has ever answered any gateway, these servers are out of reach, and say nothing
    of addresses."""
    public = [g for g in status.gateways if g.public_ip]
    # An agent that has not heard yet of an address has not asked for it.
    asked = [
        g
        for g in public
        if (seen := gateways.seen.get(g.node)) is not None and seen.expected_ip == g.public_ip
    ]
    if not asked:
        return "Unknown", Reason.NOT_ASKED, "no gateway has verified its address yet"
    before = conditions.find(status.conditions, conditions.EGRESS_VERIFIED)
    if not gateways.answered and (before is None or before.status == "Unknown"):
        return "Unknown", Reason.NOT_ANSWERED, "no verify target has answered any gateway"
    wrong = [words for g in asked for words in _sights(g, gateways.seen[g.node])]
    if wrong:
        return "False", Reason.NOT_VERIFIED, "; ".join(wrong)
    narrow = [g.node for g in asked if gateways.seen[g.node].large_lost]
    if narrow:
        words = f"{', '.join(narrow)}: large packets are lost on the way to the Internet"
        return "False", Reason.LARGE_LOST, f"{words}, small ones are not"
    words = f"the Internet sees the addresses of {len(asked)} of {len(public)} gateway nodes"
    return "True", Reason.VERIFIED, words


def _sights(gateway: Gateway, found: SeenAddress) -> Iterator[str]:
    """What is wrong with what the Internet sees. IPv6 that nobody ever answered is not judged, nor
    what an agent has not heard of yet."""
    ways = [(found.seen_ip, gateway.public_ip)]
    if found.expected_ip_v6 == gateway.public_ip_v6:
        ways.append((found.seen_ip_v6, gateway.public_ip_v6))
    for seen, public in ways:
        if seen == public:
            continue
        if seen:
            yield f"{gateway.node}: the Internet sees {seen} in place of {public}"
        else:
            yield f"{gateway.node}: no server on the Internet answers {public}"


def _ipv6(
    status: StaticGatewayConfigurationStatus, verdict: Verdict, gateways: Gateways
) -> tuple[Truth, str, str]:
    carrying = [gateway.node for gateway in status.gateways if gateway.secondary_ip_v6]
    counted = f"{len(carrying)} of {len(status.gateways)} gateway nodes have an IPv6 address"
    problem = verdict.problem6 or verdict.problem
    if problem:
        held = f"; {counted} from before" if carrying else "; pods' IPv6 is held back"
        return "False", problem.reason, problem.message + held
    said = {n: p for n, p in gateways.problems.items() if p.reason == Reason.GATEWAY_WITHOUT_IPV6}
    if said:
        message = "; ".join(f"{node}: {problem.message}" for node, problem in sorted(said.items()))
        return "False", Reason.GATEWAY_WITHOUT_IPV6, message
    if not carrying or len(carrying) < len(status.gateways):
        return "False", Reason.PROVISIONING, counted
    prefix = next((p for p in status.egress_ip_prefix.split(",") if ":" in p), "")
    return "True", Reason.IPV6_CARRIED, f"pods' IPv6 leaves from {prefix}"


def _accepted(verdict: Verdict) -> tuple[Truth, str, str]:
    problem = verdict.problem
    if problem and not problem.accepted:
        return "False", problem.reason, problem.message
    return "True", Reason.VALID, "the spec is valid and its gateway pool exists"


def _provisioned(
    status: StaticGatewayConfigurationStatus, verdict: Verdict
) -> tuple[Truth, str, str]:
    serving, problem = verdict.serving, verdict.problem
    if problem and problem.reason == Reason.DELETING:
        return "False", problem.reason, problem.message
    if problem:
        held = "; what was provisioned before stays in service" if serving else ""
        return "False", problem.reason, problem.message + held
    if serving is None and verdict.cloud is None:
        if verdict.note is None:
            return "False", Reason.PROVISIONING, "the controller is creating Azure resources"
        return "False", verdict.note.reason, verdict.note.message
    if verdict.note and serving is not None and serving.prefix is None:  # nothing new serves yet
        return "False", verdict.note.reason, verdict.note.message
    if verdict.note:
        reason = verdict.note.reason
        return (
            "True",
            Reason.PROVISIONED if reason == Reason.PROVISIONING else reason,
            verdict.note.message,
        )
    return "True", Reason.PROVISIONED, f"addresses of {status.egress_ip_prefix} are in place"


def _agents(
    status: StaticGatewayConfigurationStatus, verdict: Verdict, gateways: Gateways
) -> tuple[Truth, str, str]:
    listed = [gateway.node for gateway in status.gateways]
    total = len(listed)
    if verdict.serving:  # some of its gateways may be no Nodes yet; those that are going serve too
        going_too = set(listed) - staying(verdict.serving, gateways)
        total = len(verdict.serving.gateways) + len(going_too)
    ready = [node for node in listed if node in gateways.ready]
    said = "".join(
        f"; {n}: {p.message}" for n, p in sorted(gateways.problems.items()) if n not in ready
    )
    counted = f"{len(ready)} of {total} gateway nodes ready{said}"
    if ready:
        every = len(ready) == total
        return "True", Reason.ALL_GATEWAYS if every else Reason.SOME_GATEWAYS, counted
    if total and not listed:
        return (
            "False",
            Reason.NODE_UNKNOWN,
            f"none of the pool's {total} instances is a Node of this cluster (spec.providerID): "
            "they are being deleted, have not joined yet, or joined another cluster; compare "
            "kubectl get nodes with az vmss list-instances",
        )
    return "False", Reason.NO_GATEWAY, counted


def notices(
    before: Iterable[Condition],
    after: Collection[Condition],
    *,
    complaints: bool = False,
) -> list[Notice]:
    """Events for what changed: every new refusal, and good news when it comes. ``complaints``:
    a gateway agent says something against it."""
    old = {c.type: (c.status, c.reason, c.message) for c in before}
    agents = conditions.find(after, conditions.GATEWAYS_READY)
    serves = agents is not None and agents.status == "True"
    found: dict[str, Notice] = {}
    for c in after:
        if old.get(c.type) == (c.status, c.reason, c.message) or c.type == conditions.READY:
            continue
        was = old.get(c.type)
        if c.type == conditions.DEGRADED:
            if (notice := _worse_or_better(was, c, serves=serves)) is not None:
                found[notice.reason] = notice
            continue
        if c.type == conditions.KEYS_ROTATED and was is not None and was[1] == c.reason:
            continue  # figures
        if c.status == "True" and c.reason in _DOUBTFUL:
            found.setdefault(c.reason, Notice("Warning", c.reason, c.message))
        elif c.reason in _COURSE:
            found.setdefault(c.reason, Notice("Normal", c.reason, c.message))
        elif c.type == conditions.EGRESS_VERIFIED:
            continue  # ``Degraded`` tells of it
        elif c.status == "True":
            if c.type == conditions.ACCEPTED and was is None:
                continue
            arrived = c.reason == Reason.ALL_GATEWAYS and not _said_true(old, conditions.DEGRADED)
            if was is None or was[0] != "True" or (arrived and was[1] != c.reason):
                found.setdefault(c.reason, Notice("Normal", c.reason, c.message))
        elif c.reason in _QUIET or (
            c.type == conditions.GATEWAYS_READY and not complaints and _starting(was)
        ):
            continue
        else:
            found.setdefault(c.reason, Notice("Warning", c.reason, c.message))
    return list(found.values())


def keys_replaced(
    before: StaticGatewayConfigurationStatus, after: StaticGatewayConfigurationStatus
) -> list[Notice]:
    """An Event when a key pair in use is no more, and nobody asked for a change."""
    was, now = (s.gateway_server_profile.public_key for s in (before, after))
    asked = before.key_rotation
    if not was or was == now or (asked is not None and asked.phase in _CHANGING):
        return []
    text = (
        "the Secret of its key pair was deleted or made unusable; the controller made another "
        "and each pod gets a tunnel with it: who deletes Secrets in the components' namespace?"
    )
    return [Notice("Warning", Reason.KEYS_REPLACED, text)]


def _worse_or_better(
    was: tuple[str, str, str] | None, now: Condition, *, serves: bool
) -> Notice | None:
    """``serves``: some gateway does; the loss of all is told as such."""
    if now.status == "False":
        worse = was is not None and was[0] == "True"
        return Notice("Normal", now.reason, now.message) if worse and serves else None
    if was is not None and was[:2] == (now.status, now.reason):
        return None  # figures
    if now.reason == Reason.REDUNDANCY_LOST and not serves:
        return None
    return Notice("Warning", now.reason, now.message)


def _said_true(old: Mapping[str, tuple[str, str, str]], kind: str) -> bool:
    return kind in old and old[kind][0] == "True"


def _starting(was: tuple[str, str, str] | None) -> bool:
    """Agents take up a configuration only after it is provisioned: no news until one complains
    or one that was ready is not."""
    return was is None or was[0] != "True"


_CHANGING = frozenset({"Preparing", "Moving", "Retiring", "Closing"})
"""Phases of a change of key pairs that somebody asked for."""
_COURSE = frozenset(
    {
        Reason.ROTATION_WAITING,
        Reason.ROTATION_PREPARING,
        Reason.ROTATION_MOVING,
        Reason.ROTATION_RETIRING,
    }
)
"""Steps of what somebody asked for."""
_DOUBTFUL = frozenset({Reason.NOTHING_SENT, Reason.NOT_KEPT})
"""Said although it serves: a person should look."""
_QUIET = frozenset({Reason.PROVISIONING, Reason.DELETING})
"""Passing states that need nobody."""
