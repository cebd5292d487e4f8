"""What one pool should hold, gathered from all configurations that have to do with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Final

from egress_gateway.api import names
from egress_gateway.api.conditions import Reason
from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.cloud.protocol import Advice, PoolRef
from egress_gateway.controller.board import StatusBoard
from egress_gateway.controller.observed.cluster import Cluster
from egress_gateway.controller.observed.inuse import GatewaysInUse
from egress_gateway.controller.observed.inventory import Inventory
from egress_gateway.controller.planning.pools import Joined, Target, not_for_gateways
from egress_gateway.controller.planning.problem import Problem
from egress_gateway.controller.planning.wanted import Names, Wanted
from egress_gateway.controller.refusals import RefusalBackoff
from egress_gateway.controller.rotation.phases import TWO_PAIRS

STILL_SERVED: Final = Problem(
    reason=Reason.DELETING, message="the controller waits for its gateways to stop serving it"
)


class DesiredPool:
    """``unidentified``: why it cannot be told under which names a configuration's resources live;
    it holds still. ``managed``: the id of the managed prefix of a name."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        inventory: Inventory,
        board: StatusBoard,
        in_use: GatewaysInUse,
        backoff: RefusalBackoff,
        managed: Callable[[str], str],
        advice: Advice,
    ) -> None:
        self._cluster = cluster
        self._inventory = inventory
        self._board = board
        self._in_use = in_use
        self._backoff = backoff
        self._managed = managed
        self._advice = advice
        self.unidentified: Mapping[str, Problem] = {}
        self._beyond_share: Mapping[str, Problem] = {}
        self._joined = Joined()

    def of(self, pool: PoolRef) -> list[Wanted]:
        """What this pool should hold, and what should be removed from it."""
        clinging = self._inventory.clinging(pool.key)
        live = self._cluster.configurations()
        self._joined = self._cluster.joined(pool)
        self._beyond_share = self._cluster.grants.beyond_share(live.values())
        found = [
            replace(w, generation=sgc.metadata.generation)
            for sgc in live.values()
            if (w := self._wish(sgc, pool, clinging))
        ]
        lost = (self._cluster.keypairs.recorded() & set(clinging)) - live.keys()
        return found + [self._leaving(uid) for uid in sorted(lost)]

    def _leaving(self, uid: str) -> Wanted:
        known, in_use = self._cluster.keypairs.names(uid), self._cluster.carrying(uid)
        return Wanted(uid=uid, names=known, leaving=True, in_use=in_use)

    def _wish(
        self, sgc: StaticGatewayConfiguration, pool: PoolRef, clinging: Collection[str]
    ) -> Wanted | None:
        uid = sgc.metadata.uid
        target = self._inventory.resolve(sgc)
        here = isinstance(target, Target) and target.pool.key == pool.key
        if not here and uid not in clinging:
            return None
        known = self._cluster.keypairs.names(uid)
        if not here and (refused := self._inventory.refused(sgc)):
            return Wanted(uid=uid, names=known, problem=refused)
        if sgc.metadata.deletion_timestamp:
            if self._in_use.served_to_the_end(sgc):
                return Wanted(uid=uid, names=known, problem=STILL_SERVED)
            return self._leaving(uid)
        if isinstance(target, Problem):
            return Wanted(uid=uid, names=known, problem=target)
        if not here and (self._moved(sgc, target) or self._board.waiting_for_addresses(uid)):
            return Wanted(uid=uid, names=known, leaving=True, elsewhere=True)
        if not here:
            waiting = Problem(reason=Reason.PROVISIONING, message="moving to another gateway pool")
            return Wanted(uid=uid, names=known, problem=waiting, elsewhere=True)
        rotation = self._cluster.keypairs.rotation(uid)
        return Wanted(
            uid=uid,
            names=known,
            second=rotation.phase in TWO_PAIRS,
            port=rotation.port,
            private=not sgc.spec.provision_public_ips,
            prefix_id=sgc.spec.public_ip_prefix_id,
            prefix_id6=sgc.spec.public_ip_prefix_id_v6,
            prefix_size=target.prefix_size,
            problem=self.unidentified.get(uid)
            or self._unmarked(sgc, pool, known)
            or self._ungranted(sgc)
            or self._backoff.blocked(uid),
            problem6=self._backoff.blocked6(uid),
            in_use=self._in_use.in_use(sgc),
            gives_way=self._backoff.gives_way(uid),
            left_out=self._backoff.left_out(pool.key, uid),
        )

    def _unmarked(
        self, sgc: StaticGatewayConfiguration, pool: PoolRef, known: Names
    ) -> Problem | None:
        if sgc.spec.gateway_nodepool_name:
            return None
        # NB: one that was refused here clings to the pool too.
        settled = self._board.last_pool(sgc.metadata.uid) == pool.key
        return not_for_gateways(
            pool,
            self._joined,
            strict=self._cluster.strict_pools,
            held=settled or known.ip_config in pool.traces,
            advice=self._advice,
        )

    def _ungranted(self, sgc: StaticGatewayConfiguration) -> Problem | None:
        spec = sgc.spec
        prefixes = (spec.public_ip_prefix_id, spec.public_ip_prefix_id_v6)
        refused = self._cluster.grants.problem(sgc.metadata.namespace, prefixes, self._made_for)
        return refused or self._beyond_share.get(sgc.metadata.uid)

    def _made_for(self, prefix_id: str) -> str:
        """The namespace of the configuration whose managed prefix it is; empty: nobody's."""
        asked = prefix_id.strip().rstrip("/").lower()
        if f"/{names.MANAGED_PREFIX}" not in asked:
            return ""
        for uid, sgc in self._cluster.configurations().items():
            managed = self._managed(self._cluster.keypairs.names(uid).ip_config).lower()
            if asked == managed or asked.startswith(f"{managed}-"):
                return sgc.metadata.namespace
        return ""

    def _moved(self, sgc: StaticGatewayConfiguration, target: Target) -> bool:
        """Whether the pool ``target`` serves, and nobody uses the gateways of another any more."""
        uid = sgc.metadata.uid
        verdict = self._board.verdict(uid)
        serves = self._board.last_pool(uid) == target.pool.key and verdict and verdict.serving
        return bool(verdict and serves and self._in_use.left(sgc, verdict))
