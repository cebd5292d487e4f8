"""The live map in a real browser."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import msgspec
import pytest
import pytest_asyncio

from egress_gateway.api.types import GatewayVeto
from egress_gateway.controller.picture.server import PictureServer
from egress_gateway.controller.picture.state import (
    ConfigurationState,
    GatewayState,
    PodState,
    ServedState,
    State,
)
from tests.browser.chromium import Page, page

pytestmark = pytest.mark.browser
ADDRESSES = {"gw-1": "203.0.113.4", "gw-2": "203.0.113.5"}
PODS = "document.querySelectorAll('#pods button')"


def pod(name: str, gateway: str = "gw-1", state: str = "Connected") -> PodState:
    return PodState(
        name=name,
        node="worker-1",
        configuration="shop/partner",
        addresses=["10.244.1.9"],
        state=state,
        gateway=gateway,
        egress=[ADDRESSES[gateway]] if gateway else [],
        since="2026-11-29T12:00:00Z",
        reason="" if state == "Connected" else "TunnelsUnanswered",
        message="",
    )


def world(
    pods: Iterable[PodState], *, drained: str = "", unreached: str = "", attached: int | None = None
) -> State:
    pods = list(pods)
    gateways = [
        GatewayState(
            node=node,
            heartbeat="",
            vetoes=[GatewayVeto("Draining")] if node == drained else [],
            serves=[
                ServedState(
                    configuration="shop/partner",
                    primary="10.1.0.7",
                    secondary="10.1.0.40",
                    public=address,
                    seen=address,
                    serving=True,
                    pods=sum(p.gateway == node for p in pods),
                    unreached="1 of 2 nodes with pods get no answer from it (worker-2)"
                    if node == unreached
                    else "",
                )
            ],
        )
        for node, address in ADDRESSES.items()
    ]
    configuration = ConfigurationState(
        name="shop/partner",
        prefix="203.0.113.4/31",
        server="10.1.0.9:6000",
        ready=True,
        degraded=False,
        reason="Ready",
        message="serves",
        attached=len(pods),
        connected=sum(p.state == "Connected" for p in pods),
    )
    return State(
        configurations=[configuration],
        gateways=gateways,
        pods=pods,
        attached=len(pods) if attached is None else attached,
    )


class Map:
    """A page that shows ``state``, which a test changes."""

    def __init__(self, browser: Page) -> None:
        self.browser = browser
        self.state = world([])
        self.port = 0

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        server = PictureServer(port=self.port, state=lambda: self.state)
        await server.start()
        self.port = server.port
        try:
            yield f"http://127.0.0.1:{server.port}/"
        finally:
            await server.close()

    async def shows(self, number: int) -> None:
        await self.browser.until(f"{PODS}.length === {number}")

    async def reads(self, selector: str, text: str) -> None:
        await self.browser.until(f"document.querySelector({selector!r}).innerText === {text!r}")

    async def counts(self, selector: str) -> int:
        found: int = await self.browser.ask(f"document.querySelectorAll({selector!r}).length")
        return found

    async def text(self, selector: str) -> str:
        found: str = await self.browser.ask(f"document.querySelector({selector!r}).innerText")
        return found


@pytest_asyncio.fixture
async def shown(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Map]:
    monkeypatch.setattr("egress_gateway.controller.picture.server._PAUSE", 0.05)
    async with page() as browser:
        made = Map(browser)
        await browser.look(width=1280, height=800)
        yield made
        assert browser.said == [], "errors, or what the policy refused"
        own = f"http://127.0.0.1:{made.port}/"
        assert browser.asked
        assert [url for url in browser.asked if not url.startswith(own)] == []


HOSTILE = (
    "shop/<img src=x onerror=alert(1)>",
    'shop/"><script>alert(1)</script>',
    "shop/</style><script>alert(1)</script>",
    "shop/javascript:alert(1)",
    "shop/${alert(1)}{{constructor.constructor('alert(1)')()}}",
    "shop/&lt;b&gt;&#x3c;b&#x3e;",
    "shop/\u202egpj.exe",
    "shop/\u0000\u0001\n\r\t",
    "shop/__proto__",
    "__proto__/constructor",
    "shop/" + "w" * 253,
    "no-slash",
)


async def test_hostile_names_are_text(shown: Map) -> None:
    shown.state = world(pod(name) for name in HOSTILE)
    async with shown.served() as url:
        await shown.browser.open(url)
        await shown.shows(len(HOSTILE))
        seen = await shown.browser.ask(f"[...{PODS}].map(b => b.querySelector('b').textContent)")
        assert seen == list(HOSTILE)
        elements = await shown.counts("main img, main script, main style")
        assert elements == 0
        for number in range(len(HOSTILE)):
            await shown.browser.ask(f"{PODS}[{number}].click()")
            assert await shown.counts("#path img, #path script") == 0
            assert "worker-1" in await shown.text("#path")
        # The names that move are told, and told as text.
        shown.state = world(pod(name, "gw-2") for name in HOSTILE)
        await shown.browser.until("document.querySelector('#told li')")
        assert await shown.counts("#told img, #told script") == 0


async def test_a_failover_is_seen_as_it_happens(shown: Map) -> None:
    names = ["shop/web-0", "shop/web-1", "shop/web-2"]
    shown.state = world(pod(name) for name in names)
    async with shown.served() as url:
        await shown.browser.open(url)
        await shown.shows(3)
        assert await shown.counts("#told li") == 0
        await shown.browser.ask(f"{PODS}[1].click()")
        assert "203.0.113.4" in await shown.text("#path")
        shown.state = world(
            [pod(names[0]), pod(names[1], "gw-2"), pod(names[2], "gw-2")], drained="gw-1"
        )
        await shown.browser.until("document.querySelectorAll('#told li').length === 2")
        told = await shown.text("#told")
        assert "2 pods: moved from gw-1 to gw-2: shop/web-1, shop/web-2" in told
        assert "gw-1: asks to be left: Draining" in told
        assert "203.0.113.5" in await shown.text("#path"), "the path follows"
        assert await shown.counts("button.moved") == 2
        shown.state = world([pod(names[0], "", "Lost"), pod(names[1], "gw-2")])
        await shown.browser.until("document.querySelectorAll('#told li').length === 5")
        told = await shown.text("#told")
        assert "shop/web-0: lost the tunnel (TunnelsUnanswered)" in told
        assert "shop/web-2: gone" in told
        assert "gw-1: may be used again" in told
        assert "no gateway" in await shown.text("#pods")


async def test_lines_lead_from_each_pod_to_its_address(shown: Map) -> None:
    shown.state = world([pod("shop/a"), pod("shop/b", "gw-2"), pod("shop/c", "", "Waiting")])
    async with shown.served() as url:
        await shown.browser.open(url)
        await shown.shows(3)
        lines = "document.querySelectorAll('#lines path')"
        assert await shown.browser.ask(f"{lines}.length") == 4, (
            "two pods have a gateway; two addresses"
        )
        await shown.browser.ask(f"{PODS}[1].click()")
        assert (
            await shown.browser.ask(f"[...{lines}].filter(p => p.classList.contains('on')).length")
            == 2
        )
        on = await shown.browser.ask(
            "[...document.querySelectorAll('button.on b')].map(b => b.textContent)"
        )
        assert on == ["shop/b", "gw-2", "shop/partner", "203.0.113.5"]


async def test_it_is_used_without_a_mouse(shown: Map) -> None:
    shown.state = world([pod("shop/a"), pod("shop/b", "gw-2")])
    focus = "document.activeElement.innerText.split('\\n')[0]"
    async with shown.served() as url:
        browser = shown.browser
        await browser.open(url)
        await shown.shows(2)
        await browser.press("Tab")
        assert await browser.ask("document.activeElement.id") == "filter"
        await browser.press("Tab")
        assert await browser.ask(focus) == "shop/a"
        for key, then in (
            ("ArrowDown", "shop/b"),
            ("ArrowDown", "shop/b"),
            ("ArrowRight", "gw-2"),
            ("ArrowUp", "gw-1"),
            ("ArrowRight", "shop/partner"),
            ("ArrowLeft", "gw-1"),
            ("ArrowLeft", "shop/a"),
        ):
            await browser.press(key)
            assert await browser.ask(focus) == then, key
        await browser.press("Enter")
        assert await browser.ask("document.activeElement.getAttribute('aria-pressed')") == "true"
        assert "pod shop/a, 10.244.1.9" in await shown.text("#path")
        shown.state = world([pod("shop/a", "gw-2"), pod("shop/b", "gw-2")])
        await browser.until("document.querySelector('#told li')")
        assert await browser.ask(focus) == "shop/a", "a new state takes nobody's place away"
        await browser.press("Escape")
        assert await browser.ask("document.querySelectorAll('[aria-pressed=true]').length") == 0


CONTRAST = """(() => {
  const style = getComputedStyle(document.documentElement);
  const light = name => {
    const hex = style.getPropertyValue(name).trim().slice(1);
    const parts = [0, 2, 4].map(i => parseInt(hex.slice(i, i + 2), 16) / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  return Math.min(...["--text", "--quiet", "--good", "--warn", "--bad", "--mark"].flatMap(ink =>
    ["--card", "--back"].map(paper => ratio(light(ink), light(paper)))));
})()"""
"""The least contrast of any text (WCAG 2.2, 1.4.3)."""


@pytest.mark.parametrize("dark", [False, True])
async def test_it_can_be_read_by_day_and_by_night(shown: Map, dark: bool) -> None:
    shown.state = world([pod("shop/a")])
    async with shown.served() as url:
        await shown.browser.look(width=1280, height=800, dark=dark)
        await shown.browser.open(url)
        await shown.shows(1)
        assert await shown.browser.ask(CONTRAST) >= 4.5
        back = await shown.browser.ask("getComputedStyle(document.body).backgroundColor")
        assert back == ("rgb(14, 17, 22)" if dark else "rgb(245, 246, 248)")


@pytest.mark.parametrize("width", [320, 390, 700, 800])
async def test_nothing_is_cut_off_on_a_narrow_screen(shown: Map, width: int) -> None:
    shown.state = world([pod("shop/" + "w" * 253), *(pod(f"shop/{n}") for n in range(20))])
    async with shown.served() as url:
        await shown.browser.look(width=width, height=800)
        await shown.browser.open(url)
        await shown.shows(21)
        assert await shown.browser.ask("document.documentElement.scrollWidth") <= width
        if width < 760:
            await shown.browser.ask(f"{PODS}[0].click()")
            box = "document.querySelector('#path').getBoundingClientRect()"
            assert await shown.browser.ask(f"{box}.bottom <= innerHeight && {box}.top > 0")


async def test_a_server_that_is_away_is_told_and_comes_back(shown: Map) -> None:
    shown.state = world([pod("shop/a")])
    async with shown.served() as url:
        await shown.browser.open(url)
        await shown.shows(1)
    await shown.browser.until("document.querySelector('#live').innerText.startsWith('no answer')")
    shown.state = world([pod("shop/a"), pod("shop/b")])
    async with shown.served():
        await shown.shows(2)
        assert await shown.text("#live") == "live"
    shown.browser.said.clear()  # it had logged that nobody answered


async def test_five_hundred_pods_and_a_filter(shown: Map) -> None:
    shown.state = world((pod(f"shop/web-{n:03}") for n in range(500)), attached=9_000)
    async with shown.served() as url:
        await shown.browser.open(url)
        await shown.shows(500)
        assert "9000 pods (8500 not shown)" in await shown.text("#sum")
        typed = (
            "(f => { f.value = %r; f.dispatchEvent(new Event('input')); })"
            "(document.querySelector('#filter'))"
        )
        await shown.browser.ask(typed % "WEB-49")
        await shown.shows(10)
        await shown.browser.ask(typed % "nosuch")
        await shown.reads("#pods", "no pod fits the filter")


async def test_an_empty_cluster_says_so(shown: Map) -> None:
    shown.state = msgspec.structs.replace(world([]), gateways=[], configurations=[])
    async with shown.served() as url:
        await shown.browser.open(url)
        await shown.browser.until(
            "document.querySelector('#pods').innerText === 'no pod is attached'"
        )
        assert await shown.text("#gateways") == "no gateway"
        assert await shown.text("#addresses") == "no configuration"


async def test_a_gateway_that_some_nodes_do_not_reach_is_no_good_one(
    shown: Map,
) -> None:
    shown.state = world([pod("shop/web")], unreached="gw-2")
    async with shown.served() as url:
        await shown.browser.open(url)
        await shown.shows(1)
        assert "some nodes do not reach it" in await shown.text("#gateways")
        await shown.browser.ask("document.querySelectorAll('#gateways button')[1].click()")
        assert "1 of 2 nodes with pods get no answer" in await shown.text("#path")
        assert await shown.counts("#gateways button.warn") == 1
