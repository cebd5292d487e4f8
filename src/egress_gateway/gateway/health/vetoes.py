"""When this gateway asks to be left: before it goes, and when its Internet side is dead.

Vetoes travel in the GatewayStatus, from which node agents read them. What cannot be found out
changes nothing: an unreachable API server neither drains a gateway nor takes a drain back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from egress_gateway.api.types import DRAINING, INTERNET_UNREACHABLE, GatewayVeto
from egress_gateway.gateway.health.internet import Internet
from egress_gateway.gateway.health.report import Reporter
from egress_gateway.gateway.health.verified import Verification
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import ApiError
from egress_gateway.kube.resources import NODES, Node

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 1.0
LEAVING_TAINTS: Final = (
    "ToBeDeletedByClusterAutoscaler",
    "karpenter.sh/disrupted",
    "node.kubernetes.io/out-of-service",
)
"""Who puts them there takes the node away soon."""
_SHUTTING_DOWN: Final = "node is shutting down"
"""What the kubelet says in the Ready condition during a graceful shutdown."""


def leaving(node: Node) -> str:
    """Why connections should not begin on ``node`` any more; empty: they may. Pure."""
    if node.metadata.deletion_timestamp:
        return "the Node is being deleted"
    taint = next((t.key for t in node.spec.taints if t.key in LEAVING_TAINTS), None)
    if taint:
        return f"the node has the taint {taint}"
    if any(c.type == "Ready" and _SHUTTING_DOWN in c.message for c in node.status.conditions):
        return "the node is shutting down"
    return "the node is cordoned" if node.spec.unschedulable else ""


def vetoes(drain: str, dead: Mapping[str, str]) -> list[GatewayVeto]:
    """As the GatewayStatus has them, in a stable order. Pure."""
    drained = [GatewayVeto(reason=DRAINING, message=drain)] if drain else []
    return drained + [
        GatewayVeto(reason=INTERNET_UNREACHABLE, message=message, static_gateway_configuration=name)
        for name, message in sorted(dead.items())
    ]


class Vetoes:
    """``warn(configuration, reason, text)`` tells the owner of a configuration."""

    def __init__(
        self,
        client: Client,
        node: str,
        reporter: Reporter,
        internet: Internet | None,
        *,
        verification: Verification | None = None,
        warn: Callable[[str, str, str], None],
    ) -> None:
        self._warn = warn
        self._client = client
        self._node = node
        self._reporter = reporter
        self._internet = internet
        self._verification = verification
        self._drain = ""

    async def run(self) -> None:
        """Looks and tells until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_node())
            if self._internet is not None:
                group.create_task(self._watch_internet(self._internet))
            if self._verification is not None:
                group.create_task(self._verify(self._verification))

    async def _watch_node(self) -> None:
        while True:
            try:
                node = await self._client.get(NODES, self._node)
                self._drain = leaving(node)
                await self._reporter.registered(node)
            except ApiError as error:
                log.info("could not read the own Node, or report to it: %s", error)
            await self._tell()
            await asyncio.sleep(_LOOK_SECONDS)

    async def _watch_internet(self, internet: Internet) -> None:
        while True:
            await internet.round()
            await self._tell()

    async def _verify(self, verification: Verification) -> None:
        while True:
            await verification.round()
            try:
                await self._reporter.verify(verification.seen)
            except ApiError as error:
                log.warning("could not write what was verified: %s", error)
            await self._tell()

    async def _tell(self) -> None:
        dead = self._internet.dead if self._internet else {}
        found = vetoes(self._drain, dead)
        unverified = self._verification.vetoes if self._verification else []
        known = {(v.reason, v.static_gateway_configuration) for v in found}
        found += [v for v in unverified if (v.reason, v.static_gateway_configuration) not in known]
        try:
            if await self._reporter.veto(found):
                log.warning(
                    "vetoed this gateway",
                    extra={"vetoes": [f"{v.reason}: {v.message}" for v in found]},
                )
                for veto in found:
                    if veto.static_gateway_configuration:
                        text = f"{veto.message}; pods use other gateways if there are any"
                        self._warn(veto.static_gateway_configuration, veto.reason, text)
        except ApiError as error:
            # Written with the next report, or the next look.
            log.warning("could not write a veto: %s", error)
