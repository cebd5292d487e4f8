"""A configuration's key pair changes under running pods: who moves when, in what steps. Pure."""

from __future__ import annotations

from itertools import count
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.api import keys
from egress_gateway.api.types import (
    Gateway,
    GatewayServerProfile,
    KeyRotation,
    ObjectMeta,
    StaticGatewayConfiguration,
    StaticGatewayConfigurationStatus,
)
from egress_gateway.node.attachment.model import (
    Attachment,
    PodConfiguration,
    ServerKey,
    pod_desired,
    usable_configuration,
)
from egress_gateway.node.attachment.moves import joined, retarget
from egress_gateway.node.reporting.endpoints import spec_of
from tests.unit.node.node_values import (
    BALANCER,
    FACTS,
    GW1,
    GW2,
    KEY,
    active,
    at,
    attachment,
    configuration,
    silence,
)

OLD, NEW = ServerKey(KEY, 6000), ServerKey(keys.generate().public, 6001)
PREPARED = configuration()
MOVING = configuration(next=NEW)
RETIRING = configuration(server=NEW, previous=OLD)
DONE = configuration(server=NEW)


def go(before: Attachment, after: PodConfiguration, **options: Any) -> Attachment:
    ports = count((before.listen_port or 20000) + 1)
    lost = options.pop("lost", ())
    options = {"now": 100.0, **options}
    return retarget(before, after, doubt=silence(lost), free_port=lambda: next(ports), **options)


def moved() -> Attachment:
    """At the next server of its gateway, with the former one still open."""
    return joined(go(at(GW1), MOVING), until=160.0)


def test_a_pod_gets_a_second_tunnel_to_the_next_server_of_its_gateway_before_it_moves() -> None:
    first = go(at(GW1), MOVING)
    assert active(first) == active(at(GW1))
    assert first.joining is not None
    assert (first.joining.to, first.joining.server) == (GW1, NEW)
    assert go(first, MOVING) == first
    second = joined(first, until=160.0)
    arrived = active(second)
    assert (arrived.to, arrived.server, arrived.link) == (GW1, NEW, "wg1")
    assert second.verified


def test_what_the_former_server_still_sends_is_heard_until_it_goes() -> None:
    second = moved()
    for configured in (MOVING, RETIRING):
        second = go(second, configured, now=9000.0)
        assert second.parting is not None
        assert second.parting.server == OLD
        desired = pod_desired(second, FACTS)
        assert desired.standby is not None
        assert desired.standby == pod_desired(at(GW1, private_key=second.private_key), FACTS).active
        assert not desired.standby_sends
    last = go(second, DONE)
    assert (last.standby, active(last)) == (None, active(second))


def test_the_profile_follows_without_another_move() -> None:
    second = moved()
    after = go(go(second, RETIRING), DONE)
    assert active(after) == active(second)
    assert after.verified


def test_a_pod_whose_agent_hears_late_moves_gently_while_the_former_server_is_there() -> None:
    first = go(at(GW1), RETIRING)
    assert first.joining is not None
    assert (active(first).server, first.joining.server, first.verified) == (OLD, NEW, True)
    late = go(at(GW1), DONE)
    assert (active(late).server, late.verified, late.joining) == (NEW, False, None)


def test_an_abandoned_rotation_moves_nobody_who_has_not_moved() -> None:
    before = at(GW1)
    assert go(go(before, MOVING), PREPARED) == before
    back = go(moved(), PREPARED)
    assert (active(back).server, back.verified) == (OLD, False)


def test_a_gateway_lost_on_the_way_is_left_at_once_for_a_server_that_has_proven_itself() -> None:
    lost = (GW1.address,)
    early = go(go(at(GW1), MOVING), MOVING, lost=lost)
    assert (active(early).to, active(early).server) == (GW2, OLD)
    assert (early.joining, early.verified) == (None, False)
    late = go(moved(), MOVING, lost=lost)
    assert (active(late).to, active(late).server, late.verified) == (GW2, NEW, False)
    assert late.parting is None


