"""The hand-over from the Go project, carried out: look for a rival, record names, release objects.

Nothing here touches Azure. Every call is repeatable, and being cut off anywhere is an ordinary
state to find: names are recorded before the object that tells them is released.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from egress_gateway.api import names
from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.cloud.protocol import Advice
from egress_gateway.controller.migration.adopt import (
    Adoption,
    Leftovers,
    Release,
    misplaced,
    plan_adoption,
)
from egress_gateway.controller.observed.record import annotations_of, labels, names_of
from egress_gateway.controller.planning.wanted import Names
from egress_gateway.kube import resources
from egress_gateway.kube.errors import Conflict, Forbidden, NotFound
from egress_gateway.kube.resources import GoGatewayConfiguration, Resource, Secret
from egress_gateway.kube.review import allowed

if TYPE_CHECKING:  # `migrate --help` does without the HTTP library
    from egress_gateway.kube.client import Client

log = logging.getLogger(__name__)

_ACCOUNTS: Final = 16
"""Of workloads that may be the Go project's, which has three; more is somebody who makes us ask."""
_CONTROLLERS: Final = f"{names.GO_CONTROLLER_LABEL}=controller-manager"


@dataclass(frozen=True, slots=True)
class Rival:
    """Somebody else who writes the same Azure documents, and what stops him."""

    who: str
    mend: str

    def __str__(self) -> str:
        return f"{self.who}: {self.mend}"


