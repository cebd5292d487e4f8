"""What pods reach through a gateway, and what not, by TCP, UDP and ICMP.

No test waits for an answer that must not come: everything is sent, then something that must arrive
by the same tunnel; what the targets have counted by then is the verdict.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import socket

from egress_gateway.api import keys
from egress_gateway.datapath.gateway.plan import GatewayDesired, Surroundings
from egress_gateway.datapath.gateway.served import ServedConfiguration
from egress_gateway.datapath.linux.echo import echo_request
from egress_gateway.datapath.linux.link import Route
from egress_gateway.datapath.linux.nft import Nftables
from tests.datapath.box import boxed
from tests.datapath.test_packets import NODE, SECONDARIES, peers_of, serve, served
from tests.datapath.topology import (
    FRONTEND,
    INTERNET,
    PODS_GATEWAY,
    Gateway,
    Place,
    Pod,
    World,
    configuration,
    network,
    until,
)

EVERY_PROTOCOL = {"tcp", "udp", "icmp"}
KUBELET, HEALTH = 10250, 8082
METADATA, PLATFORM = "169.254.169.254", "168.63.129.16"


def watch(place: Place, hook: str = "prerouting priority raw") -> None:
    """From now on the place counts packets by source, destination and protocol."""
    place.nft(
        "table ip watched { set seen { type ipv4_addr . ipv4_addr . inet_proto; flags dynamic;"
        f" size 4096; }}\nchain in {{ type filter hook {hook};\n"
        "update @seen { ip saddr . ip daddr . meta l4proto }\n}\n}"
    )


def seen(place: Place, target: str) -> dict[str, set[str]]:
    """Protocols of what arrived for ``target``, by source; ARP and replies play no part."""
    found: dict[str, set[str]] = {}
    for item in Nftables(place.netns).table("ip", "watched") or []:
        for element in item.get("set", {}).get("elem", []):
            value = element["elem"]["val"] if "elem" in element else element
            source, destination, protocol = value["concat"]
            if destination == target:
                found.setdefault(source, set()).add(protocol)
    return found


def throw(pod: Pod, *targets: str, source: str | None = None) -> None:
    """One packet of each protocol to each target; to two ports where there are ports."""
    for target in targets:
        for kind, protocol, ports in (
            (socket.SOCK_STREAM, socket.IPPROTO_TCP, (KUBELET, HEALTH)),
            (socket.SOCK_DGRAM, socket.IPPROTO_UDP, (KUBELET, 53)),
            (socket.SOCK_RAW, socket.IPPROTO_ICMP, (0,)),
        ):
            for port in ports:
                made = pod.place.netns.run(
                    lambda k=kind, p=protocol: socket.socket(socket.AF_INET, k, p)  # type: ignore[misc]
                )
                with made:
                    made.setblocking(False)
                    if source:
                        made.bind((source, 0))
                    try:
                        made.connect((target, port))
                    except BlockingIOError:
                        continue
                    made.send(echo_request(0, 1) if kind == socket.SOCK_RAW else b"x")


def settle(pod: Pod, seen_as: str = SECONDARIES[0]) -> None:
    """What was thrown before has gone through the tunnel, as this did after it."""
    assert pod.seen_as() == seen_as


def join(pod: Pod, pair: keys.KeyPair, gateway: Gateway, *, listen: int = 20000) -> None:
    """Attached with nothing kept from the tunnel but the neighbourhood: the worst a pod that
    may write its own routes could do."""
    plain = pod.desired(pair.public, str(gateway.primary), listen=listen)
    desired = dataclasses.replace(plain, excluded=(), exceptions=())
    pod.side.converge(desired)
    pod.handshake(desired)


def around(
    gateway: Gateway, *configurations: ServedConfiguration, **more: object
) -> GatewayDesired:
    return dataclasses.replace(gateway.desired(*configurations), **more)  # type: ignore[arg-type]


def neighbour(world: World, name: str, address: str) -> Place:
    """Another machine of the virtual network, which counts what it gets."""
    place = Place(name)
    place.attach(world.router.links, address)
    watch(place)
    return place


@boxed
def test_the_internet_is_reached_by_every_protocol() -> None:
    """Else the tests below could not fail."""
    world, pod, pair = served()
    join(pod, pair, world.gateways[0])
    watch(world.internet)
    throw(pod, INTERNET)
    settle(pod)
    assert seen(world.internet, INTERNET) == {SECONDARIES[0]: EVERY_PROTOCOL}


@boxed
def test_no_service_of_the_gateway_node_is_reached() -> None:
    world, pod, pair = served()
    gateway = world.gateways[0]
    join(pod, pair, gateway)
    # What a packet meets that gets past our chains: the last thing before sockets.
    watch(gateway, "input priority 100")
    # An address of the node that nobody told us about.
    gateway.links.add_address("lo", ipaddress.ip_interface("203.0.113.77/32"))
    targets = (str(gateway.primary), "203.0.113.77", SECONDARIES[0], FRONTEND, "169.254.103.2")
    throw(pod, *targets, "169.254.103.1")
    settle(pod)
    # The tunnel's own outer packets come from the pod's node.
    whole = {target: seen(gateway, target).keys() - {NODE} for target in targets}
    assert whole == {target: set() for target in targets}
    # The probe's address answers echo requests and nothing else.
    reached = set().union(*seen(gateway, "169.254.103.1").values())
    assert reached <= {"icmp"}
    # Others do reach the node: the counters above mean something.
    primary = str(gateway.primary)
    with world.internet.netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as udp:
        udp.sendto(b"x", (primary, KUBELET))
    until(lambda: INTERNET in seen(gateway, primary), "the node is reached by others")


@boxed
def test_neither_metadata_nor_platform_services_are_reached() -> None:
    world, pod, pair = served()
    join(pod, pair, world.gateways[0])
    for address in (METADATA, PLATFORM):
        world.internet.links.add_address("lo", ipaddress.ip_interface(f"{address}/32"))
        route = Route(destination=network(address), device="v-internet")
        world.router.links.replace_routes([route])
    watch(world.internet)
    throw(pod, METADATA, PLATFORM)
    settle(pod)
    # The pod's own link has them: they leave as the node, and never by a gateway.
    assert seen(world.internet, METADATA).keys() <= {NODE}
    assert seen(world.internet, PLATFORM).keys() <= {NODE}


@boxed
def test_pods_and_services_of_the_cluster_are_refused_to_every_configuration() -> None:
    world = World()
    gateway = world.gateways[0]
    pod = world.pod("pod-a")
    pair, (wanted,) = serve(world, pod)
    other = neighbour(world, "elsewhere", "10.1.0.9")
    named = dataclasses.replace(wanted, destinations=(network("10.1.0.9"),))
    gateway.side.converge(around(gateway, named, refused=(network("10.1.0.0/24"),)))
    join(pod, pair, gateway)
    throw(pod, "10.1.0.9")
    settle(pod)
    assert seen(other, "10.1.0.9") == {}


@boxed
def test_the_nodes_network_is_reached_by_configurations_that_name_it() -> None:
    world = World()
    gateway = world.gateways[0]
    pod = world.pod("pod-a")
    pair, (wanted,) = serve(world, pod)
    other = neighbour(world, "elsewhere", "10.1.0.9")
    local = Surroundings(networks=(network("10.1.0.0/16"),))
    join(pod, pair, gateway)
    for destinations, reached in (
        ((), {}),
        ((network("0.0.0.0/0"),), {}),
        ((network("10.1.0.8/31"),), {SECONDARIES[0]: EVERY_PROTOCOL}),
    ):
        named = dataclasses.replace(wanted, destinations=destinations)
        gateway.side.converge(around(gateway, named, surroundings=local))
        throw(pod, "10.1.0.9")
        settle(pod)
        assert seen(other, "10.1.0.9") == reached, destinations
        assert gateway.side.converge(around(gateway, named, surroundings=local)).done == ()


@boxed
def test_pods_on_the_gateway_node_are_not_reached() -> None:
    world = World()
    gateway = world.gateways[0]
    pod = world.pod("pod-a")
    pair, (wanted,) = serve(world, pod)
    local = Place("local-pod")
    local.attach(gateway.links, "10.244.9.2", PODS_GATEWAY)
    watch(local)
    gateway.side.converge(gateway.desired(wanted))
    join(pod, pair, gateway)
    throw(pod, "10.244.9.2")
    settle(pod)
    assert seen(local, "10.244.9.2"), "without knowing its links the node forwards to its pods"
    Nftables(local.netns).apply("flush set ip watched seen")
    found = gateway.side.surroundings()
    assert found.uplinks == {"eth0"}
    gateway.side.converge(around(gateway, wanted, surroundings=found))
    throw(pod, "10.244.9.2")
    settle(pod)
    assert seen(local, "10.244.9.2") == {}


@boxed
def test_no_pod_reaches_another_pods_tunnel() -> None:
    """Of the same configuration or of another; by the pod's address, over the gateway alone."""
    world = World()
    gateway = world.gateways[0]
    pods = [world.pod(f"pod-{letter}") for letter in "abc"]
    pairs = [keys.generate(), keys.generate()]
    wanted = [
        configuration(pair, secondary, port=6000 + i)
        for i, (pair, secondary) in enumerate(zip(pairs, SECONDARIES, strict=True))
    ]
    gateway.side.converge(gateway.desired(*wanted))
    for secondary in SECONDARIES:
        world.route_secondary(secondary, gateway)
    for i, members in enumerate((pods[:2], pods[2:])):
        gateway.side.sync_peers(wanted[i], peers_of(*members))
    for i, pod in enumerate(pods):
        port = 6000 if i < 2 else 6001
        pair = pairs[port - 6000]
        plain = pod.desired(pair.public, str(gateway.primary), port=port, listen=20000 + i)
        desired = dataclasses.replace(plain, excluded=(), exceptions=())
        pod.side.converge(desired)
        pod.handshake(desired)
        # Packets that come out of the tunnel; by eth0 they could come from anywhere.
        pod.place.nft(
            "table ip watched { set seen { type ipv4_addr . ipv4_addr . inet_proto;"
            " flags dynamic; size 4096; }\nchain in { type filter hook prerouting priority raw;\n"
            'iifname "wg0" ct state new update @seen { ip saddr . ip daddr . meta l4proto }\n}\n}'
        )
    others = [str(pod.address) for pod in pods[1:]]
    throw(pods[0], *others)
    for pod, secondary in zip(pods, (*SECONDARIES[:1] * 2, SECONDARIES[1]), strict=True):
        settle(pod, secondary)
    assert [seen(pod.place, str(pod.address)) for pod in pods[1:]] == [{}, {}]


@boxed
def test_no_packet_with_another_pods_address_is_carried() -> None:
    world = World()
    pods = [world.pod("pod-a"), world.pod("pod-b")]
    pair, _ = serve(world, *pods)
    for index, pod in enumerate(pods):
        join(pod, pair, world.gateways[0], listen=20000 + index)
    watch(world.internet)
    stolen = str(pods[1].address)
    for source in (stolen, "10.99.0.1", SECONDARIES[0]):
        pods[0].place.links.add_address("eth0", ipaddress.ip_interface(f"{source}/32"))
        throw(pods[0], INTERNET, source=source)
    settle(pods[0])
    # The control's connection, TCP, and nothing of what was thrown.
    assert seen(world.internet, INTERNET) == {SECONDARIES[0]: {"tcp"}}
    throw(pods[0], INTERNET)
    settle(pods[0])
    assert seen(world.internet, INTERNET) == {SECONDARIES[0]: EVERY_PROTOCOL}
