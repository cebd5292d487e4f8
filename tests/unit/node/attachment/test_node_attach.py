"""What an attached pod should look like, decided without touching anything."""

from __future__ import annotations

import ipaddress
import itertools
from typing import Any

import msgspec
import pytest

from egress_gateway.api import keys, names
from egress_gateway.api.types import (
    Condition,
    Gateway,
    GatewayServerProfile,
    ObjectMeta,
    StaticGatewayConfiguration,
    StaticGatewayConfigurationSpec,
    StaticGatewayConfigurationStatus,
)
from egress_gateway.cni import protocol
from egress_gateway.kube.resources import Pod, PodSpec, PodStatus
from egress_gateway.node.attachment.choose import GatewayNode
from egress_gateway.node.attachment.model import (
    Attachment,
    NotUsable,
    PodConfiguration,
    ServerKey,
    held_back,
    pod_desired,
    usable_configuration,
    want,
)
from egress_gateway.node.attachment.moves import retarget
from tests.unit.node.node_values import (
    BALANCER,
    FACTS,
    GW1,
    GW2,
    KEY,
    SERVER,
    active,
    at,
    attachment,
    configuration,
    silence,
)


class Ports:
    def __init__(self) -> None:
        self._ports = itertools.count(30000)

    def __call__(self) -> int:
        return next(self._ports)


def retargeted(
    before: Attachment, after: PodConfiguration, *, lost: tuple[str, ...] = ()
) -> Attachment:
    return retarget(before, after, doubt=silence(lost), free_port=Ports())


class TestRetarget:
    def test_nothing_changes_while_nothing_happens(self) -> None:
        assert retargeted(at(GW1), configuration()) == at_same(at(GW1))

    def test_lost_gateway_is_left_with_a_new_port_and_unverified(self) -> None:
        after = retargeted(at(GW1), configuration(), lost=(GW1.address,))
        assert active(after).to == GW2
        assert (after.listen_port, after.verified) == (30000, False)

    def test_all_lost_goes_to_the_balancer(self) -> None:
        after = retargeted(at(GW1), configuration(), lost=(GW1.address, GW2.address))
        assert active(after).to == BALANCER

    @pytest.mark.parametrize(
        "change",
        [
            {"server": ServerKey(keys.generate().public, 6000)},
            {"server": ServerKey(KEY, 6001)},
            {"gateways": [GatewayNode(GW1.name, "10.224.0.77"), GW2]},
        ],
    )
    def test_change_of_the_other_end_changes_the_port(self, change: dict[str, Any]) -> None:
        after = retargeted(at(GW1), configuration(**change))
        to = active(after).to
        assert isinstance(to, GatewayNode)
        assert (to.name, after.listen_port, after.verified) == (GW1.name, 30000, False)

    def test_excluding_more_moves_nobody(self) -> None:
        after = retargeted(at(GW1), configuration(exclude_cidrs=["192.0.2.0/24"]))
        assert (after.listen_port, after.verified) == (20000, True)
        assert after.configuration.exclude_cidrs == ["192.0.2.0/24"]

    def test_another_configuration_is_another_end_although_it_looks_the_same(self) -> None:
        after = retargeted(at(GW1), configuration(uid="sgc-2", name="other"))
        assert (after.listen_port, after.verified) == (30000, False)

    def test_without_any_gateway_there_is_no_tunnel(self) -> None:
        after = retargeted(at(GW1), held_back("gone"))
        assert after.active is None
        assert pod_desired(after, FACTS).active is None


def at_same(value: Attachment) -> object:
    """Equal but for the keys, which every attachment makes anew."""

    class Same:
        def __eq__(self, other: object) -> bool:
            assert isinstance(other, Attachment)
            return (
                msgspec.structs.replace(
                    other, private_key=value.private_key, public_key=value.public_key
                )
                == value
            )

    return Same()


class TestDesired:
    def test_whole(self) -> None:
        desired = pod_desired(at(GW1), FACTS)
        assert desired.active is not None
        assert str(desired.active.endpoint) == "10.224.0.10:6000"
        assert desired.active.mtu == 1440
        assert desired.active.keepalive == 0
        assert desired.excluded == (ipaddress.ip_network("10.0.0.0/8"),)
        assert desired.exceptions == FACTS.exceptions

    def test_unverified_tunnel_speaks_by_itself(self) -> None:
        desired = pod_desired(at(GW1), FACTS)
        unverified = pod_desired(at(GW1).with_active(verified=False), FACTS)
        assert desired.active is not None
        assert unverified.active is not None
        assert unverified.active.keepalive > 0

    def test_held_back_excludes_nothing(self) -> None:
        desired = pod_desired(attachment(configuration=held_back("x")), FACTS)
        assert desired.active is None
        assert desired.excluded == ()
        assert desired.default_route


