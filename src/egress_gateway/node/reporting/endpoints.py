"""Tells gateways about this node's attached pods: one PodEndpoint each, owned by its Pod.

It has its Pod's name. If another node's endpoint has that name already (one that is not collected
yet, or one of a stolen token), this node's name follows. The policy lets no other node use such a
name, so no pod waits for another node.

A label with the node's name lets an agent watch only its own endpoints. It restores one that
somebody deleted or changed, and deletes one whose pod is gone. The cost depends only on this node's
pods.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection
from typing import Any, Final

import msgspec

from egress_gateway.api import names
from egress_gateway.api.types import PodEndpoint, PodEndpointSpec, PodEndpointStatus
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import Conflict, Forbidden, Invalid, NotFound
from egress_gateway.kube.informer.cache import Cache
from egress_gateway.kube.resources import POD_ENDPOINTS, Key
from egress_gateway.node.attachment.model import Attachment

log = logging.getLogger(__name__)

NODE_LABEL: Final = f"{names.GROUP}/node"


def label_value(node: str) -> str:
    """``node`` as a label's value, which holds at most 63 characters (a node's name may be
    longer)."""
    return node if len(node) <= 63 else hashlib.sha1(node.encode()).hexdigest()  # noqa: S324


def spec_of(attachment: Attachment, node: str) -> PodEndpointSpec:
    """What gateways are told about an attached pod."""
    first_v4 = next((a for a in attachment.addresses if ":" not in a), "")
    return PodEndpointSpec(
        static_gateway_configuration=attachment.configuration.name,
        pod_ip_address=first_v4,
        pod_public_key=attachment.public_key,
        pod_ips=attachment.addresses,
        pod_uid=attachment.uid,
        node_name=node,
        gateway_public_key=attachment.active.server.public_key if attachment.active else "",
    )


def names_of(pod: str, node: str) -> tuple[str, ...]:
    """What a pod's endpoint may be called, in order. Objects' names have at most 253 characters."""
    return (pod, further) if len(further := f"{pod}.{node}") <= 253 else (pod,)


def document(attachment: Attachment, node: str, name: str = "") -> dict[str, Any]:
    """The whole PodEndpoint, as server-side apply wants it. ``name``: if it is not the pod's."""
    owner = {"apiVersion": "v1", "kind": "Pod", "name": attachment.pod, "uid": attachment.uid}
    spec = spec_of(attachment, node)
    return {
        "apiVersion": names.API_VERSION,
        "kind": "PodEndpoint",
        "metadata": {
            "name": name or attachment.pod,
            "namespace": attachment.namespace,
            "labels": {NODE_LABEL: label_value(node)},
            "ownerReferences": [owner],
        },
        "spec": {
            "staticGatewayConfiguration": spec.static_gateway_configuration,
            "podIpAddress": spec.pod_ip_address,
            "podPublicKey": spec.pod_public_key,
            "podIps": spec.pod_ips,
            "podUid": spec.pod_uid,
            "nodeName": spec.node_name,
            "gatewayPublicKey": spec.gateway_public_key,
        },
    }


def leftovers(present: Collection[PodEndpoint], node: str, pods: Collection[str]) -> list[Key]:
    """Endpoints of this node that belong to none of ``pods`` (UIDs of attached pods), and second
    ones of a pod that has one of its own name with the same key."""
    ours = [e for e in present if e.spec.node_name == node]
    named = {(e.spec.pod_uid, e.spec.pod_public_key) for e in ours if e.metadata.name == e.pod_name}
    return [
        Key(e.metadata.namespace, e.metadata.name)
        for e in ours
        if e.spec.pod_uid not in pods
        or (e.metadata.name != e.pod_name and (e.spec.pod_uid, e.spec.pod_public_key) in named)
    ]


