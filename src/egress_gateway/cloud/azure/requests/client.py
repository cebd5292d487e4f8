"""Requests to Azure Resource Manager, by resource group and name, with typed errors and limits.

Every wait for a write ends: an operation that takes longer than its limit is ``Overdue``. Azure may
still finish it. The caller looks again instead of waiting longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from azure.core.exceptions import AzureError

from egress_gateway.cloud import errors
from egress_gateway.cloud.azure.account.config import AzureConfig
from egress_gateway.cloud.azure.account.credentials import credential
from egress_gateway.cloud.azure.requests.arm import ResourceManager
from egress_gateway.cloud.azure.requests.errors import translated
from egress_gateway.cloud.azure.requests.pacing import Pace, Polling
from egress_gateway.cloud.azure.requests.shapes import Json

T = TypeVar("T")

POLL: Final = 5.0
"""Seconds after which a write that takes long is asked about, and ever after every twice as many,
where Azure names none; the SDK would take 30. See ``pacing``."""


_NETWORK: Final = "Microsoft.Network"
_COMPUTE: Final = "Microsoft.Compute"
_NETWORK_VERSION: Final = "2026-03-01"
_COMPUTE_VERSION: Final = "2026-04-01"
_NICS_VERSION: Final = "2018-10-01"
"""API versions; the last is that of what instances of scale sets have (NICs, addresses). A test
compares them with Microsoft's generated clients."""


