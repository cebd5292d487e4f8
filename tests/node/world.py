"""A node, a gateway that speaks WireGuard, and an Internet, in namespaces that die with the test.

``python -m tests.node.world SCENARIO`` runs one scenario of ``scenarios.py``; the test starts it
with ``unshare --kill-child``. CNI plugins, WireGuard and packets are real; only the Kubernetes API
is played, since these tests are about what the agent does to the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from egress_gateway.api import keys, names
from egress_gateway.api.types import (
    Gateway,
    GatewayServerProfile,
    GatewayStatus,
    GatewayStatusSpec,
    GatewayVeto,
    KeyRotation,
    ObjectMeta,
    PodEndpoint,
    PodEndpointStatus,
    StaticGatewayConfiguration,
    StaticGatewayConfigurationSpec,
    StaticGatewayConfigurationStatus,
)
from egress_gateway.cni import binary, conflist
from egress_gateway.cni.install import Installer
from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.linux import netns
from egress_gateway.datapath.pod.linkguard import LinkGuard
from egress_gateway.datapath.pod.sources import SourceFilter
from egress_gateway.datapath.wireguard import backends
from egress_gateway.datapath.wireguard import host as tunnels
from egress_gateway.kube.errors import Conflict, Forbidden, NotFound, Unavailable
from egress_gateway.kube.resources import Key, Pod, PodIP, PodSpec, PodStatus, Reference
from egress_gateway.node import server
from egress_gateway.node.agent import NodeAgent
from egress_gateway.node.attachment.model import NodeFacts
from egress_gateway.node.attachment.store import AttachmentStore
from egress_gateway.node.cluster.knowledge import Knowledge
from egress_gateway.node.liveness.health import Rules
from egress_gateway.node.liveness.probe import Prober
from egress_gateway.node.reporting.endpoints import Endpoints
from egress_gateway.node.reporting.tell import Teller
from egress_gateway.node.sandboxes.sandbox import NodeKernel
from egress_gateway.node.settings import Settings

RUN = Path("/run/egress-gateway")
CONF = Path("/run/cni/net.d")
BIN = Path("/run/cni/bin")
INTERNET = "198.51.100.10"
INTERNET6 = "2001:db8:ffff::10"
NODE6 = "2001:db8:24::4"
PLUGINS = "/usr/lib/cni"
ATTACH_SECONDS = 30.0
"""No scenario waits for its end; eight pods on an emulated kernel come near the usual ten."""
PLUGIN = conflist.entry(run_dir=str(RUN), agent_timeout=ATTACH_SECONDS + 2)
"""Our plugin in a chain."""


def sh(command: str, *, ns: str | None = None, check: bool = True) -> str:
    prefix = ["nsenter", f"--net=/run/netns/{ns}"] if ns else []
    done = subprocess.run(
        [*prefix, "sh", "-ec", command], capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        raise RuntimeError(f"{ns or 'node'}: {command}: {done.stderr}{done.stdout}")
    return done.stdout


class PlayedCache:
    """A kube Cache that the test fills. While it is ``late`` it shows what was true before."""

    def __init__(self) -> None:
        self.truth: dict[Key, Any] = {}
        """What the API server holds."""
        self._objects: dict[Key, Any] = {}
        self._unheard: list[tuple[Key, Any]] = []
        self._late = False
        self._callbacks: list[Callable[[Key, Any, Any], None]] = []
        self.is_synced = True

    @property
    def late(self) -> bool:
        return self._late

    @late.setter
    def late(self, late: bool) -> None:
        """As a watch that hangs, and then brings every change that it has kept."""
        self._late = late
        while not late and self._unheard:
            self._show(*self._unheard.pop(0))

    def relist(self) -> None:
        """As an agent that has just begun: it sees what there is now, or nothing before ``listed``
        if it is not ``is_synced``."""
        self._late = False
        self._unheard.clear()
        self._objects = dict(self.truth) if self.is_synced else {}

    def listed(self) -> None:
        """As the first list that the API server answers."""
        for key, obj in self.truth.items():
            self._show(key, obj)
        self.is_synced = True

    def on_change(self, callback: Callable[[Key, Any, Any], None]) -> None:
        self._callbacks.append(callback)

    def get(self, namespace: str, name: str) -> Any:
        return self._objects.get(Key(namespace, name))

    def values(self) -> list[Any]:
        return list(self._objects.values())

    def put(self, namespace: str, name: str, obj: Any) -> None:
        key = Key(namespace, name)
        self.truth.pop(key, None)
        if obj is not None:
            self.truth[key] = obj
        if self._late:
            self._unheard.append((key, obj))
        else:
            self._show(key, obj)

    def _show(self, key: Key, obj: Any) -> None:
        old = self._objects.pop(key, None)
        if obj is not None:
            self._objects[key] = obj
        for callback in self._callbacks:
            callback(key, old, obj)


class PlayedApi:
    """Applies and deletes PodEndpoints; ``delay`` seconds pass before gateways hear of one."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.delay = 0.0
        self.down = False
        self.drops_status = False
        self.written: list[PodEndpointStatus] = []
        self._made = 0

    async def get(self, resource: Any, name: str, namespace: str) -> PodEndpoint:
        if self.down:
            raise Unavailable(0, "Unreachable", "the API server is down")
        return self._held(name, namespace)

    def _held(self, name: str, namespace: str) -> PodEndpoint:
        found: PodEndpoint | None = self._world.endpoints.truth.get(Key(namespace, name))
        if found is None:
            raise NotFound(404, "NotFound", f"no PodEndpoint {namespace}/{name}")
        return found

    async def apply(self, resource: Any, document: dict[str, Any]) -> None:
        if self.down:
            await asyncio.sleep(3600)
        endpoint = msgspec.convert(document, PodEndpoint)
        meta = endpoint.metadata
        held = self._world.endpoints.truth.get(Key(meta.namespace, meta.name))
        if held is None:
            self._made += 1
        elif held.spec.pod_public_key != endpoint.spec.pod_public_key:
            raise Forbidden(403, "Forbidden", "a PodEndpoint keeps its key")
        uid = held.metadata.uid if held else f"uid-of-endpoint-{self._made}"
        endpoint = msgspec.structs.replace(
            endpoint,
            metadata=msgspec.structs.replace(meta, uid=uid),
            status=held.status if held else PodEndpointStatus(),
        )
        self._world.endpoints.put(meta.namespace, meta.name, endpoint)
        asyncio.get_running_loop().call_later(self.delay, self._world.sync_peers)

    async def merge_patch(
        self,
        resource: Any,
        name: str,
        patch: dict[str, Any],
        namespace: str,
        *,
        subresource: str,
    ) -> PodEndpoint:
        if self.down:
            raise Unavailable(0, "Unreachable", "the API server is down")
        assert subresource == "status"
        found = self._held(name, namespace)
        status = msgspec.convert(patch["status"], PodEndpointStatus)
        self.written.append(status)
        kept = PodEndpointStatus() if self.drops_status else status
        told: PodEndpoint = msgspec.structs.replace(found, status=kept)
        self._world.endpoints.put(namespace, name, told)
        return told

    async def delete(
        self, resource: Any, name: str, namespace: str, *, uid: str | None = None
    ) -> None:
        if self.down:
            raise Unavailable(0, "Unreachable", "the API server is down")
        if uid not in (None, self._held(name, namespace).metadata.uid):
            raise Conflict(409, "Conflict", f"PodEndpoint {namespace}/{name} is another one")
        self._world.endpoints.put(namespace, name, None)
        self._world.sync_peers()


