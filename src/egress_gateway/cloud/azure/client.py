"""One session with Azure Resource Manager: JSON in, JSON out, typed errors, calls counted.

The SDKs' models are views of the JSON that came over the wire; we pass that JSON on, so that a
field which the SDK of the day does not know survives a read-modify-write. Throttling is not
retried here (the reconciler gathers meanwhile); a dropped connection or a 5xx twice.

No write is waited for without end: an operation that is not over within its limit is ``Overdue``.
Azure may still finish it; whoever asked looks again instead of waiting on.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from azure.core.exceptions import AzureError
from azure.core.pipeline.policies import AsyncRetryPolicy, SansIOHTTPPolicy
from azure.core.pipeline.transport import AioHttpTransport
from azure.mgmt.compute.aio import ComputeManagementClient
from azure.mgmt.network.aio import NetworkManagementClient
from prometheus_client import Counter, Histogram

from egress_gateway.cloud import errors
from egress_gateway.cloud.azure.config import AzureConfig
from egress_gateway.cloud.azure.credentials import credential
from egress_gateway.cloud.azure.errors import translated
from egress_gateway.cloud.azure.pacing import Pace, Polling
from egress_gateway.cloud.azure.shapes import Json

CALLS: Final = Counter(
    "egress_gateway_cloud_requests_total",
    "Requests to Azure Resource Manager, polls and retries included, by HTTP method, type of the "
    "resource and code of the answer (429: throttled; none: no answer).",
    ["method", "type", "code"],
)
SECONDS: Final = Histogram(
    "egress_gateway_cloud_request_seconds",
    "Seconds that a request to Azure Resource Manager took, by HTTP method.",
    ["method"],
    buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
)
INSTRUMENTS: Final = (CALLS, SECONDS)


POLL: Final = 5.0
"""Seconds after which a write that takes long is asked about, and ever after every twice as many,
where Azure names none; the SDK would take 30. See ``pacing``."""


class _OwnHosts(SansIOHTTPPolicy[Any, Any]):
    """Our token goes to the configured Resource Manager, and to its regions, alone: a URL to poll
    or of the next page comes from an answer, which may name any host."""

    def __init__(self, resource_manager: str) -> None:
        self._home = urlsplit(resource_manager)

    def on_request(self, request: Any) -> None:
        asked = urlsplit(request.http_request.url)
        if self._ours(asked):
            return
        raise ForeignHost(
            f"an answer of {self._home.netloc} leads to {asked.scheme}://{asked.netloc}, which is "
            "not the resourceManagerEndpoint of the Azure configuration; no token goes there"
        )

    def _ours(self, asked: SplitResult) -> bool:
        home = self._home
        if asked.scheme != home.scheme or _port(asked) != _port(home):
            return False
        host, own = asked.hostname or "", home.hostname or ""
        return host == own or host.endswith(f".{own}")


class ForeignHost(AzureError):
    """A request was about to carry our token to a host that is not Azure's."""


def _port(url: SplitResult) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


class _Count(SansIOHTTPPolicy[Any, Any]):
    """Counts every request, polls and retries included."""

    def on_request(self, request: Any) -> None:
        request.context["began"] = time.monotonic()

    def on_response(self, request: Any, response: Any) -> None:
        self._count(request, str(response.http_response.status_code))

    def on_exception(self, request: Any) -> None:
        self._count(request, "none")

    def _count(self, request: Any, code: str) -> None:
        asked = request.http_request
        CALLS.labels(asked.method, resource_type(asked.url), code).inc()
        if (began := request.context.pop("began", None)) is not None:
            SECONDS.labels(asked.method).observe(time.monotonic() - began)


def resource_type(url: str) -> str:
    """``virtualMachineScaleSets/virtualMachines``: the names between those of resources, after
    the provider. Bounded, whatever the URL: no name of a resource is in it."""
    _, _, below = urlsplit(url).path.partition("/providers/")
    parts = below.split("/")
    return "/".join(part for part in parts[1::2] if part.isalpha()) or "other"


class _Retry(AsyncRetryPolicy[Any, Any]):
    """Waiting out a 429 or 409 in here would hide it from the reconciler and hold up others."""

    def is_retry(self, settings: dict[str, Any], response: Any) -> bool:
        lasting = response.http_response.status_code in (409, 429)
        return not lasting and super().is_retry(settings, response)


