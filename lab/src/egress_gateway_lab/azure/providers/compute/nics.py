"""NICs and public addresses of scale set instances.

They are not written by anyone: they follow from an instance's network profile when an operation
on the instance ends. Their paths lie under Microsoft.Compute, their documents are those of
Microsoft.Network.
"""

from __future__ import annotations

import copy
import uuid
from collections import Counter, defaultdict
from ipaddress import ip_network
from typing import Any

from egress_gateway_lab.azure.arm import ids
from egress_gateway_lab.azure.arm.addressing import AddressPool
from egress_gateway_lab.azure.arm.errors import ArmError
from egress_gateway_lab.azure.arm.kinds import Answer, Azure, Call, Kind, one
from egress_gateway_lab.azure.arm.store import Document
from egress_gateway_lab.azure.providers.network.interfaces import NetworkInterfaces, with_etags
from egress_gateway_lab.azure.providers.network.publicaddresses import (
    PublicIPAddresses,
    allocate_public,
    check_zone,
    prefix_pool,
)
from egress_gateway_lab.azure.providers.network.virtualnetworks import (
    lease_private,
    subnet_full,
    subnet_network,
)

INSTANCE = "Microsoft.Compute/virtualMachineScaleSets/virtualMachines"
NIC = f"{INSTANCE}/networkInterfaces"
PUBLIC = f"{NIC}/ipConfigurations/publicIPAddresses"


