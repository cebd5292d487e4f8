"""What a component keeps of the objects that it watches: what somebody reads, and no more.

A gateway agent holds every Pod and PodEndpoint of the cluster, and all components hold every
configuration, so these decide how large they become; and whoever makes such objects hangs a
megabyte of labels on each. Texts that many objects share (namespaces, nodes, names of
configurations) are in memory once. To read another field, keep it here.
"""

from __future__ import annotations

from functools import lru_cache
from sys import intern
from typing import Any, Final

from msgspec.structs import replace

from egress_gateway.api import names
from egress_gateway.api.types import (
    ObjectMeta,
    OwnerReference,
    PodEndpoint,
    PodEndpointStatus,
    StaticGatewayConfiguration,
)
from egress_gateway.kube.resources import Node, NodeStatus, Pod, PodIP, PodSpec, PodStatus

_NO_TEXTS: Final[dict[str, str]] = {}
_NOTHING: Final[list[Any]] = []
"""Shared, for an empty dict or list of its own in each object is as large as a text."""
_UNKNOWN: Final = PodEndpointStatus()
_READ: Final[tuple[str, ...]] = (names.POD_ANNOTATION, names.MIRROR_ANNOTATION)


def pod(whole: Pod) -> Pod:
    """Which pod it is, where it runs, its addresses, and what it asks for."""
    meta, status = whole.metadata, whole.status
    said = meta.annotations
    asked = tuple((name, said[name][: names.LONGEST]) for name in _READ if name in said)
    addresses = whole.ips
    several = len(addresses) > 1
    return Pod(
        metadata=_meta(meta, annotations=_same(asked)),
        spec=_one(whole.spec),
        status=PodStatus(
            phase=intern(status.phase),
            # A list for one address would be larger than the address.
            pod_ip="" if several or not addresses else addresses[0],
            pod_ips=[PodIP(ip=address) for address in addresses] if several else _NOTHING,
        ),
    )


def claim(whole: PodEndpoint) -> PodEndpoint:
    """What it claims and whose it is; not how the pod fares."""
    meta, spec = whole.metadata, whole.spec
    owners = [
        OwnerReference(
            api_version=intern(owner.api_version),
            kind=intern(owner.kind),
            name=meta.name if owner.name == meta.name else owner.name,
            uid=spec.pod_uid if owner.uid == spec.pod_uid else owner.uid,
        )
        for owner in meta.owner_references
    ]
    return PodEndpoint(
        metadata=replace(
            _meta(meta), creation_timestamp=meta.creation_timestamp, owner_references=owners
        ),
        spec=replace(
            spec,
            pod_ip_address="" if spec.pod_ips else spec.pod_ip_address,
            static_gateway_configuration=intern(spec.static_gateway_configuration),
            node_name=intern(spec.node_name),
            gateway_public_key=intern(spec.gateway_public_key),
        ),
        status=_UNKNOWN,
    )


def node(whole: Node) -> Node:
    """Its addresses and networks."""
    return Node(
        metadata=_meta(whole.metadata),
        spec=whole.spec,
        status=NodeStatus(addresses=whole.status.addresses, conditions=_NOTHING),
    )


def configuration(whole: StaticGatewayConfiguration) -> StaticGatewayConfiguration:
    """Without what is well, and without what people and the controller note on it."""
    amiss = [one for one in whole.status.conditions if one.status != "True"]
    return StaticGatewayConfiguration(
        metadata=_meta(whole.metadata),
        spec=whole.spec,
        status=replace(
            whole.status,
            conditions=amiss or _NOTHING,
            key_rotation=replace(whole.status.key_rotation, request=""),
        ),
    )


def wish(whole: StaticGatewayConfiguration) -> StaticGatewayConfiguration:
    """What the controller makes of it: of all that is noted on it, who asks for a new key pair, and
    whether our finalizer is there. NB: whoever writes finalizers reads them anew."""
    meta = whole.metadata
    asked = meta.annotations.get(names.ROTATE_KEYS_ANNOTATION, "")[: names.LONGEST]
    kept = _meta(meta, annotations={names.ROTATE_KEYS_ANNOTATION: asked} if asked else _NO_TEXTS)
    ours = [one for one in meta.finalizers if one == names.FINALIZER]
    return replace(
        whole,
        metadata=replace(kept, creation_timestamp=meta.creation_timestamp, finalizers=ours),
    )


@lru_cache(4096)
def _one(spec: PodSpec) -> PodSpec:
    """One value for all that are equal: the pods of a node."""
    return spec


@lru_cache(4096)
def _same(texts: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """One dict for all objects that have these."""
    return dict(texts)


def _meta(meta: ObjectMeta, *, annotations: dict[str, str] = _NO_TEXTS) -> ObjectMeta:
    return ObjectMeta(
        name=meta.name,
        namespace=intern(meta.namespace),
        uid=meta.uid,
        resource_version=meta.resource_version,
        generation=meta.generation,
        deletion_timestamp=meta.deletion_timestamp,
        labels=_NO_TEXTS,
        annotations=annotations,
        finalizers=_NOTHING,
        owner_references=_NOTHING,
    )
