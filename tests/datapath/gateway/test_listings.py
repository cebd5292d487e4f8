"""A gateway lists its tables (seconds, with thousands of pods) only when somebody changed rules."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from egress_gateway.api import keys
from egress_gateway.datapath.gateway.ruleset import GATEWAY_TABLE, NODE_TABLE
from egress_gateway.datapath.linux.nft import Nftables
from tests.datapath.box import boxed
from tests.datapath.topology import Gateway, World, configuration

TABLES = (GATEWAY_TABLE, NODE_TABLE)


@boxed
def test_tables_are_listed_once_before_a_change_and_never_at_rest() -> None:
    with pytest.MonkeyPatch.context() as patch:
        _story(patch)


def _story(patch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    real = Nftables.table

    def table(self: Nftables, family: str, name: str) -> Any:
        if family == "inet":
            listed.append(name)
        return real(self, family, name)

    patch.setattr(Nftables, "table", table)
    gateway = World().gateways[0]
    pairs = keys.generate(), keys.generate()
    one = gateway.desired(configuration(pairs[0], "10.1.1.101", port=6000))
    two = gateway.desired(*one.configurations, configuration(pairs[1], "10.1.1.102", port=6001))

    def lists(desired: Any) -> list[int]:
        listed.clear()
        gateway.side.converge(desired)
        return [listed.count(name) for name in TABLES]

    def rests() -> bool:
        """At the latest after the look that the shortcut's own change makes necessary."""
        return [0, 0] in (lists(wanted), lists(wanted))

    wanted = one
    lists(one)
    assert rests()
    wanted = two
    assert lists(two) == [2, 2], "before, and what the kernel made of it"
    assert rests()
    for place, command in _damages(gateway):
        subprocess.run(["ip", "netns", "exec", place, *command.split()], check=True)
        assert lists(two) != [0, 0], f"somebody: {command}"
        assert rests(), f"mended: {command}"
    gateway.restart_agent()
    assert lists(two) == [2, 2], "a new agent knows nothing"
    assert rests()


def _damages(gateway: Gateway) -> list[tuple[str, str]]:
    inside = f"egress-{gateway.name}"
    return [
        (inside, f"nft flush table inet {GATEWAY_TABLE}"),
        (inside, f"nft add chain inet {GATEWAY_TABLE} strange"),
        (gateway.name, f"nft delete table inet {NODE_TABLE}"),
        (gateway.name, "nft add table inet of_others"),
    ]
