"""Any valid result of any version goes through as it came, whatever else somebody put into it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress_gateway.cni import protocol
from tests.cni.plugin_calls import FakeAgent, agent, call, config
from tests.cni.test_plugin_json import dump, objects, values

VERSIONS = protocol.SUPPORTED_VERSIONS
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
v4 = st.ip_addresses(v=4).map(str)
v6 = st.ip_addresses(v=6).map(str)
address = st.one_of(st.tuples(v4, st.integers(0, 32)), st.tuples(v6, st.integers(0, 128)))
cidr = address.map(lambda pair: f"{pair[0]}/{pair[1]}")
NEW_INTERFACE = {
    "mtu": st.integers(68, 65535),
    "socketPath": text,
    "pciID": text,
}
NEW_ROUTE = {
    "mtu": st.integers(0, 65535),
    "advmss": st.integers(0, 65535),
    "priority": st.integers(0, 2**31),
    "table": st.integers(0, 2**31),
    "scope": st.integers(0, 255),
}


def some(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An object with ``required`` members, perhaps ``optional`` ones, and unknown ones."""
    known = st.fixed_dictionaries(required, optional=optional)
    return st.builds(lambda unknown, rest: unknown | rest, objects, known)


def results(version: str) -> st.SearchStrategy[dict[str, Any]]:
    """https://www.cni.dev/docs/spec/, "Success result types", of each version."""
    new = version >= "1.1.0"
    interface = some(
        {"name": text}, {"mac": text, "sandbox": text} | (NEW_INTERFACE if new else {})
    )
    ip = {"address": cidr} | ({"version": st.sampled_from("46")} if version < "1" else {})
    ips = some(ip, {"gateway": v4 | v6, "interface": st.integers(-1, 3)})
    route = some({"dst": cidr}, {"gw": v4 | v6} | (NEW_ROUTE if new else {}))
    dns = some(
        {},
        {
            "nameservers": st.lists(v4 | v6, max_size=2),
            "domain": text,
            "search": st.lists(text, max_size=2),
            "options": st.lists(text, max_size=2),
        },
    )
    lists = {"interfaces": interface, "ips": ips, "routes": route}
    optional = {key: st.none() | st.lists(item, max_size=3) for key, item in lists.items()}
    return some({"cniVersion": st.just(version)}, optional | {"dns": dns})


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, FakeAgent]]:
    run_dir = tmp_path_factory.mktemp("r")
    with agent(run_dir) as fake:
        yield run_dir, fake


@pytest.mark.parametrize("version", VERSIONS)
def test_exactly_as_given(version: str, listening: tuple[Path, FakeAgent]) -> None:
    run_dir, fake = listening

    @settings(max_examples=60, deadline=None)
    @given(
        result=results(version),
        annotation=st.none() | st.just("egress"),
        unknown=st.dictionaries(text.map(lambda t: f"x{t}"), values, max_size=3),
        ascii=st.booleans(),
        indent=st.none() | st.integers(0, 3),
    )
    def holds(
        result: dict[str, Any],
        annotation: str | None,
        unknown: dict[str, Any],
        ascii: bool,
        indent: int | None,
    ) -> None:
        fake.requests.clear()
        conf = config(run_dir, annotation=annotation, cniVersion=version, prevResult=0) | unknown
        written = dump(result, ascii=ascii, indent=indent)
        head, _, tail = dump(conf, ascii=ascii, indent=indent).partition('"prevResult": 0')
        done = call("ADD", f'{head}"prevResult": {written}{tail}'.encode())
        assert (done.code, done.out.decode()) == (0, written)
        if annotation is None:
            assert fake.requests == []
            return
        # And what the agent is told of it are its addresses.
        [asked] = fake.requests
        assert asked["config"]["prevResult"] == {"ips": result.get("ips")}
        told = protocol.decode(json.dumps(asked).encode())
        wanted = [ip["address"].partition("/")[0] for ip in result.get("ips") or []]
        assert [str(a) for a in told.addresses] == wanted

    holds()