class ArmClient:
    """Thin calls by resource group and name. Every method raises ``CloudError``."""

    def __init__(self, config: AzureConfig, pace: Pace | None = None) -> None:
        self._credential = credential(config)
        self._arm = ResourceManager(config, self._credential, pace or Pace())
        self.interval = config.polling_interval or (1.0 if config.custom else POLL)
        self._machine_limit = config.machine_timeout
        self._document_limit = config.document_timeout

    async def close(self) -> None:
        """Closes connections and the credential's own."""
        await self._arm.close()
        await self._credential.close()

    # --- load balancer and prefixes ------------------------------------------------------

    async def balancer(self, group: str, name: str) -> Json | None:
        """None if there is none."""
        url = self._arm.url(group, _NETWORK, "loadBalancers", name)
        return await _or_none(self._read("read the load balancer", name, url, _NETWORK_VERSION))

    async def put_balancer(self, group: str, name: str, document: Json, etag: str | None) -> None:
        """The whole document; ``Conflict`` if it changed since ``etag``."""
        url = self._arm.url(group, _NETWORK, "loadBalancers", name)
        write = self._arm.put(url, _NETWORK_VERSION, document, etag, self._polling)
        await _finish("write the load balancer", name, write, self._document_limit)

    async def delete_balancer(self, group: str, name: str) -> None:
        """Waits for the end. Raises ``CloudError``."""
        url = self._arm.url(group, _NETWORK, "loadBalancers", name)
        write = self._arm.delete(url, _NETWORK_VERSION, self._polling)
        await _finish("delete the load balancer", name, write, self._document_limit)

    async def prefix(self, group: str, name: str, resource_id: str) -> Json:
        """Raises ``NotFound``, naming ``resource_id``, and other ``CloudError``."""
        url = self._arm.url(group, _NETWORK, "publicIPPrefixes", name)
        return await self._read("read the public IP prefix", resource_id, url, _NETWORK_VERSION)

    async def subnet(self, group: str, network: str, name: str) -> Json:
        """Raises ``CloudError``; not every identity may read subnets."""
        url = self._arm.url(group, _NETWORK, "virtualNetworks", network, "subnets", name)
        return await self._read("read the subnet", name, url, _NETWORK_VERSION)

    async def prefixes(self, group: str) -> list[Json]:
        """All of the group, ours and other people's."""
        url = self._arm.url(group, _NETWORK, "publicIPPrefixes")
        return await self._list("list public IP prefixes", group, url, _NETWORK_VERSION)

    async def put_prefix(self, group: str, name: str, document: Json) -> None:
        """Waits for the end. Raises ``CloudError``."""
        url = self._arm.url(group, _NETWORK, "publicIPPrefixes", name)
        write = self._arm.put(url, _NETWORK_VERSION, document, None, self._polling)
        await _finish("create the public IP prefix", name, write, self._machine_limit)

    async def delete_prefix(self, group: str, name: str) -> None:
        """Waits for the end. Raises ``CloudError``: Azure refuses it while an address of it is in
        use."""
        url = self._arm.url(group, _NETWORK, "publicIPPrefixes", name)
        write = self._arm.delete(url, _NETWORK_VERSION, self._polling)
        await _finish("delete the public IP prefix", name, write, self._machine_limit)

    # --- NICs and public addresses of machines -------------------------------------------

    async def machine_nics(self, group: str) -> list[Json]:
        """The NICs that stand alone; those of scale sets are not among them."""
        url = self._arm.url(group, _NETWORK, "networkInterfaces")
        return await self._list("list network interfaces", group, url, _NETWORK_VERSION)

    async def put_nic(self, group: str, name: str, document: Json, etag: str | None) -> None:
        """The whole document; ``Conflict`` if it changed since ``etag``."""
        url = self._arm.url(group, _NETWORK, "networkInterfaces", name)
        write = self._arm.put(url, _NETWORK_VERSION, document, etag, self._polling)
        await _finish("write the network interface", name, write, self._machine_limit)

    async def addresses(self, group: str) -> list[Json]:
        """All of the group, ours and other people's."""
        url = self._arm.url(group, _NETWORK, "publicIPAddresses")
        return await self._list("list public IP addresses", group, url, _NETWORK_VERSION)

    async def put_address(self, group: str, name: str, document: Json) -> None:
        """Waits for the end. Raises ``CloudError``."""
        url = self._arm.url(group, _NETWORK, "publicIPAddresses", name)
        write = self._arm.put(url, _NETWORK_VERSION, document, None, self._polling)
        await _finish("create the public IP address", name, write, self._machine_limit)

    async def delete_address(self, group: str, name: str) -> None:
        """Waits for the end. Raises ``CloudError``: Azure refuses it while a NIC has the
        address."""
        url = self._arm.url(group, _NETWORK, "publicIPAddresses", name)
        write = self._arm.delete(url, _NETWORK_VERSION, self._polling)
        await _finish("delete the public IP address", name, write, self._machine_limit)

    # --- scale sets ----------------------------------------------------------------------

    async def scale_sets(self, group: str) -> list[Json]:
        """All of the group; who looks for pools reads their tags."""
        url = self._scale_sets(group)
        return await self._list("list scale sets", group, url, _COMPUTE_VERSION)

    async def scale_set(self, group: str, name: str) -> Json | None:
        """None if there is none. Raises ``CloudError``."""
        url = self._scale_sets(group, name)
        return await _or_none(self._read("read the scale set", name, url, _COMPUTE_VERSION))

    async def put_scale_set(self, group: str, name: str, document: Json, etag: str | None) -> None:
        """Sections that ``document`` omits stay as they are (Compute's PUT on what exists).
        ``Conflict`` if it changed since ``etag``."""
        url = self._scale_sets(group, name)
        write = self._arm.put(url, _COMPUTE_VERSION, document, etag, self._polling)
        await _finish("write the scale set", name, write, self._document_limit)

    async def instances(self, group: str, name: str) -> list[Json]:
        """The instances of the scale set ``name``, in any state. Raises ``CloudError``."""
        url = self._scale_sets(group, name, "virtualMachines")
        return await self._list("list the instances of scale set", name, url, _COMPUTE_VERSION)

    async def put_instance(
        self, group: str, name: str, number: str, document: Json, etag: str | None
    ) -> None:
        """The same for one instance."""
        url = self._scale_sets(group, name, "virtualMachines", number)
        write = self._arm.put(url, _COMPUTE_VERSION, document, etag, self._polling)
        await _finish(f"write instance {number} of scale set", name, write, self._machine_limit)

    async def interfaces(self, group: str, name: str) -> list[Json]:
        """The NICs of all instances, with their private addresses."""
        url = self._scale_sets(group, name, "networkInterfaces")
        return await self._list("list the NICs of scale set", name, url, _NICS_VERSION)

    async def public_addresses(self, group: str, name: str) -> list[Json]:
        """The public IP addresses of all instances."""
        url = self._scale_sets(group, name, "publicipaddresses")
        return await self._list("list the public addresses of scale set", name, url, _NICS_VERSION)

    # --- how -----------------------------------------------------------------------------

    @property
    def _polling(self) -> Polling:
        return Polling(self.interval)

    def _scale_sets(self, group: str, *names: str) -> str:
        return self._arm.url(group, _COMPUTE, "virtualMachineScaleSets", *names)

    async def _read(self, operation: str, resource: str, url: str, version: str) -> Json:
        return await limited(operation, resource, self._arm.get(url, version), self._machine_limit)

    async def _list(self, operation: str, resource: str, url: str, version: str) -> list[Json]:
        look = self._arm.list(url, version)
        return await limited(operation, resource, look, self._machine_limit)


async def limited(operation: str, resource: str, look: Awaitable[T], limit: float) -> T:
    """A look at Azure, at most ``limit`` seconds long: others wait. Raises ``CloudError``."""
    try:
        async with _said(operation, resource), asyncio.timeout(limit):
            return await look
    except TimeoutError as error:
        raise errors.Unavailable(
            f"{operation} {resource}: Azure has not answered within {limit:g} s", resource=resource
        ) from error


async def _finish(operation: str, name: str, write: Awaitable[None], limit: float) -> None:
    """Waits for the end of a write, ``limit`` seconds at most."""
    try:
        async with _said(operation, name), asyncio.timeout(limit):
            await write
    except TimeoutError as error:
        raise errors.Overdue(
            f"{operation} {name}: Azure has not finished within {limit:g} s; "
            "the controller looks again",
            code="OperationOverdue",
            resource=name,
        ) from error


@asynccontextmanager
async def _said(operation: str, resource: str) -> AsyncIterator[None]:
    try:
        yield
    except AzureError as error:
        said = operation if "/" in resource else f"{operation} {resource}"
        raise translated(error, operation=said, resource=resource) from error


async def _or_none(call: Awaitable[Json]) -> Json | None:
    try:
        return await call
    except errors.NotFound:
        return None
