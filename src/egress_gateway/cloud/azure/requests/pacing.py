"""Limits how often we ask Azure, so that others who share its token buckets get their turn.

Microsoft.Compute lets each scale set be read 12 times a minute and each resource's operations be
polled 15 times, by us, AKS and the autoscaler together, and says in each answer what is left
(https://learn.microsoft.com/azure/virtual-machines/compute-throttling-limits, header:
https://learn.microsoft.com/troubleshoot/azure/virtual-machines/troubleshooting-throttling-errors).
We go at full speed while there is plenty. The fewer are left, the longer we wait for the next: with
the last of them we take no more than half of what comes in. Writes never wait here, because
they would lack the changes gathered meanwhile. A refused write is repeated when Azure says.
"""

from __future__ import annotations

import asyncio
import re
import time
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

from azure.core.exceptions import AzureError, DecodeError
from azure.core.pipeline.policies import RetryPolicy, SansIOHTTPPolicy
from azure.core.polling.base_polling import (
    BadResponse,
    BadStatus,
    LocationPolling,
    StatusCheckPolling,
)
from azure.mgmt.core.polling.arm_polling import AzureAsyncOperationPolling, BodyContentPolling
from azure.mgmt.core.polling.async_arm_polling import AsyncARMPolling

from egress_gateway.service.errors import MALFORMED

GAPS: Final = (10.0, 10.0, 5.0, 2.5)
"""Seconds until the next read, by tokens left; at 10 it takes half of the 12 a minute that come
in. More than these is plenty."""
EARLY: Final = (1.0, 2.0)
"""Seconds between the first polls: most writes of ours are over within three seconds."""
SENSELESS: Final = (*MALFORMED, DecodeError, BadResponse, zlib.error)
"""What azure-core raises for bytes that are no answer."""
LONGEST: Final = 1800.0
"""Seconds: the longest window in which Azure counts requests is half an hour. Whoever names a
longer pause (a proxy, a clock that is wrong) does not stop us for it."""
_RETRIES: Final = RetryPolicy()  # type: ignore[no-untyped-call, unused-ignore]
_HEADER: Final = "x-ms-ratelimit-remaining-resource"
_LEFT: Final = re.compile(r";\s*(\d+)")


class Pace(SansIOHTTPPolicy[Any, Any]):
    """Holds back a GET of what Azure said is scarce."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._not_before: dict[str, tuple[float, float]] = {}
        """By what is read: when it may be read again, and how far apart the reads after it are."""

    async def on_request(self, request: Any) -> None:
        """Sleeps for as long as Azure's answers say that the next request should wait."""
        key = _read(request)
        now = self._clock()
        self._not_before = {k: held for k, held in self._not_before.items() if held[0] > now}
        held = self._not_before.get(key)
        if held is not None:
            until, gap = held
            self._not_before[key] = until + gap, gap  # NB: whoever asks meanwhile comes after us
            await self._sleep(until - now)

    def on_response(self, request: Any, response: Any) -> None:
        """Learns from the header how many requests are left."""
        key = _read(request)
        left = _LEFT.findall(response.http_response.headers.get(_HEADER) or "")
        gap = _gap(min(map(int, left), default=len(GAPS)))
        if key and gap:
            until = self._clock() + gap
            self._not_before[key] = max(until, self._not_before.get(key, (until,))[0]), gap


def _gap(left: int) -> float:
    return GAPS[left] if left < len(GAPS) else 0.0


def _read(request: Any) -> str:
    """What a GET reads; empty for other requests."""
    asked = request.http_request
    return str(asked.url).partition("?")[0].lower() if asked.method == "GET" else ""


def pause_of(header: str | None) -> float | None:
    """What ``Retry-After`` says, in seconds: a number or a date (RFC 9110, 10.2.3). None for none,
    and for what makes no sense."""
    try:
        seconds = _RETRIES.parse_retry_after(header) if header else None
    except MALFORMED:
        return None
    return None if seconds is None else min(seconds, LONGEST)


class LostSight(AzureError):
    """Azure took a write, and its answer to how far that is says nothing."""


class _Operation(AzureAsyncOperationPolling[Any, Any]):
    """Without the GET of the resource that the SDK ends with: nobody reads it, and Compute counts
    each (a scale set may be read 12 times a minute)."""

    def get_final_get_url(self, pipeline_response: Any) -> None:
        return None


class Polling(AsyncARMPolling):
    """Polls at once, after 1 and 2 s more, then after ``timeout`` and ever after twice ``timeout``
    seconds, unless Azure says when (Retry-After). A poll that is one too many (429) says nothing of
    the write: it goes on, and is asked about when Azure says. Neither does one that is refused or
    answers no sense: it is ``LostSight``, and a look shows what became of the write."""

    def __init__(self, timeout: float, **options: Any) -> None:
        ways = [_Operation(), LocationPolling(), BodyContentPolling(), StatusCheckPolling()]
        super().__init__(timeout, lro_algorithms=ways, **options)
        self._gaps = iter((*(min(early, timeout) for early in EARLY), timeout))

    def _extract_delay(self) -> float:
        told = pause_of(self._pipeline_response.http_response.headers.get("Retry-After"))
        if told:
            return max(told, min(EARLY[0], self._timeout))
        return next(self._gaps, 2 * self._timeout)

    async def update_status(self) -> None:
        """Raises ``LostSight`` if Azure took the write and no longer says how far it is."""
        try:
            await super().update_status()
        except BadStatus as error:
            status = self._pipeline_response.http_response.status_code
            if status == 429:
                return
            if isinstance(self._operation, LocationPolling):
                raise  # there the answer is the result of the write
            raise LostSight(
                f"Azure took the write and answers HTTP {status} to how far it is"
            ) from error
        except SENSELESS as error:
            raise LostSight(
                "Azure took the write, and its answer to how far it is makes no sense"
            ) from error
