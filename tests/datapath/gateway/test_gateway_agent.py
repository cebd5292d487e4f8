"""The gateway agent against an API server, with a pod whose packets prove what it did."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from egress_gateway.api import keys, names
from egress_gateway.datapath.linux import netns
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.gateway import main
from egress_gateway.gateway.settings import Settings
from egress_gateway.kube import errors
from egress_gateway.kube.client import Client
from egress_gateway.kube.resources import (
    GATEWAY_STATUSES,
    NAMESPACES,
    NODES,
    POD_ENDPOINTS,
    PODS,
    SECRETS,
    SGCS,
)
from tests.contract.kube.kube_cluster import cluster
from tests.datapath.box import boxed
from tests.datapath.topology import INTERNET, PORT, Gateway, Pod, World, until

SECONDARY = "10.1.1.101"
SYSTEM = names.SYSTEM_NAMESPACE


class Api:
    """An API server inside the gateway's namespace, and its administrator."""

    def __init__(self, gateway: Gateway) -> None:
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._up = threading.Event()
        self.kubeconfig = Path(tempfile.mkdtemp(), "kubeconfig")
        self.client: Client
        threading.Thread(
            target=lambda: gateway.netns.run(lambda: self._loop.run_until_complete(self._main())),
            daemon=True,
        ).start()
        assert self._up.wait(120)

    async def _main(self) -> None:
        async with cluster(self.kubeconfig.parent) as running:
            self.client = running.client
            self._up.set()
            await self._stop.wait()

    def call(self, awaitable: Awaitable[Any]) -> Any:
        async def wrapped() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(wrapped(), self._loop).result(120)


