"""A tunnel and a gateway as somebody would set them up by hand: what ours is measured against.

Same hops as ours: a WireGuard interface made on the pod's node and moved into the pod; on the
gateway's machine one made there and moved into a namespace of its own, forwarding, a veth back to
the node, and the node's own masquerade rule on the way out. Same back end, same MTU in the kernel;
``wireguard-go`` keeps the one that it gives itself, 1,420, with any other of which it pads packets
until they leave in two fragments. Each process has a session of its own, as ours have: Linux shares
processors fairly among sessions (sched_autogroup, sched(7)), and two that count as one are
interrupted less often, as they could not be on two machines. None of our code is involved; the
gateway's machine is an ordinary worker.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from bench.place.site import DESTINATION, LeanPod, Site

_PORT: Final = 31820
"""Outside the ports that the node agent's filter watches."""
_MTU: Final = 1440
_LINK: Final = "wgbyhand"


WAYS: Final = ("gateway", "bare_wireguard", "plain_veth")


async def ways(lab: Site) -> dict[str, LeanPod]:
    """A pod of each way from one node to ``DESTINATION``: through a gateway, through a tunnel made
    by hand, and through none."""
    worker, other = lab.workers[:2]
    (annotated,) = await lab.make_pods(1, stem="gateway", nodes=[worker])
    await lab.attach(annotated)
    plain, bare = await lab.make_pods(2, stem="plain", nodes=[worker], annotated=False)
    for pod in (plain, bare):
        await lab.attach(pod, plain_chain=True)
    await tunnel(lab, bare, gateway=other, destination=DESTINATION)
    return dict(zip(WAYS, (annotated, bare, plain), strict=True))


def turned(order: Iterable[str], number: int) -> list[str]:
    """Another way first in each round."""
    ways = list(order)
    first = number % len(ways)
    return ways[first:] + ways[:first]


async def tunnel(lab: Site, pod: LeanPod, *, gateway: str, destination: str) -> None:
    """Sends what ``pod`` sends to ``destination`` through a tunnel to machine ``gateway``."""
    machines = await lab.machines()
    pod_keys = await _keys(lab, pod.node)
    gateway_keys = await _keys(lab, gateway)
    await lab.run(
        gateway,
        f"ip netns add byhand; {_make(gateway_keys[0], 'byhand')}"
        f"wg set {_LINK} peer {pod_keys[1]} allowed-ips {pod.address}/32;"
        "ip link add byhand0 type veth peer name byhand1 netns byhand;"
        "ip addr add 169.254.104.1/30 dev byhand0; ip link set byhand0 up;"
        "ip -n byhand addr add 169.254.104.2/30 dev byhand1; ip -n byhand link set byhand1 up;"
        "ip -n byhand route add default via 169.254.104.1;"
        f"ip -n byhand route add {pod.address}/32 dev {_LINK};"
        f"ip route add {pod.address}/32 via 169.254.104.2;"
        "ip netns exec byhand sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'",
    )
    space = f"cni-{pod.name}"
    address = machines[gateway]["addresses"][0]
    await lab.run(
        pod.node,
        f"{_make(pod_keys[0], space)}"
        f"wg set {_LINK} peer {gateway_keys[1]} allowed-ips 0.0.0.0/0"
        f" endpoint {address}:{_PORT};"
        f"ip -n {space} route add {destination}/32 dev {_LINK} src {pod.address}",
    )


async def _keys(lab: Site, node: str) -> tuple[str, str]:
    """(private, public)."""
    made = await lab.run(node, 'k=$(wg genkey); echo "$k"; echo "$k" | wg pubkey')
    private, public = made.split()
    return private, public


def _make(private: str, space: str) -> str:
    """Shell commands: the interface, born on the node, living in namespace ``space``."""
    return (
        f"ip link add {_LINK} mtu {_MTU} type wireguard 2>/dev/null ||"
        f" env -u LOG_LEVEL setsid -w wireguard-go {_LINK} </dev/null >/dev/null 2>&1;"
        f"umask 077; echo {private} >/run/{_LINK}.key;"
        f"wg set {_LINK} listen-port {_PORT} private-key /run/{_LINK}.key;"
        f"ip link set {_LINK} netns {space};"
        f"ip -n {space} link set {_LINK} up;"
    )
