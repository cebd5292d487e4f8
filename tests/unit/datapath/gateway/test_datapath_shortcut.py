"""What takes the shortcut past a gateway node's FORWARD rules, and what goes the ordinary way."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.gateway import shortcut
from egress_gateway.datapath.gateway.ruleset import NODE_LINK
from egress_gateway.datapath.gateway.shortcut import DefaultRoute, Shortcut, default_routes, ruleset
from egress_gateway.datapath.linux.link import Route
from egress_gateway.datapath.linux.netns import NetNS

ROUTER = ipaddress.ip_address("10.1.0.1")
SECONDARY = ipaddress.ip_address("10.1.1.101")
INNER = ipaddress.ip_address("169.254.103.2")
DEFAULT = Route(destination=ipaddress.ip_network("0.0.0.0/0"), device="eth0", gateway=ROUTER)
SUBNET = Route(destination=ipaddress.ip_network("10.1.0.0/16"), device="eth0")
PODS = Route(destination=ipaddress.ip_network("10.244.9.0/24"), device="cni0")
OURS = Route(destination=ipaddress.ip_network("10.1.1.101/32"), device=NODE_LINK, gateway=INNER)
OWN = ipaddress.ip_address("203.0.113.77")


def test_only_a_single_default_route_with_a_router_is_a_way() -> None:
    other = Route(destination=DEFAULT.destination, device="eth1", gateway=ROUTER)
    bare = Route(destination=DEFAULT.destination, device="ppp0")
    assert default_routes([DEFAULT, SUBNET]) == {4: DefaultRoute("eth0", ROUTER)}
    assert default_routes([DEFAULT, other]) == {}
    assert default_routes([bare]) == {}
    assert ruleset({SECONDARY: INNER}, [bare, SUBNET], [OWN]) is None


def test_what_is_near_goes_the_ordinary_way() -> None:
    text = ruleset({SECONDARY: INNER}, [DEFAULT, SUBNET, PODS], [OWN])
    assert text is not None
    near = next(line for line in text.splitlines() if "set near4" in line)
    for network in (SUBNET.destination, PODS.destination, f"{OWN}/32", "169.254.103.1/32"):
        assert str(network) in near
    assert "0.0.0.0/0" not in near


def test_our_own_routes_change_nothing() -> None:
    before = ruleset({SECONDARY: INNER}, [DEFAULT, SUBNET], [OWN])
    assert ruleset({SECONDARY: INNER}, [DEFAULT, SUBNET, OURS], [OWN]) == before


def test_without_configurations_there_is_none() -> None:
    assert ruleset({}, [DEFAULT, SUBNET], [OWN]) is None


def test_both_families_share_the_links() -> None:
    six = Route(
        destination=ipaddress.ip_network("::/0"),
        device="eth0",
        gateway=ipaddress.ip_address("fe80::1"),
    )
    secondaries = {
        SECONDARY: INNER,
        ipaddress.ip_address("2001:db8::101"): ipaddress.ip_address("fd65:6777:7061:6972::2"),
    }
    text = ruleset(secondaries, [DEFAULT, six], [])
    assert text is not None
    assert text.count("hook ingress") == 2, "one chain for each end"
    assert 'fwd ip6 to fe80::1 device "eth0"' in text
    assert f'fwd ip to {INNER} device "{NODE_LINK}"' in text


class Kernel:
    """nftables of a kernel that may know no ``fwd``."""

    knows = True
    text: str | None = None

    def __init__(self, netns: NetNS) -> None:
        pass

    def table(self, family: str, name: str) -> list[dict[str, Any]] | None:
        return None if Kernel.text is None else [{"text": Kernel.text}]

    def apply(self, text: str) -> None:
        made = text.partition("delete table")[2].partition("\n")[2]
        if made and not Kernel.knows:
            raise DatapathError("fwd: not supported")
        Kernel.text = made or None


def test_a_kernel_that_refuses_keeps_nothing_stale_and_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shortcut, "Nftables", Kernel)
    made = Shortcut(None)  # type: ignore[arg-type]
    assert made.converge("one")
    assert not made.converge("one")
    Kernel.knows = False
    assert not made.converge("two")
    assert Kernel.text is None, "nothing of before is left to lead packets astray"
    Kernel.knows = True
    assert made.converge("two")
    assert made.converge(None)
    assert Kernel.text is None
