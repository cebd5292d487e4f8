"""Probes with real packets: through a pod's tunnel, and from a gateway to the Internet."""

from __future__ import annotations

import asyncio
import ipaddress
from ipaddress import IPv4Address

from egress_gateway.datapath.addresses import ECHO_ADDRESS
from egress_gateway.datapath.gateway.reach import ProbeTarget
from egress_gateway.datapath.linux import echo, netns
from egress_gateway.gateway.health.internet import Internet
from tests.datapath.box import boxed
from tests.datapath.test_packets import SECONDARIES, attach, serve
from tests.datapath.topology import INTERNET, World, until

_CLOSED = 81


@boxed
def test_an_echo_goes_through_the_tunnel_and_nothing_else_of_the_gateway_answers() -> None:
    world = World()
    pod = world.pod("pod-a")
    pair, _ = serve(world, pod)
    desired = attach(pod, pair, world.gateways[0])
    opened = pod.side.echo_socket(desired)
    assert opened is not None
    with opened:
        opened.settimeout(5)
        opened.sendto(echo.echo_request(7, 1), (str(ECHO_ADDRESS), 0))
        assert echo.echo_reply(opened.recv(2048), 7) == 1
        # The interface goes: the machine lives, and the echo is silent.
        with netns.NetNS.open(f"/run/netns/egress-{world.gateways[0].name}") as inside:
            from egress_gateway.datapath.linux.link import Links

            with Links(inside) as links:
                links.set_up("wg-6000", up=False)
        opened.settimeout(0.5)
        opened.sendto(echo.echo_request(7, 2), (str(ECHO_ADDRESS), 0))
        try:
            heard = echo.echo_reply(opened.recv(2048), 7)
        except TimeoutError:
            heard = None
        assert heard is None
    assert pod.seen_as(str(ECHO_ADDRESS), timeout=0.3) is None


@boxed
def test_the_internet_is_asked_from_the_secondary_and_a_dead_way_is_noticed() -> None:
    world = World()
    pod = world.pod("pod-a")
    pair, _ = serve(world, pod)
    attach(pod, pair, world.gateways[0])
    secondary = IPv4Address(SECONDARIES[0])
    host = ipaddress.IPv4Address(INTERNET)
    for target in (ProbeTarget(host, 80), ProbeTarget(host, _CLOSED), ProbeTarget(host)):
        internet = Internet(
            (target,),
            lambda: {"default/c6000": secondary},
            interval=0.05,
            misses=2,
            namespace=netns.DIRECTORY / f"egress-{world.gateways[0].name}",
        )
        asyncio.run(internet.round())
        assert internet.dead == {}, target
        world.router.nft(
            "table ip cut { chain f { type filter hook forward priority 0;\n"
            f"ip saddr {INTERNET} drop\n}}\n}}"
        )
        for _ in range(2):
            asyncio.run(internet.round())
        assert str(target) in internet.dead["default/c6000"]
        world.router.nft("delete table ip cut")
        for _ in range(5):
            assert internet.dead
            asyncio.run(internet.round())
        assert internet.dead == {}
    until(lambda: pod.seen_as() == SECONDARIES[0], "the pod goes on as if nobody had asked")
    assert world.internet.sources() == {SECONDARIES[0]}
