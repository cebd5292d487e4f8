"""Which gateway serves a pod."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.node.attachment.choose import (
    FLAPS,
    BalancerAddress,
    Destination,
    GatewayNode,
    choose,
    rendezvous,
)

A, B, C = (GatewayNode(n, f"10.0.0.{i}") for i, n in enumerate("abc"))
BALANCER = BalancerAddress("10.0.0.99")
names = st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1)


def candidates(of: list[str]) -> list[GatewayNode]:
    return [GatewayNode(name, f"10.0.0.{ord(name)}") for name in of]


def pick(
    *listed: GatewayNode,
    current: Destination | None = None,
    lost: str = "",
    avoid: tuple[Destination, ...] = (),
    balancer: BalancerAddress | None = BALANCER,
    uid: str = "u",
    again: Mapping[Destination, float] = {},
) -> Destination | None:
    """``again``: when those were lost that answer again."""
    doubts = {c.address: math.inf for c in listed if c.name in lost}
    doubts |= {place.address: then for place, then in again.items()}
    return choose(
        uid,
        current,
        listed,
        balancer=balancer,
        doubt=lambda address: doubts.get(address, 0.0),
        avoid={place.address for place in avoid},
    )


@given(names, st.text(), st.randoms())
def test_order_does_not_matter(listed: list[str], uid: str, shuffler: random.Random) -> None:
    shuffled = list(listed)
    shuffler.shuffle(shuffled)
    assert rendezvous(uid, candidates(listed)) == rendezvous(uid, candidates(shuffled))


@given(names, st.text())
def test_loss_of_another_moves_nobody(listed: list[str], uid: str) -> None:
    chosen = rendezvous(uid, candidates(listed))
    for other in listed:
        if other != chosen.name:
            rest = candidates([name for name in listed if name != other])
            assert rendezvous(uid, rest) == chosen


def test_pods_spread_evenly() -> None:
    count = Counter(rendezvous(f"uid-{i}", [A, B, C]).name for i in range(3000))
    assert all(800 < n < 1200 for n in count.values()), count


def test_pods_of_a_lost_gateway_spread_over_the_others() -> None:
    of_a = [f"uid-{i}" for i in range(3000) if rendezvous(f"uid-{i}", [A, B, C]) == A]
    count = Counter(rendezvous(uid, [B, C]).name for uid in of_a)
    assert min(count.values()) > 0.4 * len(of_a)


@given(names, st.data())
def test_stays_while_its_gateway_lives(listed: list[str], data: st.DataObject) -> None:
    current = data.draw(st.sampled_from(listed))
    lost = "".join(data.draw(st.sets(st.sampled_from("abcdefgh")))).replace(current, "")
    [stays] = candidates([current])
    assert pick(*candidates(listed), current=stays, lost=lost) == stays


def test_leaves_a_lost_gateway() -> None:
    assert pick(A, B, current=A, lost="a") == B


def test_leaves_a_gateway_that_is_no_longer_listed() -> None:
    assert pick(B, current=A) == B


def test_balancer_when_no_gateway_answers() -> None:
    assert pick(A, B, current=A, lost="ab") == BALANCER


def test_a_gateway_that_answers_again_goes_before_the_balancer() -> None:
    """A load balancer sends to the dead for ten seconds."""
    assert pick(A, B, current=A, lost="a", again={B: 7.0}) == B
    assert pick(A, B, C, current=A, again={A: 7.0, C: 6.0}) == B
    for place in (A, B, BALANCER, None):
        assert pick(A, B, current=place, again={A: 9.0, B: 7.0}) == B
    assert pick(A, B, current=B, lost="a", again={B: 7.0}, avoid=(B,)) == BALANCER
    assert pick(A, B, current=BALANCER, lost="a", again={B: 7.0}, avoid=(B, BALANCER)) == B
    flaps: dict[Destination, float] = {B: FLAPS + 7.0}
    assert pick(A, B, current=A, lost="a", again=flaps) == BALANCER, "it may work, and holds still"
    assert pick(A, B, current=BALANCER, lost="a", again=flaps, avoid=(BALANCER,)) == B
    assert pick(A, B, current=A, lost="a", again=flaps, balancer=None) == B


def test_balancer_when_none_is_known() -> None:
    assert pick() == BALANCER


def test_leaves_the_balancer_for_a_gateway_that_is_back() -> None:
    assert pick(A, B, current=BALANCER, lost="a") == B


def test_the_last_gateway_is_not_evicted() -> None:
    assert pick(A, current=A, lost="a", balancer=None) == A
    assert pick(A, B, current=B, lost="ab", balancer=None) == B


def test_nothing_at_all() -> None:
    assert pick(balancer=None) is None


def test_silent_gateway_is_avoided_then_the_balancer_is_tried_then_any() -> None:
    assert pick(A, B, current=A, avoid=(A,)) == B
    assert pick(A, B, current=B, avoid=(A, B)) == BALANCER
    assert pick(A, B, current=BALANCER, avoid=(A, B, BALANCER)) in (A, B)


@given(names, st.sets(st.sampled_from("abcdefgh")), st.sets(st.sampled_from([A, B, C, BALANCER])))
def test_there_is_always_an_answer(
    listed: list[str], lost: set[str], avoid: set[Destination]
) -> None:
    assert pick(*candidates(listed), lost="".join(lost), avoid=tuple(avoid)) is not None
