"""The controller's hands on Kubernetes: caches it reads, and every write it makes.

Writes are level-triggered and repeatable: a key pair Secret before anything in the cloud (it is
also the record that a UID was ours), the agents' Role with exactly the live Secrets, finalizers,
and status through its subresource.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from egress_gateway.api import keys, keysecret, names
from egress_gateway.api.types import (
    GatewayProblem,
    GatewayStatus,
    PodEndpoint,
    SeenAddress,
    StaticGatewayConfiguration,
)
from egress_gateway.cloud.protocol import PoolRef
from egress_gateway.controller.migration.adopt import annotations_of, names_of
from egress_gateway.controller.migration.takeover import labels
from egress_gateway.controller.observed.departures import Departures
from egress_gateway.controller.planning.grants import Grants
from egress_gateway.controller.planning.pools import Joined
from egress_gateway.controller.planning.verdict import Verdict
from egress_gateway.controller.planning.wanted import Names
from egress_gateway.controller.rotation.phases import (
    Pairs,
    Record,
    RotationFacts,
    condition,
    pairs_of,
    record_of,
)
from egress_gateway.controller.status import (
    Gateways,
    Notice,
    Pods,
    going,
    notices,
    pods_of,
    status_of,
    staying,
)
from egress_gateway.kube import resources
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import AlreadyExists, Conflict, NotFound
from egress_gateway.kube.events import Recorder
from egress_gateway.kube.informer.cache import Cache
from egress_gateway.kube.resources import Namespace

log = logging.getLogger(__name__)

_USED: Final = "configuration"
ROTATE: Final = names.ROTATE_KEYS_ANNOTATION
KEYS_ROLE: Final = "egress-gateway-keys"
"""Role beside the key Secrets; ``deploy/manifests/rbac.yaml`` binds it to gateway agents. A pool
whose agents have an account of their own has one of its own too, with the pool's name behind it."""


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
        self._keys_namespace = names.keys_namespace(keys_namespace, system_namespace)
        self.sgcs = Cache(client, resources.SGCS)
        self.sgcs.set_index("uid", lambda sgc: [sgc.metadata.uid])
        self.nodes = Cache(client, resources.NODES)
        self.statuses = Cache(client, resources.GATEWAY_STATUSES, system_namespace)
        self.secrets = Cache(
            client, resources.SECRETS, self._keys_namespace, labels=names.OWNING_NAME_LABEL
        )
        self.namespaces = Cache(client, resources.NAMESPACES)
        self.endpoints = Cache(client, resources.POD_ENDPOINTS)
        self.endpoints.set_index(_USED, lambda e: [_used(e)])
        self._strict_prefixes = strict_prefixes
        self.strict_pools = strict_pools
        """Whether ``gatewayVmssProfile`` names marked scale sets alone."""
        self._prefix_share = prefix_share
        self._grants: Grants | None = None
        self._fresh: dict[str, resources.Secret] = {}
        self._names: dict[str, Names] = {}
        self._agent_pools = frozenset(agent_pools)
        self._roles: dict[str, tuple[str, ...]] = {}
        self._sharing: frozenset[str] = frozenset()
        self.rotating: dict[str, RotationFacts] = {}
        """By UID, how far changes of key pairs were when last looked at."""

    @property
    def caches(self) -> tuple[Cache[object], ...]:
        found = (self.sgcs, self.nodes, self.statuses, self.secrets, self.namespaces)
        return (*found, self.endpoints)  # type: ignore[return-value]

    async def synced(self) -> None:
        await asyncio.gather(*(cache.synced() for cache in self.caches))

    def configurations(self) -> dict[str, StaticGatewayConfiguration]:
        """By UID."""
        return {sgc.metadata.uid: sgc for sgc in self.sgcs.values()}

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
        """``changed`` is called when a Namespace's grant does."""

        def look(_: object, old: Namespace | None, new: Namespace | None) -> None:
            if _grant(old) != _grant(new):
                self._grants = None
                changed()

        self.namespaces.on_change(look)

    def joined(self, pool: PoolRef) -> Joined:
        """The Nodes that machines of ``pool`` have in this cluster."""
        marked = [
            names.marks_gateway(node.metadata.labels)
            for node in self.nodes.values()
            if pool.machines and _machine(node).startswith(pool.machines)
        ]
        return Joined(gateways=marked.count(True), others=marked.count(False))

    # --- keys ----------------------------------------------------------------------------

    def recorded(self) -> set[str]:
        """UIDs for which a key Secret exists: they are, or were, ours."""
        beginning = names.key_secret("")
        return {
            secret.metadata.name.removeprefix(beginning)
            for secret in self.secrets.values()
            if secret.metadata.name.startswith(beginning)
        } | set(self._fresh)

    def names(self, uid: str) -> Names:
        """The names of its resources: as its Secret says, else our own. Names that were once read
        stay in force if the Secret is lost: other names would mean other addresses."""
        secret = self.secret(uid)
        written = secret.metadata.annotations if secret else {}
        complete = written.keys() >= annotations_of(Names.of(uid)).keys()
        if complete or uid not in self._names:
            self._names[uid] = names_of(uid, written)
        return self._names[uid]

    def adopted(self, taken: Mapping[str, Names]) -> None:
        """Notes names that were just recorded, because the cache of Secrets may not have them
        yet."""
        self._names.update(taken)

    def public_key(self, uid: str) -> str:
        """Empty while there is no usable key pair."""
        return _public_key(self.secret(uid))

    def pairs(self, uid: str) -> Pairs:
        """Its key pairs, and how far their change is."""
        return pairs_of(self.secret(uid))

    def rotation(self, uid: str) -> Record:
        """How far the change of its key pair is."""
        return record_of(self.secret(uid))

    def secret(self, uid: str) -> resources.Secret | None:
        cached = self.secrets.get(self._keys_namespace, names.key_secret(uid))
        if cached is not None:
            self._fresh.pop(uid, None)
            return cached
        return self._fresh.get(uid)

    async def ensure_keys(self, sgc: StaticGatewayConfiguration) -> None:
        """Makes the key pair if there is none; never replaces a usable one."""
        uid = sgc.metadata.uid
        if self.public_key(uid):
            return
        document = _key_secret(sgc, self._keys_namespace, self.names(uid))
        name = names.key_secret(uid)
        try:
            self._fresh[uid] = await self._client.create(resources.SECRETS, document)
        except AlreadyExists:
            found = await self._client.get(resources.SECRETS, name, self._keys_namespace)
            if not _public_key(found):
                # NB: what it says of names counts, even if the cache has not seen it.
                said = annotations_of(self.names(uid)) | found.metadata.annotations
                metadata = {"labels": labels(resources.SGCS.key(sgc)), "annotations": said}
                patch = {"data": document["data"], "metadata": metadata}
                found = await self._client.merge_patch(
                    resources.SECRETS, name, patch, self._keys_namespace
                )
                log.warning("replaced an unusable key pair", extra={"secret": name})
            self._fresh[uid] = found

    async def forget_keys(self, uid: str) -> None:
        try:
            name = names.key_secret(uid)
            await self._client.delete(resources.SECRETS, name, self._keys_namespace)
        except NotFound:
            pass
        self._fresh.pop(uid, None)
        self._names.pop(uid, None)

    def invalidate_role(self) -> None:
        """Roles are written again although we know of no change: somebody may have edited them."""
        self._roles.clear()

    async def grant_keys(self) -> None:
        """Each account of agents is granted exactly the Secrets of its pools' live
        configurations."""
        recorded = self.recorded()
        granted: dict[str, set[str]] = {pool: set() for pool in ("", *self._agent_pools)}
        sharing = set()
        for uid, sgc in self.configurations().items():
            pool = _pool(sgc)
            account = pool if pool in self._agent_pools else ""
            if uid in recorded:
                granted[account].add(names.key_secret(uid))
            if not account:
                sharing.add(pool)
        self._tell_sharing(frozenset(sharing))
        for pool, secrets in sorted(granted.items()):
            await self._grant(pool, tuple(sorted(secrets)))

    def _tell_sharing(self, pools: frozenset[str]) -> None:
        if len(pools) > 1 and pools != self._sharing:
            log.warning(
                "gateway agents of several pools share one account, so that each can read the "
                "keys of all of them; give each pool its own by gateway.pools of the chart "
                "(docs/security.md)",
                extra={"pools": sorted(pools)},
            )
        self._sharing = pools

    async def _grant(self, pool: str, secrets: tuple[str, ...]) -> None:
        if secrets == self._roles.get(pool):
            return
        rule = {
            "apiGroups": [""],
            "resources": ["secrets"],
            "verbs": ["get", "list", "watch"],
            "resourceNames": list(secrets),
        }
        name = f"{KEYS_ROLE}-{pool}" if pool else KEYS_ROLE
        role = {
            "apiVersion": resources.ROLES.api_version,
            "kind": "Role",
            "metadata": {"name": name, "namespace": self._keys_namespace},
            # NB: an empty list of names would mean every Secret.
            "rules": [rule] if secrets else [],
        }
        await self._client.apply(resources.ROLES, role)
        self._roles[pool] = secrets

    # --- finalizer and status ------------------------------------------------------------

    async def hold(self, sgc: StaticGatewayConfiguration) -> None:
        """Adds our finalizer."""
        if names.FINALIZER in sgc.metadata.finalizers:
            return
        await self._set_finalizers(sgc, [*sgc.metadata.finalizers, names.FINALIZER])

    async def release(self, sgc: StaticGatewayConfiguration) -> None:
        """Removes our finalizer; the object goes when it was the last."""
        left = [f for f in sgc.metadata.finalizers if f != names.FINALIZER]
        if left != sgc.metadata.finalizers:
            try:
                await self._set_finalizers(sgc, left)
            except NotFound:
                return

    async def _set_finalizers(self, sgc: StaticGatewayConfiguration, wanted: list[str]) -> None:
        meta = sgc.metadata
        patch = {"metadata": {"finalizers": wanted, "resourceVersion": meta.resource_version}}
        await self._client.merge_patch(resources.SGCS, meta.name, patch, meta.namespace)

    def gateways(self, sgc: StaticGatewayConfiguration) -> Gateways:
        """What Nodes and gateway agents say about ``sgc`` at this moment."""
        nodes = self.nodes.values()
        alive = {node.metadata.name for node in nodes if node.ready}
        full_name = f"{sgc.metadata.namespace}/{sgc.metadata.name}"
        ready: set[str] = set()
        problems: dict[str, GatewayProblem] = {}
        seen: dict[str, SeenAddress] = {}
        answered = False
        for status in self.statuses.values():
            node = status.metadata.name
            if node in alive and _serves(status, sgc):
                ready.add(node)
            if node in alive:
                for one in status.spec.verified:
                    answered = answered or bool(one.seen_ip)
                    if one.static_gateway_configuration == full_name:
                        seen[node] = one
            for problem in status.spec.problems:
                if problem.static_gateway_configuration == full_name:
                    problems[node] = problem
        return Gateways(
            nodes={n.spec.provider_id.lower(): n.metadata.name for n in nodes},
            ready=frozenset(ready),
            problems=problems,
            seen=seen,
            answered=answered,
        )

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
        machines = {n.metadata.name: _machine(n) for n in self.nodes.values()}
        listed = {gateway.node for gateway in sgc.status.gateways}
        claimed = {s.metadata.name for s in self.statuses.values() if _serves(s, sgc)}
        return (
            frozenset(m for name, m in machines.items() if m and name in listed),
            frozenset(m for name, m in machines.items() if m and name in claimed),
        )

    async def report(self, uid: str, verdict: Verdict, departures: Departures) -> None:
        """Writes the status that ``verdict`` amounts to, if it differs, and its Events."""
        found = self.sgcs.by_index("uid", uid)
        if not found:
            return
        sgc = found[0]
        try:
            await self._report(sgc, verdict, departures)
        except Conflict:
            meta = sgc.metadata
            fresh = await self._client.get(resources.SGCS, meta.name, meta.namespace)
            if fresh.metadata.uid == uid:
                await self._report(fresh, verdict, departures)
        except NotFound:
            return

    async def _report(
        self, sgc: StaticGatewayConfiguration, verdict: Verdict, departures: Departures
    ) -> None:
        uid = sgc.metadata.uid
        pairs, request = self.pairs(uid), sgc.metadata.annotations.get(ROTATE, "")
        gateways = self.gateways(sgc)
        status = status_of(
            sgc,
            verdict,
            gateways,
            pairs=pairs,
            pods=self.pods(sgc),
            departing=self._departing(sgc, verdict, gateways, departures),
            rotated=condition(pairs.record, self.rotating.get(uid, RotationFacts(request=request))),
            keys_namespace=self._keys_namespace,
            now=_now(),
        )
        if status == sgc.status:
            return
        await self._client.replace_status(
            resources.SGCS, msgspec.structs.replace(sgc, status=status)
        )
        complaints = bool(gateways.problems.keys() - gateways.ready)
        for notice in notices(sgc.status.conditions, status.conditions, complaints=complaints):
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
            if _told(old) != _told(new):
                callback(_mentioned(old) | _mentioned(new) | self._named(old, new))

        def node_changed(
            key: resources.Key, old: resources.Node | None, new: resources.Node | None
        ) -> None:
            if _health(old) != _health(new):
                callback(set(self.configurations()))

        self.statuses.on_change(status_changed)
        self.nodes.on_change(node_changed)

    def on_pods(self, callback: Callable[[str], None]) -> None:
        """``callback(uid)`` when there is news of a configuration's pods."""

        def changed(key: resources.Key, old: PodEndpoint | None, new: PodEndpoint | None) -> None:
            if _stands(old) == _stands(new):
                return
            for name in {_used(e) for e in (old, new) if e is not None}:
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


