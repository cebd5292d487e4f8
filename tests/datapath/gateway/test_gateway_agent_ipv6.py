"""IPv6 through the gateway agent as shipped: from objects to packets, counted and logged."""

from __future__ import annotations

import ipaddress
import logging
from typing import Any

from egress_gateway.api import names
from egress_gateway.api.conditions import Reason
from egress_gateway.datapath.linux import connections
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.kube.resources import POD_ENDPOINTS, PODS, SGCS
from tests.datapath.box import boxed
from tests.datapath.gateway.test_gateway_agent import SECONDARY, Api, Story, agent
from tests.datapath.topology import INTERNET, INTERNET6, PORT, Gateway, Pod, World, until

SECONDARY6 = "2001:db8:1:1::101"
PUBLIC6 = "2001:db8:203::1"


def listed(story: Story, *, ipv6: bool) -> None:
    """As the controller writes it."""
    entry = {
        "node": story.gateway.name,
        "primaryIp": str(story.gateway.primary),
        "secondaryIp": SECONDARY,
        **({"secondaryIpV6": SECONDARY6, "publicIpV6": PUBLIC6} if ipv6 else {}),
    }
    profile = {"ip": "10.1.200.4", "port": PORT, "publicKey": story.pair.public}
    document = {
        "metadata": {"name": "one", "namespace": "default"},
        "status": {"gatewayServerProfile": profile, "gateways": [entry]},
    }
    story.api.call(story.api.client.apply(SGCS.untyped(), document, subresource="status"))


def announce(story: Story, pod: Pod) -> None:
    """The pod and its endpoint, with both addresses."""
    client, addresses = story.api.client, [str(pod.address), str(pod.address6)]
    meta: dict[str, Any] = {"name": pod.place.name, "namespace": "default"}
    named = {**meta, "annotations": {names.POD_ANNOTATION: "one"}}
    spec = {"nodeName": "w1", "containers": [{"name": "main", "image": "nginx"}]}
    made = story.api.call(client.create(PODS.untyped(), {"metadata": named, "spec": spec}))
    status = {"phase": "Running", "podIPs": [{"ip": address} for address in addresses]}
    document = {"metadata": meta, "status": status}
    story.api.call(client.apply(PODS.untyped(), document, subresource="status"))
    endpoint = {
        "staticGatewayConfiguration": "one",
        "podIpAddress": addresses[0],
        "podIps": addresses,
        "podPublicKey": pod.pair.public,
        "podUid": made["metadata"]["uid"],
        "nodeName": "w1",
    }
    owner = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": endpoint["podUid"]}
    meta["ownerReferences"] = [owner]
    story.api.call(client.apply(POD_ENDPOINTS.untyped(), {"metadata": meta, "spec": endpoint}))


@boxed
def test_ipv6_follows_the_status_without_disturbing_ipv4() -> None:
    world = World(ipv6=True)
    (gateway,) = world.gateways
    world.route_secondary(SECONDARY, gateway)
    world.route_secondary6(SECONDARY6, gateway)
    gateway.backend()
    story = Story(Api(gateway), gateway)
    pod = world.pod("pod-a")
    story.secret()
    announce(story, pod)
    lines: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = lines.append  # type: ignore[assignment]
    logger = logging.getLogger("egress_gateway.gateway.connectionlog")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    spec = {"gatewayNodepoolName": "npegress", "connectionLog": True}
    document = {"metadata": {"name": "one", "namespace": "default"}, "spec": spec}
    story.api.call(story.api.client.apply(SGCS.untyped(), document))
    with agent(gateway, story.api):
        listed(story, ipv6=False)
        until(lambda: story.probe() == 200, "served")
        desired = pod.desired(story.pair.public, str(gateway.primary))
        pod.side.converge(desired)
        pod.handshake(desired)
        until(lambda: pod.seen_as(timeout=0.5) == SECONDARY, "IPv4 is carried")
        with pod.connect(INTERNET) as four:
            four.recv(100)
            assert pod.seen_as(INTERNET6, timeout=0.3) is None
            listed(story, ipv6=True)
            until(lambda: pod.seen_as(INTERNET6, timeout=0.5) == SECONDARY6, "IPv6 is carried")
            assert pod.side.status(desired) is not None
            with pod.connect(INTERNET6) as six:
                six.recv(100)
                port = six.getsockname()[1]

                def told() -> list[dict[str, Any]]:
                    found = [r.__dict__ for r in lines if r.getMessage() == "connection began"]
                    return [r for r in found if r["pod_port"] == port]

                until(lambda: bool(told()), "the connection is logged")
                (said,) = told()
                assert (said["pod"], said["destination"]) == ("default/pod-a", INTERNET6)
                assert (said["address"], said["via"]) == (PUBLIC6, SECONDARY6)
                with NetNS.open("/run/netns/ns-static-egress-gateway") as inside:
                    (used,) = connections.use(inside).values()
                assert used.connections >= 2
            assert not story.status().get("problems")
            # The node loses its way out: the configuration hears of it, and IPv4 goes on.
            gateway.links.delete_routes(_default6(gateway))
            until(lambda: bool(story.status().get("problems")), "the missing route is told")
            (problem,) = story.status()["problems"]
            assert "no IPv6 default route" in problem["message"]
            assert problem["reason"] == Reason.GATEWAY_WITHOUT_IPV6
            assert story.probe() == 200
            four.sendall(b"untouched")
            assert four.recv(100) == b"untouched"
    assert world.internet.sources6() == {SECONDARY6}


def _default6(gateway: Gateway) -> list[Any]:
    everywhere = ipaddress.ip_network("::/0")
    return [r for r in gateway.links.routes(254, 6) if r.destination == everywhere]
