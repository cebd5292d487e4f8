"""A headless Chromium, driven by its own protocol: for tests of pages, and their pictures.

https://chromedevtools.github.io/devtools-protocol/ has the commands. What a page logs, errors and
refusals of its Content-Security-Policy among them, is kept in ``said``.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

_OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # its sandbox wants another user than root; it sees pages of ours alone
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--remote-debugging-port=0",
)
_STARTS = 60.0
_ANSWERS = 60.0
_KEYS = {"Tab": 9, "Enter": 13, "Escape": 27}
_ARROWS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.said: list[str] = []
        self.asked: list[str] = []
        """URLs that the page has requested."""

    async def listen(self) -> None:
        async for message in self._socket:
            heard = json.loads(message.data)
            if waiting := self._waiting.pop(heard.get("id", 0), None):
                waiting.set_result(heard)
            self._note(heard.get("method", ""), heard.get("params", {}))

    def _note(self, method: str, told: dict[str, Any]) -> None:
        match method:
            case "Log.entryAdded":
                self.said.append(told["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.said.append(json.dumps(told["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.said.append(json.dumps(told["args"]))
            case "Network.requestWillBeSent":
                self.asked.append(told["request"]["url"])

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol. Raises ``RuntimeError`` with the browser's words."""
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        heard = await asyncio.wait_for(answer, _ANSWERS)
        if "error" in heard:
            raise RuntimeError(f"{method}: {heard['error']}")
        result: dict[str, Any] = heard["result"]
        return result

    async def ask(self, expression: str) -> Any:
        """What an expression is on the page. Raises ``RuntimeError``."""
        done = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in done:
            raise RuntimeError(f"{expression}: {done['exceptionDetails']}")
        return done["result"].get("value")

    async def until(self, expression: str, *, limit: float = 60.0) -> None:
        """Waits until it is true. Raises ``TimeoutError`` with what the page shows."""
        deadline = time.monotonic() + limit
        while not await self.ask(f"Boolean({expression})"):
            if time.monotonic() > deadline:
                text = await self.ask("document.body.innerText")
                raise TimeoutError(f"{expression}\n{text}\n{self.said}")
            await asyncio.sleep(0.05)

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def press(self, key: str) -> None:
        code = (_KEYS | _ARROWS)[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            typed = text if kind == "keyDown" else {}
            await self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **typed
            )

    async def look(self, *, width: int, height: int, dark: bool = False) -> None:
        """The window's size, and which colours its user likes."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[feature])

    async def picture(self) -> bytes:
        """What is seen, as PNG."""
        done = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(done["data"])


@asynccontextmanager
async def page() -> AsyncIterator[Page]:
    """A tab of a browser of its own, which ends with it."""
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as folder:
        program = await asyncio.create_subprocess_exec(
            "chromium",
            *_OPTIONS,
            f"--user-data-dir={folder}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with aiohttp.ClientSession() as session:
                port = await _port(Path(folder))
                async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                    tabs = await answer.json()
                url = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
                async with session.ws_connect(url, max_msg_size=2**26) as socket:
                    opened = Page(socket)
                    listening = asyncio.create_task(opened.listen())
                    for domain in ("Page", "Runtime", "Log", "Network"):
                        await opened.call(f"{domain}.enable")
                    yield opened
                    listening.cancel()
                    await asyncio.gather(listening, return_exceptions=True)
        finally:
            with contextlib.suppress(ProcessLookupError):
                program.terminate()
            await program.wait()


async def _port(folder: Path) -> int:
    """Which the browser has chosen. Raises ``TimeoutError``."""
    file, deadline = folder / "DevToolsActivePort", time.monotonic() + _STARTS
    while not (file.exists() and (text := file.read_text()).count("\n")):
        if time.monotonic() > deadline:
            raise TimeoutError("Chromium does not start")
        await asyncio.sleep(0.05)
    return int(text.splitlines()[0])
