"""What ``trace`` makes of what a node's agent sees of a pod: each fault has its own hop."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import click
import pytest
from msgspec.structs import replace

from egress_gateway.cli.agents.answers import AskedResolver, Round, SeenPod, SeenTunnel
from egress_gateway.cli.diagnosis.packets.hops import connected, inside, policies
from egress_gateway.cli.diagnosis.packets.trace import _address
from egress_gateway.cli.diagnosis.selection import selected
from egress_gateway.cli.proof.probe import round_of as round_of_packets
from tests.faults.table import healthy

TO = ipaddress.ip_address("198.51.100.7")
GOOD = SeenTunnel(link="wg0", endpoint="10.0.0.5:6000", handshake=34.2)
HEALTHY = SeenPod(held=3, tunnel=GOOD)


def seen(found: Round, *, by_gateway: bool = True) -> dict[str, tuple[str, str]]:
    return {hop.name: (hop.verdict, hop.text) for hop in inside(found, TO, by_gateway)}


def round_of(pod: SeenPod = HEALTHY, **given: Any) -> Round:
    resolver = AskedResolver(server="10.0.0.10", device="eth0")
    healthy = Round(pod=pod, ways={str(TO): "wg0"}, resolvers=[resolver])
    return replace(healthy, **given)


def test_a_healthy_pod_has_hold_handshake_link_and_resolver() -> None:
    assert seen(round_of()) == {
        "hold": (
            "good",
            "in place; it has dropped 3 packets that would have bypassed the gateway",
        ),
        "handshake": ("good", "wg0 to 10.0.0.5:6000, 34 s ago"),
        "link": ("good", "the pod's kernel sends packets for 198.51.100.7 by wg0"),
        "resolver": ("good", "10.0.0.10 answers, by eth0"),
    }


@pytest.mark.parametrize(
    ("found", "hop", "verdict", "words"),
    [
        (round_of(SeenPod(tunnel=GOOD)), "hold", "bad", "could bypass"),
        (round_of(SeenPod(held=0)), "handshake", "bad", "no tunnel"),
        (
            round_of(SeenPod(held=0, tunnel=SeenTunnel(link="wg1", endpoint="10.0.0.5:6000"))),
            "handshake",
            "bad",
            "wg1 to 10.0.0.5:6000: none has succeeded",
        ),
        (
            round_of(SeenPod(held=0, tunnel=SeenTunnel(link="wg0", handshake=900))),
            "handshake",
            "unknown",
            "idle",
        ),
        (round_of(ways={str(TO): "eth0"}), "link", "bad", "not as the configuration says"),
        (round_of(ways={str(TO): "net1"}), "link", "bad", "by net1"),
        (round_of(ways={str(TO): "none: unreachable"}), "link", "bad", "none"),
        (
            round_of(resolvers=[AskedResolver(server="1.2.3.4", device="eth0", error="no answer")]),
            "resolver",
            "bad",
            "1.2.3.4, by eth0: no answer",
        ),
        (
            round_of(resolvers=[AskedResolver(server="1.2.3.4", device="wg0", error="no answer")]),
            "resolver",
            "bad",
            "spec.excludeCidrs",
        ),
    ],
)
def test_what_is_broken_inside_the_pod_is_told(
    found: Round, hop: str, verdict: str, words: str
) -> None:
    told = seen(found)
    assert told[hop][0] == verdict
    assert words in told[hop][1]
    assert [name for name, (said, _) in told.items() if said != "good"] == [hop]


def test_an_ordinary_destination_needs_no_handshake_and_must_not_be_the_tunnels() -> None:
    plain = round_of(ways={str(TO): "eth0"})
    assert "handshake" not in seen(plain, by_gateway=False)
    assert seen(plain, by_gateway=False)["link"][0] == "good"
    assert seen(round_of(), by_gateway=False)["link"][0] == "bad"


def test_an_agent_of_an_earlier_version_has_seen_nothing() -> None:
    assert seen(Round(ways={str(TO): "wg0"})).keys() == {"link"}


def policy(name: str, selector: dict[str, Any] | None, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"podSelector": selector} | spec}


def test_policies_of_the_pods_egress_are_named_and_no_others() -> None:
    found = [
        policy("deny", {}, policyTypes=["Ingress", "Egress"]),
        policy("old-form", {"matchLabels": {"app": "web"}}, egress=[]),
        policy("others", {"matchLabels": {"app": "db"}}, policyTypes=["Egress"]),
        policy("ingress", {}, policyTypes=["Ingress"]),
    ]
    (hop,) = policies(found, {"app": "web"}, by_gateway=True)
    assert hop.text == "deny, old-form do not apply to what the gateway carries"
    (hop,) = policies(found, {"app": "web"}, by_gateway=False)
    assert (hop.verdict, hop.text) == ("unknown", "deny, old-form apply to this way")
    assert policies(found[3:], {"app": "web"}, by_gateway=True) == []


@pytest.mark.parametrize(
    ("operator", "values", "labels", "chosen"),
    [
        ("In", ["a", "b"], {"k": "a"}, True),
        ("In", ["b"], {"k": "a"}, False),
        ("In", ["b"], {}, False),
        ("NotIn", ["a"], {"k": "a"}, False),
        ("NotIn", ["a"], {}, True),
        ("Exists", None, {"k": ""}, True),
        ("Exists", None, {}, False),
        ("DoesNotExist", None, {"k": ""}, False),
        ("DoesNotExist", None, {}, True),
    ],
)
def test_expressions_select_as_kubernetes_says(
    operator: str, values: list[str] | None, labels: dict[str, str], chosen: bool
) -> None:
    expression = {"key": "k", "operator": operator, "values": values}
    assert selected({"matchExpressions": [expression]}, labels) is chosen


@pytest.mark.parametrize(
    ("error", "by_gateway", "verdict", "words"),
    [
        ("", True, "good", "accepts"),
        ("silence", True, "bad", "leaves from 203.0.113.0: does its firewall allow all of"),
        ("silence", False, "bad", "as other pods do"),
        ("Connection refused", True, "bad", "198.51.100.7:443: Connection refused"),
    ],
)
def test_a_partner_that_lets_some_addresses_through_is_told(
    error: str, by_gateway: bool, verdict: str, words: str
) -> None:
    facts = healthy()
    (sgc,), (endpoint, *_) = facts.configurations, facts.endpoints or ()
    found = Round(connected={"198.51.100.7:443": error})
    (hop,) = connected(found, endpoint if by_gateway else None, sgc)
    assert (hop.name, hop.verdict) == ("destination", verdict)
    assert words in hop.text


@pytest.mark.parametrize(
    ("text", "address", "peer"),
    [
        (None, None, ""),
        ("198.51.100.7", "198.51.100.7", ""),
        ("198.51.100.7:443", "198.51.100.7", "198.51.100.7:443"),
        ("2001:db8::7", "2001:db8::7", ""),
        ("[2001:db8::7]:443", "2001:db8::7", "[2001:db8::7]:443"),
    ],
)
def test_a_destination_may_have_a_port(text: str | None, address: str | None, peer: str) -> None:
    found, with_port = _address(text)
    assert (found and str(found), with_port) == (address, peer)


@pytest.mark.parametrize("text", ["a.example", "198.51.100.7:0", "198.51.100.7:99999", ":80"])
def test_a_destination_that_is_none_is_one_line(text: str) -> None:
    with pytest.raises(click.UsageError, match=r"no (IP address|port)"):
        _address(text)


def test_a_connection_is_opened_within_the_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        open_ = f"127.0.0.1:{server.getsockname()[1]}"
        found = round_of_packets((), (), (), 0.1, (), [open_]).connected
    assert found == {open_: ""}
    assert round_of_packets((), (), (), 0.1, (), [open_]).connected[open_] == "Connection refused"
