"""Which pods ``egress-gateway test`` makes, and what it concludes."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import subprocess
import sys

import msgspec
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from egress_gateway.api import names
from egress_gateway.cli.agents.answers import Asked, Round
from egress_gateway.cli.proof.plan import Case, ProofResult, cases, excluded, judged, pod, table
from egress_gateway.cli.proof.probe import probe, round_of
from egress_gateway.cli.stun import StunResponder
from tests.faults.table import healthy, node

(SGC,) = healthy().configurations
NODES = [node(f"n{n}", {names.NODE_READY_LABEL: "true"}) for n in range(5)]
CASE = Case(configuration=SGC, node="n0", pod="p")
GOOD = Asked(
    server="s:1", address="198.51.100.9", seen="203.0.113.1", full_seen="203.0.113.1", mtu=1380
)
CLUSTER = [ipaddress.ip_network("10.244.0.0/16")]


def verdicts(found: Round, case: Case = CASE) -> dict[str, bool | None]:
    judged_ = judged(case, found, SGC.status.gateways, CLUSTER)
    return {v.check: v.passed for v in judged_}


def excluding(*cidrs: str) -> Case:
    spec = replace(SGC.spec, exclude_cidrs=list(cidrs))
    return replace(CASE, configuration=replace(SGC, spec=spec))


def test_each_configuration_gets_one_pod_before_any_gets_two() -> None:
    others = [replace(SGC, metadata=replace(SGC.metadata, name=f"c{n}")) for n in range(3)]
    made, left = cases(others, NODES, "r", per_configuration=3, most=5)
    assert left == 4
    assert sorted(c.name for c in made[:3]) == ["shop/c0", "shop/c1", "shop/c2"]
    assert len({(c.name, c.node) for c in made}) == 5
    assert len({c.pod for c in made}) == 5


@pytest.mark.parametrize(
    "nodes",
    [
        [],
        [node("n0", {})],
        [node("n0", {names.NODE_READY_LABEL: "true"}, ready="False")],
        [node("n0", {names.NODE_READY_LABEL: "true"}, cordoned=True)],
    ],
)
def test_nodes_that_take_no_annotated_pods_get_none(nodes: list[object]) -> None:
    assert cases([SGC], nodes, "r", per_configuration=3, most=5) == ([], 0)  # type: ignore[arg-type]


def test_a_pod_fits_the_strictest_standard_and_ends_by_itself() -> None:
    made = pod(excluding("192.0.2.0/24"), "image", "r", ["s:1"], every=0)
    spec, (container,) = made["spec"], made["spec"]["containers"]
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["command"][-4:] == ["--server", "s:1", "--way", "192.0.2.1"]
    assert made["metadata"]["annotations"] == {names.POD_ANNOTATION: "partner"}


@pytest.mark.parametrize(
    ("found", "check", "passed"),
    [
        (Round(asked=[GOOD]), "egress", True),
        (Round(asked=[GOOD]), "full size", True),
        (Round(asked=[GOOD]), "dns", True),
        (Round(asked=[GOOD]), "excluded", None),
        (Round(asked=[GOOD], unresolved={"s": "no such name"}), "dns", False),
        (Round(asked=[replace(GOOD, server="192.0.2.1:3478")]), "dns", None),
        (Round(asked=[replace(GOOD, seen="192.0.2.1")]), "egress", False),
        (Round(asked=[GOOD, replace(GOOD, seen="192.0.2.1")]), "egress", False),
        (Round(asked=[replace(GOOD, seen="")]), "egress", False),
        (Round(asked=[replace(GOOD, seen="", address="", error="no name")]), "egress", False),
        (Round(asked=[replace(GOOD, full_seen="")]), "full size", False),
        (Round(asked=[replace(GOOD, full_seen=""), GOOD]), "full size", True),
        (Round(asked=[replace(GOOD, seen="", full_seen="")]), "full size", None),
        (Round(asked=[replace(GOOD, address="10.244.1.1")]), "egress", None),
    ],
)
def test_what_a_pod_found_is_judged(found: Round, check: str, passed: bool | None) -> None:
    assert verdicts(found)[check] is passed


@pytest.mark.parametrize(
    ("found", "passed"),
    [
        (Round(ways={"192.0.2.1": "eth0"}), True),
        (Round(ways={"192.0.2.1": "wg0"}), False),
        (Round(ways={"192.0.2.1": "wg1"}), False),
        (Round(asked=[GOOD, replace(GOOD, address="192.0.2.7", seen="203.0.113.200")]), True),
        (Round(asked=[GOOD, replace(GOOD, address="192.0.2.7", seen="203.0.113.1")]), False),
    ],
)
def test_what_is_excluded_must_not_use_the_gateway(found: Round, passed: bool) -> None:
    assert verdicts(found, excluding("192.0.2.0/24"))["excluded"] is passed


def test_an_address_of_each_excluded_network_is_looked_up() -> None:
    assert excluded(
        excluding("192.0.2.0/24", "198.51.100.31/32", "2001:db8::/64", "x").configuration
    ) == ["192.0.2.1", "198.51.100.31"]
    listed = replace(SGC.spec, default_route="azureNetworking", exclude_cidrs=["192.0.2.0/24"])
    assert excluded(replace(SGC, spec=listed)) == []


def test_a_table_has_columns() -> None:
    lines = table(
        [
            ProofResult(configuration="a/b", node="n", check="dns", passed=True, text="x"),
            ProofResult(
                configuration="a/long", node="node", check="egress", passed=False, text="y"
            ),
        ]
    )
    assert lines == ["✓ a/b     n     dns     x", "✗ a/long  node  egress  y"]


async def test_a_probe_hears_small_and_full_size_answers() -> None:

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(StunResponder, local_addr=("127.0.0.1", 0))
    try:
        port = transport.get_extra_info("sockname")[1]
        asked = (f"127.0.0.1:{port}", "127.0.0.1:1", "nowhere.invalid:3478")
        found = await asyncio.to_thread(round_of, asked, ("localhost",), ("127.0.0.1",), 20)
    finally:
        transport.close()
    first, silent, unknown = found.asked
    assert (first.seen, first.full_seen, first.device) == ("127.0.0.1", "127.0.0.1", "lo")
    assert first.mtu >= 1280
    assert not silent.seen
    assert unknown.error
    assert found.ways == {"127.0.0.1": "lo"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
def test_who_traces_a_pod_does_not_wait_for_a_dead_resolver_as_long_as_a_pod_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RES_OPTIONS", "x")  # put back in the end
    monkeypatch.delenv("RES_OPTIONS")
    CliRunner().invoke(probe, ["--pod", "a/b"])
    assert os.environ["RES_OPTIONS"] == "timeout:1 attempts:3"


def test_a_probe_needs_no_rights() -> None:
    """An ordinary pod has no capability: it must not enter a namespace, not even its own."""
    line = "from egress_gateway.cli.main import main; main()"
    asked = ["probe", "--name", "localhost", "--way", "127.0.0.1", "--server", "127.0.0.1:1"]
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", line]
    done = subprocess.run([*command, *asked, "--wait", "0.1"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert msgspec.json.decode(done.stdout, type=Round).ways == {"127.0.0.1": "lo"}
