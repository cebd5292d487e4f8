"""What is told of a running pod: a move, a loss, a recovery, each once; nothing of one at rest."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from egress_gateway.api.types import PodEndpointStatus
from egress_gateway.node.liveness.health import State
from egress_gateway.node.reporting.standing import LOST_AFTER, Look, Standing, look_at
from tests.unit.node.node_values import BALANCER, GW1, GW2, at, attachment

ADDRESSES = {"gw-1": ("203.0.113.1", "2001:db8::1"), "gw-2": ("203.0.113.2", "")}
AT_1 = Look(connected=True, gateway="gw-1", egress_ip="203.0.113.1")
AT_2 = Look(connected=True, gateway="gw-2", egress_ip="203.0.113.2")
AWAY = Look(connected=False, reason="TunnelsUnanswered", message="check UDP 6000")


def play(standing: Standing, *looks: tuple[float, Look]) -> list[str]:
    told = []
    for second, look in looks:
        wall = f"2026-01-01T00:00:{int(second):02}Z"
        told += [f"{t.reason}: {t.message}" for t in standing.note(look, second, wall)]
    return told


def test_the_first_tunnel_is_written_and_is_no_event() -> None:
    standing = Standing()
    assert play(standing, (1, AT_1), (2, AT_1), (50, AT_1)) == []
    assert standing.shown is not None
    assert (standing.shown.state, standing.shown.gateway) == ("Connected", "gw-1")
    assert standing.shown.since == "2026-01-01T00:00:01Z"


def test_a_move_names_both_addresses() -> None:
    standing = Standing()
    (told,) = play(standing, (1, AT_1), (2, AWAY), (3, AT_2), (4, AT_2))
    assert told.startswith("EgressMoved: ")
    for word in ("gw-1 (203.0.113.1)", "gw-2 (203.0.113.2)"):
        assert word in told
    assert standing.shown is not None
    assert standing.shown.since == "2026-01-01T00:00:03Z"


@pytest.mark.parametrize("away", [0.4, 1.0, LOST_AFTER - 0.1])
def test_a_failover_is_no_loss(away: float) -> None:
    told = play(Standing(), (1, AT_1), (2, AWAY), (2 + away, AWAY), (2 + away, AT_1))
    assert told == []


def test_a_loss_and_its_end_are_told_once_each() -> None:
    standing = Standing()
    looks = [(2.0 + n, AWAY) for n in range(20)]
    assert play(standing, (1, AT_1), *looks) == [
        "EgressLost: check UDP 6000; the pod sends nothing until a tunnel works again"
    ]
    assert standing.shown == PodEndpointStatus(
        state="Lost",
        since="2026-01-01T00:00:05Z",
        reason="TunnelsUnanswered",
        message="check UDP 6000",
    )
    assert play(standing, (30, AT_1), (31, AT_1)) == [
        "EgressRestored: the tunnel works again, by gw-1 (203.0.113.1)"
    ]


def test_who_comes_back_elsewhere_has_moved_too() -> None:
    told = play(Standing(), (1, AT_1), (2, AWAY), (9, AWAY), (10, AT_2))
    assert [line.split(":")[0] for line in told] == ["EgressLost", "EgressRestored", "EgressMoved"]


def test_the_same_thing_again_has_the_same_words() -> None:
    """So that it is counted, not repeated."""
    standing, told = Standing(), []
    for n in range(3):
        told += play(standing, (20 * n, AT_1), (20 * n + 1, AWAY), (20 * n + 9, AWAY))
    assert len({line for line in told if line.startswith("EgressLost")}) == 1
    assert len({line for line in told if line.startswith("EgressRestored")}) == 1


def test_another_reason_changes_the_words_and_not_the_time() -> None:
    standing = Standing()
    cause = replace_reason(AWAY, "GatewaysUnreachable")
    play(standing, (1, AT_1), (2, AWAY), (6, AWAY))
    assert play(standing, (9, cause)) == []
    assert standing.shown is not None
    assert standing.shown.reason == "GatewaysUnreachable"
    assert standing.shown.since == "2026-01-01T00:00:06Z"


def replace_reason(look: Look, reason: str) -> Look:
    return Look(connected=look.connected, reason=reason, message=look.message)


def test_a_pod_that_starts_held_back_waits_and_has_lost_nothing() -> None:
    standing = Standing()
    assert play(standing, (1, AWAY), (9, AWAY)) == []
    assert standing.shown is not None
    assert standing.shown.state == "Waiting"
    assert play(standing, (10, AT_1)) == []
    after: str = standing.shown.state
    assert after == "Connected"


def test_a_new_agent_goes_on_from_what_is_written() -> None:
    written = PodEndpointStatus(
        state="Connected",
        gateway="gw-1",
        egress_ip="203.0.113.1",
        since="2026-01-01T00:00:00Z",
        reason="Connected",
    )
    standing = Standing(written)
    assert play(standing, (30, AT_1)) == []
    assert standing.shown == written
    assert [t.split(":")[0] for t in play(Standing(written), (30, AT_2))] == ["EgressMoved"]
    lost = replace(written, state="Lost")
    assert [t.split(":")[0] for t in play(Standing(lost), (30, AT_1))] == ["EgressRestored"]


def test_an_address_that_becomes_known_is_no_move() -> None:
    unknown = Look(connected=True, gateway="gw-1")
    standing = Standing()
    assert play(standing, (1, unknown), (2, AT_1), (3, unknown)) == []
    assert [t.split(":")[0] for t in play(standing, (4, AT_2))] == ["EgressMoved"]


def test_a_new_address_of_the_same_gateway_is_told() -> None:
    other = Look(connected=True, gateway="gw-1", egress_ip="203.0.113.9")
    (told,) = play(Standing(), (1, AT_1), (2, other))
    assert "gw-1 (203.0.113.1)" in told
    assert "gw-1 (203.0.113.9)" in told


def look(state: object, **probed: State) -> Look:
    known: dict[str, State] = {
        {"gw1": GW1.address, "gw2": GW2.address}[n]: s for n, s in probed.items()
    }
    return look_at(state, addresses=ADDRESSES, probed=known)  # type: ignore[arg-type]


def test_what_a_look_says() -> None:
    found = look(at(GW1))
    assert found == Look(
        connected=True, gateway="gw-1", egress_ip="203.0.113.1", egress_ip_v6="2001:db8::1"
    )
    assert look(at(BALANCER)).gateway == "load balancer"
    silent = at(GW1).with_active(verified=False)
    filtered = look(silent, gw1="lost", gw2="alive")
    assert filtered.reason == "TunnelsUnanswered"
    assert "UDP 6000 reaches gw-2 (10.224.0.11)" in filtered.message
    dead = look(silent, gw1="lost", gw2="lost")
    assert dead.reason == "GatewaysUnreachable"
    assert look(attachment()).reason == "NoGateway"


def test_a_node_that_cannot_make_the_tunnel_blames_no_gateway() -> None:
    probed: dict[str, State]
    silent, probed = at(GW1).with_active(verified=False), {GW1.address: "alive"}
    refused = "tunnel host t.sock does not answer"
    found = look_at(silent, addresses=ADDRESSES, probed=probed, refused=refused)
    assert found.reason == "TunnelNotMade"
    assert found.message == f"the pod's node cannot make its tunnel: {refused}"
    assert look_at(at(GW1), addresses=ADDRESSES, probed=probed, refused=refused).connected
