"""A small client of Azure Resource Manager, for the demo and for tests.

It does what ``az`` does for one command: signs in as a service principal, writes, waits for the
operation, reads the result. It knows nothing of the emulator: any ARM endpoint will do.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Any

import aiohttp


class RequestFailed(Exception):
    """ARM's refusal or a failed operation: ``status``, and ``code`` and ``message`` as ARM
    wrote them."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"({code}) {message}")
        self.status = status
        self.code = code
        self.message = message


class ArmClient:
    """Used as an asynchronous context manager. Paths begin with ``/subscriptions/``."""

    def __init__(
        self,
        base: str,
        ssl_context: ssl.SSLContext | None = None,
        *,
        client_id: str,
        secret: str,
        tenant: str = "adfs",
        poll_seconds: float = 0.1,
        timeout_seconds: float = 300.0,
    ) -> None:
        """``base``: such as ``https://127.0.0.1:8443``. ``poll_seconds``: between questions
        about an operation; ``timeout_seconds``: until an operation is given up."""
        self.base = base.rstrip("/")
        self.tls = ssl_context or True
        self._client_id = client_id
        self._secret = secret
        self._tenant = tenant
        self._poll_seconds = poll_seconds
        self._timeout_seconds = timeout_seconds
        self._session: aiohttp.ClientSession | None = None
        self._token = ""
        self._expires = 0.0

    async def __aenter__(self) -> ArmClient:
        self._session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The open connections, for requests of another form than the methods below send."""
        assert self._session is not None, "not entered"
        return self._session

    async def get(self, path: str, api_version: str) -> dict[str, Any]:
        """The resource; raises ``RequestFailed`` (404 if there is none)."""
        _, body = await self._send("GET", self._url(path, api_version))
        return body

    async def list(self, path: str, api_version: str) -> list[dict[str, Any]]:
        """A whole collection, page by page."""
        url: str | None = self._url(path, api_version)
        items: list[dict[str, Any]] = []
        while url:
            _, body = await self._send("GET", url)
            items += body["value"]
            url = body.get("nextLink")
        return items

    async def put(self, path: str, body: dict[str, Any], api_version: str) -> dict[str, Any]:
        """Writes, waits for the operation, and answers the resource as it then is."""
        url = self._url(path, api_version)
        headers, answer = await self._send("PUT", url, body)
        if not await self.wait(headers):
            return answer
        return await self.get(path, api_version)

    async def patch(self, path: str, body: dict[str, Any], api_version: str) -> dict[str, Any]:
        headers, answer = await self._send("PATCH", self._url(path, api_version), body)
        await self.wait(headers)
        return answer

    async def post(self, path: str, body: Any, api_version: str) -> dict[str, Any]:
        """An action; its answer if it has one."""
        headers, answer = await self._send("POST", self._url(path, api_version), body)
        await self.wait(headers)
        return answer

    async def delete(self, path: str, api_version: str) -> None:
        """Deletes and waits until it is gone; nothing happens if it was not there."""
        headers, _ = await self._send("DELETE", self._url(path, api_version))
        await self.wait(headers)

    def _url(self, path: str, api_version: str) -> str:
        mark = "&" if "?" in path else "?"
        return f"{self.base}{path}{mark}api-version={api_version}"

    async def sign_in(self) -> str:
        """A bearer token, asked for when the last one is about to expire."""
        if time.monotonic() < self._expires:
            return self._token
        form = {
            "grant_type": "client_credentials",
            "client_id": self._client_id,
            "client_secret": self._secret,
            "scope": f"{self.base}/.default",
        }
        url = f"{self.base}/{self._tenant}/oauth2/v2.0/token"
        async with self.session.post(url, data=form, ssl=self.tls) as response:
            body = await response.json(content_type=None)
            if response.status != 200:
                raise RequestFailed(response.status, body["error"], body["error_description"])
        self._token = str(body["access_token"])
        self._expires = time.monotonic() + int(body["expires_in"]) - 300
        return self._token

    async def _send(
        self, method: str, url: str, body: Any = None
    ) -> tuple[dict[str, str], dict[str, Any]]:
        token = await self.sign_in()
        async with self.session.request(
            method,
            url,
            json=body,
            headers={"Authorization": f"Bearer {token}"},
            ssl=self.tls,
        ) as response:
            answer = await response.json(content_type=None) if response.content_length else None
            if response.status >= 400:
                error = (answer or {}).get("error") or {}
                code, message = error.get("code", ""), error.get("message", "")
                raise RequestFailed(response.status, code, message)
            headers = {**response.headers, "status": str(response.status)}
            return headers, answer or {}

    async def wait(self, headers: dict[str, str]) -> bool:
        """Waits for the operation that the headers name, if they name one."""
        status_url, result_url = headers.get("Azure-AsyncOperation"), headers.get("Location")
        if not status_url and not (result_url and headers["status"] == "202"):
            return False
        deadline = time.monotonic() + self._timeout_seconds
        while time.monotonic() < deadline:
            if status_url:
                _, body = await self._send("GET", status_url)
                if body["status"] == "Succeeded":
                    return True
                if body["status"] in ("Failed", "Canceled"):
                    error = body.get("error") or {}
                    code = error.get("code", body["status"])
                    raise RequestFailed(200, code, error.get("message", ""))
            else:
                answer, _ = await self._send("GET", result_url or "")
                if answer["status"] != "202":
                    return True
            await asyncio.sleep(self._poll_seconds)
        raise RequestFailed(0, "Timeout", f"no end of the operation in {self._timeout_seconds} s")
