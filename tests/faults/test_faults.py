"""``check`` names what is broken, with evidence and fix; and says nothing of what is not."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from egress_gateway.api import names
from egress_gateway.cli.agents.answers import Asked
from egress_gateway.cli.diagnosis.checks.check import text
from egress_gateway.cli.diagnosis.checks.findings import TITLES, Finding, findings, misspelt
from egress_gateway.cli.diagnosis.overview import Facts, summarize
from egress_gateway.cli.diagnosis.packets.hops import hops, probed
from egress_gateway.cli.diagnosis.status import render
from tests.faults.before import ACCOUNTS, BEFORE, MACHINES
from tests.faults.installed import INSTALLED
from tests.faults.table import (
    FAULTS,
    KEY,
    deleted,
    healthy,
    last_node,
    node,
    not_reached,
    pod,
    said,
    unanswered,
)
from tests.faults.test_templates import PLACED

CLUSTER = [ipaddress.ip_network("10.244.0.0/16")]


def found(facts: Facts) -> list[Finding]:
    return findings(facts, summarize(facts))


@pytest.mark.parametrize(
    ("how", "code", "where", "words"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS]
)
def test_a_fault_is_named_with_evidence_and_fix(
    how: Callable[[Facts], Facts], code: str, where: str, words: str
) -> None:
    seen = found(how(healthy()))
    (one,) = [f for f in seen if f.code == code]
    assert one.object == where
    assert words in f"{one.evidence} {one.mend}"
    assert one.mend
    assert [f.code for f in seen] == [code], "one fault is one finding"
    shown = click.unstyle(text(seen, []))
    assert code in shown
    assert TITLES[code] in shown


shapes = st.builds(
    healthy,
    gateways=st.integers(1, 9),
    pods=st.integers(0, 40),
    workers=st.integers(1, 12),
    namespace=st.from_regex(r"[a-z][a-z0-9-]{0,20}[a-z0-9]", fullmatch=True),
)
others = st.dictionaries(
    st.sampled_from(
        [
            "prometheus.io/scrape",
            "kubernetes.io/psp",
            "kubernetes.azure.com/tls-cert-keyvault-uri",
            "kubernetes.azure.com/set-kube-service-host-fqdn",
            "egressgateway.kubernetes.azure.com/anything",
            "cni.projectcalico.org/podIP",
            "checksum/config",
        ]
    ),
    st.text(max_size=9),
)


@settings(max_examples=200)
@given(shapes, others)
def test_a_healthy_cluster_has_no_finding_whatever_its_shape(
    facts: Facts, annotations: dict[str, str]
) -> None:
    with_others = replace(facts, pods=[*(facts.pods or ()), pod("x", annotations)])
    assert found(with_others) == []
    assert summarize(with_others).healthy


@pytest.mark.parametrize(
    "changed",
    [
        node("n1", {"kubernetes.io/os": "windows"}),
        node("n1", {"type": "virtual-kubelet"}),
        node("n1", {}, ready="False"),
        node("n1", {}, cordoned=True),
    ],
)
def test_a_node_that_takes_no_annotated_pods_anyway_is_no_finding(changed: object) -> None:
    assert found(last_node(changed)(healthy())) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "reason", ["RotationWaiting", "RotationPreparing", "RotationMoving", "RotationRetiring"]
)
def test_a_change_of_keys_that_goes_on_is_no_finding(reason: str) -> None:
    assert found(said(KeysRotated=("False", reason, "2 of 3 pods"))(healthy())) == []


def test_what_is_being_made_or_removed_is_no_finding() -> None:
    assert found(said(IPv6Ready=("False", "Provisioning", "0 of 2"))(healthy())) == []
    assert found(deleted(30, names.FINALIZER)(healthy())) == []
    assert found(unanswered(30)(healthy())) == []


def test_the_key_itself_is_not_misspelt() -> None:
    assert not misspelt(KEY)


def test_what_may_not_be_read_is_no_finding_and_is_said() -> None:
    poor = replace(healthy(), gateways=None, nodes=None, pods=None, unseen=["Nodes: not yours"])
    assert found(poor) == []
    assert "not seen: Nodes: not yours" in text([], list(poor.unseen))


def test_every_code_has_a_paragraph() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/checks.md").read_text()
    assert set(re.findall(r"^## (EG\d+)", page, re.MULTILINE)) == set(TITLES)
    shown = {f[2] for f in FAULTS} | {f[2] for f in BEFORE} | {f[2] for f in MACHINES}
    shown |= {f[2] for f in ACCOUNTS} | {f[2] for f in INSTALLED}
    shown |= {code for *_, codes in PLACED for code in codes}
    assert shown == set(TITLES), "each is shown by a fault"
    assert len(FAULTS) + len(BEFORE) + len(MACHINES) >= 60


# --- trace -----------------------------------------------------------------------------------


def traced(
    facts: Facts, name: str = "web-0", to: str | None = None, namespace: str = "shop"
) -> dict[str, tuple[str, str]]:
    address = ipaddress.ip_address(to) if to else None
    way = hops(facts, summarize(facts), (namespace, name), address, CLUSTER)
    return {hop.name: (hop.verdict, hop.text) for hop in way}


def test_a_healthy_pods_way_is_good_to_its_address() -> None:
    way = traced(healthy(), to="198.51.100.7")
    hops = ["pod", "route", "configuration", "tunnel", "gateway", "address", "balancer", "azure"]
    assert list(way) == hops
    assert {verdict for verdict, _ in way.values()} == {"good"}
    assert "gw0 serves it, at 10.0.0.0 UDP 6000" in way["gateway"][1]
    assert (
        "translated to 10.0.1.0, in Azure to 203.0.113.0, as servers on the Internet see it; "
        "198.51.100.7 must allow all of 203.0.113.0/30" in way["address"][1]
    )


@pytest.mark.parametrize(
    ("to", "excluded", "words"),
    [
        ("10.244.3.4", [], "clusterCidrs"),
        ("192.0.2.9", ["192.0.2.0/24"], "192.0.2.0/24 of excludeCidrs"),
        ("8.8.8.8", ["0.0.0.0/0"], "0.0.0.0/0 of excludeCidrs"),
    ],
)
def test_a_destination_that_is_not_the_gateways_is_said(
    to: str, excluded: list[str], words: str
) -> None:
    facts = healthy()
    (sgc,) = facts.configurations
    spec = replace(sgc.spec, exclude_cidrs=excluded)
    way = traced(replace(facts, configurations=[replace(sgc, spec=spec)]), to=to)
    assert list(way) == ["pod", "route"]
    assert words in way["route"][1]


@pytest.mark.parametrize(
    ("fault", "hop"),
    [
        ("UDP filtered", "tunnel"),
        ("a gateway's Internet side is dead", "gateway"),
        ("the prefix is gone", "configuration"),
        ("the credential has expired", "azure"),
        ("a gateway is cordoned", "gateway"),
        ("UDP dropped at one gateway", "redundancy"),
        ("UDP between one node and one gateway dropped", "redundancy"),
        ("large packets to one gateway dropped", "redundancy"),
    ],
)
def test_the_hop_that_is_broken_is_bad(fault: str, hop: str) -> None:
    how = next(f[1] for f in FAULTS if f[0] == fault)
    way = traced(how(healthy()))
    assert way[hop][0] == "bad"


@pytest.mark.parametrize(
    ("by", "serves", "reason", "words", "shown"),
    [
        (("n0", "n1"), False, "GatewayLost", "1 of 2 gateways serve", "NOT SERVING (NotReached)"),
        (("n1",), True, "NotReached", "not all nodes reach gw1", "gw1  serving some nodes"),
    ],
)
def test_status_is_degraded_while_nodes_do_not_reach_a_gateway(
    by: tuple[str, ...], serves: bool, reason: str, words: str, shown: str
) -> None:
    """Although each pod works, and whatever the controller says or does not say."""
    overview = summarize(not_reached("gw1", by)(healthy()))
    (view,) = overview.configurations
    assert not overview.healthy
    assert (view.state, view.reason, view.message) == ("Degraded", reason, words)
    one, other = view.gateways
    assert (one.serving, one.reason) == (True, "Serving")
    assert (other.serving, other.reason) == (serves, "NotReached")
    assert f"{len(by)} of 2 nodes" in other.message
    assert shown in click.unstyle(render(overview))


def test_an_address_that_nobody_sees_is_bad_and_one_that_nobody_asked_for_is_unknown() -> None:
    facts = healthy()
    (sgc,) = facts.configurations
    first, *more = sgc.status.gateways
    for seen, verdict in (("", "bad"), ("192.0.2.1", "bad"), (first.public_ip, "good")):
        status = replace(sgc.status, gateways=[replace(first, seen_ip=seen), *more])
        way = traced(replace(facts, configurations=[replace(sgc, status=status)]))
        assert way["address"][0] == verdict


@pytest.mark.parametrize(
    ("found", "verdicts", "words"),
    [
        (
            Asked(server="s", seen="203.0.113.1", mtu=1380, full_seen="203.0.113.1"),
            "good good",
            "1380",
        ),
        (Asked(server="s", seen="203.0.113.1", mtu=1380), "good bad", "drops large"),
        (
            Asked(server="s", seen="192.0.2.1", mtu=9, full_seen="192.0.2.1"),
            "bad good",
            "192.0.2.1",
        ),
        (Asked(server="s", error="Network is unreachable"), "bad", "unreachable"),
        (Asked(server="s"), "bad", "silence"),
    ],
)
def test_what_packets_of_the_pod_came_to_are_hops_too(
    found: Asked, verdicts: str, words: str
) -> None:
    way = probed([found], ["203.0.113.0", "203.0.113.1"])
    assert " ".join(hop.verdict for hop in way) == verdicts
    assert any(words in hop.text for hop in way)


def test_pods_that_are_not_there_or_ask_for_nothing_are_told() -> None:
    assert traced(healthy(), "nobody")["pod"] == ("bad", "there is no pod shop/nobody")
    assert traced(healthy(), "plain")["pod"][0] == "unknown"
    waiting = replace(healthy(), pods=[pod("p", {KEY: "nowhere"}, phase="Pending")], endpoints=[])
    assert traced(waiting, "p")["configuration"][0] == "bad"
    late = replace(healthy(), pods=[pod("p", {KEY: "partner"}, phase="Pending")])
    assert traced(late, "p")["tunnel"][0] == "bad"