def sgc(**status: Any) -> StaticGatewayConfiguration:
    profile = GatewayServerProfile(ip="10.224.0.99", port=6000, public_key=KEY)
    fields: dict[str, Any] = {
        "gateway_server_profile": profile,
        "gateways": [Gateway(node="gw-1", primary_ip="10.224.0.10", secondary_ip="10.224.0.20")],
    }
    return StaticGatewayConfiguration(
        metadata=ObjectMeta(name="egress", namespace="default", uid="sgc-1"),
        spec=StaticGatewayConfigurationSpec(exclude_cidrs=["10.1.2.3/8", "nonsense"]),
        status=StaticGatewayConfigurationStatus(**(fields | status)),
    )


class TestUsable:
    def test_sound(self) -> None:
        found = usable_configuration(sgc(), "default/egress")
        assert found.gateways == [GW1]
        assert found.exclude_cidrs == ["10.0.0.0/8"]

    def test_missing_says_what_to_do(self) -> None:
        with pytest.raises(NotUsable, match=r"default/egress does not exist; create it"):
            usable_configuration(None, "default/egress")

    def test_unprovisioned_gives_the_conditions_reason(self) -> None:
        ready = Condition(
            type="Ready", status="False", reason="AuthorizationFailed", message="grant the role"
        )
        unready = sgc(gateway_server_profile=GatewayServerProfile(), conditions=[ready])
        with pytest.raises(NotUsable, match="AuthorizationFailed: grant the role"):
            usable_configuration(unready, "default/egress")

    def test_bad_edit_does_not_lose_good_state(self) -> None:
        ready = Condition(type="Ready", status="False", reason="InvalidSpec", message="no")
        assert usable_configuration(sgc(conditions=[ready]), "default/egress").server == SERVER

    def test_neither_gateway_nor_balancer(self) -> None:
        profile = GatewayServerProfile(port=6000, public_key=KEY)
        with pytest.raises(NotUsable, match="no gateway"):
            usable_configuration(sgc(gateway_server_profile=profile, gateways=[]), "default/egress")


def record(annotation: str) -> protocol.Call:
    raw = {
        "command": "ADD",
        "containerID": "c",
        "ifName": "eth0",
        "args": "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=u-1",
        "config": {"runtimeConfig": {names.CNI_CAPABILITY: {names.POD_ANNOTATION: annotation}}},
    }
    return protocol.decode(msgspec.json.encode(raw))


def pod(annotation: str | None, *, phase: str = "Running", host_network: bool = False) -> Pod:
    annotations = {} if annotation is None else {names.POD_ANNOTATION: annotation}
    return Pod(
        metadata=ObjectMeta(name="web", namespace="default", uid="u-1", annotations=annotations),
        spec=PodSpec(host_network=host_network),
        status=PodStatus(phase=phase),
    )


@pytest.mark.parametrize(
    ("at_start", "now", "known", "wanted"),
    [
        ("a", pod("a"), True, "a"),
        ("", pod(None), True, ""),
        ("", pod("a"), True, "a"),  # annotated while running
        ("a", pod("b"), True, "b"),
        ("a", pod(None), True, ""),  # annotation removed
        ("a", None, True, "a"),  # not in the API yet
        ("a", None, False, "a"),
        ("a", pod(None), False, "a"),  # the API's state is not whole
        ("a", pod("a", phase="Succeeded"), True, ""),
    ],
)
def test_want(at_start: str, now: Pod | None, known: bool, wanted: str) -> None:
    assert want(record(at_start), now, known=known) == wanted


def test_sandbox_without_a_record_is_over() -> None:
    assert want(None, pod("a"), known=True) is None


def test_a_pod_annotated_while_it_ran_is_not_released_for_lack_of_knowledge() -> None:
    assert want(record(""), None, known=False, attached="a") == "a"
    assert want(record(""), pod("b"), known=False, attached="a") == "a"
    assert want(record(""), pod(None), known=True, attached="a") == ""