class ScaleSetNics:
    """Makes NIC documents from instances' network profiles."""

    def __init__(self, azure: Azure) -> None:
        self._azure = azure

    def check_capacity(self, instances: list[Document]) -> None:
        """Raises before anything is changed if a prefix or a subnet cannot serve its new
        addresses."""
        self._check_subnets(instances)
        wanted: Counter[str] = Counter()
        for instance in instances:
            for named in _configurations(instance):
                prefix = _prefix(named[1])
                if prefix and not self._holds(instance, named, prefix):
                    check_zone(self._azure.require(prefix, instance["id"]), instance)
                    wanted[prefix.lower()] += 1
        for prefix_id, count in wanted.items():
            document = self._azure.require(prefix_id, instances[0]["id"])
            pool = prefix_pool(self._azure, document)
            if pool.free() < count:
                raise _out_of_addresses(document, pool, count)

    def _check_subnets(self, instances: list[Document]) -> None:
        wanted: dict[tuple[str, str], list[str]] = defaultdict(list)
        for instance in instances:
            for nic, configuration in _configurations(instance):
                properties = configuration["properties"]
                version = properties.get("privateIPAddressVersion") or "IPv4"
                key = properties["subnet"]["id"], version
                wanted[key].append(_configuration_id(instance, nic, configuration["name"]))
        for (subnet_id, version), owners in wanted.items():
            subnet = self._azure.require(subnet_id, instances[0]["id"])
            network = subnet_network(subnet, version)
            pool = self._azure.addresses.subnet(subnet["id"], network)
            new = sum(not pool.holds(owner) for owner in owners)
            if new > pool.free():
                raise subnet_full(subnet, pool, new)

    def _holds(self, instance: Document, named: tuple[str, Document], prefix: str) -> bool:
        held = self._azure.store.get(_public_id(instance, named))
        return held is not None and ids.same(
            one(held["properties"], "publicIPPrefix") or "", prefix
        )

    def materialize(self, instance_id: str) -> None:
        """Brings NICs and public addresses to what the instance's profile says."""
        instance = self._azure.store.get(instance_id)
        if instance is None:
            return
        self._drop_gone(instance)
        profile = instance["properties"]["networkProfileConfiguration"]
        for nic in profile["networkInterfaceConfigurations"]:
            self._nic(instance, nic)

    def strip(self, instance_id: str) -> None:
        """Takes all but the primary ipConfigs from an instance's NICs and leaves its document
        as it is: what rollouts in place have done."""
        for nic in self._azure.store.of_type(NIC, instance_id):
            new = copy.deepcopy(nic)
            configurations = new["properties"]["ipConfigurations"]
            for configuration in configurations:
                if not configuration["properties"]["primary"]:
                    self._release(configuration)
            kept = [c for c in configurations if c["properties"]["primary"]]
            new["properties"]["ipConfigurations"] = kept
            self._azure.store.put(NIC, new)

    def release(self, instance_id: str) -> None:
        """Gives back every address of an instance that goes."""
        for nic in self._azure.store.of_type(NIC, instance_id):
            for configuration in nic["properties"]["ipConfigurations"]:
                self._release(configuration)

    def _drop_gone(self, instance: Document) -> None:
        wanted = {_configuration_id(instance, nic, c["name"]).lower()
                  for nic, c in _configurations(instance)}  # fmt: skip
        for nic in self._azure.store.of_type(NIC, instance["id"]):
            for configuration in nic["properties"]["ipConfigurations"]:
                if configuration["id"].lower() not in wanted:
                    self._release(configuration)

    def _release(self, configuration: Document) -> None:
        self._azure.addresses.release(configuration["id"])
        public = one(configuration["properties"], "publicIPAddress")
        if public:
            self._azure.addresses.release(public)
            self._azure.store.delete(public)

    def _nic(self, instance: Document, wanted: Document) -> None:
        nic_id = f"{instance['id']}/networkInterfaces/{wanted['name']}"
        old = self._azure.store.get(nic_id)
        given = wanted["properties"]
        configurations = [
            self._configuration(instance, wanted["name"], c) for c in given["ipConfigurations"]
        ]
        if len(configurations) == 1:  # on the NIC, other than in the profile, it says so
            configurations[0]["properties"]["primary"] = True
        self._drop_public_of(old, configurations)
        kept = old["properties"] if old else {}
        properties: dict[str, Any] = {
            "provisioningState": "Succeeded",
            "resourceGuid": kept.get("resourceGuid") or str(uuid.uuid4()),
            "ipConfigurations": configurations,
            "dnsSettings": given.get("dnsSettings") or {"dnsServers": []},
            "enableAcceleratedNetworking": given.get("enableAcceleratedNetworking", False),
            "enableIPForwarding": given.get("enableIPForwarding", False),
            "primary": given.get("primary", False),
            "virtualMachine": {"id": instance["id"]},
        }
        if given.get("networkSecurityGroup"):
            properties["networkSecurityGroup"] = given["networkSecurityGroup"]
        if old and old["properties"] == properties:
            return
        document = {
            "name": wanted["name"],
            "id": nic_id,
            "type": NetworkInterfaces.type,
            "location": instance["location"],
            "properties": properties,
        }
        self._azure.store.put(NIC, document)

    def _configuration(self, instance: Document, nic: str, wanted: Document) -> Document:
        given = wanted["properties"]
        configuration_id = _configuration_id(instance, nic, wanted["name"])
        subnet = self._azure.require(given["subnet"]["id"], configuration_id)
        properties: dict[str, Any] = {
            "provisioningState": "Succeeded",
            "privateIPAllocationMethod": "Dynamic",
            "subnet": {"id": subnet["id"]},
            "primary": bool(given.get("primary")),
            "privateIPAddressVersion": given.get("privateIPAddressVersion") or "IPv4",
        }
        lease_private(self._azure, configuration_id, properties, subnet)
        public = given.get("publicIPAddressConfiguration")
        public_id = _public_id(instance, (nic, wanted)) if public else None
        if public and public_id:
            self._public(instance, public_id, public)
            properties["publicIPAddress"] = {"id": public_id}
        pools = given.get("loadBalancerBackendAddressPools")
        if pools:
            properties["loadBalancerBackendAddressPools"] = [{"id": p["id"]} for p in pools]
        return {"name": wanted["name"], "id": configuration_id, "properties": properties}

    def _public(self, instance: Document, public_id: str, given: Document) -> None:
        prefix = one(given.get("properties") or {}, "publicIPPrefix")
        old = self._azure.store.get(public_id)
        if old is not None:
            if ids.same(one(old["properties"], "publicIPPrefix") or "", prefix or ""):
                return
            self._azure.addresses.release(public_id)
        version = (given.get("properties") or {}).get("publicIPAddressVersion") or "IPv4"
        address = allocate_public(self._azure, public_id, prefix, version=version)
        properties: dict[str, Any] = {
            "provisioningState": "Succeeded",
            "resourceGuid": str(uuid.uuid4()),
            "ipAddress": str(address),
            "publicIPAddressVersion": version,
            "publicIPAllocationMethod": "Static",
            "idleTimeoutInMinutes": 4,
            "ipTags": [],
            "ipConfiguration": {"id": public_id.rpartition("/publicIPAddresses/")[0]},
        }
        if prefix:
            properties["publicIPPrefix"] = {"id": prefix}
        document = {
            "name": given["name"],
            "id": public_id,
            "type": PublicIPAddresses.type,
            "location": instance["location"],
            "sku": {"name": "Standard", "tier": "Regional"},
            "properties": properties,
        }
        self._azure.store.put(PUBLIC, document)

    def _drop_public_of(self, old: Document | None, new: list[Document]) -> None:
        """Ends the public addresses of the old NIC that the new one has no more."""
        kept = {(one(c["properties"], "publicIPAddress") or "").lower() for c in new}
        for configuration in old["properties"]["ipConfigurations"] if old else ():
            public = one(configuration["properties"], "publicIPAddress")
            if public and public.lower() not in kept:
                self._azure.addresses.release(public)
                self._azure.store.delete(public)