class KeptTransport(AioHttpTransport):  # type: ignore[misc]  # the SDK loads it lazily
    """Connections that outlive their request also where a CA bundle is given.

    The SDK reads the bundle and makes a TLS context for each request, and aiohttp lends a
    connection to requests of the same context alone: each one shook hands anew, and its connection
    lay idle for a quarter of a minute. A bundle that is replaced is read again.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._read: tuple[tuple[str, int, int, int], ssl.SSLContext] | None = None

    def _build_ssl_config(self, cert: Any, verify: Any) -> Any:
        # The SDK's own method. Were it ever called otherwise, connections would be made anew again.
        if cert or not isinstance(verify, str):
            return super()._build_ssl_config(cert, verify)
        file = os.stat(verify)
        stamp = verify, file.st_ino, file.st_mtime_ns, file.st_size
        if self._read is None or self._read[0] != stamp:
            self._read = stamp, ssl.create_default_context(cafile=verify)
        return self._read[1]


def _transport(config: AzureConfig) -> KeptTransport:
    """``connection_timeout`` and ``read_timeout`` in seconds."""
    verify = config.ca_bundle or True
    return KeptTransport(connection_verify=verify, connection_timeout=10, read_timeout=60)


class ArmClient:
    """Thin calls by resource group and name. Every method raises ``CloudError``."""

    def __init__(self, config: AzureConfig, pace: Pace | None = None) -> None:
        self._credential = credential(config)
        base = config.endpoints.resource_manager
        options: dict[str, Any] = {
            "base_url": base,
            "credential_scopes": [f"{base}/.default"],
            "user_agent": config.user_agent,
            "retry_policy": _Retry(retry_total=2, retry_backoff_factor=0.5),
            "per_retry_policies": [pace or Pace(), _Count(), _OwnHosts(base)],
        }
        self.interval = config.polling_interval or (1.0 if config.custom else POLL)
        self._machine_limit = config.machine_timeout
        self._document_limit = config.document_timeout
        self._network = NetworkManagementClient(
            self._credential, config.subscription_id, transport=_transport(config), **options
        )
        self._compute = ComputeManagementClient(
            self._credential, config.subscription_id, transport=_transport(config), **options
        )

    async def close(self) -> None:
        await self._network.close()
        await self._compute.close()
        await self._credential.close()

    async def _done(
        self, operation: str, name: str, begin: Callable[[Polling], Awaitable[Any]], limit: float
    ) -> None:
        """Starts a write and waits for its end, ``limit`` seconds at most."""
        how = Polling(self.interval)
        try:
            async with _said(operation, name), asyncio.timeout(limit):
                await (await begin(how)).result()
        except TimeoutError as error:
            raise errors.Overdue(
                f"{operation} {name}: Azure has not finished within {limit:g} s; "
                "what is in place is looked at again",
                code="OperationOverdue",
                resource=name,
            ) from error

    # --- load balancer and prefixes ------------------------------------------------------

    async def balancer(self, group: str, name: str) -> Json | None:
        """None if there is none."""
        return await _or_none(
            _one(
                "read the load balancer",
                name,
                lambda: self._network.load_balancers.get(group, name),
            )
        )

    async def put_balancer(self, group: str, name: str, document: Json, etag: str | None) -> None:
        """The whole document; ``Conflict`` if it changed since ``etag``."""
        await self._done(
            "write the load balancer",
            name,
            lambda how: self._network.load_balancers.begin_create_or_update(
                group, name, _any(document), headers=_match(etag), polling=how
            ),
            self._document_limit,
        )

    async def delete_balancer(self, group: str, name: str) -> None:
        await self._done(
            "delete the load balancer",
            name,
            lambda how: self._network.load_balancers.begin_delete(group, name, polling=how),
            self._document_limit,
        )

    async def prefix(self, group: str, name: str, resource_id: str) -> Json:
        return await _one(
            "read the public IP prefix",
            resource_id,
            lambda: self._network.public_ip_prefixes.get(group, name),
        )

    async def subnet(self, group: str, network: str, name: str) -> Json:
        return await _one(
            "read the subnet",
            name,
            lambda: self._network.subnets.get(group, network, name),
        )

    async def prefixes(self, group: str) -> list[Json]:
        async with _said("list public IP prefixes", group):
            return [_json(item) async for item in self._network.public_ip_prefixes.list(group)]

    async def put_prefix(self, group: str, name: str, document: Json) -> None:
        await self._done(
            "create the public IP prefix",
            name,
            lambda how: self._network.public_ip_prefixes.begin_create_or_update(
                group, name, _any(document), polling=how
            ),
            self._machine_limit,
        )

    async def delete_prefix(self, group: str, name: str) -> None:
        await self._done(
            "delete the public IP prefix",
            name,
            lambda how: self._network.public_ip_prefixes.begin_delete(group, name, polling=how),
            self._machine_limit,
        )

    # --- NICs and public addresses of machines -------------------------------------------

    async def machine_nics(self, group: str) -> list[Json]:
        """The NICs that stand alone; those of scale sets are not among them."""
        async with _said("list network interfaces", group):
            return [_json(item) async for item in self._network.network_interfaces.list(group)]

    async def put_nic(self, group: str, name: str, document: Json, etag: str | None) -> None:
        """The whole document; ``Conflict`` if it changed since ``etag``."""
        await self._done(
            "write the network interface",
            name,
            lambda how: self._network.network_interfaces.begin_create_or_update(
                group, name, _any(document), headers=_match(etag), polling=how
            ),
            self._machine_limit,
        )

    async def addresses(self, group: str) -> list[Json]:
        async with _said("list public IP addresses", group):
            return [_json(item) async for item in self._network.public_ip_addresses.list(group)]

    async def put_address(self, group: str, name: str, document: Json) -> None:
        await self._done(
            "create the public IP address",
            name,
            lambda how: self._network.public_ip_addresses.begin_create_or_update(
                group, name, _any(document), polling=how
            ),
            self._machine_limit,
        )

    async def delete_address(self, group: str, name: str) -> None:
        await self._done(
            "delete the public IP address",
            name,
            lambda how: self._network.public_ip_addresses.begin_delete(group, name, polling=how),
            self._machine_limit,
        )

    # --- scale sets ----------------------------------------------------------------------

    async def scale_sets(self, group: str) -> list[Json]:
        async with _said("list scale sets", group):
            sets = self._compute.virtual_machine_scale_sets
            return [_json(item) async for item in sets.list(group)]

    async def scale_set(self, group: str, name: str) -> Json | None:
        sets = self._compute.virtual_machine_scale_sets
        return await _or_none(_one("read the scale set", name, lambda: sets.get(group, name)))

    async def put_scale_set(self, group: str, name: str, document: Json, etag: str | None) -> None:
        """Sections that ``document`` omits stay as they are (Compute's PUT on what exists).
        ``Conflict`` if it changed since ``etag``."""
        sets = self._compute.virtual_machine_scale_sets
        await self._done(
            "write the scale set",
            name,
            lambda how: sets.begin_create_or_update(
                group, name, _any(document), headers=_match(etag), polling=how
            ),
            self._document_limit,
        )

    async def instances(self, group: str, name: str) -> list[Json]:
        async with _said("list the instances of scale set", name):
            vms = self._compute.virtual_machine_scale_set_vms
            return [_json(item) async for item in vms.list(group, name)]

    async def put_instance(
        self, group: str, name: str, number: str, document: Json, etag: str | None
    ) -> None:
        """The same for one instance."""
        vms = self._compute.virtual_machine_scale_set_vms
        await self._done(
            f"write instance {number} of scale set",
            name,
            lambda how: vms.begin_update(
                group, name, number, _any(document), headers=_match(etag), polling=how
            ),
            self._machine_limit,
        )

    async def interfaces(self, group: str, name: str) -> list[Json]:
        """The NICs of all instances, with their private addresses."""
        async with _said("list the NICs of scale set", name):
            listing = self._network.network_interfaces
            pages = listing.list_virtual_machine_scale_set_network_interfaces(group, name)
            return [_json(item) async for item in pages]

    async def public_addresses(self, group: str, name: str) -> list[Json]:
        """The public IP addresses of all instances."""
        async with _said("list the public addresses of scale set", name):
            listing = self._network.public_ip_addresses
            pages = listing.list_virtual_machine_scale_set_public_ip_addresses(group, name)
            return [_json(item) async for item in pages]


def _json(model: Any) -> Json:
    result: Json = model.as_dict()
    return result


def _any(document: Json) -> Any:
    """The SDK takes wire JSON as well as its models; its annotations know typed dicts only."""
    return document


def _match(etag: str | None) -> dict[str, str]:
    return {"If-Match": etag} if etag else {}


@asynccontextmanager
async def _said(operation: str, resource: str) -> AsyncIterator[None]:
    try:
        yield
    except AzureError as error:
        said = operation if "/" in resource else f"{operation} {resource}"
        raise translated(error, operation=said, resource=resource) from error


async def _one(operation: str, resource: str, call: Callable[[], Awaitable[Any]]) -> Json:
    async with _said(operation, resource):
        return _json(await call())


async def _or_none(call: Awaitable[Json]) -> Json | None:
    try:
        return await call
    except errors.NotFound:
        return None
