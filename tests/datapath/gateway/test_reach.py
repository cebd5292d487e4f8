"""Probes with real packets: through a pod's tunnel, and from a gateway to the Internet."""

from __future__ import annotations

import ipaddress
import socket
import threading
from ipaddress import IPv4Address

from egress_gateway.datapath.addresses import ECHO_ADDRESS
from egress_gateway.datapath.gateway import stun
from egress_gateway.datapath.gateway.reach import ProbeTarget
from egress_gateway.datapath.linux import echo, netns
from egress_gateway.gateway.health.internet import Internet
from egress_gateway.gateway.health.verified import Expected, Verification
from tests.datapath.box import boxed
from tests.datapath.test_packets import SECONDARIES, attach, served
from tests.datapath.topology import INTERNET, until

_CLOSED = 81


@boxed
def test_an_echo_goes_through_the_tunnel_and_nothing_else_of_the_gateway_answers() -> None:
    world, pod, pair = served()
    desired = attach(pod, pair, world.gateways[0])
    opened = pod.side.echo_socket(desired)
    assert opened is not None
    with opened:
        opened.settimeout(60)
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
async def test_the_internet_is_asked_from_the_secondary_and_a_dead_way_is_noticed() -> None:
    world, pod, pair = served()
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
        await internet.round()
        assert internet.dead == {}, target
        world.router.nft(
            "table ip cut { chain f { type filter hook forward priority 0;\n"
            f"ip saddr {INTERNET} drop\n}}\n}}"
        )
        for _ in range(2):
            await internet.round()
        assert str(target) in internet.dead["default/c6000"]
        world.router.nft("delete table ip cut")
        for _ in range(5):
            assert internet.dead
            await internet.round()
        # One that is answered late does not count, and it begins anew.
        while internet.dead:
            await internet.round()
    until(lambda: pod.seen_as() == SECONDARIES[0], "the pod goes on as if nobody had asked")
    assert world.internet.sources() == {SECONDARIES[0]}


def _stun_server(bound: socket.socket) -> None:
    while True:
        data, (address, port) = bound.recvfrom(2048)
        answer = stun.response(data, IPv4Address(address), port)
        if answer is not None:
            bound.sendto(answer, (address, port))


def _bound() -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind(("", stun.PORT))
    return bound


@boxed
async def test_a_way_that_drops_large_packets_in_silence_is_noticed_and_a_narrow_one_is_not() -> (
    None
):
    world, pod, pair = served()
    attach(pod, pair, world.gateways[0])
    bound = world.internet.netns.run(_bound)
    threading.Thread(target=_stun_server, args=(bound,), daemon=True).start()
    secondary = SECONDARIES[0]
    verification = Verification(
        [(INTERNET, stun.PORT)],
        lambda: {"default/c6000": Expected(secondary=IPv4Address(secondary), public=secondary)},
        interval=0.01,
        size=lambda: 1440,
        namespace=netns.DIRECTORY / f"egress-{world.gateways[0].name}",
    )

    async def rounds(number: int) -> list[str]:
        for _ in range(number):
            await verification.round()
        return [veto.reason for veto in verification.vetoes]

    def dropping(rule: str) -> None:
        world.router.nft(
            "add table ip narrow\ndelete table ip narrow\ntable ip narrow { chain f {\n"
            f"type filter hook forward priority 0;\n{rule}\n}}\n}}"
        )

    assert await rounds(1) == []
    (seen,) = verification.seen
    assert (seen.seen_ip, seen.large_lost) == (secondary, False)
    for rule in ("ip length > 1400 drop", "ip length > 1435 drop"):
        dropping(rule)
        assert await rounds(4) == ["LargePacketsLost"], rule
        assert verification.seen[0].large_lost
        dropping("")
        assert await rounds(2) == [], rule
    for rule in ("ip length > 1440 drop", "ip length < 100 ip protocol tcp drop"):
        dropping(rule)
        assert await rounds(4) == [], rule