class InstanceNics(Kind):
    """``…/virtualMachines/{i}/networkInterfaces``: read only."""

    type = NIC
    tracked = False

    def view(self, document: Document) -> Document:
        entry = self.azure.store.entry(document["id"])
        if entry is None:
            return document
        if entry.type == NIC:
            return with_etags(document, entry.etag)
        return {**document, "etag": entry.etag}

    async def put(self, call: Call) -> Answer:
        raise ArmError(
            400,
            "OperationNotAllowed",
            f"Network interface {call.id.text} belongs to a virtual machine scale set and is "
            "changed through it.",
        )

    patch = delete = put


class InstancePublicIPs(InstanceNics):
    """``…/ipConfigurations/{c}/publicIPAddresses``: read only."""

    type = PUBLIC

    async def list(self, call: Call) -> Answer:
        scope = call.id.text.rpartition("/")[0]
        found = self.azure.store.of_type(PUBLIC, scope)
        return Answer(200, {"value": [self.view(d) for d in found]})


class WholeScaleSet(Kind):
    """``…/virtualMachineScaleSets/{v}/networkInterfaces`` and ``…/publicIPAddresses``."""

    tracked = False

    def __init__(self, azure: Azure, word: str, stored: str) -> None:
        super().__init__(azure)
        self.type = f"Microsoft.Compute/virtualMachineScaleSets/{word}"  # type: ignore[misc]
        self._stored = stored

    async def list(self, call: Call) -> Answer:
        scope = call.id.text.rpartition("/")[0]
        self.read(ids.parse(scope))
        found = self.azure.store.of_type(self._stored, scope)
        return Answer(200, {"value": [self.azure.view(self._stored, d) for d in found]})


def _configurations(instance: Document) -> list[tuple[str, Document]]:
    profile = instance["properties"]["networkProfileConfiguration"]
    return [
        (nic["name"], configuration)
        for nic in profile["networkInterfaceConfigurations"]
        for configuration in nic["properties"]["ipConfigurations"]
    ]


def _configuration_id(instance: Document, nic: str, name: str) -> str:
    return f"{instance['id']}/networkInterfaces/{nic}/ipConfigurations/{name}"


def _public_id(instance: Document, named: tuple[str, Document]) -> str:
    nic, configuration = named
    public = configuration["properties"]["publicIPAddressConfiguration"]
    at = _configuration_id(instance, nic, configuration["name"])
    return f"{at}/publicIPAddresses/{public['name']}"


def _prefix(configuration: Document) -> str | None:
    public = configuration["properties"].get("publicIPAddressConfiguration")
    return one(public.get("properties") or {}, "publicIPPrefix") if public else None


def _out_of_addresses(prefix: Document, pool: AddressPool, count: int) -> ArmError:
    length = ip_network(prefix["properties"]["ipPrefix"]).num_addresses
    return ArmError(
        400,
        "PublicIpPrefixOutOfIpAddressesForVMScaleSet",
        f"IpPrefix {prefix['id']} can provide {length} public ips at maximum, {pool.used} of "
        f"them are in use already. Current request needs {count} more.",
    )
