"""The network of one lab: what Azure does with the emulator's resources, in real packets.

The network namespace of the process is the router, and holds nothing else. One pass reads the
resources, plans what the kernel should hold, and applies the difference: rules in one nftables
transaction first, then routes, then stale flows are deleted, so that a packet sees the old state
or the new one and no flow outlives what allowed it. Passes follow changes of resources, health,
plugs and cuts; changes that come during a pass are gathered into the next.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeVar

from egress_gateway_lab.fabric.desired import Balancer, Cut, Desired, Port, plan
from egress_gateway_lab.fabric.ipv6 import Route6, observe6, routes6, table6
from egress_gateway_lab.fabric.linux import flows
from egress_gateway_lab.fabric.linux.links import FabricError, Links, require_empty_namespace
from egress_gateway_lab.fabric.linux.namespace import Namespace
from egress_gateway_lab.fabric.linux.nftables import Nftables, NftablesError
from egress_gateway_lab.fabric.network import Network, Nic, observe
from egress_gateway_lab.fabric.probes import Probes
from egress_gateway_lab.fabric.ruleset import (
    COUNTERS,
    INTERNET_LINK,
    ON_PREMISES_LINK,
    SKELETON,
    loses,
    transaction,
)
from egress_gateway_lab.fabric.services.dns import DnsServer
from egress_gateway_lab.fabric.services.metadata import MetadataServer, TokenSource
from egress_gateway_lab.fabric.services.sites import Site
from egress_gateway_lab.fabric.settings import METADATA_SERVICE, WIRE_SERVER, FabricSettings
from egress_gateway_lab.protocols import Machine, Resources

log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Fabric:
    """Implements ``protocols.Fabric``. Call ``start`` once, keep ``run`` running, then ``close``.

    Needs root and a network namespace of its own; everything it makes ends with that namespace.
    ``token`` answers for managed identities behind the metadata service.
    """

    def __init__(
        self,
        resources: Resources,
        settings: FabricSettings | None = None,
        *,
        token: TokenSource | None = None,
    ) -> None:
        self.settings = settings or FabricSettings()
        self.internet = Site(self.settings.internet, log_requests=self.settings.log_requests)
        self.on_premises = Site(self.settings.on_premises, log_requests=self.settings.log_requests)
        self.names: dict[str, IPv4Address] = {
            name: host.address
            for site in (self.internet, self.on_premises)
            for host in site.settings.hosts
            for name in host.names
        } | dict(self.settings.names)
        self._resources = resources
        self._ports: dict[str, Port] = {}
        self._machines: dict[str, str] = {}
        self._overlays: dict[IPv4Network, str] = {}
        self._overlays6: dict[IPv6Network, str] = {}
        self._applied6 = ""
        self._cuts: dict[str, Cut] = {}
        self._numbers = 0
        self._network = Network({}, (), (), ())
        self._applied: Desired | None = None
        self._pruned = 0
        self._prune_due = False
        self._wake = asyncio.Event()
        self._lock = asyncio.Lock()
        self._issued = self._covered = 0
        self._kernel = ThreadPoolExecutor(1, thread_name_prefix="fabric")
        self.probes = Probes(self._wake.set, timeout=self.settings.probe_timeout)
        self.names6: dict[str, IPv6Address] = {
            name: host.address6
            for host in self.settings.internet.hosts
            for name in host.names
            if host.address6
        }
        self._dns = DnsServer(self.names, self.names6)
        self._metadata = MetadataServer(resources, self._nic_of, token)

    async def start(self) -> None:
        """Router, sites, DNS and metadata service up, resources applied once.

        Raises ``FabricError`` where another network is reachable, and without root.
        """
        await self._in_kernel(self._start)
        await asyncio.gather(
            self.internet.serve(),
            self.on_premises.serve(),
            self._dns.start(WIRE_SERVER),
            self._metadata.start(METADATA_SERVICE),
        )
        await self.settle()

    async def run(self) -> None:
        """Follows resources and health until cancelled. A pass that fails is logged, and tried
        again with the next change or after a second."""
        watcher = asyncio.create_task(self._watch())
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                try:
                    await self.settle()
                except Exception:
                    log.exception("the fabric could not follow the resources")
                    await asyncio.sleep(1)
                    self._wake.set()
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    async def close(self) -> None:
        """Stops every server and thread; links and rules end with the namespace."""
        await self.probes.close()
        await asyncio.gather(
            self._dns.close(),
            self._metadata.close(),
            self.internet.close(),
            self.on_premises.close(),
        )
        await self._in_kernel(self._stop)
        self._kernel.shutdown()

    async def settle(self) -> None:
        """Returns when the kernel holds what resources, plugs and cuts said at the call, or
        something newer."""
        self._issued += 1
        ticket = self._issued
        async with self._lock:
            if self._covered >= ticket:
                return
            covers = self._issued
            await self._pass()
            self._covered = covers

    async def plug(self, nic_id: str, machine: Machine) -> None:
        """Makes the machine's ``eth0``. A NIC that is plugged in already moves here."""
        network = observe(self._resources)
        nic = network.nics.get(nic_id.lower())
        if nic is None:
            raise FabricError(f"no NIC {nic_id} with an address: create it before its machine")
        if nic.id in self._ports:
            await self.unplug(nic_id)
        self._numbers += 1
        port = Port(self._numbers, nic.id, nic.mac or _mac(nic.id))
        six = nic.id in observe6(self._resources).nics
        await self._in_kernel(lambda: self._plug(port, nic, machine.pid, six=six))
        self._ports[nic.id] = port
        self._machines[nic.id] = machine.name
        await self.settle()

    async def unplug(self, nic_id: str) -> None:
        """Removes the NIC's link; nothing happens if there is none."""
        port = self._ports.pop(nic_id.lower(), None)
        self._machines.pop(nic_id.lower(), None)
        if port is not None:
            await self._in_kernel(lambda: self._links.unplug(port.link))
            await self.settle()

    async def cut(
        self,
        nic_id: str,
        *,
        inbound: bool = True,
        outbound: bool = True,
        internet: bool = False,
        tunnels: bool = False,
        large: bool = False,
        internet6: bool = False,
    ) -> None:
        """Drops the NIC's packets: to the machine, from it, or only those that go to or come
        from the Internet (by IPv6), those of WireGuard to it, or large ones. Replaces an
        earlier cut of the NIC."""
        self._cuts[nic_id.lower()] = Cut(inbound, outbound, internet, tunnels, large, internet6)
        await self.settle()

    async def cut_internet(self, nic_id: str) -> None:
        """Drops what the NIC exchanges with the Internet; the virtual network stays."""
        await self.cut(nic_id, inbound=False, outbound=False, internet=True)

    async def cut_tunnels(self, nic_id: str) -> None:
        """Drops what tunnels send to the NIC; probes of the machine are answered."""
        await self.cut(nic_id, inbound=False, outbound=False, tunnels=True)

    async def mend(self, nic_id: str) -> None:
        """Ends every cut of the NIC."""
        if self._cuts.pop(nic_id.lower(), None) is not None:
            await self.settle()

    async def route_overlay(self, network: IPv4Network | IPv6Network, nic_id: str | None) -> None:
        """Pod addresses ``network`` live behind the NIC from now on (None: nowhere)."""
        if isinstance(network, IPv6Network):
            _put(self._overlays6, network, nic_id)
        else:
            _put(self._overlays, network, nic_id)
        await self.settle()

    def has_ipv6(self, nic_id: str) -> bool:
        """Whether the NIC's subnet has IPv6."""
        return nic_id.lower() in observe6(self._resources).nics

    async def describe(self) -> dict[str, Any]:
        """What the fabric does now, as plain JSON: NICs, translations, balancers with their
        backends' health, counters of dropped packets, requests by source."""
        dropped = await self._in_kernel(self._read_counters)
        applied = self._applied
        return {
            "nics": [self._describe_nic(nic) for nic in self._network.nics.values()],
            "overlays": {str(network): nic_id for network, nic_id in self._overlays.items()},
            "outbound": _describe_outbound(applied),
            "balancers": [_describe_balancer(b) for b in (applied.balancers if applied else ())],
            "dropped": dropped,
            "flows_deleted": self._pruned,
            "requests": {str(a): n for a, n in self.internet.count_by_source().items()},
        }

    async def dropped(self) -> dict[str, int]:
        """Packets dropped so far by reason; ``ruleset.COUNTERS`` says what each means."""
        return await self._in_kernel(self._read_counters)

    async def _watch(self) -> None:
        revision = -1
        while True:
            revision = await self._resources.changed(revision)
            self._wake.set()

    async def _pass(self) -> None:
        self._network = observe(self._resources)
        desired = plan(
            self._network,
            ports=self._ports,
            overlays=self._overlays,
            cuts=self._cuts,
            health=self.probes.health,
        )
        network6 = observe6(self._resources)
        table = table6(network6, ports=self._ports, overlays=self._overlays6, cuts=self._cuts)
        routes = routes6(network6, self._ports, self._overlays6)
        await self._in_kernel(lambda: self._apply(desired))
        await self._in_kernel(lambda: self._apply6(table, routes))
        self.probes.watch(desired.probes)

    def _nic_of(self, address: IPv4Address) -> Nic | None:
        for nic in self._network.nics.values():
            if any(config.private == address for config in nic.ip_configs):
                return nic
        for network, nic_id in self._overlays.items():
            if address in network:
                return self._network.nics.get(nic_id)
        return None

    # What follows runs in the kernel thread, one call at a time.

    def _start(self) -> None:
        require_empty_namespace()
        self._links = Links()
        self._nftables = Nftables()
        self._nftables.run(SKELETON)
        self._links.start(udp_idle_timeout=self.settings.udp_idle_timeout)
        self._own_addresses()
        for link, site in (
            (INTERNET_LINK, self.internet),
            (ON_PREMISES_LINK, self.on_premises),
        ):
            namespace = site.prepare()
            self._links.join_site(link, namespace, site.settings, mtu=self.settings.mtu)

    def _stop(self) -> None:
        if hasattr(self, "_nftables"):
            self._nftables.close()
            self._links.close()

    def _plug(self, port: Port, nic: Nic, pid: int, *, six: bool) -> None:
        address = IPv4Interface((nic.primary.private, nic.subnet.prefixlen))
        gateway = nic.subnet.network_address + 1
        namespace = Namespace.of_process(pid)
        try:
            self._own_addresses(gateway)
            self._links.plug(port, namespace, address, gateway=gateway, mtu=self.settings.mtu)
            if six:
                self._links.plug6(port, namespace)
        finally:
            namespace.close()

    def _own_addresses(self, *more: IPv4Address) -> None:
        gateways = {nic.subnet.network_address + 1 for nic in self._network.nics.values()}
        always = {WIRE_SERVER, METADATA_SERVICE, *self.settings.service_addresses}
        self._links.own(always | gateways | set(more))

    def _apply(self, desired: Desired) -> None:
        self._prune_due |= loses(self._applied, desired)
        self._replace_rules(desired)
        self._links.apply(desired.routes, desired.marks)
        if self._prune_due:
            self._pruned += flows.prune(desired.translations.stale)
            self._prune_due = False

    def _apply6(self, table: str, routes: frozenset[Route6]) -> None:
        if table != self._applied6:
            self._nftables.run(table)
            self._applied6 = table
        self._links.apply6(routes)

    def _replace_rules(self, desired: Desired) -> None:
        commands = transaction(self._applied, desired)
        try:
            if commands:
                self._nftables.run(commands)
        except NftablesError as error:
            # Somebody changed the table behind our back: make all of it anew, counters too.
            log.warning("the fabric's table is rebuilt", extra={"cause": str(error)})
            self._nftables.run(SKELETON + transaction(None, desired))
        self._applied = desired

    def _read_counters(self) -> dict[str, int]:
        found = self._nftables.query("list counters table ip fabric")
        by_name = {item["counter"]["name"]: item["counter"]["packets"] for item in found}
        return {name: int(by_name.get(name, 0)) for name in COUNTERS}

    async def _in_kernel(self, function: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._kernel, function)

    def _describe_nic(self, nic: Nic) -> dict[str, Any]:
        port, cut = self._ports.get(nic.id), self._cuts.get(nic.id, Cut())
        return {
            "id": nic.id,
            "machine": self._machines.get(nic.id),
            "link": port.link if port else None,
            "addresses": {
                str(c.private): (str(c.public) if c.public else None) for c in nic.ip_configs
            },
            "cut": [field.name for field in dataclasses.fields(cut) if getattr(cut, field.name)],
        }


def _put(overlays: dict[_T, str], network: _T, nic_id: str | None) -> None:
    if nic_id is None:
        overlays.pop(network, None)
    else:
        overlays[network] = nic_id.lower()


def _mac(nic_id: str) -> str:
    """A stable address under Microsoft's prefix, for a NIC whose resource names none."""
    tail = sha256(nic_id.encode()).hexdigest()
    return f"00:0d:3a:{tail[0:2]}:{tail[2:4]}:{tail[4:6]}"


def _describe_outbound(applied: Desired | None) -> dict[str, list[str]]:
    translations = applied.translations.public_of if applied else {}
    return {str(k): sorted(map(str, v)) for k, v in translations.items()}


def _describe_balancer(balancer: Balancer) -> dict[str, Any]:
    address, protocol, port = balancer.frontend
    return {
        "rule": balancer.rule.id,
        "frontend": str(address),
        "protocol": protocol,
        "port": port,
        "floating": balancer.rule.floating,
        "backends": [
            {"nic": p.nic_id, "address": str(config.private), "healthy": healthy}
            for p, config, healthy in balancer.members
        ],
    }
