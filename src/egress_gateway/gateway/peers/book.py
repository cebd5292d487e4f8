"""The peers that each configuration should have, kept up to date event by event.

One event costs the judgement of one endpoint (or of those that share an address with a pod), not a
pass over all of them: a new pod waits for its gateway.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from egress_gateway.api.types import PodEndpoint
from egress_gateway.datapath.addresses import IPAddress, IPNetwork
from egress_gateway.gateway.peers.rules import (
    AcceptedClaim,
    RefusedClaim,
    addresses_of,
    configuration_of,
    judge,
    resolve,
)
from egress_gateway.kube.informer.cache import Cache
from egress_gateway.kube.resources import Key, Pod

log = logging.getLogger(__name__)

_ADDRESS = "address"


class PeerBook:
    """``dirty(name)`` is called with a configuration's ``namespace/name`` whose peers changed."""

    def __init__(
        self, endpoints: Cache[PodEndpoint], pods: Cache[Pod], dirty: Callable[[str], None]
    ) -> None:
        self._endpoints = endpoints
        self._pods = pods
        self._dirty = dirty
        self._accepted: dict[str, dict[Key, AcceptedClaim]] = {}
        self._where: dict[Key, str] = {}
        self._refused: dict[Key, str] = {}
        self._owners: dict[tuple[str, str], Key] = {}
        self._complete = False
        pods.set_index(_ADDRESS, lambda pod: [] if pod.spec.host_network else pod.ips)
        endpoints.set_index(_ADDRESS, addresses_of)
        endpoints.on_change(self._on_endpoint)
        pods.on_change(self._on_pod)

    def peers(self, name: str) -> dict[str, tuple[IPNetwork, ...]]:
        """What the configuration's interfaces should know: public key -> networks."""
        return resolve(self._accepted.get(name, {}))

    def owner(self, name: str, address: IPAddress) -> Key | None:
        """The pod that has, or had last, an address under a configuration. From any thread."""
        return self._owners.get((name, str(address)))

    @property
    def refused(self) -> dict[Key, str]:
        """Endpoints that do not count, and why."""
        return dict(self._refused)

    def complete(self) -> None:
        """Both caches have their first lists: whom they refuse is told from now on. Before, the
        pods of ten thousand endpoints may merely not have been read yet."""
        self._complete = True
        for key, why in self._refused.items():
            _tell(key, why)

    def _on_endpoint(self, key: Key, old: PodEndpoint | None, new: PodEndpoint | None) -> None:
        self._judge(key, new)

    def _on_pod(self, key: Key, old: Pod | None, new: Pod | None) -> None:
        if old is not None and new is not None and _same(old, new):
            return
        endpoint = self._endpoints.get(*key)
        if endpoint is not None:
            self._judge(key, endpoint)
        for address in {a for pod in (old, new) if pod for a in pod.ips}:
            for other in self._endpoints.by_index(_ADDRESS, address):
                claimant = Key(other.metadata.namespace, other.metadata.name)
                if claimant != key:
                    self._judge(claimant, other)

    def _judge(self, key: Key, endpoint: PodEndpoint | None) -> None:
        verdict = None
        if endpoint is not None:
            verdict = judge(endpoint, self._pods.get(*key), self._having)
        before = self._where.pop(key, None)
        had = self._accepted.get(before, {}).pop(key, None) if before else None
        name = configuration_of(endpoint) if endpoint else None
        if isinstance(verdict, AcceptedClaim) and name is not None:
            self._accepted.setdefault(name, {})[key] = verdict
            self._where[key] = name
            # NB: kept when the pod goes; its last connections end after it.
            self._owners.update({(name, str(n.network_address)): key for n in verdict.networks})
            self._refused.pop(key, None)
            if (before, had) != (name, verdict):
                self._dirty(name)
        elif isinstance(verdict, RefusedClaim):
            if self._complete and self._refused.get(key) != verdict.why:
                _tell(key, verdict.why)
            self._refused[key] = verdict.why
        else:
            self._refused.pop(key, None)
        if before is not None and before != self._where.get(key):
            self._dirty(before)

    def _having(self, address: str) -> Iterable[Pod]:
        return self._pods.by_index(_ADDRESS, address)


def _tell(key: Key, why: str) -> None:
    log.info("refused a claim", extra={"pod": str(key), "why": why})


def _same(old: Pod, new: Pod) -> bool:
    """Whether a pod's change is none for us."""
    return (
        old.metadata.uid == new.metadata.uid
        and old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
        and old.spec == new.spec
        and old.ips == new.ips
        and old.finished == new.finished
    )
