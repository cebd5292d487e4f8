"""Metrics are for those who may read them."""

from __future__ import annotations

import ssl

import aiohttp
from prometheus_client import CollectorRegistry, Counter

from egress_gateway.service.metrics import MetricsServer, serving


def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    Counter("widgets", "Widgets", registry=made).inc()
    return made


async def asked(url: str, token: str | None = None) -> tuple[int, str]:
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    headers = {"Authorization": token} if token is not None else {}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as session:
        async with session.get(url, headers=headers) as answer:
            return answer.status, await answer.text()


async def test_without_a_reviewer_everybody_reads() -> None:
    server = MetricsServer(port=0, address="127.0.0.1", registry=registry())
    await server.start()
    status, text = await asked(f"http://127.0.0.1:{server.port}/metrics")
    assert (status, "widgets_total 1.0" in text) == (200, True)
    await server.close()


async def test_a_token_is_reviewed_and_a_good_answer_remembered() -> None:
    heard: list[str] = []

    async def review(token: str) -> bool | None:
        heard.append(token)
        return {"good": True, "poor": False}.get(token)

    server = MetricsServer(port=0, address="127.0.0.1", registry=registry(), review=review)
    await server.start()
    url = f"https://127.0.0.1:{server.port}/metrics"
    for token, status in (
        (None, 401),
        ("", 401),
        ("Basic good", 401),
        ("Bearer ", 401),
        ("Bearer unknown", 401),
        ("Bearer poor", 403),
        ("Bearer good", 200),
        ("bearer good", 200),
    ):
        found, text = await asked(url, token)
        assert found == status, token
        assert ("widgets_total" in text) == (status == 200)
    assert heard == ["unknown", "poor", "good"], "asked once for a good one, of those it was"
    await server.close()


async def test_port_0_serves_nothing() -> None:
    async with serving(0):
        pass