def test_a_new_pod_starts_at_the_profile() -> None:
    assert active(go(attachment(), MOVING)).server == OLD
    assert active(go(attachment(), RETIRING)).server == NEW


def test_a_drain_does_not_wait_for_a_rotation() -> None:
    vetoes = {"gw-1": True}
    both = go(at(GW1), MOVING, vetoes=vetoes)
    assert both.joining is not None
    assert (both.joining.to, both.joining.server) == (GW2, NEW)
    kept = joined(both, until=160.0)
    assert pod_desired(kept, FACTS).standby_sends
    assert go(kept, MOVING, vetoes=vetoes, now=161.0).parting is None
    later = go(moved(), MOVING, vetoes=vetoes)
    assert later.parting is None
    assert later.joining is not None
    assert later.joining.to == GW2


def test_a_rotation_waits_for_a_drain_to_end() -> None:
    drained = joined(go(at(GW1), PREPARED, vetoes={"gw-1": True}), until=160.0)
    waiting = go(drained, MOVING, vetoes={"gw-1": True}, now=159.0)
    assert (waiting.joining, waiting.parting) == (None, drained.parting)
    after = go(waiting, MOVING, vetoes={"gw-1": True}, now=161.0)
    assert after.joining is not None
    assert (after.joining.to, after.joining.server) == (GW2, NEW)


def test_behind_the_load_balancer_connections_stay_where_they_are() -> None:
    lost = (GW1.address, GW2.address)
    alone = at(BALANCER)
    second = joined(go(alone, MOVING, lost=lost), until=160.0)
    assert (active(second).to, active(second).server) == (BALANCER, NEW)
    assert pod_desired(second, FACTS).standby_sends


def test_the_endpoint_tells_which_server_the_tunnel_leads_to() -> None:
    assert spec_of(go(at(GW1), MOVING), "n").gateway_public_key == OLD.public_key
    assert spec_of(moved(), "n").gateway_public_key == NEW.public_key
    assert spec_of(attachment(), "n").gateway_public_key == ""


def test_phases_of_the_status() -> None:
    def known(phase: Any) -> PodConfiguration:
        profile = GatewayServerProfile(ip="10.224.0.99", port=6000, public_key=KEY)
        status = StaticGatewayConfigurationStatus(
            gateway_server_profile=profile,
            key_rotation=KeyRotation(
                request="1", phase=phase, port=NEW.port, public_key=NEW.public_key
            ),
            gateways=[Gateway(node="gw-1", primary_ip="10.224.0.10", secondary_ip="10.224.0.20")],
        )
        meta = ObjectMeta(name="egress", namespace="default", uid="sgc-1")
        return usable_configuration(
            StaticGatewayConfiguration(metadata=meta, status=status), "default/egress"
        )

    found = {p: (known(p).next, known(p).previous) for p in ("", "Preparing", "Moving", "Retiring")}
    assert found == {
        "": (None, None),
        "Preparing": (None, None),
        "Moving": (NEW, None),
        "Retiring": (None, NEW),
    }
    assert known("Closing").previous == NEW


_STATES = st.sampled_from([PREPARED, MOVING, RETIRING, DONE])


@given(
    course=st.lists(
        st.tuples(_STATES, st.sampled_from(["", "join"]), st.sampled_from([(), (GW1.address,)])),
        max_size=12,
    )
)
def test_whatever_happens_a_verified_tunnel_leads_to_a_server_that_is_served(course: Any) -> None:
    """And a tunnel that works is never given up for one without a handshake, while its server is
    there."""
    state = at(GW1)
    for configured, event, lost in course:
        before, state = state, go(state, configured, lost=lost)
        assert active(state).server in configured.servers
        if active(before).server in configured.servers and active(before).address not in lost:
            assert state.verified == before.verified
        if event == "join" and state.joining is not None:
            assert state.joining.server in configured.servers
            state = joined(state, until=160.0)
        assert len(state.ports) == 1 + (state.standby is not None)
