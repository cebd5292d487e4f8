"""Azure Resource Manager over azure-core: JSON in, JSON out, each request counted.

Microsoft's generated clients would send the same requests (``test_requests_of_the_sdk.py`` compares
them). They take 60 MB and 0.4 s of processor time to import, for models of the JSON that we pass on
as it is: a field that the SDK of the day does not know survives a read-modify-write.

Throttling is not retried here, because the reconciler gathers changes meanwhile. A dropped
connection or a 5xx is retried twice.
"""

from __future__ import annotations

import os
import re
import ssl
import time
from typing import Any, Final
from urllib.parse import SplitResult, quote, unquote, urlsplit

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    TooManyRedirectsError,
)
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

from egress_gateway.cloud.azure.account.config import AzureConfig
from egress_gateway.cloud.azure.requests.pacing import SENSELESS, Pace, Polling, pause_of
from egress_gateway.cloud.azure.requests.shapes import Json

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


_HOST_AND_PORT: Final = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
"""What stands before the path of a URL of Azure's: no user, and no other characters."""


class _OwnHosts(SansIOHTTPPolicy[Any, Any]):
    """Our token goes to the configured Resource Manager, and to its regions, alone: a URL to poll
    or of the next page comes from an answer, which may name any host."""

    def __init__(self, resource_manager: str) -> None:
        self._home = urlsplit(resource_manager)

    def on_request(self, request: Any) -> None:
        asked = urlsplit(request.http_request.url)
        try:
            if self._ours(asked):
                return
        except ValueError:
            pass  # a port that is none
        raise ForeignHost(
            f"an answer of {self._home.netloc} leads to {asked.scheme}://{asked.netloc}, which is "
            "not the resourceManagerEndpoint of the Azure configuration; no token goes there"
        )

    def _ours(self, asked: SplitResult) -> bool:
        home = self._home
        if not _HOST_AND_PORT.fullmatch(asked.netloc):
            return False  # each parser of URLs reads such a text in its own way
        if asked.scheme != home.scheme or _port(asked) != _port(home):
            return False
        host, own = asked.hostname or "", home.hostname or ""
        return host == own or host.endswith(f".{own}")


class _OwnPath(SansIOHTTPPolicy[Any, Any]):
    """A name of ``..`` would make a request one about something else: the HTTP client takes it for
    a step upwards, encoded or not. Names come from whoever may write a configuration."""

    def on_request(self, request: Any) -> None:
        if {".", ".."} & {*unquote(urlsplit(request.http_request.url).path).split("/")}:
            raise ForeignHost("a name of dots alone is none; no request goes where it leads")


class ForeignHost(AzureError):
    """A request was about to carry our token to a host that is not Azure's, or to a place that
    nobody named."""


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


class Unreadable(AzureError):
    """An answer that says nothing: no JSON, not of the shape that was asked for, or a redirection
    without end. A proxy or a front door gives such."""


RETRIED: Final = frozenset({408, 500, 502, 503, 504})
PATIENCE: Final = 5.0
"""Seconds: a longer wait is left to the reconciler, which has others to serve meanwhile."""


class _Retry(AsyncRetryPolicy[Any, Any]):
    """Waiting out a 429 or 409 in here would hide it from the reconciler and hold up others. So
    would a long Retry-After."""

    def get_retry_after(self, response: Any) -> float | None:
        return pause_of(response.http_response.headers.get("Retry-After"))

    def is_retry(self, settings: dict[str, Any], response: Any) -> bool:
        passing = response.http_response.status_code in RETRIED
        soon = (self.get_retry_after(response) or 0.0) <= PATIENCE
        return passing and soon and super().is_retry(settings, response)


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
                _OwnPath(),
                AsyncARMChallengeAuthenticationPolicy(credential, f"{base}/.default"),
                policies.NetworkTraceLoggingPolicy(),
                policies.SensitiveHeaderCleanupPolicy(),
                ARMHttpLoggingPolicy(),
            ],
            transport=_transport(config),
        )

    async def close(self) -> None:
        """Ends open connections."""
        await self._client.close()

    def url(self, group: str, provider: str, *names: str) -> str:
        """``names``: type and name in turns, down to the resource, or to the type of a list."""
        path = "/".join(quote(name, safe="") for name in names)
        return f"{self._groups}/{quote(group, safe='')}/providers/{provider}/{path}"

    async def get(self, url: str, version: str) -> Json:
        """A resource: what has no id is none. Taken for one it would be overwritten as if it were
        empty."""
        found = await self._json(HttpRequest("GET", url, params={"api-version": version}))
        if not isinstance(found.get("id"), str):
            raise Unreadable(f"the answer is no resource: it has {_members(found)}")
        return found

    async def list(self, url: str, version: str) -> list[Json]:
        """All pages. Azure's link to the next page carries the version."""
        found: list[Json] = []
        asked = HttpRequest("GET", url, params={"api-version": version})
        links: set[str] = set()
        while True:
            page = await self._json(asked)
            listed = page.get("value")
            if not isinstance(listed, list) or not all(isinstance(i, dict) for i in listed):
                raise Unreadable(f"the answer is no list of resources: it has {_members(page)}")
            found += listed
            link = page.get("nextLink")
            if not link:
                return found
            if not isinstance(link, str) or link in links:
                raise Unreadable("the list does not end: it leads to the same page again")
            links.add(link)
            asked = HttpRequest("GET", link)

    async def _json(self, request: HttpRequest) -> Json:
        response = (await self._send(request)).http_response
        try:
            found = response.json()
        except SENSELESS as error:
            raise Unreadable(f"the answer is no JSON (HTTP {response.status_code})") from error
        if not isinstance(found, dict):
            raise Unreadable(f"the answer is no JSON object but {type(found).__name__}")
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
        try:
            await AsyncLROPoller(self._client, begun, _nothing, polling).result()
        except SENSELESS as error:
            raise Unreadable("Azure took the write, and its answer makes no sense") from error

    async def _send(self, request: HttpRequest) -> Any:
        """The pipeline's response, which pollers start from."""
        request.headers.setdefault("Accept", "application/json")
        try:
            answer: Any = await self._client.send_request(request, _return_pipeline_response=True)
        except (*SENSELESS, TooManyRedirectsError) as error:
            raise Unreadable(f"the answer makes no sense ({type(error).__name__})") from error
        response = answer.http_response
        if 200 <= response.status_code < 300:
            return answer
        if response.status_code < 400:
            raise Unreadable(f"the answer is HTTP {response.status_code} and leads nowhere")
        if response.status_code == 401:
            raise ClientAuthenticationError(response=response, error_format=ARMErrorFormat)
        raise HttpResponseError(response=response, error_format=ARMErrorFormat)


def _members(answer: Json) -> str:
    return ", ".join(sorted(answer)[:5]) or "nothing"


def _nothing(response: Any) -> None:
    """The end of a write says nothing that a look does not say better."""
