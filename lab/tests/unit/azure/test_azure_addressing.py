from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from egress_gateway_lab.azure.arm.addressing import Addresses, AddressPool, BlockSpace, Exhausted

PREFIXES = IPv4Network("203.0.113.0/24")
OUTBOUND = IPv4Network("192.0.2.0/24")


def space() -> Addresses:
    return Addresses(outbound=[OUTBOUND], prefixes=[PREFIXES])


def test_a_subnet_keeps_its_first_four_addresses_and_its_last() -> None:
    pool = space().subnet("/s", IPv4Network("10.0.0.0/29"))
    got = [str(pool.lease(f"/nic{i}")) for i in range(3)]
    assert got == ["10.0.0.4", "10.0.0.5", "10.0.0.6"]
    with pytest.raises(Exhausted):
        pool.lease("/nic3")


def test_every_address_of_a_prefix_can_be_used() -> None:
    pool = space().prefix("/p", IPv4Network("203.0.113.4/30"))
    got = {str(pool.lease(f"/a{i}")) for i in range(4)}
    assert got == {"203.0.113.4", "203.0.113.5", "203.0.113.6", "203.0.113.7"}
    assert pool.free() == 0


def test_an_owner_keeps_its_address_whatever_its_case() -> None:
    pool = AddressPool(IPv4Network("203.0.113.0/28"))
    first = pool.lease("/A")
    assert pool.lease("/a") == first
    pool.release("/a")
    assert pool.owner(first) is None


def test_a_wanted_address_must_be_free_and_inside() -> None:
    pool = AddressPool(IPv4Network("203.0.113.0/28"))
    assert pool.lease("/a", IPv4Address("203.0.113.9")) == IPv4Address("203.0.113.9")
    for taken_or_outside in ("203.0.113.9", "203.0.113.99"):
        with pytest.raises(ValueError, match="not free"):
            pool.lease("/b", IPv4Address(taken_or_outside))


def test_single_addresses_do_not_break_up_the_space_for_prefixes() -> None:
    addresses = space()
    single = addresses.allocate_public("/pip", outbound=False)
    assert single == PREFIXES.broadcast_address
    blocks = [addresses.allocate_prefix(f"/p{i}", 28) for i in range(15)]
    assert len(set(blocks)) == 15
    assert addresses.allocate_public("/lb", outbound=True) in OUTBOUND


def test_a_claimed_block_is_not_given_to_another() -> None:
    addresses = space()
    addresses.claim_prefix("/old", IPv4Network("203.0.113.0/30"))
    assert addresses.allocate_prefix("/new", 30) == IPv4Network("203.0.113.4/30")
    with pytest.raises(ValueError, match="not free"):
        addresses.claim_prefix("/other", IPv4Network("203.0.113.0/31"))


@given(st.lists(st.integers(28, 31), max_size=40), st.data())
def test_blocks_never_overlap_and_come_back_whole(lengths: list[int], data: st.DataObject) -> None:
    blocks = BlockSpace([PREFIXES])
    held: dict[str, IPv4Network] = {}
    for number, length in enumerate(lengths):
        try:
            held[str(number)] = blocks.allocate(str(number), length)
        except Exhausted:
            break
        release = bool(held) and data.draw(st.booleans())
        if release:
            gone = data.draw(st.sampled_from(sorted(held)))
            blocks.release(gone)
            del held[gone]
        assert not any(a.overlaps(b) for m, a in held.items() for n, b in held.items() if m != n)
    for name in held:
        blocks.release(name)
    assert blocks.allocate("whole", 24) == PREFIXES


class Leases(RuleBasedStateMachine):
    """A pool against the obvious model: a mapping without duplicates."""

    owners = Bundle("owners")

    def __init__(self) -> None:
        super().__init__()
        self.pool = AddressPool(IPv4Network("10.0.0.0/28"), 4)
        self.model: dict[str, IPv4Address | IPv6Address] = {}

    @rule(target=owners, name=st.text("abcdefghijklmnop", min_size=1, max_size=2))
    def lease(self, name: str) -> str:
        free = sorted(set(list(self.pool.network)[4:-1]) - set(self.model.values()))
        if name in self.model:
            assert self.pool.lease(name) == self.model[name]
        elif free:
            self.model[name] = self.pool.lease(name)
            assert self.model[name] == free[0], "lowest free first"
        else:
            with pytest.raises(Exhausted):
                self.pool.lease(name)
        return name

    @rule(name=owners)
    def release(self, name: str) -> None:
        self.pool.release(name)
        self.model.pop(name, None)

    @invariant()
    def counts_agree(self) -> None:
        assert self.pool.used == len(self.model) == len(set(self.model.values()))


TestLeases = Leases.TestCase
