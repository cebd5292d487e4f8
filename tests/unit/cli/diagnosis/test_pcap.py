"""Which agent is asked for the packets of a hop, and what a person is told where there are none."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from egress_gateway.api.types import GatewayServerProfile, PodEndpointStatus
from egress_gateway.cli.diagnosis.packets.capture import command
from egress_gateway.cli.diagnosis.packets.pcap import HOPS, CaptureSite, place, refusal
from egress_gateway.cli.diagnosis.packets.trace import trace
from tests.faults.table import healthy

KEY = ("shop", "web-0")
_FOUND = healthy()
(_SGC,) = _FOUND.configurations
_PROFILE = GatewayServerProfile(ip="10.0.0.9", port=6000)
FACTS = replace(
    _FOUND,
    configurations=[replace(_SGC, status=replace(_SGC.status, gateway_server_profile=_PROFILE))],
    endpoints=[
        replace(e, spec=replace(e.spec, pod_ips=[f"10.244.0.{n}"]))
        for n, e in enumerate(_FOUND.endpoints or ())
    ],
)


def at(hop: str) -> CaptureSite:
    found = place(FACTS, KEY, hop)
    assert isinstance(found, CaptureSite), found
    return found


def test_each_hop_is_asked_of_the_agent_that_sees_it() -> None:
    pod, tunnel = at("pod"), at("tunnel")
    assert (pod.component, tunnel.component) == ("node", "node")
    assert pod.arguments == ("--hop", "pod", "--pod", "/".join(KEY))
    (endpoint,) = [e for e in FACTS.endpoints or () if e.pod_name == KEY[1]]
    gateway, address = at("gateway"), at("address")
    assert {gateway.component, address.component} == {"gateway"}
    assert gateway.node == address.node == endpoint.status.gateway
    assert endpoint.spec.pod_ips[0] in gateway.arguments
    (entry,) = [g for g in FACTS.configurations[0].status.gateways if g.node == gateway.node]
    assert entry.secondary_ip in address.arguments
    assert "--port" in gateway.arguments


@pytest.mark.parametrize("hop", ["azure", "internet", "configuration", "route", "mtu", "nonsense"])
def test_a_hop_without_packets_is_refused_in_one_line(hop: str) -> None:
    said = refusal(hop)
    assert said is not None
    assert "\n" not in said
    for name in HOPS:
        assert name in said
    done = CliRunner().invoke(trace, [KEY[1], "--pcap", hop])
    assert done.exit_code == 2
    assert hop in done.output


def test_a_pod_that_uses_no_gateway_has_no_packets_there() -> None:
    endpoints = [replace(e, status=PodEndpointStatus(state="Lost")) for e in FACTS.endpoints or ()]
    lost = replace(FACTS, endpoints=endpoints)
    said = place(lost, KEY, "gateway")
    assert isinstance(said, str)
    assert "tunnel" in said
    assert isinstance(place(lost, KEY, "tunnel"), CaptureSite)
    assert "no pod" in str(place(FACTS, ("shop", "nobody"), "pod"))
    assert "not attached" in str(place(replace(FACTS, endpoints=[]), KEY, "pod"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--hop", "gateway"], "no other pod's packets"),
        (["--hop", "address", "--address", "nonsense"], "nonsense"),
        (["--hop", "pod", "--pod", "a/b", "--seconds", "61"], "60"),
        (["--hop", "pod", "--pod", "a/b", "--packets", "0"], "packets"),
        (["--hop", "gateway", "--port", "22", "--address", "10.0.0.1"], "6000"),
        (["--hop", "pod", "--pod", "a/b"], "no attached pod a/b"),
    ],
)
def test_an_agent_takes_nothing_without_bounds(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code != 0
    assert re.search(re.escape(words), done.output)
    assert "Traceback" not in done.output
