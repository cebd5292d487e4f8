"""The state of an attached pod: its tunnel, where it leads, and what to report. Pure.

A pod's status changes when it moves, loses its tunnel or has it again, and at no other time. A
tunnel that is away for less than ``LOST_AFTER`` is a normal failover: the agent reports the move
and not the loss. So an agent that looks every second writes nothing about pods at rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from egress_gateway.api.types import (
    MOST_UNREACHED,
    PodEndpointStatus,
    PodState,
    UnreachedGateway,
    UnreachedReason,
    cut,
)
from egress_gateway.node.attachment.choose import GatewayNode
from egress_gateway.node.attachment.model import Attachment
from egress_gateway.node.liveness.health import State
from egress_gateway.node.liveness.pathtrial import Verdict

LOST_AFTER: Final = 3.0
"""Seconds without a tunnel that are told as a loss; a failover takes a third of one."""
LOAD_BALANCER: Final = "load balancer"
"""In place of a gateway's name: some gateway, which the load balancer chose."""
_UNREACHED: Final[Mapping[Verdict, UnreachedReason]] = {
    "silent": "TunnelsUnanswered",
    "narrow": "LargePacketsLost",
}
_NAMED: Final = 5
"""Gateways that a message names."""

MOVED: Final = "EgressMoved"
LOST: Final = "EgressLost"
RESTORED: Final = "EgressRestored"


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at a pod found. ``reason`` and ``message`` say why it is not ``connected``."""

    connected: bool
    gateway: str = ""
    egress_ip: str = ""
    egress_ip_v6: str = ""
    reason: str = ""
    message: str = ""


class Told(msgspec.Struct, frozen=True):
    """An Event on the pod. Its words hold no figures, so that the same thing twice is counted."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(slots=True)
class Standing:
    """Of one pod. ``shown`` is what its PodEndpoint's status should be; None: nothing yet."""

    shown: PodEndpointStatus | None = None
    _silent_since: float | None = None
    _last: tuple[str, str] = field(default=("", ""))
    """Gateway and address when it was last connected."""

    def __post_init__(self) -> None:
        if self.shown is not None and self.shown.state == "Connected":
            self._last = self.shown.gateway, self.shown.egress_ip

    def note(
        self, look: Look, now: float, wall: str, verdicts: Mapping[str, Verdict] = {}
    ) -> list[Told]:
        """Takes a look into account; what is to be told. ``now`` in seconds of any clock, ``wall``
        as Kubernetes writes times. ``verdicts``: what trials found of paths to gateways, if the pod
        is to speak of them."""
        before = self.shown.unreached_gateways if self.shown else []
        told = self._told(look, now, wall)
        if self.shown is not None:
            unreached = (
                unreached_gateways(verdicts, before) if self.shown.state == "Connected" else []
            )
            self.shown = msgspec.structs.replace(self.shown, unreached_gateways=unreached)
        return told

    def _told(self, look: Look, now: float, wall: str) -> list[Told]:
        if look.connected:
            self._silent_since = None
            return self._connected(look, wall)
        if self._silent_since is None:
            self._silent_since = now
        if now - self._silent_since < LOST_AFTER:
            return []
        return self._lost(look, wall)

    def _connected(self, look: Look, wall: str) -> list[Told]:
        before, after = self.shown, _status("Connected", look, wall)
        place = look.gateway, look.egress_ip
        old, self._last = self._last, place
        moved = _moved(old, place)
        if before is not None and before.state == "Connected" and not moved:
            after = msgspec.structs.replace(after, since=before.since)
        self.shown = after
        told = []
        if before is not None and before.state == "Lost":
            message = f"the tunnel works again, by {_place(place)}"
            told.append(Told("Normal", RESTORED, message))
        if moved:
            message = f"the pod left {_place(old)} and leaves the cluster by {_place(place)}"
            told.append(Told("Normal", MOVED, message))
        return told

    def _lost(self, look: Look, wall: str) -> list[Told]:
        before = self.shown
        never = before is None or before.state == "Waiting"
        after = _status("Waiting" if never else "Lost", look, wall)
        if before is not None and before.state == after.state:
            self.shown = msgspec.structs.replace(after, since=before.since)
            return []
        self.shown = after
        if never:
            return []  # it is told as EgressNotReady
        return [
            Told(
                "Warning", LOST, f"{look.message}; the pod sends nothing until a tunnel works again"
            )
        ]


