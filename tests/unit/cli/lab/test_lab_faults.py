"""`lab fault` as a person types it, over a real control socket."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from egress_gateway_lab import host
from egress_gateway_lab.azure.arm.addressing import Addresses
from egress_gateway_lab.azure.faults import Faults
from egress_gateway_lab.commands.lab import lab
from egress_gateway_lab.control import control_app


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """A lab that has nothing but faults and a quota."""
    faults = Faults()
    addresses = Addresses(outbound=[], prefixes=[IPv4Network("203.0.113.0/24")])
    addresses.allocate_prefix("/prefix", 30)
    loop, path = asyncio.new_event_loop(), tmp_path / "control.sock"

    async def command(arguments: dict[str, Any]) -> Any:
        return faults.command(arguments)

    async def quota(arguments: dict[str, Any]) -> Any:
        return addresses.command(arguments)

    async def serve() -> web.AppRunner:
        runner = web.AppRunner(control_app({"fault": command, "quota": quota}))
        await runner.setup()
        await web.UnixSite(runner, str(path)).start()
        return runner

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(serve(), loop).result(60)
    monkeypatch.setattr(host, "find", lambda name: SimpleNamespace(name=name, control=path))
    yield faults
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def typed(*words: str) -> Result:
    return CliRunner().invoke(lab, ["fault", *words])


def test_a_fault_is_added_listed_and_cleared(faults: Faults) -> None:
    added = typed("add", "throttle", "--method", "put", "--path", "loadBalancers", "--times", "2",
                  "--retry-after", "7")  # fmt: skip
    assert added.exit_code == 0, added.output
    (rule,) = faults.rules()
    assert added.output.strip() == str(rule.id)
    assert faults.take("GET", "/x/loadbalancers/y") is None
    assert faults.take("PUT", "/x/loadbalancers/y") is rule
    error = rule.error()
    assert error is not None
    assert (error.status, error.headers["Retry-After"]) == (429, "7")
    listed = typed("list").output
    assert "throttle" in listed
    assert "acted 1 of 2" in listed
    assert json.loads(typed("list", "--output", "json").output)[0]["hits"] == 1
    assert typed("clear").exit_code == 0
    assert faults.rules() == []


@pytest.mark.parametrize(
    "kind", ["conflict", "throttle", "error", "cut", "fail-operation", "delay", "shape"]
)
def test_every_kind_can_be_typed_and_one_can_be_cleared(faults: Faults, kind: str) -> None:
    keep = typed("add", "delay", "--always").output.strip()
    number = typed("add", kind, "--output", "json").output
    assert json.loads(number)["kind"] == kind
    typed("clear", str(json.loads(number)["id"]))
    assert [str(r.id) for r in faults.rules()] == [keep]
    assert faults.rules()[0].times is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["add", "error", "--path", "("], "no regular expression"),
        (["add", "explode"], "explode"),
        (["clear", "99999"], "no fault has the number 99999"),
    ],
)
def test_what_is_no_fault_is_refused_in_one_line(
    faults: Faults, words: list[str], says: str
) -> None:
    refused = typed(*words)
    assert refused.exit_code != 0
    assert says in refused.output
    assert faults.rules() == []


@pytest.mark.usefixtures("faults")
def test_the_quota_of_public_addresses_is_told_and_set() -> None:
    assert typed("quota").output == "4 of 1000 public addresses are used\n"
    assert typed("quota", "5").output == "4 of 5 public addresses are used\n"
    assert json.loads(typed("quota", "--output", "json").output) == {
        "public_addresses": 5,
        "used": 4,
    }
    assert typed("quota", "many").exit_code != 0
