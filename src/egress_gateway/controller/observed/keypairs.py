"""The key pairs of configurations: a Secret each, and the Roles by which agents may read them.

A key pair is written before anything in the cloud; its Secret is also the record that a
configuration was ours, and of the names of its resources.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec

from egress_gateway.api import keys, keysecret, names
from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.controller.observed.record import annotations_of, labels, names_of
from egress_gateway.controller.planning.wanted import Names
from egress_gateway.controller.rotation.phases import Pairs, Record, pairs_of, record_of
from egress_gateway.kube import resources
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import AlreadyExists, NotFound
from egress_gateway.kube.informer.cache import Cache

log = logging.getLogger(__name__)

ROTATE: Final = names.ROTATE_KEYS_ANNOTATION
KEYS_ROLE: Final = "egress-gateway-keys"
"""Role beside the key Secrets; ``deploy/manifests/rbac.yaml`` binds it to gateway agents. A pool
whose agents have an account of their own has one of its own too, with the pool's name behind it."""


class KeyPairs:
    """Reads never block; writes raise ``kube.errors.ApiError``.

    ``namespace`` holds the Secrets and Roles; each of ``agent_pools`` has an account of its own.
    """

    def __init__(
        self, client: Client, namespace: str, *, agent_pools: Collection[str] = ()
    ) -> None:
        self._client = client
        self.namespace = namespace
        self.secrets = Cache(client, resources.SECRETS, namespace, labels=names.OWNING_NAME_LABEL)
        self._fresh: dict[str, resources.Secret] = {}
        self._names: dict[str, Names] = {}
        self._agent_pools = frozenset(agent_pools)
        self._roles: dict[str, tuple[str, ...]] = {}
        self._sharing: frozenset[str] = frozenset()

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
        """The Secret of a key pair, also one that was just written and is in no cache yet."""
        cached = self.secrets.get(self.namespace, names.key_secret(uid))
        if cached is not None:
            self._fresh.pop(uid, None)
            return cached
        return self._fresh.get(uid)

    async def ensure(self, sgc: StaticGatewayConfiguration) -> None:
        """Makes the key pair if there is none; never replaces a usable one."""
        uid = sgc.metadata.uid
        if self.public_key(uid):
            return
        document = _key_secret(sgc, self.namespace, self.names(uid))
        name = names.key_secret(uid)
        try:
            self._fresh[uid] = await self._client.create(resources.SECRETS, document)
        except AlreadyExists:
            found = await self._client.get(resources.SECRETS, name, self.namespace)
            if not _public_key(found):
                # NB: what it says of names counts, even if the cache has not seen it.
                said = annotations_of(self.names(uid)) | found.metadata.annotations
                metadata = {"labels": labels(resources.SGCS.key(sgc)), "annotations": said}
                patch = {"data": document["data"], "metadata": metadata}
                found = await self._client.merge_patch(
                    resources.SECRETS, name, patch, self.namespace
                )
                log.warning("replaced an unusable key pair", extra={"secret": name})
            self._fresh[uid] = found

    async def forget(self, uid: str) -> None:
        """Deletes the key pair, and with it the record that ``uid`` was ours."""
        try:
            name = names.key_secret(uid)
            await self._client.delete(resources.SECRETS, name, self.namespace)
        except NotFound:
            pass
        self._fresh.pop(uid, None)
        self._names.pop(uid, None)

    def invalidate_roles(self) -> None:
        """Roles are written again although we know of no change: somebody may have edited them."""
        self._roles.clear()

    async def grant(self, live: Iterable[StaticGatewayConfiguration]) -> None:
        """Each account of agents is granted exactly the Secrets of its pools' configurations, of
        those that are ``live``."""
        recorded = self.recorded()
        granted: dict[str, set[str]] = {pool: set() for pool in ("", *self._agent_pools)}
        sharing = set()
        for sgc in live:
            uid, pool = sgc.metadata.uid, _pool(sgc)
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
                "(docs/operate/security.md)",
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
            "metadata": {"name": name, "namespace": self.namespace},
            # NB: an empty list of names would mean every Secret.
            "rules": [rule] if secrets else [],
        }
        await self._client.apply(resources.ROLES, role)
        self._roles[pool] = secrets


def _pool(sgc: StaticGatewayConfiguration) -> str:
    """The configuration's gateway pool: of AKS, or a scale set of one's own."""
    profile = sgc.spec.gateway_vmss_profile
    return sgc.spec.gateway_nodepool_name or (profile.vmss_name if profile else "")


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
