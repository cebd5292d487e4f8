"""The emulator's resources as the fabric reads them."""

from __future__ import annotations

import builtins

from egress_gateway_lab.azure.arm.kinds import Azure
from egress_gateway_lab.azure.providers.compute.nics import NIC, PUBLIC
from egress_gateway_lab.azure.providers.network.interfaces import NetworkInterfaces
from egress_gateway_lab.azure.providers.network.publicaddresses import PublicIPAddresses
from egress_gateway_lab.protocols import Resource

_ALSO = {
    NetworkInterfaces.type.lower(): NIC,
    PublicIPAddresses.type.lower(): PUBLIC,
}
"""Resources of scale set instances, listed under the network's type as well."""


class StoredResources:
    """``protocols.Resources`` over the store."""

    def __init__(self, azure: Azure) -> None:
        self._azure = azure

    @property
    def revision(self) -> int:
        return self._azure.store.revision

    def get(self, resource_id: str) -> Resource | None:
        entry = self._azure.store.entry(resource_id)
        if entry is not None:
            return self._azure.view(entry.type, entry.document)
        return self._azure.find(resource_id)

    def list(self, resource_type: str) -> builtins.list[Resource]:
        types = [resource_type]
        if resource_type.lower() in _ALSO:
            types.append(_ALSO[resource_type.lower()])
        return [
            self._azure.view(kind, document)
            for kind in types
            for document in self._azure.store.of_type(kind)
        ]

    async def changed(self, since: int) -> int:
        return await self._azure.store.changed(since)