class PlayedRecorder:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def event(self, target: Reference, type: str, reason: str, message: str) -> None:
        self.events.append((f"{target.namespace}/{target.name}", reason, message))


class GatewayNode:
    """A namespace with a WireGuard interface and masquerade, as a gateway node looks from
    outside. Its Internet is an address in a namespace behind it that answers HTTP."""

    def __init__(self, index: int, pair: keys.KeyPair) -> None:
        self.name = f"gw{index}"
        self.address = f"10.224.0.{10 + index}"
        self.public = f"203.0.113.{index}"
        self.public6 = f"2001:db8:203::{index}"
        self.carries_ipv6 = False
        self._link = f"wgt{index}"
        self._pair = pair
        self._second: keys.KeyPair | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        netns.create(self.name).close()
        sh(
            f"ip link add {self.name} type veth peer name eth0 netns {self.name}; "
            f"ip link set {self.name} master br0 up"
        )
        sh(
            f"ip link set lo up; ip addr add {self.address}/16 dev eth0; ip link set eth0 up; "
            "echo 1 >/proc/sys/net/ipv4/ip_forward",
            ns=self.name,
        )
        self._serve(self._link, 6000, pair)
        sh(
            f"ip route add 10.244.0.0/16 dev {self._link}; "
            f"ip addr add {self.public}/32 dev lo; ip route add default via 10.224.0.200; "
            "ip addr add 169.254.103.1/32 dev lo; "
            f"nft 'add table ip t; "
            f"add chain ip t post {{ type nat hook postrouting priority 100; }};"
            f" add rule ip t post ip saddr 10.244.0.0/16 oifname eth0 snat to {self.public}'",
            ns=self.name,
        )

    def carry_ipv6(self) -> None:
        """Translates IPv6 too. Nodes go on speaking IPv4 to each other."""
        self.carries_ipv6 = True
        sh(
            "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding; "
            f"ip addr add {self.public6}/128 dev lo nodad; "
            f"ip addr add 2001:db8:24::{self.public[-1]}/64 dev eth0 nodad; "
            f"ip -6 route add 2001:db8:244::/48 dev {self._link}; "
            "ip -6 route add default via 2001:db8:24::c8; "
            f"nft 'add table ip6 t; "
            f"add chain ip6 t post {{ type nat hook postrouting priority 100; }};"
            " add rule ip6 t post ip6 saddr 2001:db8:244::/48 oifname eth0"
            f" snat to {self.public6}'",
            ns=self.name,
        )

    def _serve(self, link: str, port: int, pair: keys.KeyPair) -> None:
        if backends.kernel_has_wireguard():
            sh(f"ip link add {link} type wireguard", ns=self.name)
        else:
            # As a user of its own: root may have no inotify instance left, and it needs one.
            starting = tunnels.command("wireguard-go", link, own_user=True)
            path = Path(f"/var/run/wireguard/{link}.sock")
            with netns.NetNS.open(netns.DIRECTORY / self.name) as space:
                self._processes.append(space.run(lambda: tunnels.launch(starting, path)))
        key = Path(f"/run/{self.name}.key")
        key.write_text(pair.private)
        sh(
            f"wg set {link} listen-port {port} private-key {key}; ip link set {link} mtu 1440 up",
            ns=self.name,
        )

    def serve_second(self, pair: keys.KeyPair, endpoints: list[PodEndpoint]) -> None:
        """Port 6001, with a pair of its own; answers go the way that the connection came."""
        self._second = pair
        second = f"{self._link}b"
        self._serve(second, 6001, pair)
        sh(
            f"ip route add 10.244.0.0/16 dev {second} table 6001; "
            "ip rule add fwmark 6001 table 6001; "
            "nft 'add table ip m; add chain ip m in { type filter hook prerouting priority -150; };"
            f' add rule ip m in iifname "{self._link}" ct mark set 6000;'
            f' add rule ip m in iifname "{second}" ct mark set 6001;'
            " add rule ip m in iifname eth0 meta mark set ct mark'",
            ns=self.name,
        )
        self.sync(endpoints)

    def stop_first(self) -> None:
        second = f"{self._link}b"
        sh(f"ip link del {self._link}; ip route add 10.244.0.0/16 dev {second}", ns=self.name)

    def deafen_second(self, deaf: bool) -> None:
        """As a firewall that lets the first port through alone."""
        rule = (
            "add table ip f; add chain ip f i { type filter hook input priority 0; };"
            " add rule ip f i udp dport 6001 drop"
        )
        sh(f"nft '{rule if deaf else 'delete table ip f'}'", ns=self.name)

    def sync(self, endpoints: list[PodEndpoint]) -> None:
        self._sync(self._link, 6000, self._pair, endpoints)
        if self._second is not None:
            self._sync(f"{self._link}b", 6001, self._second, endpoints)

    def _sync(self, link: str, port: int, pair: keys.KeyPair, endpoints: list[PodEndpoint]) -> None:
        lines = [f"[Interface]\nPrivateKey={pair.private}\nListenPort={port}"]
        for e in endpoints:
            allowed = ",".join(e.spec.pod_ips)
            lines.append(f"[Peer]\nPublicKey={e.spec.pod_public_key}\nAllowedIPs={allowed}")
        path = Path(f"/run/{self.name}.conf")
        path.write_text("\n".join(lines) + "\n")
        sh(f"wg syncconf {link} {path}", ns=self.name)

    def sessions(self) -> set[str]:
        """Keys of peers that have had a handshake."""
        shown = sh(f"wg show {self._link} latest-handshakes", ns=self.name)
        return {key for key, _, at in (s.partition("\t") for s in shown.splitlines()) if at != "0"}

    def cut(self) -> None:
        sh("ip link set eth0 down", ns=self.name)

    def refuse_handshakes(self) -> None:
        """Answers probes but not WireGuard."""
        sh(
            "nft 'add table ip d; add chain ip d i { type filter hook input priority 0; };"
            " add rule ip d i udp dport 6000 drop'",
            ns=self.name,
        )


