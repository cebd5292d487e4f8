"""Two servers of one configuration: which keys, which zones, what the kernel is told. Pure."""

from __future__ import annotations

import base64
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.api import keys
from egress_gateway.api.keysecret import private_keys
from egress_gateway.api.types import (
    Gateway,
    GatewayServerProfile,
    KeyRotation,
    ObjectMeta,
    StaticGatewayConfiguration,
    StaticGatewayConfigurationStatus,
)
from egress_gateway.datapath.gateway.ruleset import gateway_ruleset
from egress_gateway.datapath.gateway.served import ServedConfiguration, zones
from egress_gateway.gateway.health.report import status_spec
from egress_gateway.gateway.serving import key_mismatch, keys_of, listed, serving
from egress_gateway.kube.resources import Secret

FIRST, SECOND = keys.generate(), keys.generate()


def sgc(phase: Any = "Moving", *, name: str = "one", **changes: Any) -> StaticGatewayConfiguration:
    return StaticGatewayConfiguration(
        metadata=ObjectMeta(name=name, namespace="ns", uid=f"uid-{name}"),
        status=StaticGatewayConfigurationStatus(
            gateway_server_profile=GatewayServerProfile(
                ip="10.1.200.4", port=changes.get("port", 6000), public_key=FIRST.public
            ),
            key_rotation=KeyRotation(
                request="r", phase=phase, port=changes.get("second", 6001), public_key=SECOND.public
            ),
            gateways=[
                Gateway(
                    node="gw1",
                    primary_ip="10.1.1.4",
                    secondary_ip=changes.get("secondary", "10.1.1.101"),
                )
            ],
        ),
    )


def test_both_servers_are_served_until_the_last_phase_is_over() -> None:
    for phase, answers in (("Preparing", True), ("Retiring", True), ("Closing", False)):
        wanted = listed([sgc(phase)], "gw1")
        made = serving(wanted, {"uid-one": FIRST.private}, {}, {"uid-one": SECOND.private})
        one = made.configurations["uid-one"]
        assert [(s.port, s.private_key) for s in one.servers] == [
            (6000, FIRST.private),
            (6001, SECOND.private),
        ]
        assert one.second_answers == answers
        assert SECOND.private not in repr(one)
        assert made.problems == {}
    (over,) = listed([sgc("Done", second=0)], "gw1")
    assert over.second is None


def test_a_second_server_never_takes_anothers_port() -> None:
    both = [sgc(), sgc("Done", name="two", port=6001, second=0, secondary="10.1.1.102")]
    wanted = listed(both, "gw1")
    made = serving(wanted, {one.uid: FIRST.private for one in wanted}, {})
    assert made.configurations["uid-one"].second is None
    assert made.configurations["uid-two"].port == 6001


def test_keys_are_told_apart_by_their_public_halves_whatever_the_secrets_order() -> None:
    (one,) = listed([sgc()], "gw1")
    pair = (FIRST.private, SECOND.private)
    assert keys_of(one, pair) == pair
    assert keys_of(one, pair[::-1]) == pair
    assert keys_of(one, [FIRST.private]) == (FIRST.private, None)
    assert not key_mismatch(one, *pair)
    assert key_mismatch(one, FIRST.private, None)
    assert key_mismatch(one, *pair[::-1])


def test_a_secret_with_two_pairs_is_read() -> None:
    data = {"PrivateKey": FIRST.private, "SecondPrivateKey": SECOND.private}
    encoded = {k: base64.b64encode(v.encode()).decode() for k, v in data.items()}
    secret = Secret(metadata=ObjectMeta(name="s"), data=encoded)
    assert private_keys(secret.data) == [FIRST.private, SECOND.private]


def test_the_report_names_the_second_key_of_those_that_have_one() -> None:
    made = serving(listed([sgc()], "gw1"), {"uid-one": FIRST.private}, {})
    public = {"uid-one": FIRST.public}
    (entry,) = status_spec(
        made.configurations, public, {}, {"uid-one": SECOND.public}
    ).ready_gateway_configurations
    assert (entry.public_key, entry.second_public_key) == (FIRST.public, SECOND.public)


def test_both_interfaces_share_zone_address_and_permissions() -> None:
    made = serving(listed([sgc()], "gw1"), {"uid-one": FIRST.private}, {})
    text = gateway_ruleset(zones(made.configurations.values(), {}), refused=())
    for declared in (
        'zone_out { typeof iifname : ct zone; elements = { "wg-6000" : 6000, "wg-6001" : 6000 }',
        'snat4 { type ifname : ipv4_addr; elements = { "wg-6000" : 10.1.1.101, "wg-6001" : 10.1.1',
        "zone_in4 { typeof ip daddr : ct zone; elements = { 10.1.1.101 : 6000 }",
        "answered { typeof ct mark; elements = { 0x1770, 0x1771 }",
    ):
        assert declared in text


@given(
    ports=st.lists(st.integers(6000, 6010), unique=True, max_size=8),
    before=st.dictionaries(
        st.integers(0, 9), st.one_of(st.integers(1, 4), st.integers(6000, 6010)), max_size=8
    ),
)
def test_zones_are_kept_and_never_shared(ports: list[int], before: dict[int, int]) -> None:
    address = IPv4Address("10.1.1.100")
    known = {address + number: zone for number, zone in before.items()}
    wanted = [
        ServedConfiguration(name=f"ns/{i}", port=port, private_key=None, secondary=address + i)
        for i, port in enumerate(ports)
    ]
    found = zones(wanted, known)
    given_out = [c.in_zone for c in found]
    assert len(set(given_out)) == len(given_out)
    assert all(0 < zone < 65536 for zone in given_out)
    kept = {a: z for a, z in known.items() if list(known.values()).count(z) == 1}
    assert all(c.in_zone == kept[c.secondary] for c in found if c.secondary in kept)
    again = zones(
        [replace(c, port=c.port + 20) for c in found], {c.secondary: c.zone for c in found}
    )
    assert [c.in_zone for c in again] == given_out
