"""What the Go project left behind, as every survey meets it: a rival that still runs, objects to
take over, resources under names that nobody recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from egress_gateway.api.conditions import Reason
from egress_gateway.cloud.protocol import Cloud, LoadBalancer, PoolRef
from egress_gateway.controller.migration.recognise import recognise_all
from egress_gateway.controller.migration.takeover import Takeover
from egress_gateway.controller.observed.cluster import Cluster
from egress_gateway.controller.planning.problem import Problem

log = logging.getLogger(__name__)


class Predecessor:
    """``trouble`` hears the Problem of a configuration, by UID. ``takeover`` None: there never was
    one."""

    def __init__(
        self,
        cloud: Cloud,
        cluster: Cluster,
        trouble: Callable[[str, Problem], None],
        takeover: Takeover | None,
    ) -> None:
        self._cloud = cloud
        self._cluster = cluster
        self._trouble = trouble
        self._takeover = takeover
        self._blocked = ""

    @property
    def rules(self) -> bool:
        """It still runs, and nothing may be done."""
        return bool(self._blocked)

    async def take_over(self) -> None:
        """Takes over what it left, unless it still runs."""
        if self._takeover is None:
            return
        live = self._cluster.configurations()
        outcome = await self._takeover.run(list(live.values()))
        self._cluster.keypairs.adopted(outcome.taken)
        if outcome.blocked and outcome.blocked != self._blocked:
            log.error("%s", outcome.blocked)
        self._blocked = outcome.blocked
        for uid in live if self._blocked else ():
            problem = Problem(reason=Reason.OTHER_CONTROLLER, message=self._blocked)
            self._trouble(uid, problem)

    async def recognise(
        self, pools: list[PoolRef], balancer: LoadBalancer
    ) -> Mapping[str, Problem]:
        """Finds names without a record. Returns the configurations whose names remain unknown,
        which must not be changed."""
        if self._takeover is None:
            return {}
        live = self._cluster.configurations()
        found = await recognise_all(
            self._cloud,
            live,
            {uid: self._cluster.keypairs.names(uid) for uid in live},
            pools,
            balancer=balancer,
            keys_namespace=self._takeover.keys_namespace,
        )
        for uid, known in found.told.items():
            self._cluster.keypairs.adopted(await self._takeover.remember(live[uid], known))
        return found.untold