class CountedSources(SourceFilter):
    """Counts the agent's rounds of housekeeping; each ends with a ``sync``."""

    def __init__(self) -> None:
        super().__init__()
        self.rounds = 0

    def sync(self, wanted: Mapping[int, IPAddress] | None = None) -> bool:
        try:
            return super().sync(wanted)
        finally:
            self.rounds += wanted is None


class World:
    def __init__(self) -> None:
        self.configurations, self.pods = PlayedCache(), PlayedCache()
        self.endpoints, self.statuses = PlayedCache(), PlayedCache()
        self.api = PlayedApi(self)
        self.recorder = PlayedRecorder()
        self.pair = keys.generate()
        self.gateways: list[GatewayNode] = []
        self.agent: NodeAgent
        self.sources: CountedSources
        self._tasks: list[asyncio.Task[None]] = []
        self.settings = Settings(
            node_name="node-1",
            run_dir=str(RUN),
            cluster_cidrs=["10.244.0.0/16", "10.224.0.0/16"],
            attach_timeout=ATTACH_SECONDS,
            resync_interval=0.3,
            hold_down=0.5,
            drain_grace=3.0,
            cni_cache_dir="/run/cni/cache",
        )

    # What is there before the agent.

    def build(self, gateways: int = 2, *, ipv6: bool = False) -> None:
        for folder in (RUN, CONF, BIN, Path("/run/netns")):
            folder.mkdir(parents=True, exist_ok=True)
        sh(
            "ip link set lo up; ip link add br0 type bridge; ip link set br0 up; "
            "ip addr add 10.224.0.4/16 dev br0; echo 1 >/proc/sys/net/ipv4/ip_forward; "
            "ip route add default via 10.224.0.200"
        )
        self._internet()
        if ipv6:
            self._ipv6()
        for index in range(gateways):
            self.gateways.append(GatewayNode(index + 1, self.pair))
        sh(
            "nft 'add table ip masq; add chain ip masq post { type nat hook postrouting priority"
            " 100; }; add rule ip masq post ip saddr 10.244.0.0/16 ip daddr != 10.0.0.0/8"
            " masquerade'"
        )
        chain = {
            "cniVersion": "1.0.0",
            "name": "lab",
            "plugins": [
                {
                    "type": "ptp",
                    "ipam": {
                        "type": "host-local",
                        "dataDir": "/run/cni/ipam",
                        "ranges": [[{"subnet": "10.244.1.0/24"}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                }
            ],
        }
        if ipv6:
            ipam = chain["plugins"][0]["ipam"]  # type: ignore[index]
            ipam["ranges"].append([{"subnet": "2001:db8:244:1::/64"}])
            ipam["routes"].append({"dst": "::/0"})
        (CONF / "10-lab.conflist").write_text(json.dumps(chain))

    def _ipv6(self) -> None:
        """The node's own, and an Internet that has it."""
        sh(
            "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding; "
            f"ip addr add {NODE6}/64 dev br0 nodad; "
            "ip -6 route add default via 2001:db8:24::c8; "
            "nft 'add table ip6 masq; add chain ip6 masq post { type nat hook postrouting priority"
            " 100; }; add rule ip6 masq post ip6 saddr 2001:db8:244::/48 oifname br0 masquerade'"
        )
        routes = "; ".join(
            f"ip -6 route add 2001:db8:203::{i}/128 via 2001:db8:24::{i}" for i in range(1, 4)
        )
        sh(
            f"ip addr add 2001:db8:24::c8/64 dev eth0 nodad; {routes}; "
            f"ip addr add {INTERNET6}/128 dev lo nodad",
            ns="inet",
        )
        program = (
            "import socket,threading\n"
            f"s=socket.create_server(('{INTERNET6}',80),family=socket.AF_INET6)\n"
            "print('up',flush=True)\n"
            "def answer(c,a):\n"
            "  c.recv(9999); b=a[0].encode()\n"
            "  c.sendall(b'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: '"
            "+str(len(b)).encode()+b'\\r\\n\\r\\n'+b); c.close()\n"
            # A connection that is cut must hold nobody up.
            "while True: threading.Thread(target=answer,args=s.accept(),daemon=True).start()\n"
        )
        whoami = subprocess.Popen(
            ["nsenter", "--net=/run/netns/inet", sys.executable, "-c", program],
            stdout=subprocess.PIPE,
        )
        assert whoami.stdout is not None
        whoami.stdout.readline()

    def _internet(self) -> None:
        netns.create("inet").close()
        sh("ip link add inet type veth peer name eth0 netns inet; ip link set inet master br0 up")
        routes = "; ".join(
            f"ip route add 203.0.113.{i}/32 via 10.224.0.{10 + i}" for i in range(1, 4)
        )
        sh(
            f"ip link set lo up; ip addr add 10.224.0.200/16 dev eth0; ip link set eth0 up; "
            f"ip addr add {INTERNET}/32 dev lo; {routes}",
            ns="inet",
        )
        program = (
            "import http.server,socketserver,sys\n"
            "class H(http.server.BaseHTTPRequestHandler):\n"
            "  def do_GET(s):\n"
            "    b=s.client_address[0].encode()\n"
            "    s.send_response(200);s.send_header('Content-Length',str(len(b)));s.end_headers()\n"
            "    s.wfile.write(b)\n"
            "  def log_message(s,*a): pass\n"
            "class E(socketserver.BaseRequestHandler):\n"
            "  def handle(s):\n"
            "    seen=s.client_address[0].encode()+b'\\n'\n"
            "    while s.request.recv(99): s.request.sendall(seen)\n"
            "socketserver.ThreadingTCPServer.daemon_threads=True\n"
            f"e=socketserver.ThreadingTCPServer(('{INTERNET}',7),E)\n"
            "import threading; threading.Thread(target=e.serve_forever,daemon=True).start()\n"
            f"s=http.server.ThreadingHTTPServer(('{INTERNET}',80),H)\n"
            "print('up',flush=True)\n"
            "s.serve_forever()\n"
        )
        whoami = subprocess.Popen(
            ["nsenter", "--net=/run/netns/inet", sys.executable, "-c", program],
            stdout=subprocess.PIPE,
        )
        assert whoami.stdout is not None
        whoami.stdout.readline()

    def configure(
        self,
        name: str = "egress",
        *,
        ipv6: bool = False,
        server: tuple[int, str] | None = None,
        rotation: KeyRotation | None = None,
        **spec: Any,
    ) -> None:
        """A StaticGatewayConfiguration that all gateways serve. ``server``: port and public
        key, if they are not the usual ones."""
        port, public = server or (6000, self.pair.public)
        for gateway in self.gateways if ipv6 else ():
            if not gateway.carries_ipv6:
                gateway.carry_ipv6()
        self.configurations.put(
            "default",
            name,
            StaticGatewayConfiguration(
                metadata=ObjectMeta(name=name, namespace="default", uid=f"uid-of-{name}"),
                spec=StaticGatewayConfigurationSpec(gateway_nodepool_name="p", **spec),
                status=StaticGatewayConfigurationStatus(
                    egress_ip_prefix="203.0.113.0/30",
                    gateway_server_profile=GatewayServerProfile(
                        ip="", port=port, public_key=public
                    ),
                    key_rotation=rotation or KeyRotation(),
                    gateways=[
                        Gateway(
                            node=g.name,
                            primary_ip=g.address,
                            secondary_ip=g.public,
                            secondary_ip_v6=g.public6 if ipv6 else "",
                        )
                        for g in self.gateways
                    ],
                ),
            ),
        )

    def sync_peers(self) -> None:
        for gateway in self.gateways:
            gateway.sync(list(self.endpoints.truth.values()))

    def veto(self, gateway: GatewayNode, reason: str | None) -> None:
        """The gateway's agent asks pods to leave, or does so no more."""
        vetoes = [GatewayVeto(reason=reason)] if reason else []
        status = GatewayStatus(
            metadata=ObjectMeta(name=gateway.name), spec=GatewayStatusSpec(vetoes=vetoes)
        )
        self.statuses.put("system", gateway.name, status)

    # The agent.

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[World]:
        """The tunnels' host and the agent, as separate as they are on a node."""
        host = asyncio.create_task(tunnels.run(tunnels.Settings(socket=str(RUN / "tunnels.sock"))))
        await until(lambda: (RUN / "tunnels.sock").exists())
        try:
            await self.start_agent()
            yield self
            await self.stop_agent()
        finally:
            host.cancel()
            await asyncio.gather(host, return_exceptions=True)

    @property
    def caches(self) -> dict[str, PlayedCache]:
        """What the agent watches."""
        return {
            "configurations": self.configurations,
            "pods": self.pods,
            "statuses": self.statuses,
            "endpoints": self.endpoints,
        }

    async def start_agent(self) -> None:
        for cache in self.caches.values():
            cache.relist()
        self._executor = ThreadPoolExecutor(8, initializer=netns.here)
        self.sources = CountedSources()
        kernel = NodeKernel(
            facts=NodeFacts(mtu=1500, exceptions=self.settings.exceptions),
            backend=backends.detect(tunnel_socket=RUN / "tunnels.sock"),
            sources=self.sources,
            store=AttachmentStore(RUN),
            executor=self._executor,
            ports=range(20000, 30000),
            guard=LinkGuard(),
        )
        # A second without an answer, and not a quarter: who shares two processors with other tests
        # answers late, and a pod that has left by itself cannot be told to.
        rules = Rules(misses=13, hold_down=self.settings.hold_down)
        prober = Prober(rules, interval=0.075)
        self.agent = NodeAgent(
            settings=self.settings,
            kernel=kernel,
            knowledge=Knowledge(self.configurations, self.pods, self.statuses),  # type: ignore[arg-type]
            endpoints=Endpoints(self.api, self.endpoints, "node-1"),  # type: ignore[arg-type]
            prober=prober,
            teller=Teller(self.recorder),  # type: ignore[arg-type]
        )
        self.agent.lifecycle.adopt_pods()
        Installer(
            plugin=binary.path(),
            bin_dir=BIN,
            conf_dir=CONF,
            entry=PLUGIN,
        ).converge()
        self._tasks = [
            asyncio.create_task(work)
            for work in (
                prober.run(),
                self.agent.run(),
                server.PluginServer(self.agent.lifecycle, RUN).run(),
            )
        ]
        await asyncio.sleep(0)

    async def rounds(self, number: int) -> None:
        """Returns when the agent has looked at everything that often again."""
        enough = self.sources.rounds + number + 1  # one may be under way
        await until(lambda: self.sources.rounds >= enough)

    async def stop_agent(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # NB: elsewhere, since a thread may wait for the host of tunnels, which runs in this loop.
        await asyncio.to_thread(self._executor.shutdown)

    # Pods.

    async def start_pod(self, name: str, *, annotation: str | None = "egress") -> RunningPod:
        pod = RunningPod(self, name)
        pod.annotate(annotation)
        await pod.add()
        return pod

    def gateway_of(self, address: str) -> GatewayNode:
        return next(g for g in self.gateways if g.public == address)


class CniError(Exception):
    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(answer.get("msg"))
        self.code = answer["code"]
        self.message = answer["msg"]


class RunningPod:
    """A sandbox that a runtime has made: a namespace, configured by the node's CNI chain."""

    def __init__(self, world: World, name: str, *, suffix: str = "") -> None:
        """``suffix``: of a later sandbox of the pod."""
        self._world = world
        self.name = name
        self.uid = f"uid-{name}"
        self.container = f"c{name}{suffix}"
        self.ns = f"cni-{name}{suffix}"
        self.annotation: str | None = None
        self.result: dict[str, Any] = {}
        netns.create(self.ns).close()

    def annotate(self, annotation: str | None, *, phase: str = "") -> None:
        """As the API server shows the pod from now on. ``phase`` "": as far as it is."""
        self.annotation = annotation
        annotations = {names.POD_ANNOTATION: annotation} if annotation is not None else {}
        meta = ObjectMeta(
            name=self.name, namespace="default", uid=self.uid, annotations=annotations
        )
        status = PodStatus(
            phase=phase or ("Running" if self.result else "Pending"),
            pod_ips=[PodIP(ip["address"].partition("/")[0]) for ip in self.result.get("ips", [])],
        )
        pod = Pod(metadata=meta, spec=PodSpec(node_name="n"), status=status)
        self._world.pods.put("default", self.name, pod)

    def remember(self) -> None:
        """Leaves what libcni keeps of an ADD."""
        cached = {
            "kind": "cniCacheV1",
            "containerId": self.container,
            "ifName": "eth0",
            "networkName": "lab",
            "cniArgs": [
                ["IgnoreUnknown", "1"],
                ["K8S_POD_NAMESPACE", "default"],
                ["K8S_POD_NAME", self.name],
            ],
            "result": self.result,
        }
        folder = Path(self._world.settings.cni_cache_dir, "results")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"lab-{self.container}-eth0").write_text(json.dumps(cached))

    async def add(self) -> None:
        await self.chain("ADD")

    async def delete(self) -> None:
        await self.chain("DEL")
        netns.delete(self.ns)
        self._world.pods.put("default", self.name, None)

    async def end(self) -> None:
        """DEL of our plugin alone, the first of the chain to be called: the others' links and
        addresses are there for a moment more."""
        await self.chain("DEL", until=names.CNI_PLUGIN)

    async def check(self) -> None:
        """CHECK of our plugin alone: others' have their own tests."""
        await self._plugin("CHECK", names.CNI_PLUGIN, _ours() | {"prevResult": self.result})

    async def chain(self, command: str, *, until: str = "") -> None:
        network = _network()
        plugins = network["plugins"] if command == "ADD" else network["plugins"][::-1]
        for plugin in plugins:
            conf = {"cniVersion": network["cniVersion"], "name": network["name"], **plugin}
            if plugin.get("capabilities", {}).get(names.CNI_CAPABILITY) and self.annotation:
                annotations = {names.POD_ANNOTATION: self.annotation}
                conf["runtimeConfig"] = {names.CNI_CAPABILITY: annotations}
            if self.result:
                conf["prevResult"] = self.result
            out = await self._plugin(command, plugin["type"], conf)
            if command == "ADD":
                self.result = json.loads(out)
            if plugin["type"] == until:
                return

    async def _plugin(self, command: str, kind: str, conf: dict[str, Any]) -> bytes:
        return await _called(
            command,
            kind,
            conf,
            CNI_CONTAINERID=self.container,
            CNI_NETNS=f"/run/netns/{self.ns}",
            CNI_IFNAME="eth0",
            CNI_ARGS=f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={self.name};"
            f"K8S_POD_UID={self.uid}",
        )

    @property
    def address(self) -> str:
        found: str = self.result["ips"][0]["address"]
        return found.partition("/")[0]

    def listen(self, port: int) -> socket.socket:
        """A listening socket inside the pod."""
        with netns.NetNS.open(netns.DIRECTORY / self.ns) as place:
            return place.run(lambda: socket.create_server(("", port)))

    def connect(self) -> socket.socket:
        """A connection to a host of the Internet that answers each message with the address it
        saw; made inside the pod."""
        with netns.NetNS.open(netns.DIRECTORY / self.ns) as place:
            return place.run(lambda: socket.create_connection((INTERNET, 7), timeout=60))

    async def whoami(self, *, timeout: float = 30, host: str = INTERNET) -> str:
        """The address that the Internet sees; empty if no answer comes within ``timeout`` seconds,
        which are many for whoever expects one."""
        process = await asyncio.create_subprocess_exec(
            *("nsenter", f"--net=/run/netns/{self.ns}"),
            *("curl", "-s", "-m", str(timeout), f"http://{host}/"),
            stdout=subprocess.PIPE,
        )
        out, _ = await process.communicate()
        return out.decode()


def _network() -> dict[str, Any]:
    """The node's chain."""
    found: dict[str, Any] = json.loads(next(CONF.glob("*.conflist")).read_text())
    return found


def _ours() -> dict[str, Any]:
    """What our plugin is called with, without what the runtime adds."""
    network = _network()
    [entry] = [p for p in network["plugins"] if p["type"] == names.CNI_PLUGIN]
    return {"cniVersion": network["cniVersion"], "name": network["name"], **entry}


async def _called(command: str, kind: str, conf: dict[str, Any], **env: str) -> bytes:
    """Raises ``CniError``."""
    program = BIN / kind if (BIN / kind).exists() else Path(PLUGINS, kind)
    path = {"CNI_PATH": f"{BIN}:{PLUGINS}", "PATH": os.environ["PATH"]}
    process = await asyncio.create_subprocess_exec(
        str(program),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"CNI_COMMAND": command} | path | env,
    )
    out, _ = await process.communicate(json.dumps(conf).encode())
    if process.returncode:
        raise CniError(json.loads(out))
    return out


async def collect(valid: Sequence[RunningPod] | None) -> None:
    """GC of our plugin, by a runtime that knows the ``valid`` ones alone; None: that sends no list.
    Raises ``CniError``."""
    conf = _ours() | {"cniVersion": "1.1.0"}
    if valid is not None:
        known = [{"containerID": pod.container, "ifname": "eth0"} for pod in valid]
        conf["cni.dev/valid-attachments"] = known
    await _called("GC", names.CNI_PLUGIN, conf)


async def until(condition: Callable[[], object], *, seconds: float = 240) -> None:
    """Waits for what must come; the limit only ends a test that fails anyway."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def main() -> None:
    from tests.node.stories import chains, damages, floods, kills, losses, scenarios, trials

    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d %(message)s")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    modules = (scenarios, chains, losses, damages, floods, kills, trials)
    [scenario] = [f for m in modules if (f := getattr(m, sys.argv[1], None))]
    in_a_world = [*inspect.signature(scenario).parameters][:1] == ["world"]
    asyncio.run(in_world(scenario, *sys.argv[2:]) if in_a_world else scenario(*sys.argv[2:]))


async def in_world(scenario: Callable[..., Awaitable[None]], *arguments: str) -> None:
    """A scenario whose first parameter is ``world`` starts with two gateways, a configuration that
    serves and a running agent. One without builds its own."""
    world = World()
    world.build()
    world.configure()
    async with world.running():
        await scenario(world, *arguments)


if __name__ == "__main__":
    main()
