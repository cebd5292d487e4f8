from __future__ import annotations

import aiohttp

from egress_gateway.service.health import HealthServer


async def test_readiness_names_what_fails_and_liveness_stays_apart() -> None:
    server = HealthServer(port=0)
    reasons: dict[str, str | None] = {"caches": "not synced"}
    server.add_check("caches", lambda: reasons["caches"])
    await server.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:
            async with session.get("/readyz") as answer:
                assert (answer.status, await answer.text()) == (503, "caches: not synced\n")
            async with session.get("/healthz") as answer:
                assert answer.status == 200
            reasons["caches"] = None
            async with session.get("/readyz") as answer:
                assert answer.status == 200
            async with session.get("/metrics") as answer:
                assert answer.status == 404
    finally:
        await server.close()
