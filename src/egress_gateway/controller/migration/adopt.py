"""Taking over what the Go project left: which names to remember, which objects to let go. Pure.

The Go project named Azure's resources by the UIDs of two objects of its own (facts: rule and probe
by the GatewayLBConfiguration's, ipConfig and managed prefix by the GatewayVMConfiguration's). Both
objects are hand-offs that we do not need, but the names must live on: another name would be another
address. So, per configuration:

- names are *recorded first*, on the key pair's Secret, and the objects released only when that is
  written. Whatever interrupts in between, the next look at the cluster plans the rest;
- the Secret outlives the configuration until its resources are gone, and only who may write in the
  system namespace can change it: an annotation on the configuration itself would let a tenant name
  another tenant's resources as his own;
- a record is never overwritten: objects that contradict one are reported and left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from egress_gateway.api import names
from egress_gateway.api.types import ObjectMeta, StaticGatewayConfiguration
from egress_gateway.controller.observed.record import names_of
from egress_gateway.controller.planning.wanted import Names
from egress_gateway.kube.resources import (
    GO_LB_CONFIGURATIONS,
    GO_VM_CONFIGURATIONS,
    GoGatewayConfiguration,
    Key,
    Resource,
    Secret,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """What a look at the cluster found. ``secrets`` are the key Secrets in their namespace."""

    configurations: Sequence[StaticGatewayConfiguration] = ()
    balancing: Sequence[GoGatewayConfiguration] = ()
    """GatewayLBConfigurations."""
    machines: Sequence[GoGatewayConfiguration] = ()
    """GatewayVMConfigurations."""
    secrets: Sequence[Secret] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """An object to be let go: finalizers and owners off, then deleted, only if it has ``uid``.
    ``finalizers`` are other people's, which stay."""

    resource: Resource[GoGatewayConfiguration]
    key: Key
    uid: str
    finalizers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dispute:
    """Why a configuration is left alone, and what a person does about it."""

    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.what}. {self.mend}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """One configuration to take over. ``record``: the annotations that its Secret lacks.
    ``dispute``: why it is left alone."""

    uid: str
    configuration: Key
    names: Names
    record: Mapping[str, str] = field(default_factory=dict)
    releases: tuple[Release, ...] = ()
    dispute: Dispute | None = None


def misplaced(found: Leftovers, keys_namespace: str) -> dict[str, str]:
    """Configurations (by UID) whose key pair is in another namespace, and in which: a new pair
    for them would cut off every pod."""
    here = {secret.metadata.name for secret in found.secrets}
    result = {}
    for sgc in found.configurations:
        reference = sgc.status.gateway_server_profile.private_key_secret_ref
        elsewhere = reference is not None and reference.namespace not in ("", keys_namespace)
        if elsewhere and reference and names.key_secret(sgc.metadata.uid) not in here:
            result[sgc.metadata.uid] = reference.namespace
    return result


def plan_adoption(found: Leftovers) -> list[Adoption]:
    """What there is to take over, by configuration, in order of their names."""
    owners = {lb.metadata.uid: _owner(lb, found) for lb in found.balancing}
    balancing = {owners[lb.metadata.uid]: lb for lb in found.balancing}
    machines = {_owner_of_machines(vm, owners, found): vm for vm in found.machines}
    written = {secret.metadata.name: secret.metadata.annotations for secret in found.secrets}
    adoptions = [
        _adoption(
            uid,
            balancing.get(uid),
            machines.get(uid),
            written.get(names.key_secret(uid), {}),
        )
        for uid in balancing.keys() | machines.keys()
    ]
    return sorted(adoptions, key=lambda a: (a.configuration, a.uid))


def _adoption(
    uid: str,
    balancing: GoGatewayConfiguration | None,
    machines: GoGatewayConfiguration | None,
    written: Mapping[str, str],
) -> Adoption:
    told: dict[str, str] = {}
    if balancing:
        told[names.RULE_ANNOTATION] = balancing.metadata.uid
    if machines:
        told[names.IP_CONFIGURATION_ANNOTATION] = names.managed(machines.metadata.uid)
    known = names_of(uid, {**told, **written})
    first = balancing or machines
    assert first is not None
    key = Key(first.metadata.namespace, first.metadata.name)
    if any(written.get(annotation, value) != value for annotation, value in told.items()):
        return Adoption(uid=uid, configuration=key, names=known, dispute=_dispute(key, uid))
    releases = [
        _release(resource, old.metadata)
        for resource, old in ((GO_VM_CONFIGURATIONS, machines), (GO_LB_CONFIGURATIONS, balancing))
        if old is not None
    ]
    return Adoption(
        uid=uid,
        configuration=key,
        names=known,
        record={a: v for a, v in told.items() if a not in written},
        releases=tuple(releases),
    )


def _dispute(key: Key, uid: str) -> Dispute:
    return Dispute(
        what=f"{key}: the Go project's controller has made new objects after this configuration "
        f"was taken over; the names recorded on Secret {names.key_secret(uid)} stay in force",
        mend="Delete its GatewayLBConfiguration and GatewayVMConfiguration while that controller "
        "runs, or correct the Secret's annotations",
    )


def _release(resource: Resource[GoGatewayConfiguration], meta: ObjectMeta) -> Release:
    theirs = (names.GO_LB_FINALIZER, names.GO_VM_FINALIZER)
    return Release(
        resource=resource,
        key=Key(meta.namespace, meta.name),
        uid=meta.uid,
        finalizers=tuple(f for f in meta.finalizers if f not in theirs),
    )


def _owner(old: GoGatewayConfiguration, found: Leftovers) -> str:
    """UID of the configuration that ``old`` was made for: its owner's; without an owner that
    of the configuration with its name; without that its own, so that nothing is mixed up."""
    owner = _reference(old.metadata, "StaticGatewayConfiguration")
    return owner or _namesake(old.metadata, found.configurations) or old.metadata.uid


def _owner_of_machines(
    old: GoGatewayConfiguration, owners: Mapping[str, str], found: Leftovers
) -> str:
    owner = _reference(old.metadata, "GatewayLBConfiguration")
    return owners.get(owner) or _owner(old, found)


def _reference(meta: ObjectMeta, kind: str) -> str:
    return next((r.uid for r in meta.owner_references if r.kind == kind), "")


def _namesake(meta: ObjectMeta, configurations: Iterable[StaticGatewayConfiguration]) -> str:
    wanted = (meta.namespace, meta.name)
    return next(
        (
            sgc.metadata.uid
            for sgc in configurations
            if (sgc.metadata.namespace, sgc.metadata.name) == wanted
        ),
        "",
    )
