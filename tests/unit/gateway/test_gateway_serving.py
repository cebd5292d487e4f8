"""Configurations, keys and reports, as functions over objects."""

from __future__ import annotations

import base64
import ipaddress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from egress_gateway.api import keys
from egress_gateway.api.keysecret import private_keys
from egress_gateway.api.types import (
    Gateway,
    GatewayServerProfile,
    ObjectMeta,
    StaticGatewayConfiguration,
    StaticGatewayConfigurationStatus,
)
from egress_gateway.gateway.health.report import Answers, status_spec
from egress_gateway.gateway.serving import ServingPlan, listed, serving, without_ipv6
from egress_gateway.kube.resources import Secret

PAIR = keys.generate()


def sgc(name: str = "one", **changes: Any) -> StaticGatewayConfiguration:
    port = changes.get("port", 6000)
    secondary = changes.get("secondary", "10.1.1.101")
    node = changes.get("node", "gw1")
    return StaticGatewayConfiguration(
        metadata=ObjectMeta(
            name=name,
            namespace="ns",
            uid=f"uid-{name}",
            deletion_timestamp=changes.get("deleted"),
        ),
        status=StaticGatewayConfigurationStatus(
            gateway_server_profile=GatewayServerProfile(
                ip=changes.get("ip", "10.1.200.4"), port=port, public_key=PAIR.public
            ),
            gateways=[Gateway(node=node, primary_ip="10.1.1.4", secondary_ip=secondary)],
        ),
    )


def outcome(*objects: StaticGatewayConfiguration) -> ServingPlan:
    wanted = listed(objects, "gw1")
    return serving(wanted, {one.uid: PAIR.private for one in wanted}, {})


def test_a_configuration_that_lists_the_node_is_served() -> None:
    made = outcome(sgc(), sgc("other", node="gw2"))
    assert made.problems == {}
    assert list(made.configurations) == ["uid-one"]
    one = made.configurations["uid-one"]
    assert (one.name, one.port, one.interface) == ("ns/one", 6000, "wg-6000")
    assert one.secondary == ipaddress.IPv4Address("10.1.1.101")
    assert PAIR.private not in repr(one)


def test_a_deleted_configuration_is_not_served_while_its_addresses_are_given_back() -> None:
    heir = sgc("two", port=6001)
    made = outcome(sgc(deleted="2026-01-01T00:00:00Z"), heir)
    assert list(made.configurations) == ["uid-two"], "which may have its address already"
    assert made.problems == {}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"port": 0}, "not set"),
        ({"port": 7000}, "7000"),
        ({"secondary": ""}, "secondaryIp"),
        ({"secondary": "2001:db8::1"}, "no IPv4"),
    ],
)
def test_an_incomplete_status_is_a_problem_in_words(changes: dict[str, Any], why: str) -> None:
    made = outcome(sgc(**changes), sgc("two", port=6001, secondary="10.1.1.102"))
    assert why in made.problems["ns/one"]
    assert list(made.configurations) == ["uid-two"], "and costs no other configuration"


@pytest.mark.parametrize("clash", [{"port": 6000, "secondary": "10.1.1.102"}, {"port": 6001}])
def test_two_that_claim_the_same_are_not_mixed_up(clash: dict[str, Any]) -> None:
    made = outcome(sgc(), sgc("two", **clash))
    assert list(made.configurations) == ["uid-one"]
    assert "inconsistent" in made.problems["ns/two"]


def test_a_missing_key_is_a_problem_but_no_reason_to_stop_what_runs() -> None:
    made = serving(listed([sgc()], "gw1"), {}, {"uid-one": "Secret missing"})
    assert made.problems == {"ns/one": "Secret missing"}
    assert made.configurations["uid-one"].private_key is None


def test_an_unreadable_frontend_is_left_out() -> None:
    assert outcome(sgc(ip="")).configurations["uid-one"].frontend is None


def secret(**data: str) -> Secret:
    encoded = {k: base64.b64encode(v.encode()).decode() for k, v in data.items()}
    return Secret(metadata=ObjectMeta(name="s"), data=encoded)


def test_a_secret_in_the_go_projects_shape_is_read() -> None:
    found = private_keys(secret(PrivateKey=PAIR.private, PublicKey=PAIR.public).data)
    assert found == [PAIR.private]


@pytest.mark.parametrize("data", [{}, {"PrivateKey": ""}, {"PrivateKey": "short"}])
def test_a_bad_secret_is_refused_without_being_repeated(data: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"PrivateKey|key") as caught:
        private_keys(secret(**data).data)
    assert "short" not in str(caught.value)


def test_the_report_has_a_stable_order_and_no_peers() -> None:
    made = outcome(sgc("b", port=6001, secondary="10.1.1.102"), sgc("a"))
    public = dict.fromkeys(made.configurations, PAIR.public)
    spec = status_spec(made.configurations, public, {"ns/z": "bad", "ns/c": "worse"})
    names = [r.static_gateway_configuration for r in spec.ready_gateway_configurations]
    assert names == ["ns/a", "ns/b"]
    assert [p.static_gateway_configuration for p in spec.problems] == ["ns/c", "ns/z"]
    assert spec.heartbeat == ""


def test_answers_outlive_the_agent(tmp_path: Path) -> None:
    path = tmp_path / "run" / "gateway.json"
    Answers(path).set({"uid-one": 6000})
    assert Answers(path).port("uid-one") == 6000
    for broken in (b"{broken", b'{"\xff": 1}'):
        path.write_bytes(broken)
        assert Answers(path).port("uid-one") is None


def test_destinations_are_named_by_azure_networking_alone() -> None:
    cidrs = ["10.1.7.0/24", "not a network"]
    for route, named in (("azureNetworking", ["10.1.7.0/24"]), ("staticEgressGateway", [])):
        one = sgc()
        spec = msgspec.structs.replace(one.spec, default_route=route, exclude_cidrs=cidrs)
        made = outcome(msgspec.structs.replace(one, spec=spec))
        assert [str(d) for d in made.configurations["uid-one"].destinations] == named


def test_ipv6_is_served_where_the_status_has_an_address_of_it_and_the_node_can() -> None:
    def with_ipv6(text: str) -> StaticGatewayConfiguration:
        one = sgc()
        gateways = [msgspec.structs.replace(one.status.gateways[0], secondary_ip_v6=text)]
        status = msgspec.structs.replace(one.status, gateways=gateways)
        return msgspec.structs.replace(one, status=status)

    made = outcome(with_ipv6("2001:db8::101"))
    assert made.configurations["uid-one"].secondary6 == ipaddress.IPv6Address("2001:db8::101")
    assert without_ipv6(made).configurations["uid-one"].secondary6 is None
    for text in ("", "10.1.1.102", "nonsense"):
        made = outcome(with_ipv6(text))
        assert made.configurations["uid-one"].secondary6 is None
        assert made.problems == {}, "IPv4 goes on"
