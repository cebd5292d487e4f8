"""Node pools made of machines: scale set instances, or virtual machines of their own.

``settle`` brings a pool to its number of running machines from whatever is there: machines that
are missing are made, machines that never came up are started again, surplus ones go.
"""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address

from egress_gateway.api import names
from egress_gateway_lab.azure.arm.kinds import Azure
from egress_gateway_lab.azure.arm.store import Document
from egress_gateway_lab.azure.providers.aks import rules
from egress_gateway_lab.azure.providers.aks.network import NodeGroup
from egress_gateway_lab.azure.providers.compute.power import RUNNING, power_of
from egress_gateway_lab.azure.providers.compute.scalesets import Instances, ScaleSets
from egress_gateway_lab.azure.providers.compute.virtualmachines import VirtualMachines
from egress_gateway_lab.azure.providers.network.interfaces import NetworkInterfaces
from egress_gateway_lab.protocols import MachineSpec


class NodePools:
    """The pools of one cluster."""

    def __init__(self, azure: Azure, cluster: Document) -> None:
        self._azure = azure
        self._cluster = cluster
        self._node_group = NodeGroup(azure, cluster)

    async def settle(self, name: str, pool: Document) -> None:
        """Raises ``BackendError`` if a machine does not come up, ``ArmError`` if Azure cannot
        make one."""
        machines = self._machines(name, pool)
        missing = pool["count"] - len(machines)
        if missing > 0:
            machines += self._make(name, pool, missing, len(machines))
        kept, surplus = machines[: pool["count"]], machines[pool["count"] :]
        waiting = [m for m in kept if not m.get("_started") and power_of(m) == RUNNING]
        done = await asyncio.gather(
            *(self.start(name, pool, m) for m in waiting),
            *(self._remove(m) for m in surplus),
            return_exceptions=True,
        )
        for problem in done:
            if isinstance(problem, BaseException):
                raise problem

    async def renew(self, name: str, pool: Document) -> None:
        """Gives each machine another disk, in its place and one after the other: NICs, addresses
        and documents stay. So AKS upgrades gateway pools: 5 % are unavailable at a time."""
        for machine in self._machines(name, pool):
            if power_of(machine) == RUNNING:
                await self._azure.machine_restart(machine["id"])

    async def remove(self, name: str, pool: Document) -> None:
        """Deletes a pool's machines, its NICs and its scale set."""
        await asyncio.gather(*(self._remove(m) for m in self._machines(name, pool)))
        for nic in self._nics(name):
            await NetworkInterfaces(self._azure).remove(nic)
        scale_set = self._azure.store.get(self._node_group.scale_set_id(name))
        if scale_set is not None:
            await ScaleSets(self._azure).remove(scale_set)

    def _machines(self, name: str, pool: Document) -> list[Document]:
        store = self._azure.store
        if pool["type"] != "VirtualMachines":
            return store.of_type(Instances.type, self._node_group.scale_set_id(name))
        machines = store.of_type(VirtualMachines.type, self._node_group.id)
        return [m for m in machines if (m.get("tags") or {}).get(names.POOL_NAME_TAG) == name]

    def _make(self, name: str, pool: Document, count: int, first: int) -> list[Document]:
        if pool["type"] == "VirtualMachines":
            taken = {m["name"] for m in self._machines(name, pool)}
            wanted = (self._node_group.machine_name(name, i) for i in range(first + count))
            free = [n for n in wanted if n not in taken][:count]
            return [self._virtual_machine(name, pool, n) for n in free]
        scale_set_id = self._node_group.scale_set_id(name)
        if scale_set_id not in self._azure.store:
            self._node_group.create_scale_set(name, pool)
        return ScaleSets(self._azure).add_instances(scale_set_id, count)

    def _nics(self, pool_name: str) -> list[Document]:
        """The NICs of a VirtualMachines pool, those without a machine too."""
        found = self._azure.store.of_type(NetworkInterfaces.type, self._node_group.id)
        return [n for n in found if (n.get("tags") or {}).get(names.POOL_NAME_TAG) == pool_name]

    def _free_nic(self, pool_name: str, pool: Document) -> Document:
        """A NIC for a new machine. A gateway pool has one for each address of its prefix size,
        made with the pool: they outlive machines, and so do their private addresses."""
        wanted = 2 ** (32 - pool["gatewayProfile"]["publicIPPrefixSize"]) if _gateway(pool) else 0
        known = self._nics(pool_name)
        taken = {n["name"] for n in known}
        for number in range(wanted or len(known) + 1):
            name = self._node_group.nic_name(pool_name, number)
            if name not in taken:
                known.append(self._nic(pool_name, pool, name))
        return next(n for n in known if not self._machine_of(n))

    def _machine_of(self, nic: Document) -> str | None:
        users = self._azure.store.referrers(nic["id"])
        return next((u for u in users if "/virtualmachines/" in u.lower()), None)

    def _nic(self, pool_name: str, pool: Document, name: str) -> Document:
        tags = self._node_group.tags(pool_name, pool)
        if _gateway(pool):
            tags[names.GATEWAY_NIC_TAG] = "true"
        return NetworkInterfaces(self._azure).write(
            f"{self._node_group.id}/providers/{NetworkInterfaces.type}/{name}",
            {
                "location": self._cluster["location"],
                "tags": tags,
                "properties": {
                    "enableIPForwarding": True,
                    "ipConfigurations": [self._node_group.ip_configuration(pool)],
                },
            },
        )

    def _virtual_machine(self, pool_name: str, pool: Document, name: str) -> Document:
        group, location = self._node_group.id, self._cluster["location"]
        tags = self._node_group.tags(pool_name, pool)
        zones, number = pool.get("availabilityZones") or [], int(name.rpartition("-vm")[2])
        nic = self._free_nic(pool_name, pool)
        reference = {"id": nic["id"], "properties": {"primary": True}}
        return VirtualMachines(self._azure).write(
            f"{group}/providers/{VirtualMachines.type}/{name}",
            {
                **({"zones": [zones[number % len(zones)]]} if zones else {}),
                "location": location,
                "tags": tags,
                "properties": {
                    "hardwareProfile": {"vmSize": pool["vmSize"]},
                    "networkProfile": {"networkInterfaces": [reference]},
                },
            },
        )

    async def start(self, name: str, pool: Document, machine: Document) -> None:
        """Boots one machine of a pool."""
        spec = self._spec(name, pool, machine)
        await self._azure.backend.start_machine(self._cluster["id"], spec)
        entry = self._azure.store.entry(machine["id"])
        if entry is not None:
            self._azure.store.put(entry.type, {**entry.document, "_started": True})

    async def _remove(self, machine: Document) -> None:
        if machine["type"] == Instances.type:
            await Instances(self._azure).remove(machine)
            return
        await VirtualMachines(self._azure).remove(machine)
        for nic in machine["properties"]["networkProfile"]["networkInterfaces"]:
            document = self._azure.store.get(nic["id"])
            kept = document is not None and names.GATEWAY_NIC_TAG in (document.get("tags") or {})
            if document is not None and not kept:
                await NetworkInterfaces(self._azure).remove(document)

    def _spec(self, name: str, pool: Document, machine: Document) -> MachineSpec:
        nic_id = machine["properties"]["networkProfile"]["networkInterfaces"][0]["id"]
        nic = self._azure.require(nic_id, machine["id"])
        configurations = [c["properties"] for c in nic["properties"]["ipConfigurations"]]
        primary = next(c for c in configurations if c["primary"])
        group, region = self._node_group.name, self._cluster["location"]
        return MachineSpec(
            name=machine["properties"]["osProfile"]["computerName"],
            vm_id=machine["id"],
            nic_id=nic_id,
            address=IPv4Address(primary["privateIPAddress"]),
            provider_id=provider_id(machine["id"]),
            pool=name,
            labels=rules.node_labels(
                name,
                pool,
                group=group,
                region=region,
                zone=next(iter(machine.get("zones") or []), None),
            ),
            taints=rules.node_taints(pool),
            kubernetes_version=pool["currentOrchestratorVersion"],
            local_dns=rules.local_dns(pool),
        )


def _gateway(pool: Document) -> bool:
    return bool(pool["mode"] == "Gateway")


def provider_id(machine_id: str) -> str:
    """``Node.spec.providerID`` as cloud-provider-azure writes it: the group in lower case."""
    words = machine_id.split("/")
    words[4] = words[4].lower()
    return "azure://" + "/".join(words)
