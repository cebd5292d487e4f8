"""Compares the ranges that the cluster itself reports with the setting ``cluster_cidrs``.

If the setting lacks the Services' range, pods start but reach no Service and no DNS, and nothing
says why. So the agent looks: where the API server's Service is (``KUBERNETES_SERVICE_HOST``), the
Node's ``podCIDRs`` and addresses, ServiceCIDR objects (Kubernetes 1.31 and later). It adds missing
ranges to those that never leave by a gateway, and reports them once: a line in the log and an Event
on the Node. It looks again every minute, for somebody may give Services a second range. It keeps
the result in a file, so that an agent that restarts while the API server is away decides the same.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from egress_gateway.datapath.addresses import IPNetwork, parse_networks, within
from egress_gateway.kube import wire
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import ApiError
from egress_gateway.kube.resources import NODES

log = logging.getLogger(__name__)

REASON: Final = "ClusterCidrsIncomplete"
LOOK_SECONDS: Final = 60.0
"""Between two looks: two small requests of each node."""
FORGOTTEN_AFTER: Final = 60
"""Looks in a row that no longer find a range. While a control plane is upgraded, API servers of two
versions answer, and the older one may know of no ServiceCIDRs."""
_SECONDS: Final = 2.0
"""For the API server to answer; attached pods wait for the agent."""
_VERSIONS: Final = ("v1", "v1beta1")
Discover = Callable[[], Awaitable[list["Known"]]]


class Known(msgspec.Struct, frozen=True):
    """A range that is the cluster's own, and who says so."""

    network: IPNetwork
    source: str


class _Spec(msgspec.Struct):
    cidrs: list[str] = []


class _ServiceCidr(msgspec.Struct):
    spec: _Spec = msgspec.field(default_factory=_Spec)


class _ServiceCidrs(msgspec.Struct):
    items: list[_ServiceCidr] = []


def missing(configured: Sequence[IPNetwork], known: Iterable[Known]) -> list[Known]:
    """Those of ``known`` that lie in no network of ``configured``, each once. Pure."""
    found: dict[IPNetwork, Known] = {}
    for one in known:
        if not any(within(one.network, other) for other in configured):
            found.setdefault(one.network, one)
    return list(found.values())


def message(found: Sequence[Known]) -> str:
    """What to tell of ranges that the setting lacks."""
    listed = ", ".join(f"{one.network} ({one.source})" for one in found)
    return (
        f"cluster.cidrs lacks {listed}: the agent adds it, or pods would reach it through a "
        "gateway, that is, not at all; add it to cluster.cidrs of the chart, so that gateways know "
        "it too, and agents the ranges of other nodes"
    )


def of_environment(environment: Mapping[str, str]) -> list[Known]:
    """The API server's Service. Some give a name in its place, or a public address, which pods
    reach by their gateway as they do any other."""
    found = _networks([environment.get("KUBERNETES_SERVICE_HOST", "")], "KUBERNETES_SERVICE_HOST")
    return [known for known in found if known.network.is_private]


async def discover(
    client: Client, node: str, environment: Mapping[str, str], memory: Path
) -> list[Known]:
    """What the cluster says; ``memory`` is the file with what it said last."""
    found = of_environment(environment)
    try:
        async with asyncio.timeout(_SECONDS):
            found += await _of_node(client, node) + await _of_services(client)
    except (ApiError, TimeoutError) as error:
        log.warning("cannot check cluster_cidrs: %s", str(error) or "the API server is silent")
        return found + _remembered(memory)
    _remember(memory, found)
    return found


class Ranges:
    """What never belongs to a gateway: as set (``configured``), and what the cluster says besides.
    ``tell`` gets a message when that is more than before."""

    def __init__(
        self, configured: Sequence[IPNetwork], discover: Discover, tell: Callable[[str], None]
    ) -> None:
        self._configured = tuple(configured)
        self._discover = discover
        self._tell = tell
        self._added: tuple[IPNetwork, ...] = ()
        self._missed: dict[IPNetwork, int] = {}
        """How many looks in a row did not find what is added."""

    async def look(self) -> tuple[IPNetwork, ...]:
        """Asks the cluster; all ranges together."""
        found = missing(self._configured, await self._discover())
        named = {known.network for known in found}
        if named - set(self._added):
            text = message(found)
            log.warning(text)
            self._tell(text)
        self._missed = {n: self._missed.get(n, 0) + 1 for n in self._added if n not in named}
        stay = {n for n, looks in self._missed.items() if looks < FORGOTTEN_AFTER}
        self._added = tuple(sorted(named | stay, key=lambda n: (n.version, n)))
        return (*self._configured, *self._added)

    async def run(self, follow: Callable[[tuple[IPNetwork, ...]], None]) -> None:
        """Looks again and again until cancelled; ``follow`` gets what has changed."""
        before = (*self._configured, *self._added)
        while True:
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.9, 1.1))  # noqa: S311  (spreads load)
            if (now := await self.look()) != before:
                before = now
                follow(now)


async def _of_node(client: Client, name: str) -> list[Known]:
    node = await client.get(NODES, name)
    return [
        *_networks(node.spec.pod_cidrs, f"podCIDRs of Node {name}"),
        *_networks(node.internal_ips, f"address of Node {name}"),
    ]


async def _of_services(client: Client) -> list[Known]:
    for version in _VERSIONS:
        try:
            body = await client.request("GET", f"/apis/networking.k8s.io/{version}/servicecidrs")
        except ApiError as error:
            if error.status in (403, 404):  # older, or not ours to read
                continue
            raise
        listed = wire.decode_answer(_ServiceCidrs, body, "ServiceCIDRs")
        return _networks((c for one in listed.items for c in one.spec.cidrs), "ServiceCIDR")
    return []


def _networks(texts: Iterable[str], source: str) -> list[Known]:
    return [Known(network, source) for network in parse_networks(texts)]


def _remember(memory: Path, found: Sequence[Known]) -> None:
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_bytes(msgspec.json.encode([[str(k.network), k.source] for k in found]))
    except OSError as error:
        log.warning("cannot keep the cluster's ranges: %s", error)


def _remembered(memory: Path) -> list[Known]:
    try:
        kept = msgspec.json.decode(memory.read_bytes(), type=list[tuple[str, str]])
    except (OSError, ValueError):
        return []
    return [known for text, source in kept for known in _networks([text], source)]
