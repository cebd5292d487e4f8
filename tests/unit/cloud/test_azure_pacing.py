"""How often Azure is asked: polls of a write that hangs, and reads of what has become scarce."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from azure.core.polling.base_polling import BadStatus
from azure.mgmt.core.polling.arm_polling import AzureAsyncOperationPolling
from multidict import CIMultiDict

from egress_gateway.cloud.azure.requests.pacing import (
    GAPS,
    LONGEST,
    LostSight,
    Pace,
    Polling,
    pause_of,
)
from egress_gateway_lab.azure.arm.buckets import Buckets

INSTANCE = "/subscriptions/s/providers/Microsoft.Compute/virtualMachineScaleSets/v/x/1"
URL = "https://arm.invalid/a?api-version=1"


class Time:
    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def answer(status: int = 200, headers: Mapping[str, str] | None = None) -> Any:
    told = CIMultiDict(headers or {})
    return SimpleNamespace(http_response=SimpleNamespace(status_code=status, headers=told))


class Asking(Polling):
    """What the SDK keeps to itself: the last answer, and how long until the next poll."""

    _operation = AzureAsyncOperationPolling()

    def hear(self, heard: Any) -> None:
        self._pipeline_response = heard

    def gap(self) -> float:
        return self._extract_delay()


def polling(interval: float) -> Asking:
    made = Asking(interval)
    made.hear(answer())
    return made


@pytest.mark.parametrize("hangs", [10.0, 120.0, 300.0, 5400.0])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_write_that_hangs_is_never_asked_about_too_often(hangs: float, share: float) -> None:
    time = Time()
    buckets, asks = Buckets(time, share), polling(5.0)
    while time.now < hangs:
        buckets.poll(INSTANCE)
        time.now += asks.gap()


def test_a_write_of_three_seconds_is_seen_to_be_over_after_three() -> None:
    for interval, gaps in ((5.0, [1.0, 2.0, 5.0, 10.0, 10.0]), (0.05, [0.05] * 3 + [0.1] * 2)):
        asks = polling(interval)
        assert [asks.gap() for _ in gaps] == gaps


def test_azure_s_own_word_for_when_to_ask_goes_first() -> None:
    asks = polling(5.0)
    asks.hear(answer(headers={"retry-after": "17"}))
    assert [asks.gap() for _ in range(5)] == [17.0] * 5


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("17", 17.0),
        ("0.5", 0.5),
        ("0", 0.0),
        ("-3", 0.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST),
        ("inf", LONGEST),
        ("86400", LONGEST),
        ("nan", 0.0),
        ("soon", None),
        ("1e999999", LONGEST),
        ("Sun, 99 Nov 1994 08:49:37 GMT", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_a_number_or_a_date_and_never_stops_us_for_good(
    header: str | None, seconds: float | None
) -> None:
    assert pause_of(header) == seconds


@pytest.mark.parametrize("header", ["0", "0.001", "-1", "nan", "soon"])
def test_no_word_of_azure_makes_us_ask_without_pause(header: str) -> None:
    asks = polling(5.0)
    asks.hear(answer(headers={"Retry-After": header}))
    assert min(asks.gap() for _ in range(5)) >= 1.0


@pytest.mark.parametrize(("status", "goes_on"), [(429, True), (500, False), (403, False)])
async def test_one_poll_too_many_says_nothing_of_the_write(
    status: int, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = polling(5.0)

    async def refused(self: Asking) -> None:
        self.hear(answer(status, {"retry-after": "8"}))
        raise BadStatus("no")

    monkeypatch.setattr(Polling.__base__, "update_status", refused)
    if goes_on:
        await asks.update_status()
        assert asks.gap() == 8.0
        return
    with pytest.raises(LostSight, match=str(status)):
        await asks.update_status()


def request(method: str = "GET", url: str = URL) -> Any:
    return SimpleNamespace(http_request=SimpleNamespace(method=method, url=url))


async def ask(pace: Pace, left: str, **about: str) -> None:
    await pace.on_request(request(**about))
    pace.on_response(request(**about), answer(headers={"x-ms-ratelimit-remaining-resource": left}))


async def test_reads_of_what_is_scarce_are_apart_and_others_are_not() -> None:
    time = Time()
    pace = Pace(time.time, time.sleep)
    await ask(pace, "Microsoft.Compute/GetVMScaleSetResource;32")
    await ask(pace, "Microsoft.Compute/GetVMScaleSetResource;0")
    await ask(pace, "", url=URL.replace("/a", "/b"))
    await ask(pace, "", method="PUT")
    assert time.slept == []
    await ask(pace, "Microsoft.Compute/GetVMScaleSetResource;0")
    await ask(pace, "Microsoft.Compute/GetVMScaleSetResource;20", url=URL.upper())
    assert time.slept == [GAPS[0], GAPS[0]]
    time.now += GAPS[0]
    await ask(pace, "")
    assert time.slept == [GAPS[0], GAPS[0]]


@pytest.mark.parametrize("share", [0.5, 0.7, 1.0])
async def test_polls_slow_down_before_the_bucket_is_empty(share: float) -> None:
    """Write after write of one scale set, each asked about after 0, 1 and 3 seconds: the fewer
    tokens are left, the later the next poll. None is refused, and none waits without need."""
    time = Time()
    buckets, pace = Buckets(time, share), Pace(time.time, time.sleep)
    held = []
    for number in range(8):
        url = f"{URL.removesuffix('1')}{number}"
        for gap in (0.0, 1.0, 2.0):
            time.now += gap
            before = time.now
            await pace.on_request(request(url=url))
            left = buckets.poll(INSTANCE)
            pace.on_response(request(url=url), answer(headers=left))
            held.append(time.now - before)
    assert sum(held[:6]) <= 2 * GAPS[3], "making and deleting is two writes"
    assert max(held) <= GAPS[0]


@pytest.mark.parametrize(
    ("header", "scarce"),
    [
        ("", False),
        ("nonsense", False),
        ("Microsoft.Compute/A;197,Microsoft.Compute/B;1297", False),
        ("Microsoft.Compute/A;197,Microsoft.Compute/B; 0", True),
    ],
)
async def test_the_smallest_number_of_the_header_counts(header: str, scarce: bool) -> None:
    time = Time()
    pace = Pace(time.time, time.sleep)
    await ask(pace, header)
    await ask(pace, header)
    assert bool(time.slept) is scarce