class Endpoints:
    """``cache`` holds the PodEndpoints labelled with this node."""

    def __init__(self, client: Client, cache: Cache[PodEndpoint], node: str) -> None:
        self._client = client
        self._cache = cache
        self._node = node

    @staticmethod
    def selector(node: str) -> str:
        """The label selector for ``cache``: a node's name may be longer than a label's value."""
        return f"{NODE_LABEL}={label_value(node)}"

    def on_deleted(self, callback: Callable[[PodEndpoint], None]) -> None:
        """``callback`` gets each of this node's endpoints that was deleted. It must not block."""

        def changed(key: Key, old: PodEndpoint | None, new: PodEndpoint | None) -> None:
            if new is None and old is not None:
                callback(old)

        self._cache.on_change(changed)

    async def publish(self, attachment: Attachment) -> None:
        """Writes the pod's endpoint if it differs from what is known to be there. A pod that is
        held back for lack of a configuration has none."""
        if attachment.configuration.uid is None:
            return
        present = self._present(attachment)
        if present is not None and present.spec.pod_public_key != attachment.public_key:
            # A key's first holder keeps it, by the age of the PodEndpoint: no key is ever changed.
            await self._delete(POD_ENDPOINTS.key(present), present)
        if present is None:
            await self._create(attachment)
        elif not self._matches(present, attachment):
            await self._apply(attachment, present.metadata.name)

    async def _create(self, attachment: Attachment) -> None:
        own, *further = names_of(attachment.pod, self._node)
        try:
            await self._apply(attachment, own)
        except (Forbidden, Invalid) as error:  # by the policy, or because no key changes
            if await self._cleared(own, attachment.namespace):
                await self._apply(attachment, own)
                return
            if not further:
                raise
            log.warning(
                "another node's PodEndpoint has the pod's name; used this node's",
                extra={
                    "pod": f"{attachment.namespace}/{attachment.pod}",
                    "error": str(error),
                },
            )
            await self._apply(attachment, further[0])

    async def _cleared(self, name: str, namespace: str) -> bool:
        """Whether the name is free now: what had it was this node's own, with an earlier key, and
        the cache of an agent that has just begun did not know it yet."""
        try:
            found = await self._client.get(POD_ENDPOINTS, name, namespace)
        except NotFound:
            return True
        if found.spec.node_name != self._node:
            return False
        await self._delete(Key(namespace, name), found)
        return True

    async def _apply(self, attachment: Attachment, name: str) -> None:
        await self._client.apply(POD_ENDPOINTS, document(attachment, self._node, name))

    def _present(self, attachment: Attachment) -> PodEndpoint | None:
        for name in names_of(attachment.pod, self._node):
            found = self._cache.get(attachment.namespace, name)
            if found is not None and found.spec.node_name == self._node:
                return found
        return None

    def present(self, attachment: Attachment) -> PodEndpoint | None:
        """The pod's endpoint, as far as the API server was heard; no namesake's."""
        found = self._present(attachment)
        return found if found is not None and found.spec.pod_uid == attachment.uid else None

    async def tell(self, attachment: Attachment, status: PodEndpointStatus) -> bool:
        """Writes the status of the pod's endpoint; whether the server keeps it. Raises ``NotFound``
        if there is none."""
        present = self._present(attachment)
        stored = await self._client.merge_patch(
            POD_ENDPOINTS,
            present.metadata.name if present else attachment.pod,
            {"status": msgspec.to_builtins(status)},
            attachment.namespace,
            subresource="status",
        )
        return stored.status == status

    async def withdraw(self, attachment: Attachment) -> None:
        """Deletes the pod's endpoint unless it already belongs to a namesake."""
        present = self._present(attachment)
        if present is not None and present.spec.pod_uid != attachment.uid:
            return
        name = present.metadata.name if present else attachment.pod
        await self._delete(Key(attachment.namespace, name), present)

    async def sweep(self, pods: Collection[str]) -> None:
        """Deletes endpoints that a crash left over. ``pods``: UIDs of those that are attached or
        may be so soon."""
        if not self._cache.is_synced:
            return
        for key in leftovers(self._cache.values(), self._node, pods):
            log.info("deleted stale PodEndpoint", extra={"pod": str(key)})
            await self._delete(key, self._cache.get(*key))

    async def _delete(self, key: Key, present: PodEndpoint | None) -> None:
        uid = present.metadata.uid if present else None
        try:
            await self._client.delete(POD_ENDPOINTS, key.name, key.namespace, uid=uid)
        except (NotFound, Conflict):
            return  # gone, or another of that name by now

    def _matches(self, present: PodEndpoint, attachment: Attachment) -> bool:
        owners = {owner.uid for owner in present.metadata.owner_references}
        return present.spec == spec_of(attachment, self._node) and attachment.uid in owners
