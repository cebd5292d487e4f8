"""Azure Resource Manager over azure-core: JSON in, JSON out, each request counted.

Microsoft's generated clients would send the same requests (``test_requests_of_the_sdk.py`` compares
them). They take 60 MB and 0.4 s of processor time to import, for models of the JSON that we pass on
as it is: a field that the SDK of the day does not know survives a read-modify-write.

Throttling is not retried here, because the reconciler gathers changes meanwhile. A dropped
connection or a 5xx is retried twice.
"""

from __future__ import annotations

import os
import ssl
import time
from typing import Any, Final
from urllib.parse import SplitResult, quote, urlsplit

from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
from azure.core.pipeline import policies
from azure.core.pipeline.policies import AsyncRetryPolicy, SansIOHTTPPolicy
from azure.core.pipeline.transport import AioHttpTransport
from azure.core.polling import AsyncLROPoller
from azure.core.rest import HttpRequest
from azure.mgmt.core import AsyncARMPipelineClient
from azure.mgmt.core.exceptions import ARMErrorFormat
from azure.mgmt.core.policies import (
    ARMHttpLoggingPolicy,
    AsyncARMAutoResourceProviderRegistrationPolicy,
    AsyncARMChallengeAuthenticationPolicy,
)
from prometheus_client import Counter, Histogram

from egress_gateway.cloud.azure.config import AzureConfig
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


class ResourceManager:
    """One session. Every method raises ``AzureError``, as azure-core does."""

    def __init__(self, config: AzureConfig, credential: Any, pace: Pace) -> None:
        base = config.endpoints.resource_manager
        self._groups = f"{base}/subscriptions/{quote(config.subscription_id)}/resourceGroups"
        # What Microsoft's generated clients pass, in their order; ours come after the retries.
        self._client: AsyncARMPipelineClient[Any, Any] = AsyncARMPipelineClient(
            base_url=base,
            policies=[
                policies.RequestIdPolicy(),
                policies.UserAgentPolicy(config.user_agent),
                policies.ProxyPolicy(),
                policies.ContentDecodePolicy(),
                AsyncARMAutoResourceProviderRegistrationPolicy(),
                policies.AsyncRedirectPolicy(),
                _Retry(retry_total=2, retry_backoff_factor=0.5),
                pace,
                _Count(),
                _OwnHosts(base),
                AsyncARMChallengeAuthenticationPolicy(credential, f"{base}/.default"),
                policies.NetworkTraceLoggingPolicy(),
                policies.SensitiveHeaderCleanupPolicy(),
                ARMHttpLoggingPolicy(),
            ],
            transport=_transport(config),
        )

    async def close(self) -> None:
        await self._client.close()

    def url(self, group: str, provider: str, *names: str) -> str:
        """``names``: type and name in turns, down to the resource, or to the type of a list."""
        path = "/".join(quote(name, safe="") for name in names)
        return f"{self._groups}/{quote(group, safe='')}/providers/{provider}/{path}"

    async def get(self, url: str, version: str) -> Json:
        answer = await self._send(HttpRequest("GET", url, params={"api-version": version}))
        body: Json = answer.http_response.json()
        return body

    async def list(self, url: str, version: str) -> list[Json]:
        """All pages. Azure's link to the next page carries the version."""
        page = await self.get(url, version)
        found: list[Json] = page.get("value") or []
        while link := page.get("nextLink"):
            page = (await self._send(HttpRequest("GET", link))).http_response.json()
            found += page.get("value") or []
        return found

    async def put(
        self, url: str, version: str, document: Json, etag: str | None, polling: Polling
    ) -> None:
        """Returns when Azure has finished."""
        headers = {"If-Match": etag} if etag else {}
        request = HttpRequest(
            "PUT", url, params={"api-version": version}, headers=headers, json=document
        )
        await self._finish(request, polling)

    async def delete(self, url: str, version: str, polling: Polling) -> None:
        """Returns when Azure has finished, also where there is nothing to delete."""
        await self._finish(HttpRequest("DELETE", url, params={"api-version": version}), polling)

    async def _finish(self, request: HttpRequest, polling: Polling) -> None:
        begun = await self._send(request)
        await AsyncLROPoller(self._client, begun, _nothing, polling).result()

    async def _send(self, request: HttpRequest) -> Any:
        """The pipeline's response, which pollers start from."""
        request.headers.setdefault("Accept", "application/json")
        answer: Any = await self._client.send_request(request, _return_pipeline_response=True)
        response = answer.http_response
        if 200 <= response.status_code < 300:
            return answer
        if response.status_code == 401:
            raise ClientAuthenticationError(response=response, error_format=ARMErrorFormat)
        raise HttpResponseError(response=response, error_format=ARMErrorFormat)


def _nothing(response: Any) -> None:
    """The end of a write says nothing that a look does not say better."""
