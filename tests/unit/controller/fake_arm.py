"""Azure's documents in memory, behind the same calls as ``ArmClient``: no HTTP, no time.

It keeps the semantics that the controller relies on: a scale set PUT replaces only the sections it
carries, NICs follow the instance's document, references are checked, prefixes run out.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any

from egress_gateway.cloud import errors
from egress_gateway.cloud.azure.account.config import AzureConfig
from egress_gateway.cloud.azure.cloud import AzureCloud
from egress_gateway.cloud.azure.machines import pool_key
from egress_gateway.cloud.azure.requests.errors import missing_role

Json = dict[str, Any]
SUB = "00000000-0000-0000-0000-000000000001"
GROUP = "MC_rg_aks_swedencentral"
BASE = f"/subscriptions/{SUB}/resourceGroups/{GROUP}/providers"
SUBNET = f"{BASE}/Microsoft.Network/virtualNetworks/aks-vnet/subnets/aks-subnet"
CONFIG = AzureConfig(
    subscription_id=SUB, resource_group=GROUP, location="swedencentral", use_managed_identity=True
)


def forbidden(
    scope: str, action: str = "Microsoft.Network/publicIPPrefixes/join/action"
) -> errors.CloudError:
    """As Azure says that a role is missing on ``scope``."""
    said = (
        "The client 'c' with object id 'p' does not have authorization to perform action "
        f"'{action}' over scope '{scope}' or the scope is invalid."
    )
    return missing_role(said, "AuthorizationFailed", said, scope)


class Killed(BaseException):
    """The controller died here."""


class FakeArm:
    """``before`` is called with each write's name and may raise a CloudError or ``Killed``."""

    def __init__(self) -> None:
        self.balancer_document: Json | None = None
        self.sets: dict[str, Json] = {}
        self.machines: dict[str, list[Json]] = {}
        self.nics: dict[str, Json] = {}
        self.machine_nic: dict[str, Json] = {}
        """NICs of pools of machines, by name."""
        self.publics: dict[str, Json] = {}
        self.brought: dict[str, Json | errors.CloudError] = {}
        self.made: dict[str, Json] = {}
        self.writes: list[str] = []
        self.reads = 0
        self.before: Callable[[str], None] = lambda write: None
        self.subnet_prefixes: list[str] | errors.CloudError = ["10.224.0.0/16"]
        self._private = itertools.count(10)
        self._networks = itertools.count(0, 16)
        self._etags = itertools.count(1)

    def cloud(self) -> AzureCloud:
        return AzureCloud(CONFIG, self)  # type: ignore[arg-type]

    # --- the world -----------------------------------------------------------------------

    def add_pool(self, name: str, *, instances: int = 2, size: int = 30) -> str:
        """A gateway pool; answers its key."""
        vmss = f"aks-{name}-vmss"
        key = f"key-{name}"
        nic = {
            "name": name,
            "properties": {
                "primary": True,
                "enableIPForwarding": True,
                "ipConfigurations": [
                    {
                        "name": "ipconfig1",
                        "properties": {"primary": True, "subnet": {"id": SUBNET}},
                    }
                ],
            },
        }
        self.sets[vmss] = {
            "id": f"{BASE}/Microsoft.Compute/virtualMachineScaleSets/{vmss}",
            "name": vmss,
            "location": "swedencentral",
            "sku": {"name": "Standard_D2pds_v6", "capacity": instances},
            "tags": {
                "aks-managed-poolName": name,
                "aks-managed-gatewayIPPrefixSize": str(size),
            },
            "properties": {
                "uniqueId": key,
                "virtualMachineProfile": {
                    "networkProfile": {"networkInterfaceConfigurations": [nic]}
                },
            },
        }
        self.machines[vmss] = []
        for _ in range(instances):
            self.add_instance(vmss)
        return key

    def add_instance(self, vmss: str) -> None:
        number = str(len(self.machines[vmss]))
        profile = self.sets[vmss]["properties"]["virtualMachineProfile"]["networkProfile"]
        instance = {
            "id": f"{self.sets[vmss]['id']}/virtualMachines/{number}",
            "name": f"{vmss}_{number}",
            "instanceId": number,
            "location": "swedencentral",
            "properties": {
                "provisioningState": "Succeeded",
                "networkProfileConfiguration": copy.deepcopy(profile),
            },
        }
        self.machines[vmss].append(instance)
        self.sync_nic(instance)

    def add_machines(self, name: str, *, machines: int = 2, size: int = 30) -> str:
        """A gateway pool of machines; answers its key."""
        for number in range(machines):
            self.add_machine(name, number, size=size)
        return pool_key(name)

    def add_machine(self, pool: str, number: int, *, size: int = 30) -> None:
        vm, nic = f"aks-{pool}-{number}", f"aks-{pool}-{number}-nic"
        nic_id = f"{BASE}/Microsoft.Network/networkInterfaces/{nic}"
        self.machine_nic[nic] = {
            "id": nic_id,
            "name": nic,
            "etag": f'W/"{next(self._etags)}"',
            "location": "swedencentral",
            "tags": {
                "aks-managed-static-gateway-nic": "true",
                "aks-managed-poolName": pool,
                "aks-managed-gatewayIPPrefixSize": str(size),
            },
            "properties": {
                "provisioningState": "Succeeded",
                "enableIPForwarding": True,
                "virtualMachine": {"id": f"{BASE}/Microsoft.Compute/virtualMachines/{vm}"},
                "ipConfigurations": [
                    {
                        "name": "ipconfig1",
                        "properties": {
                            "primary": True,
                            "subnet": {"id": SUBNET},
                            "privateIPAddress": self._private_address(),
                        },
                    }
                ],
            },
        }

    def add_prefix(self, name: str, size: int = 30, *, group: str = "rg") -> str:
        prefix_id = (
            f"/subscriptions/{SUB}/resourceGroups/{group}"
            f"/providers/Microsoft.Network/publicIPPrefixes/{name}"
        )
        self.brought[prefix_id.lower()] = self._prefix(prefix_id, name, size)
        return prefix_id

    def _prefix(self, prefix_id: str, name: str, size: int) -> Json:
        number = next(self._networks)
        subnet: IPv4Network | IPv6Network
        if size > 32:
            subnet = IPv6Network((int(IPv6Address("2001:db8:f::")) + number, size))
        else:
            network = IPv4Network((int(IPv4Address("203.0.113.0")) + number, 28))
            subnet = next(network.subnets(new_prefix=size))
        return {
            "id": prefix_id,
            "name": name,
            "properties": {
                "prefixLength": size,
                "ipPrefix": str(subnet),
                "provisioningState": "Succeeded",
            },
        }

    def sync_nic(self, instance: Json) -> None:
        """The instance's NIC follows its document; known addresses stay."""
        nic_id = f"{instance['id']}/networkInterfaces/nic"
        old = {
            c["name"]: c
            for c in self.nics.get(nic_id, {}).get("properties", {}).get("ipConfigurations", [])
        }
        profile = instance["properties"]["networkProfileConfiguration"]
        wanted = profile["networkInterfaceConfigurations"][0]["properties"]["ipConfigurations"]
        configs = [self._nic_config(nic_id, c, old.get(c["name"])) for c in wanted]
        self.nics[nic_id] = {
            "id": nic_id,
            "name": "nic",
            "properties": {
                "primary": True,
                "virtualMachine": {"id": instance["id"]},
                "ipConfigurations": configs,
            },
        }

    def _nic_config(self, nic_id: str, wanted: Json, old: Json | None) -> Json:
        properties = copy.deepcopy(wanted["properties"])
        public = properties.pop("publicIPAddressConfiguration", None)
        properties["privateIPAddress"] = (
            old["properties"]["privateIPAddress"] if old else self._private_address(properties)
        )
        config = {"name": wanted["name"], "properties": properties}
        if public:
            prefix = public["properties"]["publicIPPrefix"]["id"].lower()
            config["prefix"] = prefix
            if old and old.get("prefix") == prefix:
                config["public"] = old["public"]
            else:
                config["public"] = self._allocate(prefix)
            properties["publicIPAddress"] = {"id": f"{nic_id}/public/{wanted['name']}"}
        return config

    def _private_address(self, properties: Json | None = None) -> str:
        if (properties or {}).get("privateIPAddressVersion") == "IPv6":
            return str(IPv6Address("2001:db8:1::") + next(self._private))
        return str(IPv4Address("10.224.0.0") + next(self._private))

    def _allocate(self, prefix_id: str) -> str:
        document = self._find_prefix(prefix_id)
        used = {
            c.get("public")
            for nic in self.nics.values()
            for c in nic["properties"]["ipConfigurations"]
        } | {p["properties"]["ipAddress"] for p in self.publics.values()}
        for address in ip_network(document["properties"]["ipPrefix"]):
            if str(address) not in used:
                return str(address)
        raise errors.Exhausted("prefix exhausted", related=[prefix_id])

    def _find_prefix(self, prefix_id: str) -> Json:
        for document in self.made.values():
            if document["id"].lower() == prefix_id.lower():
                return document
        found = self.brought.get(prefix_id.lower())
        if isinstance(found, errors.CloudError):
            raise found
        if found is None:
            raise errors.Failed("no such prefix", related=[prefix_id])
        return found

    def managed_names(self) -> set[str]:
        """Names of all managed ipConfigs on models, instances and NICs."""
        found: set[str] = set()
        for vmss, document in self.sets.items():
            profile = document["properties"]["virtualMachineProfile"]["networkProfile"]
            found |= _managed(profile)
            for instance in self.machines[vmss]:
                found |= _managed(instance["properties"]["networkProfileConfiguration"])
        nics = list(self.machine_nic.values())
        return found | _managed({"networkInterfaceConfigurations": nics})

    # --- ArmClient -----------------------------------------------------------------------

    async def close(self) -> None:
        return None

    async def balancer(self, group: str, name: str) -> Json | None:
        self.reads += 1
        return copy.deepcopy(self.balancer_document)

    async def put_balancer(self, group: str, name: str, document: Json, etag: str | None) -> None:
        self._write("balancer")
        current = (self.balancer_document or {}).get("etag")
        if etag and etag != current:
            raise errors.Conflict("the etag has changed", code="PreconditionFailed")
        document = copy.deepcopy(document)
        backends = {item["name"] for item in document["properties"]["backendAddressPools"]}
        self._check_members(backends)
        old = {
            item["name"]: item["properties"].get("privateIPAddress")
            for item in (self.balancer_document or {"properties": {}})["properties"].get(
                "frontendIPConfigurations", []
            )
        }
        for item in document["properties"]["frontendIPConfigurations"]:
            address = old.get(item["name"]) or self._private_address()
            item["properties"]["privateIPAddress"] = address
        document["etag"] = f'W/"{next(self._etags)}"'
        self.balancer_document = document

    def _check_members(self, backends: set[str]) -> None:
        for nic in [*self.nics.values(), *self.machine_nic.values()]:
            for config in nic["properties"]["ipConfigurations"]:
                for pool in config["properties"].get("loadBalancerBackendAddressPools") or []:
                    if pool["id"].rsplit("/", 1)[-1] not in backends:
                        raise errors.InUse("a backend pool is in use", code="InUseBackend")

    async def delete_balancer(self, group: str, name: str) -> None:
        self._write("delete balancer")
        self._check_members(set())
        self.balancer_document = None

    async def prefix(self, group: str, name: str, resource_id: str) -> Json:
        self.reads += 1
        found = self.brought.get(resource_id.lower())
        if found is None:
            raise errors.NotFound("no such prefix", resource=resource_id)
        if isinstance(found, errors.CloudError):
            raise found
        return copy.deepcopy(found)

    async def prefixes(self, group: str) -> list[Json]:
        self.reads += 1
        return copy.deepcopy(list(self.made.values()))

    async def put_prefix(self, group: str, name: str, document: Json) -> None:
        self._write(f"prefix {name}")
        if name not in self.made:
            prefix_id = f"{BASE}/Microsoft.Network/publicIPPrefixes/{name}"
            size = document["properties"]["prefixLength"]
            self.made[name] = self._prefix(prefix_id, name, size)
        self.made[name]["properties"]["provisioningState"] = "Succeeded"

    async def delete_prefix(self, group: str, name: str) -> None:
        self._write(f"delete prefix {name}")
        document = self.made.get(name)
        if document is None:
            raise errors.NotFound("no such prefix")
        for nic in self.nics.values():
            for config in nic["properties"]["ipConfigurations"]:
                if config.get("prefix") == document["id"].lower():
                    raise errors.InUse("prefix in use", code="PublicIPPrefixInUse")
        for public in self.publics.values():
            if public["properties"]["publicIPPrefix"]["id"].lower() == document["id"].lower():
                raise errors.InUse("prefix in use", code="InUsePublicIpPrefixCannotBeDeleted")
        del self.made[name]

    async def machine_nics(self, group: str) -> list[Json]:
        self.reads += 1
        return copy.deepcopy(list(self.machine_nic.values()))

    async def put_nic(self, group: str, name: str, document: Json, etag: str | None) -> None:
        self._write(f"nic {name}")
        old = self.machine_nic[name]
        if etag and etag != old["etag"]:
            raise errors.Conflict("the etag has changed", code="PreconditionFailed")
        self._check_references({"networkInterfaceConfigurations": [document]})
        had = {c["name"]: c["properties"] for c in old["properties"]["ipConfigurations"]}
        new = copy.deepcopy(document)
        for config in new["properties"]["ipConfigurations"]:
            properties = config["properties"]
            before = had.get(config["name"], {}).get("privateIPAddress")
            properties["privateIPAddress"] = before or self._private_address(properties)
            public = properties.get("publicIPAddress")
            if public:
                self._check_public(public["id"], name, config["name"])
        new["etag"] = f'W/"{next(self._etags)}"'
        new["properties"]["provisioningState"] = "Succeeded"
        self.machine_nic[name] = new
        self.show_holders()

    def _check_public(self, public_id: str, nic: str, config: str) -> None:
        found = next((p for p in self.publics.values() if p["id"] == public_id), None)
        if found is None:
            raise errors.Failed("no such address", code="InvalidResourceReference")
        holder = (found["properties"].get("ipConfiguration") or {}).get("id")
        if holder not in (None, f"{nic}/{config}"):
            raise errors.Failed("address in use", code="PublicIPAddressInUse")

    def show_holders(self) -> None:
        for public in self.publics.values():
            public["properties"].pop("ipConfiguration", None)
        for nic in self.machine_nic.values():
            for config in nic["properties"]["ipConfigurations"]:
                held = (config["properties"].get("publicIPAddress") or {}).get("id")
                for public in self.publics.values():
                    if public["id"] == held:
                        holder = {"id": f"{nic['name']}/{config['name']}"}
                        public["properties"]["ipConfiguration"] = holder

    async def addresses(self, group: str) -> list[Json]:
        self.reads += 1
        return copy.deepcopy(list(self.publics.values()))

    async def put_address(self, group: str, name: str, document: Json) -> None:
        self._write(f"address {name}")
        prefix = document["properties"]["publicIPPrefix"]["id"]
        old = self.publics.get(name)
        if old and old["properties"]["publicIPPrefix"]["id"].lower() != prefix.lower():
            raise errors.Failed("another prefix", code="PublicIpPrefixCannotBeChanged")
        if old is None:
            address = self._allocate(prefix)
            new = copy.deepcopy(document)
            new["id"] = f"{BASE}/Microsoft.Network/publicIPAddresses/{name}"
            new["properties"]["ipAddress"] = address
            self.publics[name] = new

    async def delete_address(self, group: str, name: str) -> None:
        self._write(f"delete address {name}")
        if name not in self.publics:
            raise errors.NotFound("no such address")
        if self.publics[name]["properties"].get("ipConfiguration"):
            raise errors.InUse("address in use", code="PublicIPAddressCannotBeDeleted")
        del self.publics[name]

    async def scale_sets(self, group: str) -> list[Json]:
        self.reads += 1
        return copy.deepcopy(list(self.sets.values()))

    async def scale_set(self, group: str, name: str) -> Json | None:
        self.reads += 1
        return copy.deepcopy(self.sets.get(name))

    async def put_scale_set(self, group: str, name: str, document: Json, etag: str | None) -> None:
        self._write(f"model {name}")
        _match(self.sets[name], etag)
        profile = document["properties"]["virtualMachineProfile"]["networkProfile"]
        self._check_references(profile)
        virtual = self.sets[name]["properties"]["virtualMachineProfile"]
        virtual["networkProfile"] = copy.deepcopy(profile)
        self.sets[name]["etag"] = f'"{next(self._etags)}"'

    def _check_references(self, profile: Json) -> None:
        nic = profile["networkInterfaceConfigurations"][0]
        self._check_ipv6(nic["properties"]["ipConfigurations"])
        backends = {
            item["name"]
            for item in (self.balancer_document or {"properties": {}})["properties"].get(
                "backendAddressPools", []
            )
        }
        for config in nic["properties"]["ipConfigurations"]:
            public = config["properties"].get("publicIPAddressConfiguration")
            if public:
                self._find_prefix(public["properties"]["publicIPPrefix"]["id"])
            for pool in config["properties"].get("loadBalancerBackendAddressPools") or []:
                if pool["id"].rsplit("/", 1)[-1] not in backends:
                    raise errors.Failed("no such backend pool", code="InvalidResourceReference")

    def _check_ipv6(self, configs: list[Json]) -> None:
        six = [c for c in configs if c["properties"].get("privateIPAddressVersion") == "IPv6"]
        prefixes = [] if isinstance(self.subnet_prefixes, Exception) else self.subnet_prefixes
        if len(six) > 1 or (six and not any(":" in prefix for prefix in prefixes)):
            raise errors.Failed("no room for IPv6", code="IPv6")

    async def subnet(self, group: str, network: str, name: str) -> Json:
        self.reads += 1
        if isinstance(self.subnet_prefixes, errors.CloudError):
            raise self.subnet_prefixes
        return {"id": SUBNET, "properties": {"addressPrefixes": list(self.subnet_prefixes)}}

    async def instances(self, group: str, name: str) -> list[Json]:
        self.reads += 1
        return copy.deepcopy(self.machines[name])

    async def put_instance(
        self, group: str, name: str, number: str, document: Json, etag: str | None
    ) -> None:
        self._write(f"instance {name}/{number}")
        profile = document["properties"]["networkProfileConfiguration"]
        self._check_references(profile)
        instance = next(i for i in self.machines[name] if i["instanceId"] == number)
        _match(instance, etag)
        instance["etag"] = f'"{next(self._etags)}"'
        instance["properties"]["networkProfileConfiguration"] = copy.deepcopy(profile)
        instance["properties"]["provisioningState"] = "Failed"
        self.sync_nic(instance)
        instance["properties"]["provisioningState"] = "Succeeded"

    async def interfaces(self, group: str, name: str) -> list[Json]:
        self.reads += 1
        return copy.deepcopy([n for i, n in self.nics.items() if f"/{name}/" in i])

    async def public_addresses(self, group: str, name: str) -> list[Json]:
        self.reads += 1
        return [
            {
                "id": f"{nic_id}/public/{config['name']}",
                "properties": {"ipAddress": config["public"]},
            }
            for nic_id, nic in self.nics.items()
            for config in nic["properties"]["ipConfigurations"]
            if "public" in config
        ]

    def _write(self, what: str) -> None:
        self.before(what)
        self.writes.append(what)


def _match(document: Json, etag: str | None) -> None:
    if etag and etag != document.get("etag"):
        raise errors.Conflict("the etag has changed", code="PreconditionFailed")


def _managed(profile: Json) -> set[str]:
    return {
        config["name"]
        for nic in profile["networkInterfaceConfigurations"]
        for config in nic["properties"]["ipConfigurations"]
        if config["name"].startswith("egressgateway-")
    }
