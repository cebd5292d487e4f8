"""The live map: what it shows, and whom it answers."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest

from egress_gateway.api.types import (
    Condition,
    Gateway,
    GatewayServerProfile,
    GatewayStatus,
    GatewayStatusSpec,
    GatewayVeto,
    ObjectMeta,
    PodCount,
    PodEndpoint,
    PodEndpointSpec,
    PodEndpointStatus,
    ReadyGatewayConfiguration,
    StaticGatewayConfiguration,
    StaticGatewayConfigurationStatus,
    UnreachedGateway,
)
from egress_gateway.controller.picture.server import PictureServer, page, policy, serving
from egress_gateway.controller.picture.state import PODS, State, state_of
from egress_gateway.service.server import Limits


def partner() -> StaticGatewayConfiguration:
    return StaticGatewayConfiguration(
        metadata=ObjectMeta(name="partner", namespace="shop"),
        status=StaticGatewayConfigurationStatus(
            egress_ip_prefix="203.0.113.4/31",
            gateway_server_profile=GatewayServerProfile(ip="10.1.0.9", port=6000),
            gateways=[
                Gateway("gw-1", "10.1.0.7", "10.1.0.40", "203.0.113.4"),
                Gateway("gw-2", "10.1.0.8", "10.1.0.41", "203.0.113.5", seen_ip="203.0.113.5"),
            ],
            pods=PodCount(attached=2, connected=1),
            conditions=[
                Condition(type="Ready", status="True", reason="Ready", message="serves"),
                Condition(type="Degraded", status="True", reason="RedundancyLost", message="one"),
            ],
        ),
    )


def endpoint(name: str, *, state: str = "Connected", gateway: str = "gw-2") -> PodEndpoint:
    return PodEndpoint(
        metadata=ObjectMeta(name=name, namespace="shop"),
        spec=PodEndpointSpec(
            static_gateway_configuration="partner",
            pod_ip_address="10.244.1.9",
            node_name="worker-1",
        ),
        status=msgspec.convert(
            {"state": state, "gateway": gateway, "egressIp": "203.0.113.5"}, PodEndpointStatus
        ),
    )


def report(node: str, *, serves: bool = True, vetoes: tuple[str, ...] = ()) -> GatewayStatus:
    ready = [ReadyGatewayConfiguration("shop/partner")] if serves else []
    return GatewayStatus(
        metadata=ObjectMeta(name=node, namespace="system"),
        spec=GatewayStatusSpec(
            ready_gateway_configurations=ready, vetoes=[GatewayVeto(v) for v in vetoes]
        ),
    )


def test_a_pods_path_can_be_followed_from_it_to_the_address() -> None:
    state = state_of(
        [partner()],
        [endpoint("web"), endpoint("sick", state="Lost", gateway="")],
        [report("gw-1", serves=False, vetoes=("Draining",)), report("gw-2")],
    )
    assert [pod.name for pod in state.pods] == ["shop/sick", "shop/web"], "those in trouble first"
    web = state.pods[1]
    [gateway] = [g for g in state.gateways if g.node == web.gateway]
    [served] = [s for s in gateway.serves if s.configuration == web.configuration]
    assert (served.public, served.seen, served.pods) == ("203.0.113.5", "203.0.113.5", 1)
    assert served.serving
    assert web.egress == [served.public]
    drained = state.gateways[0]
    assert [veto.reason for veto in drained.vetoes] == ["Draining"]
    assert not drained.serves[0].serving


def test_a_configuration_says_what_is_amiss_although_it_is_ready() -> None:
    [shown] = state_of([partner()], [], []).configurations
    assert (shown.ready, shown.degraded, shown.reason) == (True, True, "RedundancyLost")


@pytest.mark.parametrize(("up", "told"), [(None, True), ({"worker-1"}, True), (set(), False)])
def test_a_gateway_that_nodes_do_not_reach_says_so(up: set[str] | None, told: bool) -> None:
    trying = UnreachedGateway(gateway="gw-1", reason="TunnelsUnanswered")
    web = endpoint("web")
    web = msgspec.structs.replace(
        web, status=msgspec.structs.replace(web.status, unreached_gateways=[trying])
    )
    state = state_of([partner()], [web], [report("gw-1"), report("gw-2")], up=up)
    said = {g.node: g.serves[0].unreached for g in state.gateways}
    assert said["gw-2"] == ""
    assert ("1 of 1 nodes with pods get no answer from it (worker-1)" in said["gw-1"]) is told


def test_what_nobody_has_looked_at_is_shown_too() -> None:
    fresh = StaticGatewayConfiguration(metadata=ObjectMeta(name="new", namespace="shop"))
    orphan = endpoint("web", state="", gateway="load balancer")
    state = state_of([fresh], [orphan], [report("gw-9")])
    assert not state.configurations[0].ready
    assert state.pods[0].gateway == "load balancer"
    assert state.gateways[0].serves == []


def test_a_large_cluster_makes_no_large_state() -> None:
    pods = [endpoint(f"web-{n}") for n in range(10_000)] + [endpoint("zz", state="Lost")]
    state = state_of([partner()], pods, [report("gw-2")])
    assert (len(state.pods), state.attached) == (PODS, 10_001)
    assert state.pods[0].name == "shop/zz"
    assert state.gateways[1].serves[0].pods == 10_001, "counts are of all"
    assert len(msgspec.json.encode(state)) < 200_000


# -- the server


@asynccontextmanager
async def served(
    state: Callable[[], State] | None = None, limits: Limits | None = None
) -> AsyncIterator[str]:
    shown = state or (lambda: state_of([partner()], [endpoint("web")], [report("gw-2")]))
    server = PictureServer(port=0, state=shown, **({"limits": limits} if limits else {}))
    await server.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.close()


PATHS = ("/", "/state.json", "/events")
STRANGE_HOSTS = (
    "evil.example",
    "evil.example:8090",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "evil.example#127.0.0.1",
    "127.0.0.1@evil.example",
    "0.0.0.0",
    "10.244.1.9:8090",
    "[::ffff:127.0.0.1]",
    "127.0.0.1:port",
    "",
)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("host", STRANGE_HOSTS)
async def test_a_foreign_name_that_leads_here_is_told_nothing(path: str, host: str) -> None:
    async with served() as url, aiohttp.ClientSession() as session:
        async with session.get(url + path, headers={"Host": host}) as answer:
            assert answer.status == 421
            assert "shop" not in await answer.text()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_other_sites_pages_are_refused(path: str, site: str) -> None:
    async with served() as url, aiohttp.ClientSession() as session:
        async with session.get(url + path, headers={"Sec-Fetch-Site": site}) as answer:
            assert answer.status == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:65535", "[::1]:8090"])
async def test_names_of_this_machine_are_answered_by_whatever_port(host: str) -> None:
    async with served() as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/state.json", headers={"Host": host}) as answer:
            assert answer.status == 200
            assert (await answer.json())["pods"][0]["name"] == "shop/web"


@pytest.mark.parametrize("path", PATHS)
async def test_nobody_may_keep_frame_or_embed_an_answer(path: str) -> None:
    async with served() as url, aiohttp.ClientSession() as session:
        async with session.get(url + path) as answer:
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "Access-Control-Allow-Origin" not in answer.headers
            allowed = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in allowed
            assert "frame-ancestors 'none'" in allowed
            assert "unsafe" not in allowed
            assert "*" not in allowed


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", PATHS)
async def test_there_is_nothing_to_write(method: str, path: str) -> None:
    async with served() as url, aiohttp.ClientSession() as session:
        async with session.request(method, url + path) as answer:
            assert answer.status == 405


def test_the_page_is_one_small_file_of_its_own() -> None:
    text = page().decode()
    assert len(text) <= 200_000
    assert not re.search(r"(src|href)\s*=|url\(|@import|https?://(?!www\.w3\.org/2000/svg)", text)
    assert not re.search(r"\sstyle=|\son\w+=|innerHTML|outerHTML|insertAdjacent|\beval\b", text)
    assert policy().count("'sha256-") == 2


PAUSE = "egress_gateway.controller.picture.server._PAUSE"


async def test_a_stream_tells_each_change_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PAUSE, 0.01)
    counted = itertools.count()
    states = [state_of([], [endpoint(name)], []) for name in ("one", "one", "two", "two", "two")]
    heard: list[str] = []

    def shown() -> State:
        return states[min(next(counted), len(states) - 1)]

    async with served(shown) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/events") as answer:
            assert answer.content_type == "text/event-stream"
            async for line in answer.content:
                if line.startswith(b"data: "):
                    heard.append(json.loads(line[6:])["pods"][0]["name"])
                if len(heard) == 2:
                    break
    assert heard == ["shop/one", "shop/two"]


async def test_many_who_look_cost_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PAUSE, 3600.0)
    looks = itertools.count()

    def shown() -> State:
        next(looks)
        return state_of([], [], [])

    async def ask(url: str) -> None:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/state.json") as answer:
            assert answer.status == 200

    async with served(shown) as url:
        await asyncio.gather(*(ask(url) for _ in range(12)))
    assert next(looks) == 1


async def test_who_has_looked_longest_makes_room() -> None:
    async with served(limits=Limits(connections=2, size=16384, seconds=60)) as url:
        async with aiohttp.ClientSession() as session:
            streams = [await session.get(f"{url}/events") for _ in range(2)]
            for stream in streams:
                await stream.content.readline()
            async with session.get(f"{url}/state.json") as answer:
                assert answer.status == 200
            with pytest.raises(aiohttp.ClientError):
                await streams[0].content.read()
            for stream in streams:
                stream.close()


async def test_a_process_that_ends_waits_for_nobody_who_looks() -> None:
    async with aiohttp.ClientSession() as session:
        async with served() as url:
            streams = [await session.get(f"{url}/events") for _ in range(3)]
            await streams[0].content.readline()
            # aiohttp itself would wait a minute for each.
            leaving = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - leaving < 30
        for stream in streams:
            stream.close()


async def test_it_listens_on_loopback_alone_and_only_if_asked() -> None:
    async with serving(0, lambda: state_of([], [], [])):
        pass
    server = PictureServer(port=0, state=lambda: state_of([], [], []))
    await server.start()
    try:
        lines = [
            line.split()
            for kind in ("tcp", "tcp6")
            for line in Path("/proc/self/net", kind).read_text().splitlines()
        ]
        port = f":{server.port:04X}"
        listening = [at for _, at, _, state, *_ in lines if state == "0A" and at.endswith(port)]
        assert listening == [f"0100007F{port}"]  # proc_net_tcp(5): 127.0.0.1
    finally:
        await server.close()
