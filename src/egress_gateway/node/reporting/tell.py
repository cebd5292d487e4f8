"""What the node agent tells people: Events on pods, and log lines.

The agent repeats its step as long as something is wrong; it tells people once a minute. A pod that
finds no gateway moves on every few seconds, and a node may have a hundred of them: the first move
of each is a warning, and so are a few a minute of the others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from egress_gateway.api import names
from egress_gateway.kube.event_ledger import EventType
from egress_gateway.kube.events import Recorder
from egress_gateway.kube.resources import PODS, Pod, Reference
from egress_gateway.node.attachment.choose import GatewayNode, same_place
from egress_gateway.node.attachment.model import Attachment, TunnelRecord
from egress_gateway.service.bucket import Bucket

log = logging.getLogger(__name__)

NOT_READY: Final = "EgressNotReady"
HOST_NETWORK: Final = "EgressRefused"
_REPEAT: Final = 60.0
_SETTLED: Final = 300.0
"""Seconds without a move after which the next one is a first one again."""
_REPEATED: Final = (1 / 15, 2.0)
"""Of all further moves of a node's pods: lines a second, and how many at once."""
_MOST: Final = 1000
"""Events that are remembered as told; beyond that all are forgotten, and told again."""


def own_node(name: str) -> Reference:
    """For Events on the agent's Node. NB: they carry its name for a UID, as the kubelet's do."""
    return Reference(api_version="v1", kind="Node", name=name, uid=name)


class Teller:
    """Events on pods and configurations, each told once and in bounded number."""

    def __init__(self, recorder: Recorder, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._recorder = recorder
        self._clock = clock
        self._told: dict[tuple[Reference, str, str], float] = {}
        self._moved: dict[str, float] = {}
        self._further = Bucket(*_REPEATED)
        self._unsaid = 0

    def not_ready(self, pod: tuple[str, str, str], reason: str) -> None:
        """``pod``: (namespace, name, uid)."""
        namespace, name, uid = pod
        target = Reference(api_version="v1", kind="Pod", namespace=namespace, name=name, uid=uid)
        self._warn(target, NOT_READY, reason)

    def host_network(self, pod: Pod) -> None:
        """A Warning on the pod: its annotation has no effect."""
        self._warn(
            PODS.reference(pod),
            HOST_NETWORK,
            "a hostNetwork pod has the node's own addresses and cannot use a static egress "
            "gateway; set hostNetwork: false or remove the annotation",
        )

    def unreachable(self, pod: Pod) -> None:
        """A Warning on the pod: annotated, it still leaves by the cluster's ordinary path."""
        self._warn(
            PODS.reference(pod),
            NOT_READY,
            "the pod was started before the CNI plugin was installed on its node and still uses "
            "the cluster's ordinary egress; delete it, so that its controller recreates it",
        )

    def stands(self, attachment: Attachment, type: EventType, reason: str, message: str) -> None:
        """An Event on an attached pod."""
        target = Reference(
            api_version="v1",
            kind="Pod",
            namespace=attachment.namespace,
            name=attachment.pod,
            uid=attachment.uid,
        )
        self._recorder.event(target, type, reason, message)

    def forged(self, node: str) -> None:
        """Attached pods of the node sent packets around their holds."""
        self._warn(
            own_node(node),
            names.FORGED_PACKETS,
            "annotated pods of this node wrote packets around their gateway, or with foreign "
            "source addresses (raw frames), or another pod forged such packets to one of them; the "
            "node dropped them; find pods with NET_RAW, and drop that capability",
        )

    def strangers(self, node: str) -> None:
        """Pods of the node sent packets to gateways' WireGuard ports."""
        self._warn(
            own_node(node),
            names.FOREIGN_TUNNEL,
            "pods of this node sent packets to gateways' WireGuard ports by themselves; the node "
            "dropped them; find pods that send UDP to ports 6000-6999 of gateway nodes",
        )

    def attached(self, attachment: Attachment, seconds: float) -> None:
        """Logs it. ``seconds``: from the CNI call to the verified tunnel."""
        extra = {**_fields(attachment), "milliseconds": round(seconds * 1000)}
        log.info("attached pod", extra=extra)

    def detached(self, attachment: Attachment) -> None:
        """Logs it."""
        log.info("detached pod", extra=_fields(attachment))

    def moved(self, before: Attachment, after: Attachment) -> None:
        """Logs it, but not each time of a pod that moves again and again; ``unsaid`` counts those
        left out."""
        extra = {**_fields(after), "from": _gateway(before.active)}
        old, new = before.active, after.active
        if old and new and same_place(old.to, new.to) and old.server != new.server:
            log.info("moved pod to another key pair of its gateway", extra=extra)
        elif self._worth_saying(after.uid):
            unsaid = {"unsaid": self._unsaid} if self._unsaid else {}
            log.warning("moved pod to another gateway", extra={**extra, **unsaid})
            self._unsaid = 0
        else:
            self._unsaid += 1

    def _worth_saying(self, uid: str) -> bool:
        """Whether a move is the pod's first one for long, or one of the few others."""
        now = self._clock()
        before = self._moved.get(uid)
        if len(self._moved) >= _MOST:
            self._moved.clear()
        self._moved[uid] = now
        if before is None or now - before > _SETTLED:
            return True
        return self._further.take_now(now)

    def joining(self, attachment: Attachment) -> None:
        """Logs that a pod prepares to leave a gateway, or a key pair, by plan."""
        joining, active = attachment.joining, attachment.active
        same = joining and active and same_place(joining.to, active.to)
        extra = {**_fields(attachment), "to": _gateway(joining)}
        log.info("leaving %s by plan", "a key pair" if same else "a gateway", extra=extra)

    def parted(self, before: Attachment) -> None:
        """Logs the end of such a move: the last connections have ended, or their time is over."""
        extra = {**_fields(before), "from": _gateway(before.parting)}
        what = "a key pair" if before.standby_receives_only else "a gateway"
        log.info("left %s by plan", what, extra=extra)

    def started_held(self, pod: tuple[str, str, str], reason: str) -> None:
        """A Warning on the pod: it starts without a tunnel because its configuration says so."""
        self.not_ready(
            pod, f"{reason}; the pod starts, and its traffic is held back (spec.startPolicy)"
        )

    def way_lost(self, address: str, port: int) -> None:
        """Logs that one path is dead: an address and a UDP port of a gateway."""
        extra = {"gateway": address, "port": port}
        log.warning("lost path to gateway", extra=extra)

    def stalled(self, attachment: Attachment) -> None:
        """Logs that a verified tunnel has died although its gateway answers probes."""
        log.warning("lost tunnel", extra=_fields(attachment))

    def repaired(self, attachment: Attachment, did: list[str]) -> None:
        """Logs which actions brought a damaged pod back; ``did`` has their names."""
        log.warning("repaired pod", extra={**_fields(attachment), "did": did})

    def _warn(self, target: Reference, reason: str, message: str) -> None:
        now, event = self._clock(), (target, reason, message)
        if now - self._told.get(event, -_REPEAT) < _REPEAT:
            return
        if len(self._told) >= _MOST:
            self._told.clear()
        self._told[event] = now
        self._recorder.event(target, "Warning", reason, message)


def _fields(attachment: Attachment) -> dict[str, str]:
    return {
        "pod": f"{attachment.namespace}/{attachment.pod}",
        "configuration": attachment.configuration.name,
        "gateway": _gateway(attachment.active),
    }


def _gateway(tunnel: TunnelRecord | None) -> str:
    if tunnel is None:
        return "none"
    return tunnel.to.name if isinstance(tunnel.to, GatewayNode) else "load balancer"