def _used(endpoint: PodEndpoint) -> str:
    return f"{endpoint.metadata.namespace}/{endpoint.spec.static_gateway_configuration}"


def _stands(endpoint: PodEndpoint | None) -> tuple[str, ...]:
    """What of an endpoint a configuration's status counts, and which gateway it uses."""
    if endpoint is None:
        return ()
    return (
        _used(endpoint),
        endpoint.spec.node_name,
        endpoint.status.state,
        endpoint.status.reason,
        endpoint.status.gateway,
    )


def _serves(status: GatewayStatus, sgc: StaticGatewayConfiguration) -> bool:
    uid = sgc.metadata.uid
    full_name = f"{sgc.metadata.namespace}/{sgc.metadata.name}"
    return any(
        entry.uid == uid or (not entry.uid and entry.static_gateway_configuration == full_name)
        for entry in status.spec.ready_gateway_configurations
    )


def _told(status: GatewayStatus | None) -> tuple[object, ...]:
    """What an agent says, its heartbeat aside."""
    if status is None:
        return (), (), ()
    spec = status.spec
    return spec.ready_gateway_configurations, spec.problems, spec.verified


def _mentioned(status: GatewayStatus | None) -> set[str]:
    if status is None:
        return set()
    return {entry.uid for entry in status.spec.ready_gateway_configurations if entry.uid}


