"""The controller's hands on Kubernetes: caches it reads, and its writes of configurations.

Writes are level-triggered and repeatable: finalizers, and status through its subresource. Key pairs
have a file of their own, ``keypairs.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import msgspec

from egress_gateway.api import names
from egress_gateway.api.types import (
    GatewayStatus,
    PodEndpoint,
    StaticGatewayConfiguration,
)
from egress_gateway.cloud.protocol import PoolRef
from egress_gateway.controller.observed.arrivals import Arrivals
from egress_gateway.controller.observed.departures import Departures
from egress_gateway.controller.observed.keypairs import ROTATE, KeyPairs
from egress_gateway.controller.observed.reported import (
    carriers,
    gateways_of,
    health,
    machine,
    mentioned,
    serves,
    stands,
    told,
)
from egress_gateway.controller.planning.grants import UNCLEAR, Grants, unclear_entries
from egress_gateway.controller.planning.pools import Joined
from egress_gateway.controller.planning.verdict import Verdict
from egress_gateway.controller.reporting.status import (
    Gateways,
    Notice,
    Pods,
    going,
    had_served,
    keys_replaced,
    notices,
    pods_of,
    status_of,
    staying,
)
from egress_gateway.controller.rotation.phases import RotationFacts, condition
from egress_gateway.kube import kept, resources
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import Conflict, NotFound
from egress_gateway.kube.events import Recorder
from egress_gateway.kube.informer.cache import Cache
from egress_gateway.kube.resources import Namespace

_USED: Final = "configuration"


class Cluster:
    """Reads never block; writes raise ``kube.errors.ApiError``."""

    def __init__(
        self,
        client: Client,
        recorder: Recorder,
        *,
        system_namespace: str,
        strict_prefixes: bool = False,
        strict_pools: bool = False,
        agent_pools: Collection[str] = (),
        prefix_share: int = 0,
        keys_namespace: str = "",
    ) -> None:
        self._client = client
        self._recorder = recorder
        self.keypairs = KeyPairs(
            client,
            names.keys_namespace(keys_namespace, system_namespace),
            agent_pools=agent_pools,
        )
        self.sgcs = Cache(client, resources.SGCS.keeping(kept.wish))
        self.sgcs.set_index("uid", lambda sgc: [sgc.metadata.uid])
        self.nodes = Cache(client, resources.NODES)
        self.statuses = Cache(client, resources.GATEWAY_STATUSES, system_namespace)
        self.namespaces = Cache(client, resources.NAMESPACES)
        self.endpoints = Cache(client, resources.POD_ENDPOINTS)
        self.endpoints.set_index(_USED, lambda e: [e.configuration])
        self._strict_prefixes = strict_prefixes
        self.strict_pools = strict_pools
        """Whether ``gatewayVmssProfile`` names marked scale sets alone."""
        self._prefix_share = prefix_share
        self._grants: Grants | None = None
        self.rotating: dict[str, RotationFacts] = {}
        """By UID, how far changes of key pairs were when last looked at."""

    @property
    def caches(self) -> tuple[Cache[object], ...]:
        """All that must have been listed once before a pass may decide anything."""
        read = (self.sgcs, self.nodes, self.statuses, self.namespaces, self.endpoints)
        return (*read, self.keypairs.secrets)  # type: ignore[return-value]

    async def synced(self) -> None:
        """Waits until every cache has its first list: before, nothing may be decided."""
        await asyncio.gather(*(cache.synced() for cache in self.caches))

    def configurations(self) -> dict[str, StaticGatewayConfiguration]:
        """By UID."""
        return {sgc.metadata.uid: sgc for sgc in self.sgcs.values()}

    def generation(self, uid: str) -> int:
        """Of the configuration ``uid`` as it is now; 0 if there is none."""
        found = self.sgcs.by_index("uid", uid)
        return found[0].metadata.generation if found else 0

    # --- grants --------------------------------------------------------------------------

    @property
    def grants(self) -> Grants:
        """Which namespaces may use which prefixes, as their annotations say now."""
        if self._grants is None:
            written = {
                namespace.metadata.name: text
                for namespace in self.namespaces.values()
                if (text := _grant(namespace))
            }
            self._grants = Grants(
                annotations=written, strict=self._strict_prefixes, share=self._prefix_share
            )
        return self._grants

    def on_grants(self, changed: Callable[[], None]) -> None:
        """``changed`` is called when a Namespace's grant does. Entries that name no prefix are told
        as an Event on the Namespace."""

        def look(_: object, old: Namespace | None, new: Namespace | None) -> None:
            if _grant(old) != _grant(new):
                self._grants = None
                changed()
                if new is not None and (unclear := unclear_entries(_grant(new))):
                    reference = resources.NAMESPACES.reference(new)
                    self._recorder.event(reference, "Warning", UNCLEAR, unclear)

        self.namespaces.on_change(look)

    def joined(self, pool: PoolRef) -> Joined:
        """The Nodes that machines of ``pool`` have in this cluster."""
        marked = [
            names.marks_gateway(node.metadata.labels)
            for node in self.nodes.values()
            if pool.machines and machine(node).startswith(pool.machines)
        ]
        return Joined(gateways=marked.count(True), others=marked.count(False))

    # --- finalizer and status ------------------------------------------------------------

    async def hold(self, sgc: StaticGatewayConfiguration) -> None:
        """Adds our finalizer."""
        if names.FINALIZER not in sgc.metadata.finalizers:
            await self._set_finalizers(sgc, [names.FINALIZER])

    async def release(self, sgc: StaticGatewayConfiguration) -> None:
        """Removes our finalizer; the object goes when it was the last."""
        if names.FINALIZER in sgc.metadata.finalizers:
            with contextlib.suppress(NotFound):
                await self._set_finalizers(sgc, [])

    async def _set_finalizers(self, sgc: StaticGatewayConfiguration, ours: list[str]) -> None:
        """Those of others stay, which the cache has not."""
        meta = (await self._client.get(resources.SGCS, *reversed(resources.SGCS.key(sgc)))).metadata
        wanted = [*(f for f in meta.finalizers if f != names.FINALIZER), *ours]
        patch = {"metadata": {"finalizers": wanted, "resourceVersion": meta.resource_version}}
        if meta.uid == sgc.metadata.uid and wanted != meta.finalizers:
            await self._client.merge_patch(resources.SGCS, meta.name, patch, meta.namespace)

    def gateways(self, sgc: StaticGatewayConfiguration) -> Gateways:
        """What Nodes and gateway agents say about ``sgc`` at this moment."""
        return gateways_of(sgc, self.nodes.values(), self.statuses.values())

    def serving(self) -> dict[str, int]:
        """By UID, how many gateway nodes serve a configuration, in one look at all."""
        alive = {node.metadata.name for node in self.nodes.values() if node.ready}
        return Counter(
            entry.uid
            for status in self.statuses.values()
            if status.metadata.name in alive
            for entry in status.spec.ready_gateway_configurations
        )

    def pods(self, sgc: StaticGatewayConfiguration) -> Pods:
        """The state of the attached pods of ``sgc``, as their nodes' agents report it. Pods on
        nodes that are down are left out: no agent reports them, and Kubernetes recreates them."""
        alive = {node.metadata.name for node in self.nodes.values() if node.ready}
        full_name = f"{sgc.metadata.namespace}/{sgc.metadata.name}"
        return pods_of(self.endpoints.by_index(_USED, full_name), alive)

    def using(self, sgc: StaticGatewayConfiguration) -> tuple[frozenset[str], frozenset[str]]:
        """Machines (provider ids in lower case) that the status lists for ``sgc``, and those
        whose agents say that they serve it."""
        listed = (gateway.node for gateway in sgc.status.gateways)
        claimed = (s.metadata.name for s in self.statuses.values() if serves(s, sgc))
        return self._machines(listed), self._machines(claimed)

    def carrying(self, uid: str) -> frozenset[str]:
        """Machines (provider ids in lower case) that may still carry packets of a configuration
        that is deleted, or gone."""
        endpoints_of = functools.partial(self.endpoints.by_index, _USED)
        return self._machines(carriers(uid, self.statuses.values(), endpoints_of))

    def _machines(self, nodes: Iterable[str]) -> frozenset[str]:
        """Provider ids in lower case of the Nodes of these names, as far as they are known."""
        return frozenset(filter(None, (machine(self.nodes.get("", name)) for name in nodes)))

    async def report(
        self, uid: str, verdict: Verdict, departures: Departures, arrivals: Arrivals
    ) -> None:
        """Writes the status that ``verdict`` amounts to, if it differs, and its Events."""
        found = self.sgcs.by_index("uid", uid)
        if not found:
            return
        sgc = found[0]
        try:
            await self._report(sgc, verdict, departures, arrivals)
        except Conflict:
            meta = sgc.metadata
            fresh = await self._client.get(resources.SGCS, meta.name, meta.namespace)
            if fresh.metadata.uid == uid:
                await self._report(fresh, verdict, departures, arrivals)
        except NotFound:
            return

    async def _report(
        self,
        sgc: StaticGatewayConfiguration,
        verdict: Verdict,
        departures: Departures,
        arrivals: Arrivals,
    ) -> None:
        uid = sgc.metadata.uid
        pairs, request = self.keypairs.pairs(uid), sgc.metadata.annotations.get(ROTATE, "")
        gateways = self.gateways(sgc)
        gateways = replace(gateways, arriving=_arriving(sgc, verdict, gateways, arrivals))
        status = status_of(
            sgc,
            verdict,
            gateways,
            pairs=pairs,
            pods=self.pods(sgc),
            departing=self._departing(sgc, verdict, gateways, departures),
            rotated=condition(pairs.record, self.rotating.get(uid, RotationFacts(request=request))),
            keys_namespace=self.keypairs.namespace,
            now=_now(),
        )
        if status == sgc.status:
            return
        await self._client.replace_status(
            resources.SGCS, msgspec.structs.replace(sgc, status=status)
        )
        for notice in [
            *notices(
                sgc.status.conditions,
                status.conditions,
                complaints=bool(gateways.problems.keys() - gateways.ready),
            ),
            *keys_replaced(sgc.status, status),
        ]:
            self.notify(sgc, notice)

    def _departing(
        self,
        sgc: StaticGatewayConfiguration,
        verdict: Verdict,
        known: Gateways,
        departures: Departures,
    ) -> Mapping[str, bool]:
        leaving = going(sgc, verdict.serving, known) if verdict.serving else set()
        if verdict.serving is None or not leaving:
            departures.forget(sgc.metadata.uid)
            return {}
        full_name = f"{sgc.metadata.namespace}/{sgc.metadata.name}"
        return departures.look(
            sgc.metadata.uid,
            going=leaving,
            staying=staying(verdict.serving, known),
            ready=known.ready,
            used={e.status.gateway for e in self.endpoints.by_index(_USED, full_name)},
        )

    def notify(self, sgc: StaticGatewayConfiguration, notice: Notice) -> None:
        """An Event on the configuration."""
        reference = resources.SGCS.reference(sgc)
        self._recorder.event(reference, notice.type, notice.reason, notice.message)

    # --- changes -------------------------------------------------------------------------

    def on_configuration(
        self,
        callback: Callable[
            [StaticGatewayConfiguration | None, StaticGatewayConfiguration | None], None
        ],
    ) -> None:
        """``callback(old, new)`` after each change of a StaticGatewayConfiguration."""
        self.sgcs.on_change(lambda key, old, new: callback(old, new))

    def on_agents(self, callback: Callable[[Iterable[str]], None]) -> None:
        """``callback(uids)`` when a gateway agent's or its Node's word on them changes."""

        def status_changed(
            key: resources.Key, old: GatewayStatus | None, new: GatewayStatus | None
        ) -> None:
            if told(old) != told(new):
                callback(mentioned(old) | mentioned(new) | self._named(old, new))

        def node_changed(
            key: resources.Key, old: resources.Node | None, new: resources.Node | None
        ) -> None:
            if health(old) != health(new):
                callback(set(self.configurations()))

        self.statuses.on_change(status_changed)
        self.nodes.on_change(node_changed)

    def on_pods(self, callback: Callable[[str], None]) -> None:
        """``callback(uid)`` when there is news of a configuration's pods."""

        def changed(key: resources.Key, old: PodEndpoint | None, new: PodEndpoint | None) -> None:
            if stands(old) == stands(new):
                return
            for name in {e.configuration for e in (old, new) if e is not None}:
                sgc = self.sgcs.get(*name.split("/", 1))
                if sgc is not None:
                    callback(sgc.metadata.uid)

        self.endpoints.on_change(changed)

    def on_machines(self, callback: Callable[[], None]) -> None:
        """``callback()`` when a gateway's Node appears, goes or changes its machine, or a Node
        becomes a gateway's or ceases to be one."""

        def changed(
            key: resources.Key, old: resources.Node | None, new: resources.Node | None
        ) -> None:
            if _gateway_machine(old) != _gateway_machine(new):
                callback()

        self.nodes.on_change(changed)

    def _named(self, *statuses: GatewayStatus | None) -> set[str]:
        """UIDs of configurations that agents complain about by name."""
        named = {p.static_gateway_configuration for s in statuses if s for p in s.spec.problems}
        return {
            uid
            for uid, sgc in self.configurations().items()
            if f"{sgc.metadata.namespace}/{sgc.metadata.name}" in named
        }


def _arriving(
    sgc: StaticGatewayConfiguration, verdict: Verdict, known: Gateways, arrivals: Arrivals
) -> frozenset[str]:
    if verdict.serving is None:
        return frozenset()
    listed = [gateway.provider_id.lower() for gateway in verdict.serving.gateways]
    ready = {machine for machine in listed if known.nodes.get(machine) in known.ready}
    before = {g.node for g in sgc.status.gateways} if had_served(sgc.status) else set()
    served = {machine for machine in listed if known.nodes.get(machine) in before}
    return arrivals.look(sgc.metadata.uid, listed, ready, served)


def _gateway_machine(node: resources.Node | None) -> str:
    """The machine of a Node that is marked as a gateway's; empty for any other Node."""
    return machine(node) if node and names.marks_gateway(node.metadata.labels) else ""


def _grant(namespace: Namespace | None) -> str:
    written = namespace.metadata.annotations if namespace else {}
    return written.get(names.ALLOWED_PREFIXES_ANNOTATION, "")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