class Takeover:
    """Reads and writes raise ``kube.errors.ApiError``."""

    def __init__(
        self, client: Client, *, system_namespace: str, keys_namespace: str = "", advice: Advice
    ) -> None:
        self._client = client
        self._advice = advice
        self._system_namespace = system_namespace
        self.keys_namespace = names.keys_namespace(keys_namespace, system_namespace)

    # --- who else is there ---------------------------------------------------------------

    async def rival(self, configurations: Iterable[StaticGatewayConfiguration]) -> Rival | None:
        """The controller that must stop before we act, if one runs."""
        checks = (self._addon(), self._deployment(configurations), self._lease())
        found = await asyncio.gather(*checks)
        return next((rival for rival in found if rival), None)

    async def _addon(self) -> Rival | None:
        sets = resources.DAEMON_SETS.untyped()
        listed = await self._client.list(sets, names.AKS_ADDON_NAMESPACE)
        ours = [d for d in listed.items if d["metadata"]["name"].startswith(names.GO_DAEMON_PREFIX)]
        if not await self._entitled(ours):
            return None
        return Rival(
            "AKS runs its own static egress gateway add-on in this cluster "
            f"(DaemonSets in namespace {names.AKS_ADDON_NAMESPACE})",
            "its configurations are AKS's to serve; disable it "
            f"({self._advice.stop_predecessor()}) or remove this controller",
        )

    async def stop_rivals(self, configurations: Iterable[StaticGatewayConfiguration]) -> None:
        """Scales the Go project's controller to zero. Needs a person's rights."""
        for found in await self._controllers(configurations):
            meta = found["metadata"]
            patch = {"spec": {"replicas": 0}}
            await self._client.merge_patch(
                resources.DEPLOYMENTS, meta["name"], patch, meta["namespace"]
            )

    async def _controllers(
        self, configurations: Iterable[StaticGatewayConfiguration]
    ) -> list[resources.Untyped]:
        """Deployments of the Go project's controller. Every tenant may label one of his own so: it
        counts here; and in that project's usual namespace, and where statuses say that keys are
        (for it keeps them beside itself), if an administrator has given it what it needs."""
        profiles = (sgc.status.gateway_server_profile for sgc in configurations)
        places = {self._system_namespace, self.keys_namespace, names.SYSTEM_NAMESPACE}
        places |= {p.private_key_secret_ref.namespace for p in profiles if p.private_key_secret_ref}
        lists = [
            self._client.list(resources.DEPLOYMENTS, place, labels=_CONTROLLERS)
            for place in sorted(places - {""})
        ]
        found = [one for listed in await asyncio.gather(*lists) for one in listed.items]
        here = {self._system_namespace, self.keys_namespace}
        elsewhere = await self._entitled(
            [one for one in found if one["metadata"]["namespace"] not in here]
        )
        return [one for one in found if one["metadata"]["namespace"] in here] + elsewhere

    async def _entitled(self, workloads: Iterable[resources.Untyped]) -> list[resources.Untyped]:
        """Those whose account may read the configurations of all namespaces. Names and labels are
        no evidence, not even a namespace's: tenants may be allowed to make some. A role for the
        whole cluster only administrators bind."""
        found: dict[tuple[str, str], list[resources.Untyped]] = {}
        for one in workloads:
            account = one["spec"]["template"]["spec"].get("serviceAccountName") or "default"
            found.setdefault((one["metadata"]["namespace"], account), []).append(one)
        accounts = sorted(found)[:_ACCOUNTS]
        may = await asyncio.gather(*(self._may_read_all(*account) for account in accounts))
        return [
            one for account, yes in zip(accounts, may, strict=True) if yes for one in found[account]
        ]

    async def _may_read_all(self, namespace: str, account: str) -> bool:
        group = "system:serviceaccounts"
        attributes = {"group": names.GROUP, "resource": resources.SGCS.plural, "verb": "list"}
        spec = {
            "user": f"system:serviceaccount:{namespace}:{account}",
            "groups": [group, f"{group}:{namespace}", "system:authenticated"],
            "resourceAttributes": attributes,
        }
        try:
            return await allowed(self._client, spec)
        except Forbidden:  # who may not ask (an older chart's role, a person) rather waits
            return True

    async def _deployment(
        self, configurations: Iterable[StaticGatewayConfiguration]
    ) -> Rival | None:
        for found in await self._controllers(configurations):
            wanted = found.get("spec", {}).get("replicas", 1)
            running = found.get("status", {}).get("replicas", 0)
            if wanted or running:
                namespace, name = found["metadata"]["namespace"], found["metadata"]["name"]
                return Rival(
                    f"the Go project's controller still runs (Deployment {namespace}/{name})",
                    f"stop it: kubectl scale deployment -n {namespace} {name} --replicas=0",
                )
        return None

    async def _lease(self) -> Rival | None:
        """A controller without a Deployment of the usual label shows by its Lease."""
        try:
            lease = await self._client.get(
                resources.LEASES, names.GO_CONTROLLER_LEASE, self._system_namespace
            )
        except NotFound:
            return None
        spec = lease.spec
        if not spec.holder_identity or not _held(spec, datetime.now(UTC)):
            return None
        return Rival(
            f"the Go project's controller {spec.holder_identity} still holds the Lease "
            f"{self._system_namespace}/{names.GO_CONTROLLER_LEASE}",
            "stop it; the Lease ends by itself within seconds",
        )

    # --- what is left --------------------------------------------------------------------

    async def look(
        self, configurations: Sequence[StaticGatewayConfiguration], *, secrets: bool = False
    ) -> Leftovers:
        """The Go project's objects, and the key Secrets if there is any need for them, or if
        ``secrets`` asks for them."""
        balancing, machines = await asyncio.gather(
            self._old(resources.GO_LB_CONFIGURATIONS), self._old(resources.GO_VM_CONFIGURATIONS)
        )
        found = Leftovers(
            configurations=configurations, balancing=balancing, machines=machines, secrets=()
        )
        needed = secrets or balancing or machines or misplaced(found, self.keys_namespace)
        if not needed:
            return found
        listed = await self._client.list(
            resources.SECRETS, self.keys_namespace, labels=names.OWNING_NAME_LABEL
        )
        return Leftovers(
            configurations=configurations,
            balancing=balancing,
            machines=machines,
            secrets=listed.items,
        )

    async def _old(
        self, resource: Resource[GoGatewayConfiguration]
    ) -> Sequence[GoGatewayConfiguration]:
        try:
            return (await self._client.list(resource)).items
        except NotFound:  # its definition was never there, or is gone
            return ()

    # --- taking over ---------------------------------------------------------------------

    async def run(self, configurations: Sequence[StaticGatewayConfiguration]) -> TakeoverOutcome:
        """One pass: everything that can be taken over now is."""
        rival = await self.rival(configurations)
        if rival is not None:
            return TakeoverOutcome(blocked=str(rival))
        found = await self.look(configurations)
        lost = misplaced(found, self.keys_namespace)
        if lost:
            return TakeoverOutcome(blocked=_misplaced(lost, self.keys_namespace))
        taken: dict[str, Names] = {}
        for adoption in plan_adoption(found):
            if adoption.dispute:
                log.warning("%s", adoption.dispute)
                continue
            taken[adoption.uid] = await self.adopt(adoption)
        return TakeoverOutcome(taken=taken)

    async def adopt(self, adoption: Adoption) -> Names:
        """Records, then releases. Answers the names in force."""
        known = adoption.names
        if adoption.record:
            known = names_of(adoption.uid, await self._record(adoption))
        for release in adoption.releases:
            await self.release(release)
        log.info(
            "took over from the Go project",
            extra={
                "configuration": str(adoption.configuration),
                "rule": known.rule,
                "ip_configuration": known.ip_config,
            },
        )
        return known

    async def remember(self, sgc: StaticGatewayConfiguration, known: Names) -> dict[str, Names]:
        """Records names that were told from Azure."""
        uid = sgc.metadata.uid
        adoption = Adoption(
            uid=uid,
            configuration=resources.SGCS.key(sgc),
            names=known,
            record=annotations_of(known),
        )
        return {uid: await self.adopt(adoption)}

    async def _record(self, adoption: Adoption) -> dict[str, str]:
        """Annotations of the Secret after the write. It is made if the Go project's controller
        was stopped when it had deleted the key pair but nothing else yet."""
        document = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": names.key_secret(adoption.uid),
                "namespace": self.keys_namespace,
                "annotations": dict(adoption.record),
            },
        }
        name = names.key_secret(adoption.uid)
        try:
            written = await self._client.merge_patch(
                resources.SECRETS, name, document, self.keys_namespace
            )
        except NotFound:
            document["metadata"]["labels"] = labels(adoption.configuration)  # type: ignore[index]
            written = await self._client.create(resources.SECRETS, document)
        return dict(written.metadata.annotations)

    async def lost_keys(self, lost: Mapping[str, str]) -> list[Secret]:
        """The Secrets of ``lost`` (UID → namespace). Needs a person's rights."""
        get = self._client.get
        asked = (get(resources.SECRETS, names.key_secret(u), n) for u, n in lost.items())
        return list(await asyncio.gather(*asked))

    async def copy_keys(self, found: Iterable[Secret]) -> None:
        """Key pairs, and what is recorded with them, into the keys' namespace. Needs a person's
        rights."""
        for secret in found:
            written = secret.metadata.annotations
            document = {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "Opaque",
                "metadata": {
                    "name": secret.metadata.name,
                    "namespace": self.keys_namespace,
                    "labels": secret.metadata.labels,
                    "annotations": {k: v for k, v in written.items() if k in names.RECORDED},
                },
                "data": secret.data,
            }
            await self._client.create(resources.SECRETS, document)

    async def release(self, release: Release) -> None:
        """Owners go first: without them the garbage collector has no reason to act on it."""
        key = release.key
        current = await self._current(release)
        if current is None:
            return
        patch = {
            "metadata": {
                "finalizers": list(release.finalizers) or None,
                "ownerReferences": None,
                "resourceVersion": current.metadata.resource_version,
            }
        }
        try:
            await self._client.merge_patch(release.resource, key.name, patch, key.namespace)
            await self._client.delete(release.resource, key.name, key.namespace, uid=release.uid)
        except NotFound:
            return  # it was being deleted and waited for its finalizer
        except Conflict:
            log.info("changed meanwhile; the next pass releases it", extra={"object": str(key)})

    async def _current(self, release: Release) -> GoGatewayConfiguration | None:
        try:
            found = await self._client.get(
                release.resource, release.key.name, release.key.namespace
            )
        except NotFound:
            return None
        return found if found.metadata.uid == release.uid else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeoverOutcome:
    """``taken``: names in force of what was taken over in this pass. ``blocked``: why nothing
    may be done at all, in words for the person who can mend it."""

    taken: Mapping[str, Names] = field(default_factory=dict)
    blocked: str = ""


def _held(spec: resources.LeaseSpec, now: datetime) -> bool:
    """A stopped controller does not always give its Lease back: an old one counts for nothing."""
    try:
        renewed = datetime.fromisoformat(spec.renew_time or "")
    except ValueError:
        return False
    return now - renewed < timedelta(seconds=spec.lease_duration_seconds or 15)


def _misplaced(lost: Mapping[str, str], keys_namespace: str) -> str:
    elsewhere = ", ".join(sorted(set(lost.values())))
    return (
        f"the key pairs of {len(lost)} configurations are in namespace {elsewhere}, not in "
        f"{keys_namespace}: copy them with `egress-gateway migrate --keys-namespace "
        f"{keys_namespace}`, or run controller and gateway agents with "
        f"EGRESS_GATEWAY_KEYS_NAMESPACE={elsewhere} (keys.namespace of the chart)"
    )