def _pool(sgc: StaticGatewayConfiguration) -> str:
    """The configuration's gateway pool: of AKS, or a scale set of one's own."""
    profile = sgc.spec.gateway_vmss_profile
    return sgc.spec.gateway_nodepool_name or (profile.vmss_name if profile else "")


def _gateway_machine(node: resources.Node | None) -> str:
    """The machine of a Node that is marked as a gateway's; empty for any other Node."""
    return _machine(node) if node and names.marks_gateway(node.metadata.labels) else ""


def _machine(node: resources.Node | None) -> str:
    return node.spec.provider_id.lower() if node else ""


def _health(node: resources.Node | None) -> tuple[bool, str]:
    return (node.ready, node.spec.provider_id) if node else (False, "")


def _key_secret(sgc: StaticGatewayConfiguration, namespace: str, known: Names) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": names.key_secret(sgc.metadata.uid),
            "namespace": namespace,
            "labels": labels(resources.SGCS.key(sgc)),
            "annotations": annotations_of(known) | _asked(sgc),
        },
        "data": keysecret.data_of(keys.generate()),
    }


def _asked(sgc: StaticGatewayConfiguration) -> dict[str, str]:
    """A pair that is new need not be changed, whatever was asked for before."""
    request = sgc.metadata.annotations.get(ROTATE, "")
    record = msgspec.json.encode(Record(request=request)).decode()
    return {names.KEY_ROTATION_ANNOTATION: record} if request else {}


def _public_key(secret: resources.Secret | None) -> str:
    return keysecret.public_key(secret.data) if secret else ""


def _grant(namespace: Namespace | None) -> str:
    written = namespace.metadata.annotations if namespace else {}
    return written.get(names.ALLOWED_PREFIXES_ANNOTATION, "")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
