"""Which pools there are, and which configurations each of them holds something of.

What the last survey listed, kept up to date by the passes over the pools. It is never the only
witness: the next survey finds every trace again in the cloud's own documents.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from egress_gateway.api.conditions import Reason
from egress_gateway.api.types import StaticGatewayConfiguration, StaticGatewayConfigurationSpec
from egress_gateway.cloud.protocol import Advice, LoadBalancer, PoolRef
from egress_gateway.controller.observed.groups import Found
from egress_gateway.controller.planning.pools import Target, resolve
from egress_gateway.controller.planning.problem import Problem
from egress_gateway.controller.planning.wanted import Names


class Inventory:
    """Configurations are known by their UID, pools by their key. A configuration clings to a pool
    if it holds something of it, whether the configuration still exists or not."""

    def __init__(self, resource_group: str, advice: Advice) -> None:
        self._resource_group = resource_group
        self._advice = advice
        self._pools: dict[str, PoolRef] = {}
        self._clinging: dict[str, set[str]] = {}
        self._refused: Mapping[str, Problem] = {}
        self._sought: dict[str, StaticGatewayConfigurationSpec] = {}
        self.surveyed = False
        """Whether the cloud has been looked at since this process started."""

    @property
    def keys(self) -> Collection[str]:
        """Keys of all pools, also of those that only the load balancer knows."""
        return self._pools.keys()

    def pool(self, key: str) -> PoolRef | None:
        """None for a pool that the last survey did not find."""
        return self._pools.get(key)

    def resolve(self, sgc: StaticGatewayConfiguration) -> Target | Problem:
        """The pool that a configuration names, or why there is none. An unknown pool counts as
        missing only after a survey has looked for it."""
        found = self._look_up(sgc.spec)
        return _SEEKING if _unknown(found) and sgc.metadata.uid in self._sought else found

    def seek(self, sgc: StaticGatewayConfiguration) -> bool:
        """A configuration is new or was edited. True: its pool is not known, and the next survey
        is to look for it."""
        if not _unknown(self._look_up(sgc.spec)):
            return False
        self._sought[sgc.metadata.uid] = sgc.spec
        return True

    def refused(self, sgc: StaticGatewayConfiguration) -> Problem | None:
        """Why the group that it names cannot be read: whether something of it is left there
        cannot be told."""
        return self._refused.get(sgc.spec.gateway_vmss_profile.vmss_resource_group.lower())

    def sought(self) -> Mapping[str, StaticGatewayConfigurationSpec]:
        """What a survey that begins now will have looked for."""
        return dict(self._sought)

    def _look_up(self, spec: StaticGatewayConfigurationSpec) -> Target | Problem:
        pools = [pool for pool in self._pools.values() if pool.kind != "vanished"]
        return resolve(
            spec,
            pools,
            resource_group=self._resource_group,
            advice=self._advice,
            refused=self._refused,
        )

    # --- who clings to what --------------------------------------------------------------

    def clinging(self, key: str) -> Collection[str]:
        """The configurations that hold something of a pool."""
        return self._clinging.get(key, set())

    def holding(self, uid: str) -> set[str]:
        """The pools that hold something of a configuration."""
        return {key for key, uids in self._clinging.items() if uid in uids}

    def occupied(self) -> list[str]:
        """The pools that hold something of anybody."""
        return [key for key, uids in self._clinging.items() if uids]

    def note(self, key: str, uid: str, *, gone: bool) -> None:
        """What a look at a pool has found of one configuration."""
        uids = self._clinging.setdefault(key, set())
        (uids.discard if gone else uids.add)(uid)

    # --- a survey ------------------------------------------------------------------------

    def _as_known(self, found: PoolRef) -> PoolRef:
        """A pool of which nothing could be read stays what it was: the next look at it tells."""
        if found.unread is None:
            return found
        here = found.resource_id.lower()
        return next((p for p in self._pools.values() if p.resource_id.lower() == here), found)

    def learn(
        self,
        found: Found,
        balancer: LoadBalancer,
        known: Mapping[str, Names],
        *,
        sought: Mapping[str, StaticGatewayConfigurationSpec],
    ) -> None:
        """Pools that exist, and those of which only the load balancer is left; the pools of a group
        that cannot be read are those that were known. ``known``: the names of all configurations
        that live or have left a key pair. ``sought``: what was looked for, as it was when the
        survey began; who was edited meanwhile waits for the next one."""
        for uid, spec in sought.items():
            if self._sought.get(uid) is spec:
                del self._sought[uid]
        kept = [p for p in self._pools.values() if p.resource_group.lower() in found.refused]
        self._pools = {pool.key: pool for pool in (*kept, *map(self._as_known, found.pools))}
        self._refused = found.refused
        rules = {names.rule for names in known.values()}
        ours = {rule.pool for rule in balancer.rules.values() if rule.name in rules}
        ours |= {key for key, uids in self._clinging.items() if uids & known.keys()}
        for key in (ours & balancer.backends) - self._pools.keys():
            self._pools[key] = PoolRef(key=key, kind="vanished")
        self._clinging = {
            key: (self._clinging.get(key, set()) & known.keys()) | _traced(pool, balancer, known)
            for key, pool in self._pools.items()
        }
        self.surveyed = True


_SEEKING: Final = Problem(
    reason=Reason.PROVISIONING, message="looking for the gateway pool that it names"
)


def _unknown(found: Target | Problem) -> bool:
    return isinstance(found, Problem) and found.reason == Reason.POOL_NOT_FOUND


def _traced(pool: PoolRef, balancer: LoadBalancer, known: Mapping[str, Names]) -> set[str]:
    """UIDs of ours of which the pool's model or the load balancer holds something."""
    rules = {rule.name for rule in balancer.rules.values() if rule.pool == pool.key}
    return {
        uid for uid, names in known.items() if names.rule in rules or names.ip_config in pool.traces
    }
