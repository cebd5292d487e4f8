"""Trials of paths that no pod uses: what proves a loss, and how often who is asked. Pure."""

from __future__ import annotations

import itertools

import pytest

from egress_gateway.api.types import UnreachedGateway
from egress_gateway.node.attachment.model import Joining, Parting, TunnelRecord
from egress_gateway.node.liveness.pathhealth import TunnelPath
from egress_gateway.node.liveness.pathtrial import (
    HURRY,
    INTERVAL,
    GatewayTrials,
    PathTrials,
    may_try,
)
from egress_gateway.node.reporting.standing import unreached_gateways
from tests.unit.node.node_values import BALANCER, GW1, GW2, SERVER, at

PATHS = [TunnelPath("10.0.0.1", port) for port in range(6000, 6008)]
OUTCOMES = {"r": "reached", "s": "silent", "n": "narrow"}


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ("", ""),
        ("r", "reached"),
        ("rs", "reached"),
        ("rss", "reached"),
        ("rsss", "silent"),
        ("rssrss", "reached"),
        ("nn", ""),
        ("nnn", "narrow"),
        ("rnnn", "narrow"),
        ("rnsnn", "narrow"),
        ("rnnrn", "reached"),
        ("rsssn", "reached"),
        ("rsssnnn", "narrow"),
        ("nnnsss", "silent"),
        ("nnnr", "reached"),
        ("rsssr", "reached"),
        ("sss", ""),
        ("s" * 40, "silent"),
        ("s" * 40 + "r", "reached"),
        ("s" * 14 + "rs", "reached"),
    ],
)
def test_three_in_a_row_are_proof_and_one_answer_is_proof_of_the_contrary(
    outcomes: str, verdict: str
) -> None:
    """Two seconds apart. One that never answered may be about to begin."""
    path = PathTrials()
    for number, letter in enumerate(outcomes):
        path.note(OUTCOMES[letter], 2.0 * number)  # type: ignore[arg-type]
    assert path.verdict == verdict


def test_a_port_that_never_answered_keeps_no_other_one_waiting() -> None:
    gateway = GatewayTrials(0.0, {path: PathTrials() for path in PATHS[:2]})
    dead, times = PATHS[0], []
    for now in range(600):
        if (path := gateway.due(float(now), set(PATHS[:2]))) is not None:
            times += [now] if path != dead else []
            gateway.note(path, "silent" if path == dead else "reached", float(now))
    assert max(b - a for a, b in itertools.pairwise(times)) <= 2 * INTERVAL


def test_a_pods_own_tunnel_says_that_small_packets_pass_and_nothing_of_large_ones() -> None:
    silent, narrow = PathTrials(verdict="silent", silent=3), PathTrials(verdict="narrow", narrow=3)
    silent.in_use()
    narrow.in_use()
    assert (silent.verdict, silent.in_doubt, narrow.verdict) == ("reached", False, "narrow")


def asked(lost: set[TunnelPath], *, seconds: float, paths: list[TunnelPath] = PATHS) -> list[float]:
    """When a gateway whose ``lost`` paths are silent is asked; each trial takes no time."""
    gateway = GatewayTrials(
        0.0, {path: PathTrials(verdict="reached", reached=True) for path in paths}
    )
    times, now = [], 0.0
    while now < seconds:
        if (path := gateway.due(now, set(paths))) is not None:
            times.append(now)
            gateway.note(path, "silent" if path in lost else "reached", now)
        now += 0.5
    assert {path for path, known in gateway.paths.items() if known.verdict == "silent"} == lost
    return times


def test_a_gateway_that_answers_is_asked_at_the_pace_of_one_path() -> None:
    assert len(asked(set(), seconds=600)) <= 600 / INTERVAL


def test_a_machine_that_is_silent_is_known_for_all_configurations_within_a_minute() -> None:
    times = asked(set(PATHS), seconds=60 + INTERVAL)
    assert min(b - a for a, b in itertools.pairwise(times)) >= HURRY


def test_one_silent_port_of_many_keeps_nobody_hurrying() -> None:
    times = asked({PATHS[3]}, seconds=1200)
    assert len(times) <= 1200 / INTERVAL + 3 * len(PATHS)


def test_what_was_said_stands_until_something_is_known() -> None:
    before = [UnreachedGateway(gateway=g, reason="TunnelsUnanswered") for g in ("a", "b", "gone")]
    verdicts = {"a": "", "b": "reached", "c": "narrow", "d": ""}
    found = unreached_gateways(verdicts, before)  # type: ignore[arg-type]
    assert [(u.gateway, u.reason) for u in found] == [
        ("a", "TunnelsUnanswered"),
        ("c", "LargePacketsLost"),
    ]


def test_a_key_is_tried_only_where_its_pod_can_have_no_tunnel() -> None:
    """A gateway holds one session for each pod: a trial would end the pod's."""
    assert not may_try(at(GW1), GW1.address)
    assert may_try(at(GW1), GW2.address)
    for gateway in (GW1, GW2):
        assert not may_try(at(BALANCER), gateway.address), "the balancer has chosen either"
    joining = TunnelRecord(to=GW2, server=SERVER, listen_port=20001)
    assert not may_try(at(GW1, standby=Joining(joining)), GW2.address)
    parting = TunnelRecord(to=BALANCER, server=SERVER, listen_port=20001)
    assert not may_try(at(GW1, standby=Parting(parting, until=0.0)), GW2.address)
