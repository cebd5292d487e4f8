"""Carries changes of key pairs through: looks, decides (``rotation.phases``), writes the next one.

Work of its own beside the pools': a cloud that refuses something of one configuration holds up no
other's rotation. All that must not be lost lies on the key Secret; every write is conditional on
the version that was decided upon, so that a leader that was late changes nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

import msgspec

from egress_gateway.api import keysecret, names
from egress_gateway.api.types import PodEndpoint, StaticGatewayConfiguration
from egress_gateway.controller.board import StatusBoard
from egress_gateway.controller.observed.cluster import Cluster
from egress_gateway.controller.rotation import phases as rotation
from egress_gateway.controller.rotation.phases import Pairs, Record, RotationFacts, Users
from egress_gateway.kube import resources
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import Conflict, NotFound
from egress_gateway.kube.resources import Key, Secret
from egress_gateway.kube.workqueue.queue import WorkQueue

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
"""Between two looks at a rotation that is under way; pods are listed then."""
LOOK_LIMIT: Final = 5.0
_PODS_A_SECOND: Final = 2000
"""Listing ten thousand pods' endpoints every second would be a load: then it is done less often."""


class Rotations:
    """``changed`` is called with the UID of a configuration whose pairs have changed,
    ``progressed`` with one whose rotation has something new to report."""

    def __init__(
        self,
        client: Client,
        cluster: Cluster,
        board: StatusBoard,
        *,
        timeout: float,
        changed: Callable[[str], None],
        progressed: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._cluster = cluster
        self._board = board
        self._timeout = timeout
        self._changed = changed
        self._progressed = progressed
        self._clock = clock
        self.work: WorkQueue[str] = WorkQueue("rotations", backoff=0.2, backoff_limit=10.0)
        for sgc in cluster.configurations().values():
            self._wake(sgc)
        cluster.on_configuration(lambda old, new: self._wake(new))
        cluster.keypairs.secrets.on_change(self._keys_changed)
        cluster.on_agents(self._agents_changed)

    async def handle(self, uid: str) -> float | None:
        """Looks at a configuration; returns seconds until the next look, None without a request."""
        sgc = self._cluster.configurations().get(uid)
        secret = self._cluster.keypairs.secret(uid)
        if sgc is None or sgc.metadata.deletion_timestamp or secret is None:
            self._cluster.rotating.pop(uid, None)
            return None
        record = rotation.record_of(secret)
        if record.phase not in rotation.ACTIVE and not rotation.asks(record, _request(sgc)):
            if self._cluster.rotating.pop(uid, None):
                self._progressed(uid)
            return None
        pairs = rotation.pairs_of(secret)
        facts = await self._facts(sgc, pairs)
        after = rotation.following(pairs.record, facts)
        if after is not pairs.record:
            await self._step(sgc, secret, pairs.record, after)
            return LOOK_SECONDS
        timeless = replace(facts, now=0.0)
        if self._cluster.rotating.get(uid) != timeless:
            self._cluster.rotating[uid] = timeless
            self._progressed(uid)
        return min(max(LOOK_SECONDS, facts.users.total / _PODS_A_SECOND), LOOK_LIMIT)

    async def _facts(self, sgc: StaticGatewayConfiguration, pairs: Pairs) -> RotationFacts:
        verdict = self._board.verdict(sgc.metadata.uid)
        serving = verdict.serving if verdict else None
        return RotationFacts(
            now=self._clock(),
            request=_request(sgc),
            phase=pairs.record.phase,
            in_service=serving is not None and verdict is not None and verdict.problem is None,
            port=serving.port if serving else 0,
            second_port=serving.second_port if serving else 0,
            gateways=frozenset(g.node for g in sgc.status.gateways) & self._alive(),
            prepared=self._prepared(sgc, pairs),
            users=await self._users(sgc, pairs),
            timeout=self._timeout,
        )

    async def _users(self, sgc: StaticGatewayConfiguration, pairs: Pairs) -> Users:
        if pairs.record.phase not in ("Moving", "Retiring"):
            return Users()
        moving = pairs.record.phase == "Moving"
        page = await self._client.list(resources.POD_ENDPOINTS, sgc.metadata.namespace)
        endpoints: list[PodEndpoint] = list(page.items)
        public = pairs.second if moving else pairs.public
        return rotation.users_of(endpoints, sgc.metadata.name, public, self._alive())

    def _alive(self) -> frozenset[str]:
        return frozenset(n.metadata.name for n in self._cluster.nodes.values() if n.ready)

    def _prepared(self, sgc: StaticGatewayConfiguration, pairs: Pairs) -> frozenset[str]:
        """Nodes whose gateways answer by the second pair too."""
        return self._alive() & {
            status.metadata.name
            for status in self._cluster.statuses.values()
            for entry in status.spec.ready_gateway_configurations
            if entry.uid == sgc.metadata.uid
            and entry.second_public_key
            and entry.second_public_key == pairs.second
        }

    async def _step(
        self, sgc: StaticGatewayConfiguration, secret: Secret, before: Record, after: Record
    ) -> None:
        uid = sgc.metadata.uid
        try:
            await self._write(secret, after, rotation.change_of(secret, before, after))
        except (Conflict, NotFound):
            return  # somebody was faster: look again
        log.info(
            "key rotation",
            extra={
                "configuration": f"{sgc.metadata.namespace}/{sgc.metadata.name}",
                "phase": after.phase,
                "note": after.note,
            },
        )
        self._changed(uid)

    async def _write(self, secret: Secret, record: Record, data: Mapping[str, str | None]) -> None:
        """Keys and record in one write, if the Secret is still what was looked at."""
        meta = secret.metadata
        annotation = msgspec.json.encode(record).decode()
        patch = {
            "metadata": {
                "resourceVersion": meta.resource_version,
                "annotations": {names.KEY_ROTATION_ANNOTATION: annotation},
            },
            "data": dict(data),
        }
        await self._client.merge_patch(resources.SECRETS, meta.name, patch, meta.namespace)

    def _keys_changed(self, key: Key, old: Secret | None, new: Secret | None) -> None:
        beginning = names.key_secret("")
        before, after = rotation.record_of(old), rotation.record_of(new)
        was, now = (keysecret.public_key(secret.data) if secret else "" for secret in (old, new))
        lost = was and was != now  # somebody has deleted or spoilt a pair in use
        if (before != after or lost) and key.name.startswith(beginning):
            uid = key.name.removeprefix(beginning)
            self._changed(uid)
            self._look(uid)

    def _agents_changed(self, uids: Iterable[str]) -> None:
        for uid in uids:
            self._look(uid)

    def _wake(self, sgc: StaticGatewayConfiguration | None) -> None:
        if sgc is not None and (_request(sgc) or self._active(sgc.metadata.uid)):
            self.work.add(sgc.metadata.uid)

    def _look(self, uid: str) -> None:
        if self._active(uid):
            self.work.add(uid)

    def _active(self, uid: str) -> bool:
        phase = self._cluster.keypairs.rotation(uid).phase
        return uid in self._cluster.rotating or phase in rotation.ACTIVE


def _request(sgc: StaticGatewayConfiguration) -> str:
    return sgc.metadata.annotations.get(names.ROTATE_KEYS_ANNOTATION, "")
