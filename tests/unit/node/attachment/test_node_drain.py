"""Planned moves: who leaves a gateway that asks for it, in which steps. Pure."""

from __future__ import annotations

from itertools import count

from msgspec.structs import replace

from egress_gateway.api.types import (
    DRAINING,
    INTERNET_UNREACHABLE,
    GatewayStatus,
    GatewayStatusSpec,
    GatewayVeto,
    ObjectMeta,
)
from egress_gateway.node.attachment.choose import GatewayNode, choose
from egress_gateway.node.attachment.model import (
    Attachment,
    Parting,
    PodConfiguration,
    ServerKey,
    pod_desired,
)
from egress_gateway.node.attachment.moves import joined, retarget
from egress_gateway.node.attachment.vetoes import vetoes
from tests.unit.node.node_values import FACTS, GW1, GW2, KEY, active, at, configuration, silence

DRAIN, DEAD = {"gw-1": True}, {"gw-1": False}


def go(
    attachment: Attachment,
    asked: dict[str, bool],
    *,
    lost: frozenset[str] = frozenset(),
    now: float = 100.0,
) -> Attachment:
    ports = count(30000)
    return retarget(
        attachment,
        attachment.configuration,
        doubt=silence(lost),
        vetoes=asked,
        free_port=lambda: next(ports),
        now=now,
    )


def test_a_drain_is_followed_in_two_steps_and_ends_with_its_grace() -> None:
    before = at(GW1)
    first = go(before, DRAIN)
    assert (active(first).to, first.listen_port, first.verified) == (GW1, 20000, True)
    assert first.joining is not None
    assert first.joining.to == GW2
    assert go(first, DRAIN) == first
    second = joined(first, until=160.0)
    assert (active(second).to, active(second).link, second.verified) == (GW2, "wg1", True)
    assert second.standby == Parting(active(before), 160.0)
    assert go(second, DRAIN, now=159.0) == second
    last = go(second, DRAIN, now=161.0)
    assert last.parting is None
    assert (active(last).to, active(last).link) == (GW2, "wg1")


def test_the_pod_keeps_the_old_tunnel_as_it_was_beside_the_new_one() -> None:
    before = at(GW1)
    second = joined(go(before, DRAIN), until=160.0)
    old, new = pod_desired(before, FACTS).active, pod_desired(second, FACTS)
    assert new.standby == old
    assert new.active is not None
    assert new.active.link == "wg1"
    assert new.active.endpoint.address.compressed == GW2.address


def test_a_cancelled_drain_moves_nobody() -> None:
    before = at(GW1)
    assert go(go(before, DRAIN), {}) == before


def listing(*gateways: GatewayNode) -> PodConfiguration:
    return configuration(gateways=list(gateways))


def test_a_gateway_that_is_leaving_is_left_in_two_steps_and_its_tunnel_goes_with_it() -> None:
    before, leaving = at(GW1), replace(GW1, leaving=True)
    first = go(replace(before, configuration=listing(leaving, GW2)), {})
    assert (active(first).to, first.listen_port, first.verified) == (GW1, 20000, True)
    assert first.joining is not None
    second = joined(first, until=160.0)
    assert go(second, {}).parting is not None
    dropped = go(replace(second, configuration=listing(GW2)), {})
    assert (active(dropped).to, dropped.standby) == (GW2, None)
    # The other one's turn comes at once.
    third = go(replace(dropped, configuration=listing(GW1, replace(GW2, leaving=True))), {})
    assert third.joining is not None
    assert third.joining.to == GW1


def test_one_that_is_leaving_and_does_not_work_is_left_at_once() -> None:
    after = go(replace(at(GW1), configuration=listing(replace(GW1, leaving=True), GW2)), DEAD)
    assert (active(after).to, after.joining) == (GW2, None)


def test_the_last_gateway_is_not_left_for_leaving() -> None:
    before = replace(at(GW1), configuration=listing(replace(GW1, leaving=True)))
    after = go(before, {})
    assert (active(after).to.address, after.joining, after.verified) == (GW1.address, None, True)


def test_a_gateway_whose_internet_side_is_dead_is_left_at_once() -> None:
    after = go(at(GW1), DEAD)
    assert (active(after).to, after.joining, after.verified) == (GW2, None, False)
    assert after.listen_port != 20000


def test_a_gateway_that_is_lost_while_it_drains_is_left_at_once() -> None:
    joining = go(at(GW1), DRAIN)
    after = go(joining, DRAIN, lost=frozenset({GW1.address}))
    assert (active(after).to, after.standby) == (GW2, None)
    parting = joined(joining, until=160.0)
    assert go(parting, DRAIN, lost=frozenset({GW1.address})).parting is None


def test_the_last_gateway_is_not_left_for_a_veto() -> None:
    before = at(GW1)
    assert go(before, {"gw-1": True, "gw-2": True}) == before
    assert go(before, {"gw-1": False, "gw-2": False}) == before
    assert go(before, DEAD, lost=frozenset({GW2.address})) == before


def test_a_second_drain_waits_for_the_first_to_end() -> None:
    second = joined(go(at(GW1), DRAIN), until=160.0)
    swapped = {"gw-2": True}
    assert go(second, swapped, now=159.0) == second
    third = go(second, swapped, now=161.0)
    assert third.joining is not None
    assert active(joined(third, until=220.0)).link == "wg0"


def test_new_pods_pass_a_vetoed_gateway_over() -> None:
    for uid in map(str, range(20)):
        chosen = choose(
            uid, None, [GW1, GW2], balancer=None, doubt=lambda a: 0.0, vetoed={"gw-1": True}
        )
        assert chosen == GW2


def test_another_key_ends_a_drain_in_one_step() -> None:
    joining = go(at(GW1), DRAIN)
    changed = configuration(server=ServerKey(KEY, 6001))
    after = retarget(
        joining, changed, doubt=lambda a: 0.0, vetoes=DRAIN, free_port=lambda: 31000, now=1.0
    )
    assert (active(after).to, after.joining, after.listen_port) == (GW2, None, 31000)


def status(name: str, *asked: GatewayVeto) -> GatewayStatus:
    return GatewayStatus(metadata=ObjectMeta(name=name), spec=GatewayStatusSpec(vetoes=list(asked)))


def test_vetoes_count_for_their_configuration_or_for_all() -> None:
    mine = GatewayVeto(reason=INTERNET_UNREACHABLE, static_gateway_configuration="a/b")
    drain = GatewayVeto(reason=DRAINING)
    statuses = [
        status("one", mine),
        status("two", drain),
        status("three"),
        status("x", mine, drain),
    ]
    assert vetoes(statuses, "a/b") == {"one": False, "two": True, "x": False}
    assert vetoes(statuses, "a/c") == {"two": True, "x": True}
