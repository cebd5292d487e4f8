"""Answers that are no answers, by a proxy, a front door or Azure itself: each is an ``Unavailable``
in a sentence, never a traceback and never a document."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from egress_gateway.cloud import errors
from egress_gateway.cloud.azure.requests.client import ArmClient
from tests.unit.cloud.test_azure_connections import Azure, asking


@dataclass
class Spoilt(Azure):
    """Answers every question as ``odd`` says; with ``accepts``, polls only."""

    odd: dict[str, Any] = field(default_factory=dict)
    accepts: bool = False

    async def answer(self, request: web.Request) -> web.Response:
        if "/oauth2/" in request.path:
            return await super().answer(request)
        if self.accepts and request.method != "GET":
            told = {"Azure-AsyncOperation": f"{self.url}/poll"}
            return web.json_response({"id": "/n"}, status=201, headers=told)
        given = {"content_type": "application/json"} | self.odd
        return web.Response(**given)


ODD: dict[str, dict[str, Any]] = {
    "empty": {},
    "truncated": {"body": b'{"id": "/subscr'},
    "null": {"body": b"null"},
    "list": {"body": b"[]"},
    "text": {"body": b'"ok"'},
    "object": {"body": b"{}"},
    "null value": {"body": b'{"value": null, "properties": null, "status": null}'},
    "odd value": {"body": b'{"id": 3, "value": [null, 3], "properties": []}'},
    "value": {"body": b'{"id": {}, "value": {"a": 1}, "properties": "x"}'},
    "deep": {"body": b"[" * 100_000},
    "nan": {"body": b'{"id": NaN}'},
    "no text": {"body": b'{"\xff\xfe": 1}'},
    "page": {"body": b"<html>Sign in</html>", "content_type": "text/html"},
    "xml": {"body": b"<Error><Code>x</Code>", "content_type": "application/xml"},
    "gzip": {"body": b"{}", "headers": {"Content-Encoding": "gzip"}},
    "bytes": {"body": b"{}", "content_type": "application/octet-stream"},
    "no content": {"status": 204},
    "not modified": {"status": 304},
    "round": {"status": 307, "headers": {"Location": "/again"}},
    "elsewhere": {"status": 302, "headers": {"Location": "https://login.example.invalid/"}},
    "nowhere": {"status": 302},
    "forbidden page": {"status": 403, "body": b"<html>no</html>", "content_type": "text/html"},
    "forbidden": {"status": 403},
    "forbidden object": {"status": 403, "body": b'{"error": null}'},
    "forbidden list": {"status": 403, "body": b'{"error": ["x"]}'},
    "missing": {"status": 404},
    "missing page": {"status": 404, "body": b"<html>no</html>", "content_type": "text/html"},
    "conflict": {"status": 409},
    "gone": {"status": 410},
    "teapot": {"status": 418},
    "later": {"status": 503, "headers": {"Retry-After": "soon"}},
    "much later": {"status": 503, "headers": {"Retry-After": "86400"}},
    "page again": {"body": b'{"value": [], "nextLink": "/again"}'},
    "odd page": {"body": b'{"value": [], "nextLink": 3}'},
}

Call = Callable[[ArmClient], Awaitable[Any]]
LOOKS: dict[str, Call] = {
    "resource": lambda c: c.balancer("g", "b"),
    "list": lambda c: c.scale_sets("g"),
}
WRITES: dict[str, Call] = {
    "put": lambda c: c.put_scale_set("g", "s", {"location": "l"}, None),
    "delete": lambda c: c.delete_prefix("g", "p"),
}


@pytest.fixture
def azure(tmp_path: Path) -> Spoilt:
    return Spoilt(tmp_path / "ca.crt")


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("look", LOOKS)
async def test_a_look_that_gets_no_answer_is_unavailable(
    azure: Spoilt, look: str, odd: str
) -> None:
    azure.odd = ODD[odd]
    async with azure.serving() as config, asking(config) as client:
        with pytest.raises(errors.Unavailable) as caught:
            await LOOKS[look](client)
    assert "\n" not in str(caught.value)
    assert "<html" not in str(caught.value)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("accepts", [False, True], ids=["at once", "when asked how far it is"])
async def test_a_write_that_gets_no_answer_is_over_or_unavailable(
    azure: Spoilt, write: str, odd: str, accepts: bool
) -> None:
    """What an answer of 200 says is not needed: the next look shows what was written."""
    azure.odd, azure.accepts = ODD[odd], accepts
    async with azure.serving() as config, asking(config) as client:
        (refusal,) = await asyncio.gather(WRITES[write](client), return_exceptions=True)
    if refusal is None:
        assert ODD[odd].get("status", 200) < 300
        return
    assert isinstance(refusal, errors.Unavailable)
    assert not isinstance(refusal, errors.Overdue)
    assert "\n" not in str(refusal)
    assert "<html" not in str(refusal)


GIVEN_UP: dict[str, tuple[bool, dict[str, Any]]] = {
    "at once": (False, {"status": 201, "body": b'{"properties": {"provisioningState": "Failed"}}'}),
    "without a reason": (True, {"body": b'{"status": "Failed"}'}),
    "with none": (True, {"body": b'{"status": "Failed", "error": null}'}),
    "with a text": (True, {"body": b'{"status": "Canceled", "error": "no"}'}),
    "with an empty one": (True, {"body": b'{"status": "Failed", "error": {}}'}),
}


@pytest.mark.parametrize("how", GIVEN_UP)
async def test_a_write_that_azure_gives_up_without_a_reason_is_told_as_that(
    azure: Spoilt, how: str
) -> None:
    """No word of HTTP or of proxies: Azure itself has answered, and well."""
    azure.accepts, azure.odd = GIVEN_UP[how]
    async with azure.serving() as config, asking(config) as client:
        with pytest.raises(errors.Failed, match=r"took the write and gave it up"):
            await WRITES["put"](client)