def _status(state: PodState, look: Look, wall: str) -> PodEndpointStatus:
    connected = state == "Connected"
    return PodEndpointStatus(
        state=state,
        gateway=look.gateway if connected else "",
        egress_ip=look.egress_ip if connected else "",
        egress_ip_v6=look.egress_ip_v6 if connected else "",
        since=wall,
        reason="Connected" if connected else look.reason,
        message="" if connected else cut(look.message),
    )


def unreached_gateways(
    verdicts: Mapping[str, Verdict], before: Iterable[UnreachedGateway]
) -> list[UnreachedGateway]:
    """Gateways that trials do not reach. Where nothing is known yet, as after a restart, what was
    said ``before`` stands."""
    said = {unreached.gateway: unreached for unreached in before}
    found = [
        UnreachedGateway(gateway=name, reason=reason)
        if (reason := _UNREACHED.get(verdict))
        else said[name]
        for name, verdict in sorted(verdicts.items())
        if verdict in _UNREACHED or (not verdict and name in said)
    ]
    return found[:MOST_UNREACHED]


def spokesmen_of(connected: Iterable[Attachment]) -> set[str]:
    """Of ``connected``, the ids of those whose PodEndpoints tell what the node knows of the paths
    of a configuration: one each, so that a gateway's loss is written once a node and not once a
    pod."""
    first: dict[str, Attachment] = {}
    for one in connected:
        if (uid := one.configuration.uid) is not None:
            first[uid] = min(first.get(uid, one), one, key=lambda a: (a.uid, a.id))
    return {attachment.id for attachment in first.values()}


def _moved(old: tuple[str, str], new: tuple[str, str]) -> bool:
    """An address that was, or is, not known says nothing."""
    if not old[0]:
        return False
    return old[0] != new[0] or ("" not in (old[1], new[1]) and old[1] != new[1])


def _place(place: tuple[str, str]) -> str:
    gateway, address = place
    name = f"the {gateway}" if gateway == LOAD_BALANCER else gateway
    return f"{name} ({address})" if address else name


def look_at(
    attachment: Attachment,
    *,
    addresses: Mapping[str, tuple[str, str]],
    probed: Mapping[str, State],
    amiss: str = "",
    refused: str = "",
) -> Look:
    """``addresses``: what each gateway of the configuration sends from, IPv4 and IPv6, by its
    node's name. ``probed``: what probes say of gateways' machines, by address. ``amiss``: what is
    wrong with the configuration. ``refused``: why this node cannot make the tunnel."""
    active = attachment.active
    if active is None:
        return Look(
            connected=False,
            reason="NoGateway",
            message=amiss or "its configuration has no gateway now",
        )
    name = active.to.name if isinstance(active.to, GatewayNode) else LOAD_BALANCER
    four, six = addresses.get(name, ("", ""))
    if active.verified:
        return Look(connected=True, gateway=name, egress_ip=four, egress_ip_v6=six)
    if refused:
        message = f"the pod's node cannot make its tunnel: {refused}"
        return Look(connected=False, reason="TunnelNotMade", message=message)
    gateways = attachment.configuration.gateways
    answering = [g for g in gateways if probed.get(g.address) == "alive"]
    if answering:
        return Look(
            connected=False,
            reason="TunnelsUnanswered",
            message="gateways answer probes, but no tunnel to them is answered: check that UDP "
            f"{active.server.port} reaches {_listed(answering)}, and that the pods of "
            "egress-gateway-gateway and egress-gateway-wireguard run there",
        )
    return Look(
        connected=False,
        reason="GatewaysUnreachable",
        message=f"no gateway answers ({_listed(gateways) or active.address}): check the gateway "
        "nodes and the network between",
    )


def _listed(gateways: Iterable[GatewayNode]) -> str:
    found = sorted(f"{g.name} ({g.address})" for g in gateways)
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more
