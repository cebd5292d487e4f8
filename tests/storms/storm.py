"""Plays a script on a lab: who acts, what is struck, and what the ledger is told of it.

Actions are written down before they are asked for and after they are answered, so that the ledger
never forbids what somebody may already have heard of, nor allows what nobody can hear of any more.
Everything that lasts is over when ``play`` returns: the calm begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Network
from typing import Any, Final

from egress_gateway.api import names
from egress_gateway_lab.apiserver.wire.client import KubeError
from egress_gateway_lab.azure.client import RequestFailed
from egress_gateway_lab.control import ControlError
from tests.storms.judge.edge import Edge
from tests.storms.judge.ledger import Ledger
from tests.storms.place import CLUSTER, POOL, Place, pod
from tests.storms.script import FIRST_CONFIGURATIONS, FIRST_PODS, WORKERS, Event, Script

_SGCS: Final = "staticgatewayconfigurations"
_REJOIN: Final = 10.0
"""Seconds after which an agent that was cut off hears again: its connections have been given up,
and new ones are tried with growing pauses."""
_LOOK: Final = 0.3
_BOOT: Final = 60.0
_AZURE: Final = r"/providers/Microsoft\.(Network|Compute)/"


class Storm:
    """One storm on one lab."""

    def __init__(self, place: Place, edge: Edge, ledger: Ledger) -> None:
        self.place, self.edge, self.ledger = place, edge, ledger
        self.configurations: dict[str, str] = {}
        """What there should be: prefixes by name."""
        self.pods: dict[str, tuple[str, str]] = {}
        """What there should be: worker and configuration by name."""
        self.addresses: dict[str, str] = {}
        self.gateways = 2
        self.began = 0.0
        """When the first event was due, Unix seconds."""
        self.trouble: list[str] = []
        """What the driver itself could not do."""
        self.last_missing: list[str] = []
        """What was last not as it should be, when somebody looked."""
        self._served: dict[str, set[IPv4Network]] = {}
        """Networks that a configuration's pods may use at the moment."""
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch: asyncio.Task[None] | None = None
        self.acts: dict[str, Callable[[Event], Awaitable[None]]] = {
            kind: getattr(self, f"_{kind}") for kind in ACTS
        }

    async def __aenter__(self) -> Storm:
        self._watch = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._watch is not None
        for task in (self._watch, *self._tasks):
            task.cancel()
        await asyncio.gather(self._watch, *self._tasks, return_exceptions=True)

    async def begin(self) -> None:
        """What there is before the first event."""
        for name, prefix in FIRST_CONFIGURATIONS.items():
            await self._configuration_created(Event(0, "", name, {"prefix": prefix}))
        for name, (worker, configuration) in FIRST_PODS.items():
            how = {"worker": worker, "configuration": configuration}
            await self._pod_created(Event(0, "", name, how))

    async def play(self, script: Script) -> None:
        """Returns when all events are over and what they left broken is given back."""
        began, self.began = time.monotonic(), time.time()
        for event in script:
            await asyncio.sleep(max(0.0, began + event.at - time.monotonic()))
            self._start(event)
        while self._tasks:
            # What hangs in Azure hangs until the storm is over.
            waiting = [t for t in self._tasks if t.get_name() == "scaled"]
            if len(waiting) == len(self._tasks):
                break
            await asyncio.wait([t for t in self._tasks if t not in waiting])
        await self.place.world.control.call("fault", clear=True)
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def _start(self, event: Event) -> None:
        async def acted() -> None:
            # Events of one subject keep their order, as one person's would.
            async with self._locks.setdefault(event.subject or event.kind, asyncio.Lock()):
                try:
                    await self.acts[event.kind](event)
                except (KubeError, ControlError, LookupError) as error:
                    # Its subject is not there (any more); a script that was cut short has such.
                    self.trouble.append(f"{event}: {error}")

        task = asyncio.create_task(acted(), name=event.kind)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- what a pod may use

    def allowed(self, configuration: str) -> set[IPv4Network]:
        """What pods of it may use now; of no configuration: the cluster's."""
        return self._served.get(configuration, set()) if configuration else {CLUSTER}

    def expected(self, name: str) -> set[IPv4Network]:
        """What a pod has to use in the end; nothing if its configuration is not there."""
        configuration = self.pods[name][1]
        if not configuration:
            return {CLUSTER}
        prefix = self.configurations.get(configuration)
        return {self.place.prefixes[prefix]} if prefix else set()

    def _allow(self, configuration: str, network: IPv4Network) -> None:
        self._served.setdefault(configuration, set()).add(network)
        for name, (_, its) in self.pods.items():
            if its == configuration:
                self.ledger.allow(name, [network], time.time())

    def _keep(self, configuration: str, networks: set[IPv4Network]) -> None:
        if self._served.get(configuration) == networks:
            return
        self._served[configuration] = set(networks)
        for name, (_, its) in self.pods.items():
            if its == configuration:
                self.ledger.keep(name, networks, time.time())

    async def _follow(self) -> None:
        """Reads of each configuration what it uses: a prefix that was exchanged may be used until
        the status names the new one alone, one of a configuration that is deleted until it is
        gone."""
        while True:
            listed = await self.place.world.kube.list(_SGCS, namespace="default")
            found = {item["metadata"]["name"]: item for item in listed}
            for name in {*self._served, *found}:
                wanted = self.configurations.get(name)
                if name not in found and wanted is None:
                    self._keep(name, set())
                elif name in found and wanted is not None:
                    network = self.place.prefixes[wanted]
                    if _uses(found[name], network):
                        self._keep(name, {network})
            await asyncio.sleep(_LOOK)

    # -- users

    async def _pod_created(self, event: Event) -> None:
        name, worker, configuration = event.subject, event.how["worker"], event.how["configuration"]
        address = self.addresses[name] = str(self.edge.address(name))
        self.ledger.begins(name, worker)
        self.ledger.allow(name, self.allowed(configuration), time.time())
        self.pods[name] = worker, configuration
        node = await self.place.name(worker)
        made = pod(name, node, configuration, address, python=self.place.python)
        await self.place.world.kube.create("pods", made)

    async def _pod_deleted(self, event: Event) -> None:
        self.pods.pop(event.subject, None)
        await self.place.world.kube.delete(
            "pods", event.subject, namespace="default", grace_seconds=event.how["grace"]
        )

    async def _pod_annotated(self, event: Event) -> None:
        name, configuration = event.subject, event.how["configuration"]
        if name not in self.pods:
            return
        self.ledger.allow(name, self.allowed(configuration), time.time())
        self.pods[name] = self.pods[name][0], configuration
        patch = {"metadata": {"annotations": {names.POD_ANNOTATION: configuration or None}}}
        await self.place.world.kube.patch("pods", name, patch, namespace="default")
        self.ledger.keep(name, self.allowed(configuration), time.time())

    async def _configuration_created(self, event: Event) -> None:
        name, prefix = event.subject, event.how["prefix"]
        await self._gone(name)
        self.configurations[name] = prefix
        self._allow(name, self.place.prefixes[prefix])
        await self.place.world.configure(name, self.place.spec(prefix, []))

    async def _configuration_changed(self, event: Event) -> None:
        name = event.subject
        if name not in self.configurations:
            return
        prefix = event.how.get("prefix", self.configurations[name])
        self.configurations[name] = prefix
        self._allow(name, self.place.prefixes[prefix])
        spec = self.place.spec(prefix, event.how.get("exclude", []))
        await self.place.world.configure(name, spec)

    async def _configuration_deleted(self, event: Event) -> None:
        self.configurations.pop(event.subject, None)
        await self.place.world.kube.delete(_SGCS, event.subject, namespace="default")

    async def _gone(self, name: str) -> None:
        """One of that name is being deleted: as a person would, its next life waits for that."""
        while await self.place.world.kube.find(_SGCS, name, namespace="default"):
            if name in self.configurations:
                return
            await asyncio.sleep(_LOOK)

    async def _keys_rotated(self, event: Event) -> None:
        if event.subject not in self.configurations:
            return
        patch = {"metadata": {"annotations": {names.ROTATE_KEYS_ANNOTATION: f"at {event.at}"}}}
        await self.place.world.kube.patch(_SGCS, event.subject, patch, namespace="default")

    async def _scaled(self, event: Event) -> None:
        while True:
            try:
                await self.place.scale(event.how["count"])
                break
            except RequestFailed as error:
                if error.status != 409:
                    raise
                await asyncio.sleep(1)
        self.gateways = event.how["count"]

    # -- faults

    async def _agent_killed(self, event: Event) -> None:
        component, role = event.how["component"], event.subject
        with self._deaf(role) if component == "node" else contextlib.nullcontext():
            for pid in (await self.place.ours(component, role))[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if component == "node":
                await self._node_agent_hears(role)

    async def _agent_stopped(self, event: Event) -> None:
        component, role = event.how["component"], event.subject
        pids = (await self.place.ours(component, role))[:1]
        with self._deaf(role) if component == "node" else contextlib.nullcontext():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(event.how["seconds"])
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    async def _link_cut(self, event: Event) -> None:
        node, how = await self.place.name(event.subject), event.how
        with self._deaf(event.subject, longer=_REJOIN):
            await self.place.world.control.call("cut", node=node, direction=how["direction"])
            await asyncio.sleep(how["seconds"])
            await self.place.world.control.call("mend", node=node)

    async def _power_cut(self, event: Event) -> None:
        node = await self.place.name(event.subject)
        with self._deaf(event.subject):
            await self.place.world.control.call("power_cut", node=node)
            self.edge.rebooted([p for p, (on, _) in self.pods.items() if on == event.subject])
            await asyncio.sleep(event.how["seconds"])
            await self.place.world.control.call("power_on", node=node)
            if event.subject in WORKERS:
                await self._node_agent_hears(event.subject)

    async def _api_cut(self, event: Event) -> None:
        with self._deaf(event.subject, longer=_REJOIN):
            async with self.place.without_api(event.subject):
                await asyncio.sleep(event.how["seconds"])

    async def _api_lost(self, event: Event) -> None:
        """A program of the real control plane dies, and is started again; agents hear of nothing
        until it answers, and then try again after pauses that grew as long as it was away."""
        call, program, began = self.place.world.control.call, event.how["program"], time.time()
        heard = WORKERS if program in ("kube-apiserver", "etcd") else ()
        begun = [self.ledger.deaf(role, began) for role in heard]
        try:
            await call("control_plane", program=program, action="kill")
            await asyncio.sleep(event.how["seconds"])
            await call("control_plane", program=program, action="start")
            await self.place.world.kube.list("nodes")
        finally:
            back = time.time()
            for deafness in begun:
                self.ledger.hears(deafness, back + max(_REJOIN, back - began))

    async def _azure_fault(self, event: Event) -> None:
        await self.place.world.control.call("fault", path=_AZURE, **event.how)

    async def _state_lost(self, event: Event) -> None:
        removed = event.how["damage"] == "removed"
        act = 'rm -rf "$f"' if removed else '[ -f "$f" ] && : > "$f"'
        script = f"for f in {event.how['files']}; do {act}; done"
        await self.place.run(event.subject, script)

    async def _pod_damaged(self, event: Event) -> None:
        if event.subject in self.pods:
            await self.place.in_pod(self.addresses[event.subject], event.how["command"])

    async def _gateway_damaged(self, event: Event) -> None:
        await self.place.run(event.subject, event.how["command"])

    async def _sandbox_lost(self, event: Event) -> None:
        if event.subject in self.pods:
            await self.place.world.control.call(
                "lose_sandbox", namespace="default", pod=event.subject
            )

    async def _object_lost(self, event: Event) -> None:
        """Somebody deletes what is ours: a PodEndpoint, a GatewayStatus, a key, the Lease."""
        kube, kind = self.place.world.kube, event.subject
        found = [i for i in await kube.list(kind) if kind != "secrets" or _is_key(i)]
        if kind == "leases":
            found = [i for i in found if i["metadata"]["namespace"] == names.SYSTEM_NAMESPACE]
        if found:
            chosen = found[event.how["which"] % len(found)]["metadata"]
            await kube.delete(kind, chosen["name"], namespace=chosen.get("namespace", ""))

    # -- faults of the tests' own, to see that they are found

    async def _planted_leak(self, event: Event) -> None:
        """A packet to a pod's address of the Internet, from its node: by the cluster's address."""
        worker, address = self.pods[event.subject][0], self.addresses[event.subject]
        await self.place.run(worker, f"bash -c 'echo leak > /dev/udp/{address}/9'")

    async def _planted_orphan(self, event: Event) -> None:
        await self.place.run(event.subject, "nft add table inet egress_gateway_orphan")

    # -- who hears

    @contextlib.contextmanager
    def _deaf(self, role: str, *, longer: float = 0.0) -> Any:
        """``longer``: seconds that the agent needs afterwards until it hears again."""
        begun = self.ledger.deaf(role, time.time())
        try:
            yield
        finally:
            self.ledger.hears(begun, time.time() + longer)

    async def _node_agent_hears(self, role: str) -> None:
        """Waits until the node agent, which was lost, has read the world again."""
        ask = "curl -s -o /dev/null -m 1 -w '%{http_code}' http://127.0.0.1:8083/readyz"
        deadline = time.monotonic() + _BOOT
        while time.monotonic() < deadline:
            with contextlib.suppress(ControlError):
                if (await self.place.run(role, ask)).strip() == "200":
                    return
            await asyncio.sleep(_LOOK)


ACTS: Final = tuple(
    name.removeprefix("_")
    for name in vars(Storm)
    if name.startswith("_")
    and name.removeprefix("_").partition("_")[0]
    in ("pod", "configuration", "keys", "scaled", "agent", "link", "power", "api", "azure",
        "state", "gateway", "sandbox", "object", "planted")
)  # fmt: skip


def _uses(found: dict[str, Any], network: IPv4Network) -> bool:
    """Whether the status of a configuration names the network, and it alone."""
    status = found.get("status", {})
    public = [g.get("publicIp", "") for g in status.get("gateways", [])]
    return status.get("egressIpPrefix") == str(network) and all(
        IPv4Network(address or "0.0.0.0").subnet_of(network) for address in public
    )


def _is_key(secret: dict[str, Any]) -> bool:
    return str(secret["metadata"]["name"]).startswith("sgw-")


__all__ = ["ACTS", "POOL", "Storm"]