@contextlib.contextmanager
def agent(gateway: Gateway, api: Api, **more: Any) -> Iterator[None]:
    """The shipped program, in the gateway's namespace."""
    settings = Settings(
        node_name=gateway.name,
        kubeconfig=str(api.kubeconfig),
        run_dir=f"/run/{gateway.name}",
        **{"resync": 0.5, **more},
    )
    loop = asyncio.new_event_loop()
    task = loop.create_task(main.run(settings))

    def work() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    thread = threading.Thread(target=lambda: gateway.netns.run(work), daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(120)
        assert not thread.is_alive(), "the agent stops when it is told to"


class Story:
    """Objects as the controller and the node agent write them."""

    def __init__(self, api: Api, gateway: Gateway) -> None:
        self.api = api
        self.gateway = gateway
        self.pair = keys.generate()
        client = api.client
        api.call(client.apply(NAMESPACES.untyped(), {"metadata": {"name": SYSTEM}}))
        api.call(client.apply(NAMESPACES.untyped(), {"metadata": {"name": "default"}}))
        node = {"metadata": {"name": gateway.name}}
        api.call(client.apply(NODES.untyped(), node))
        addresses = [{"type": "InternalIP", "address": str(gateway.primary)}]
        api.call(
            client.apply(
                NODES.untyped(), {**node, "status": {"addresses": addresses}}, subresource="status"
            )
        )
        self.node("w1", "10.1.0.4")
        sgc = {
            "metadata": {"name": "one", "namespace": "default"},
            "spec": {"gatewayNodepoolName": "npegress"},
        }
        self.uid = api.call(client.apply(SGCS.untyped(), sgc))["metadata"]["uid"]

    def node(self, name: str, address: str) -> None:
        """A Node with an InternalIP."""
        client = self.api.client
        node = {"metadata": {"name": name}}
        self.api.call(client.apply(NODES.untyped(), node))
        status = {"addresses": [{"type": "InternalIP", "address": address}]}
        document = {**node, "status": status}
        self.api.call(client.apply(NODES.untyped(), document, subresource="status"))

    def secret(self) -> None:
        def twice(text: str) -> str:
            return base64.b64encode(text.encode()).decode()

        document = {
            "metadata": {"name": names.key_secret(self.uid), "namespace": SYSTEM},
            "data": {"PrivateKey": twice(self.pair.private), "PublicKey": twice(self.pair.public)},
        }
        self.api.call(self.api.client.apply(SECRETS.untyped(), document))

    def listed(self, *, listed: bool = True, frontend: str = "10.1.200.4") -> None:
        entry = {
            "node": self.gateway.name,
            "primaryIp": str(self.gateway.primary),
            "secondaryIp": SECONDARY,
        }
        document = {
            "metadata": {"name": "one", "namespace": "default"},
            "status": {
                "gatewayServerProfile": {
                    "ip": frontend,
                    "port": PORT,
                    "publicKey": self.pair.public,
                },
                "gateways": [entry] if listed else [],
            },
        }
        self.api.call(self.api.client.apply(SGCS.untyped(), document, subresource="status"))

    def logged(self) -> None:
        """The configuration asks for its connections to be logged."""
        document = {
            "metadata": {"name": "one", "namespace": "default"},
            "spec": {"gatewayNodepoolName": "npegress", "connectionLog": True},
        }
        self.api.call(self.api.client.apply(SGCS.untyped(), document))

    def pod(self, pod: Pod, *, ips: bool = True) -> None:
        client = self.api.client
        meta = {
            "name": pod.place.name,
            "namespace": "default",
            "annotations": {names.POD_ANNOTATION: "one"},
        }
        spec = {"nodeName": "w1", "containers": [{"name": "main", "image": "nginx"}]}
        made = self.api.call(client.create(PODS.untyped(), {"metadata": meta, "spec": spec}))
        if ips:
            status = {"phase": "Running", "podIPs": [{"ip": str(pod.address)}]}
            document = {"metadata": {**meta, "annotations": {}}, "status": status}
            self.api.call(client.apply(PODS.untyped(), document, subresource="status"))
        self.endpoint(pod, made["metadata"]["uid"])

    def endpoint(self, pod: Pod, uid: str) -> None:
        owner = {"apiVersion": "v1", "kind": "Pod", "name": pod.place.name, "uid": uid}
        document = {
            "metadata": {
                "name": pod.place.name,
                "namespace": "default",
                "ownerReferences": [owner],
            },
            "spec": {
                "staticGatewayConfiguration": "one",
                "podIpAddress": str(pod.address),
                "podIps": [str(pod.address)],
                "podPublicKey": pod.pair.public,
                "podUid": uid,
                "nodeName": "w1",
            },
        }
        self.api.call(self.api.client.apply(POD_ENDPOINTS.untyped(), document))

    def status(self) -> dict[str, Any]:
        with contextlib.suppress(errors.NotFound):
            found = self.api.call(
                self.api.client.get(GATEWAY_STATUSES.untyped(), self.gateway.name, SYSTEM)
            )
            return dict(found.get("spec", {}))
        return {}

    def probe(self) -> int:
        """What the load balancer's probe gets."""
        url = f"http://127.0.0.1:{names.HEALTH_PORT}/gw/{self.uid}"

        def get() -> int:
            try:
                with urllib.request.urlopen(url, timeout=60) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                return error.code
            except OSError:
                return 0

        return self.gateway.netns.run(get)


def begin() -> tuple[World, Gateway, Story]:
    world = World()
    (gateway,) = world.gateways
    world.route_secondary(SECONDARY, gateway)
    gateway.backend()  # waits for the tunnel host, where there is one
    return world, gateway, Story(Api(gateway), gateway)


def attach(story: Story, pod: Pod, *, listen: int = 20000) -> Callable[[], str | None]:
    desired = pod.desired(story.pair.public, str(story.gateway.primary), listen=listen)
    pod.side.converge(desired)

    def seen() -> str | None:
        pod.side.handshake_again(desired)
        return pod.seen_as(timeout=0.5)

    return seen


@boxed
def test_from_objects_to_packets_and_back() -> None:
    world, gateway, story = begin()
    pod = world.pod("pod-a")
    with agent(gateway, story.api):
        assert story.probe() in (0, 503)
        story.listed()
        until(lambda: bool(story.status().get("problems")), "the missing Secret is reported")
        (problem,) = story.status()["problems"]
        assert problem["staticGatewayConfiguration"] == "default/one"
        assert names.key_secret(story.uid) in problem["message"]
        assert story.probe() == 503
        story.secret()
        until(lambda: story.probe() == 200, "the probe says yes")
        until(lambda: bool(story.status().get("readyGatewayConfigurations")), "the report")
        (ready,) = story.status()["readyGatewayConfigurations"]
        assert ready == {
            "staticGatewayConfiguration": "default/one",
            "interfaceName": "wg-6000",
            "uid": story.uid,
            "publicKey": story.pair.public,
        }
        seen = attach(story, pod)
        assert seen() is None, "no PodEndpoint, no peer"
        story.pod(pod, ips=False)
        until(lambda: seen() == SECONDARY, "the pod's packets leave with its address")
        story.api.call(story.api.client.delete(POD_ENDPOINTS, "pod-a", "default"))
        until(lambda: seen() is None, "the endpoint's end is the peer's")
        story.listed(listed=False)
        until(lambda: not netns.exists("ns-static-egress-gateway"), "the namespace goes")
        until(lambda: story.probe() == 503, "the probe says no")
        until(lambda: "gateway0" not in gateway.links.links(), "nothing is left")
    assert world.internet.sources() == {SECONDARY}


@boxed
def test_a_restart_disturbs_nobody_and_the_probe_never_says_no() -> None:
    world, gateway, story = begin()
    pod = world.pod("pod-a")
    story.listed()
    story.secret()
    story.pod(pod)
    with agent(gateway, story.api):
        seen = attach(story, pod)
        until(lambda: seen() == SECONDARY, "attached")
        # Packets pass before the probe says so, and what it never said it cannot go on saying.
        until(lambda: story.probe() == 200, "the probe says yes")
        connection = pod.connect(INTERNET)
        connection.recv(100)
    connection.sendall(b"without an agent\n")
    assert connection.recv(100) == b"without an agent\n"
    with agent(gateway, story.api):
        until(lambda: story.probe() != 0, "the new agent listens")
        for _ in range(20):
            assert story.probe() == 200
        until(lambda: story.status().get("readyGatewayConfigurations") is not None, "report")
        connection.sendall(b"with its successor\n")
        assert connection.recv(100) == b"with its successor\n"
    # A Secret that cannot be read any more costs nothing that runs.
    story.api.call(story.api.client.delete(SECRETS, names.key_secret(story.uid), SYSTEM))
    with agent(gateway, story.api):
        until(lambda: bool(story.status().get("problems")), "the missing Secret is reported")
        assert story.probe() == 200
        connection.sendall(b"even so\n")
        assert connection.recv(100) == b"even so\n"


@boxed
def test_the_probe_looks_at_the_kernel() -> None:
    _, gateway, story = begin()
    story.listed()
    story.secret()
    # No pass but those that an object's change asks for: nothing is repaired in between.
    with agent(gateway, story.api, resync=3600.0):
        until(lambda: story.probe() == 200, "served")
        from egress_gateway.datapath.linux.link import Links

        def noticed() -> bool:
            """The agent hears of the damage itself, and may be quicker than the probe."""
            links.set_up("host0", up=False)
            return story.probe() == 503

        with NetNS.open("/run/netns/ns-static-egress-gateway") as inside, Links(inside) as links:
            until(noticed, "the probe notices", seconds=60)
        until(lambda: story.probe() == 200, "the next pass repairs it")


@boxed
def test_the_connection_log_stays_while_its_configuration_cannot_be_served() -> None:
    """It began and ended in each pass: a line every few seconds, and half a second's wait."""
    _, gateway, story = begin()
    story.logged()
    with agent(gateway, story.api):
        story.listed()
        until(lambda: bool(story.status().get("problems")), "the missing Secret is reported")
        (thread,) = (t for t in threading.enumerate() if t.name == "connection-log")
        story.secret()
        until(lambda: story.probe() == 200, "it is served")
        assert thread.is_alive()


@boxed
def test_connections_are_logged_and_ports_counted_where_asked() -> None:
    world, gateway, story = begin()
    pod = world.pod("pod-a")
    story.secret()
    story.pod(pod)
    lines: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = lines.append  # type: ignore[assignment]
    logger = logging.getLogger("egress_gateway.gateway.connectionlog")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # Nought percent: every connection is one too many.
    with agent(gateway, story.api, ports_warning=0, ports_interval=0.1):
        story.listed()
        seen = attach(story, pod)
        until(lambda: seen() == SECONDARY, "the pod's packets leave with its address")
        assert lines == [], "off unless asked for"
        story.logged()
        until(lambda: bool(lines), "the log begins")
        connection = pod.connect(INTERNET)
        connection.recv(100)
        port = connection.getsockname()[1]

        def told() -> list[dict[str, Any]]:
            found = [r.__dict__ for r in lines if r.getMessage() == "connection began"]
            return [r for r in found if r["pod_port"] == port]

        until(lambda: bool(told()), "the connection is logged")
        (said,) = told()
        assert (said["configuration"], said["pod"]) == ("default/one", "default/pod-a")
        assert (said["address"], said["destination"]) == (SECONDARY, INTERNET)
        assert said["destination_port"] == 80
        connection.close()
        until(lambda: bool(story.status().get("problems")), "the warning is in the report")
        (problem,) = story.status()["problems"]
        assert f"ports of {SECONDARY} towards {INTERNET}:80/tcp" in problem["message"]
        assert story.status()["readyGatewayConfigurations"], "warned, and served"
        assert story.probe() == 200
        story.listed(listed=False)
        until(lambda: not netns.exists("ns-static-egress-gateway"), "the namespace goes")
        until(
            lambda: not any(t.name == "connection-log" for t in threading.enumerate()),
            "the log ends with it",
        )
