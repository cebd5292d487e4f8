"""What this node tells the controller (GatewayStatus) and the load balancer (probes).

The report is written when it changes and once per heartbeat. The probes' answers are kept in a
file too: an agent that restarts answers as its predecessor did until it has looked for itself,
because the interfaces go on working meanwhile and a wrong "no" would move every pod.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from egress_gateway.api import names
from egress_gateway.api.conditions import Reason
from egress_gateway.api.types import (
    GatewayProblem,
    GatewayStatus,
    GatewayStatusSpec,
    GatewayVeto,
    ObjectMeta,
    OwnerReference,
    ReadyGatewayConfiguration,
    RefusedClaim,
    SeenAddress,
)
from egress_gateway.datapath.gateway.served import ServedConfiguration
from egress_gateway.kube.client import Client
from egress_gateway.kube.resources import GATEWAY_STATUSES, Node

log = logging.getLogger(__name__)


def status_spec(
    ready: Mapping[str, ServedConfiguration],
    public_keys: Mapping[str, str],
    problems: Mapping[str, str],
    second_keys: Mapping[str, str] = {},
    *,
    without_ipv6: Collection[str] = (),
) -> GatewayStatusSpec:
    """The report without its heartbeat, in a stable order. ``ready``, ``public_keys`` and
    ``second_keys`` (those of second servers that work) by uid, ``problems`` by name; a
    configuration may have a problem and go on as it was. ``without_ipv6``: names of those whose
    problem concerns IPv6 alone."""
    return GatewayStatusSpec(
        ready_gateway_configurations=[
            ReadyGatewayConfiguration(
                static_gateway_configuration=one.name,
                interface_name=one.interface,
                uid=uid,
                public_key=public_keys.get(uid, ""),
                second_public_key=second_keys.get(uid, ""),
            )
            for uid, one in sorted(ready.items())
        ],
        problems=[
            GatewayProblem(
                static_gateway_configuration=name,
                message=message,
                reason=Reason.GATEWAY_WITHOUT_IPV6 if name in without_ipv6 else "",
            )
            for name, message in sorted(problems.items())
        ],
    )


class Reporter:
    """Writes the GatewayStatus of one node."""

    def __init__(self, client: Client, node: Node, namespace: str, *, heartbeat: float) -> None:
        self._client = client
        self._node = node
        self._namespace = namespace
        self._heartbeat = heartbeat
        self._vetoes: list[GatewayVeto] = []
        self._refused: list[RefusedClaim] = []
        self._verified: list[SeenAddress] = []
        self._said_verified: list[SeenAddress] | None = None
        self._wanted: GatewayStatusSpec | None = None
        self._written: GatewayStatusSpec | None = None
        self._said: list[GatewayVeto] | None = None
        self._said_refused: list[RefusedClaim] | None = None
        self._lock = asyncio.Lock()
        self._at = float("-inf")

    @property
    def vetoes(self) -> list[GatewayVeto]:
        """Why pods should leave, as it is found now."""
        return self._vetoes

    @property
    def verified(self) -> list[SeenAddress]:
        """What the Internet sees of this node's addresses, as it is found now."""
        return self._verified

    async def publish(self, spec: GatewayStatusSpec) -> bool:
        """Writes if the report is new or a heartbeat is due; returns whether it wrote.
        Raises ``ApiError``."""
        self._wanted = spec
        async with self._lock:
            return await self._publish()

    async def registered(self, node: Node) -> None:
        """The Node as it is now. One that is registered anew has another UID, and a report that
        belongs to the former is collected. Raises ``ApiError``."""
        if node.metadata.uid != self._node.metadata.uid:
            async with self._lock:
                self._node, self._written = node, None
                await self._publish()

    async def veto(self, found: list[GatewayVeto]) -> bool:
        """Adds to each report from now on why pods should leave; says so at once if it is new
        and there has been a report. Raises ``ApiError``."""
        self._vetoes = found
        async with self._lock:
            said = self._said
            return said is not None and said != found and await self._publish()

    async def refuse(self, found: list[RefusedClaim]) -> bool:
        """The same for claims that do not count."""
        self._refused = found
        async with self._lock:
            said = self._said_refused
            return said is not None and said != found and await self._publish()

    async def verify(self, found: list[SeenAddress]) -> bool:
        """The same for what the Internet sees of this node's addresses."""
        self._verified = found
        async with self._lock:
            said = self._said_verified
            return said is not None and said != found and await self._publish()

    async def _publish(self) -> bool:
        if self._wanted is None:
            return False
        spec = msgspec.structs.replace(
            self._wanted,
            vetoes=self._vetoes,
            refused_claims=self._refused,
            verified=self._verified,
        ).bounded()
        due = time.monotonic() - self._at >= self._heartbeat
        if spec == self._written and not due:
            return False
        # The API server's time, by which readers count: this machine's clock may be wrong.
        now = self._client.now().isoformat(timespec="seconds")
        stamped = msgspec.structs.replace(spec, heartbeat=now.replace("+00:00", "Z"))
        await self._client.apply(GATEWAY_STATUSES, self._document(stamped))
        self._written, self._at = spec, time.monotonic()
        self._said, self._said_refused = self._vetoes, self._refused
        self._said_verified = self._verified
        return True

    def _document(self, spec: GatewayStatusSpec) -> GatewayStatus:
        meta = self._node.metadata
        labels = {names.VETOES_LABEL: "true"} if spec.vetoes else {}
        owner = OwnerReference(api_version="v1", kind="Node", name=meta.name, uid=meta.uid)
        return GatewayStatus(
            metadata=ObjectMeta(
                name=meta.name,
                namespace=self._namespace,
                labels=labels,
                owner_references=[owner],
            ),
            spec=spec,
        )


class Answers:
    """uid -> port of what is served, kept over restarts in a file under /run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ports: dict[str, int] = {}
        try:
            self._ports = msgspec.json.decode(path.read_bytes(), type=dict[str, int])
        except FileNotFoundError:
            pass  # the node's first agent since it booted
        except (OSError, ValueError) as error:
            log.warning("could not read what was served before: %s", error)

    def port(self, uid: str) -> int | None:
        """The WireGuard port of the configuration ``uid``; None: not served here."""
        return self._ports.get(uid)

    def set(self, ports: Mapping[str, int]) -> None:
        """What is served (uid -> port), kept in a file for the next start; a fault of the disk is
        logged."""
        if self._ports == dict(ports):
            return
        self._ports = dict(ports)
        temporary = self._path.with_suffix(".tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(msgspec.json.encode(self._ports))
            temporary.replace(self._path)
        except OSError as error:
            log.warning("could not keep what is served for a restart: %s", error)
