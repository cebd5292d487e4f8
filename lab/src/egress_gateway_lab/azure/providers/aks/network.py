"""What AKS puts into a cluster's node resource group: network, load balancer, scale sets.

All of it is ordinary resources, written through the kinds that serve them, so the fabric and
every client see a cluster built of the same parts as on Azure.
"""

from __future__ import annotations

import copy
import uuid
from typing import Any

from egress_gateway_lab.azure.arm.kinds import Azure
from egress_gateway_lab.azure.arm.store import Document
from egress_gateway_lab.azure.providers.aks import rules
from egress_gateway_lab.azure.providers.compute.scalesets import ScaleSets
from egress_gateway_lab.azure.providers.network.publicaddresses import (
    OUTBOUND_TAG,
    OUTBOUND_TAG_VALUE,
)
from egress_gateway_lab.azure.providers.resources import GROUP

BALANCER = "kubernetes"
OUTBOUND_POOL = "aksOutboundBackendPool"
OUTBOUND_RULE = "aksOutboundRule"
SUBNET = "aks-subnet"
NETWORK_SPACE = "10.224.0.0/12"
SUBNET_SPACE = "10.224.0.0/16"


class NodeGroup:
    """A cluster's node resource group."""

    def __init__(self, azure: Azure, cluster: Document) -> None:
        self._azure = azure
        self._cluster = cluster
        self.name = str(cluster["properties"]["nodeResourceGroup"])
        self.id = f"/subscriptions/{azure.subscription}/resourceGroups/{self.name}"
        self._hash = rules.cluster_hash(cluster["id"])
        self.network_name = f"aks-vnet-{self._hash}"
        self.network_id = (
            f"{self.id}/providers/Microsoft.Network/virtualNetworks/{self.network_name}"
        )
        self.subnet_id = f"{self.network_id}/subnets/{SUBNET}"
        self.balancer_id = f"{self.id}/providers/Microsoft.Network/loadBalancers/{BALANCER}"

    def _write(self, resource_type: str, resource_id: str, body: Document) -> Document:
        kind = self._azure.kinds[resource_type.lower()]
        body = {"location": self._cluster["location"], **body}
        return kind.write(resource_id, body)

    def create(self) -> None:
        """Group, virtual network and the outbound load balancer."""
        group = {
            "id": self.id,
            "name": self.name,
            "type": GROUP,
            "location": self._cluster["location"],
            "managedBy": self._cluster["id"],
            "properties": {"provisioningState": "Succeeded"},
        }
        self._azure.store.put(GROUP, group)
        subnets = [{"name": SUBNET, "properties": {"addressPrefix": SUBNET_SPACE}}]
        space = {"addressPrefixes": [NETWORK_SPACE]}
        self._write(
            "Microsoft.Network/virtualNetworks",
            self.network_id,
            {"properties": {"addressSpace": space, "subnets": subnets}},
        )
        self.apply_outbound()

    def apply_outbound(self) -> None:
        """Gives the load balancer the outbound frontends that the cluster's profile names; public
        addresses that AKS made and that serve no more are deleted."""
        frontends = self._frontends()
        old = copy.deepcopy(self._azure.store.get(self.balancer_id))
        properties: Document = {
            "backendAddressPools": [
                {"name": OUTBOUND_POOL, "properties": {}},
                {"name": BALANCER, "properties": {}},
            ]
        }
        if old:
            properties = old["properties"]
        outbound = [r for r in properties.get("outboundRules") or [] if r["name"] == OUTBOUND_RULE]
        gone = {
            f["id"].lower()
            for rule in outbound
            for f in rule["properties"]["frontendIPConfigurations"]
        }
        others = [
            f
            for f in properties.get("frontendIPConfigurations") or []
            if f["id"].lower() not in gone
        ]
        properties["frontendIPConfigurations"] = [*frontends, *others]
        properties["outboundRules"] = [self._outbound_rule(frontends)]
        body = {"sku": {"name": "Standard"}, "properties": properties}
        self._write("Microsoft.Network/loadBalancers", self.balancer_id, body)
        self._drop_unused_outbound()

    def _outbound_rule(self, frontends: list[Document]) -> Document:
        profile = self._profile()
        return {
            "name": OUTBOUND_RULE,
            "properties": {
                "protocol": "All",
                "enableTcpReset": True,
                "idleTimeoutInMinutes": profile.get("idleTimeoutInMinutes") or 30,
                "allocatedOutboundPorts": profile.get("allocatedOutboundPorts") or 0,
                "backendAddressPool": {
                    "id": f"{self.balancer_id}/backendAddressPools/{OUTBOUND_POOL}"
                },
                "frontendIPConfigurations": [
                    {"id": f"{self.balancer_id}/frontendIPConfigurations/{f['name']}"}
                    for f in frontends
                ],
            },
        }

    def _profile(self) -> dict[str, Any]:
        return dict(self._cluster["properties"]["networkProfile"]["loadBalancerProfile"])

    def _frontends(self) -> list[Document]:
        profile = self._profile()
        prefixes = (profile.get("outboundIPPrefixes") or {}).get("publicIPPrefixes") or []
        addresses = (profile.get("outboundIPs") or {}).get("publicIPs") or []
        if prefixes:
            return [_frontend("publicIPPrefix", p["id"]) for p in prefixes]
        if not addresses:
            count = int((profile.get("managedOutboundIPs") or {}).get("count") or 1)
            addresses = [{"id": a["id"]} for a in self._managed_outbound(count)]
        return [_frontend("publicIPAddress", a["id"]) for a in addresses]

    def _made(self) -> list[Document]:
        addresses = self._azure.store.of_type("Microsoft.Network/publicIPAddresses", self.id)
        return [
            a for a in addresses if (a.get("tags") or {}).get(OUTBOUND_TAG) == OUTBOUND_TAG_VALUE
        ]

    def _managed_outbound(self, count: int) -> list[Document]:
        made = self._made()
        for _ in range(count - len(made)):
            name = str(uuid.uuid4())
            body = {
                "sku": {"name": "Standard"},
                "tags": {OUTBOUND_TAG: OUTBOUND_TAG_VALUE},
                "properties": {"publicIPAllocationMethod": "Static"},
            }
            address_id = f"{self.id}/providers/Microsoft.Network/publicIPAddresses/{name}"
            made.append(self._write("Microsoft.Network/publicIPAddresses", address_id, body))
        return made[:count]

    def _drop_unused_outbound(self) -> None:
        for address in self._made():
            if not self._azure.store.referrers(address["id"]):
                self._azure.addresses.release(address["id"])
                self._azure.store.delete(address["id"])

    def effective_outbound(self) -> list[Document]:
        """What the outbound rule uses now, as the cluster's GET shows it."""
        balancer = self._azure.store.get(self.balancer_id)
        if balancer is None:
            return []
        outbound = balancer["properties"]["outboundRules"]
        used = {
            f["id"].lower() for r in outbound for f in r["properties"]["frontendIPConfigurations"]
        }
        shown = []
        for frontend in balancer["properties"]["frontendIPConfigurations"]:
            if frontend["id"].lower() in used:
                p = frontend["properties"]
                shown.append(dict(p.get("publicIPAddress") or p.get("publicIPPrefix")))
        return shown

    def scale_set_id(self, pool_name: str) -> str:
        name = f"aks-{pool_name}-{self._hash}-vmss"
        return f"{self.id}/providers/Microsoft.Compute/virtualMachineScaleSets/{name}"

    def create_scale_set(self, pool_name: str, pool: Document) -> str:
        """A pool's scale set without instances; returns its id."""
        scale_set_id = self.scale_set_id(pool_name)
        name = scale_set_id.rpartition("/")[2]
        nic = {
            "name": name,
            "properties": {
                "primary": True,
                "enableAcceleratedNetworking": True,
                "enableIPForwarding": True,
                "dnsSettings": {"dnsServers": []},
                "ipConfigurations": [self.ip_configuration(pool)],
            },
        }
        zones = pool.get("availabilityZones")
        body = {
            **({"zones": list(zones)} if zones else {}),
            "sku": {"name": pool["vmSize"], "tier": "Standard", "capacity": 0},
            "tags": self.tags(pool_name, pool),
            "properties": {
                "upgradePolicy": {"mode": "Manual"},
                "virtualMachineProfile": {
                    "osProfile": {"computerNamePrefix": name, "adminUsername": "azureuser"},
                    "networkProfile": {"networkInterfaceConfigurations": [nic]},
                },
            },
        }
        self._write(ScaleSets.type, scale_set_id, body)
        return scale_set_id

    def ip_configuration(self, pool: Document) -> Document:
        """The primary ipConfig of a pool's machine, in the cluster's outbound pool and in the
        pool's own subnet if it has one."""
        pools = [
            {"id": f"{self.balancer_id}/backendAddressPools/{p}"} for p in (OUTBOUND_POOL, BALANCER)
        ]
        return {
            "name": "ipconfig1",
            "properties": {
                "primary": True,
                "privateIPAddressVersion": "IPv4",
                "subnet": {"id": pool.get("vnetSubnetID") or self.subnet_id},
                "loadBalancerBackendAddressPools": pools,
            },
        }

    def tags(self, pool_name: str, pool: Document) -> dict[str, str]:
        """Tags of what a pool is made of."""
        group = str(self._cluster["id"].split("/")[4])
        return rules.pool_tags(pool_name, pool, group=group)

    def nic_name(self, pool_name: str, number: int) -> str:
        """Of a VirtualMachines pool; it has nothing to do with the number of a machine."""
        return f"aks-{pool_name}-{self._hash}-nic{number}"

    def machine_name(self, pool_name: str, number: int) -> str:
        """Of a VirtualMachines pool."""
        return f"aks-{pool_name}-{self._hash}-vm{number}"


def _frontend(key: str, target: str) -> Document:
    return {"name": target.rpartition("/")[2], "properties": {key: {"id": target}}}
