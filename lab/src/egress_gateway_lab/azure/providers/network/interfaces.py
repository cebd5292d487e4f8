"""Network interfaces, and what Azure checks of the ipConfigs of any of them."""

from __future__ import annotations

from typing import Any

from egress_gateway_lab.azure.arm import errors, ids
from egress_gateway_lab.azure.arm.errors import ArmError
from egress_gateway_lab.azure.arm.kinds import Azure, Call, one
from egress_gateway_lab.azure.arm.store import Document
from egress_gateway_lab.azure.providers.network.kinds import NetworkKind, check_item_names
from egress_gateway_lab.azure.providers.network.publicaddresses import (
    PublicIPAddresses,
    PublicIPPrefixes,
    check_region,
    check_sku,
    check_version,
)
from egress_gateway_lab.azure.providers.network.virtualnetworks import (
    Subnets,
    lease_private,
    subnet_network,
)

MAX_IP_CONFIGURATIONS = 256
"""Per NIC. https://learn.microsoft.com/azure/azure-resource-manager/management/azure-subscription-service-limits"""


BACKEND_POOL = "Microsoft.Network/loadBalancers/backendAddressPools"


def with_etags(document: Document, etag: str) -> Document:
    """A NIC's view: its ipConfigurations carry its ETag as well."""
    configurations = [
        {**c, "etag": etag} for c in document["properties"].get("ipConfigurations") or []
    ]
    properties = {**document["properties"], "ipConfigurations": configurations}
    return {**document, "etag": etag, "properties": properties}


class NetworkInterfaces(NetworkKind):
    """NICs that stand alone; a scale set's NICs belong to the compute provider."""

    type = "Microsoft.Network/networkInterfaces"

    def complete(self, call: Call, body: Document, old: Document | None) -> Document:
        properties = body["properties"]
        properties.pop("virtualMachine", None)
        configurations = properties.get("ipConfigurations") or []
        if len(configurations) == 1:
            configurations[0].setdefault("properties", {}).setdefault("primary", True)
        _check_primary(body["id"], configurations)
        check_ip_configurations(self.azure, body["id"], configurations, body["location"])
        before = old["properties"]["ipConfigurations"] if old else []
        leave = {c["id"].lower() for c in before}
        for configuration in configurations:
            self._complete_configuration(body["id"], configuration)
            leave.discard(configuration["id"].lower())
        for gone in leave:
            self.azure.addresses.release(gone)
        properties.setdefault("enableIPForwarding", False)
        properties.setdefault("enableAcceleratedNetworking", False)
        return body

    def _complete_configuration(self, nic_id: str, configuration: Document) -> None:
        properties = configuration["properties"]
        configuration["id"] = f"{nic_id}/ipConfigurations/{configuration['name']}"
        configuration["type"] = f"{self.type}/ipConfigurations"
        public = one(properties, "publicIPAddress")
        if public:
            properties["publicIPAddress"] = {"id": public}
            self._check_public(public, configuration["id"])
        subnet = self.azure.require(properties["subnet"]["id"], nic_id, Subnets.type)
        properties["subnet"] = {"id": subnet["id"]}
        properties.setdefault("privateIPAddressVersion", "IPv4")
        lease_private(self.azure, configuration["id"], properties, subnet)
        properties["provisioningState"] = "Succeeded"

    def _check_public(self, public: str, holder: str) -> None:
        self.azure.require(public, holder, PublicIPAddresses.type)
        others = [u for u in self.azure.store.referrers(public) if not ids.same(u, holder)]
        if others:
            raise errors.invalid(
                f"Resource {holder} is referencing public IP address {public} that is already "
                f"allocated to resource {others[0]}.",
                code="PublicIPAddressInUse",
            )

    def check_delete(self, document: Document) -> None:
        machine = self._machine(document)
        if machine:
            raise ArmError(
                400,
                "NicInUse",
                f"Network Interface {document['id']} is used by existing resource {machine}. In "
                "order to delete the network interface, it must be dissociated from the "
                "resource. To learn more, see aka.ms/deletenic.",
            )

    async def remove(self, document: Document) -> None:
        for configuration in document["properties"]["ipConfigurations"]:
            self.azure.addresses.release(configuration["id"])
        await super().remove(document)

    def _machine(self, document: Document) -> str | None:
        users = self.azure.store.referrers(document["id"])
        return next((u for u in users if "/virtualmachines/" in u.lower()), None)

    def view(self, document: Document) -> Document:
        entry = self.azure.store.entry(document["id"])
        document = with_etags(document, entry.etag) if entry else document
        machine = self._machine(document)
        if machine is None:
            return document
        return {
            **document,
            "properties": {**document["properties"], "virtualMachine": {"id": machine}},
        }


def _check_primary(nic: str, configurations: list[Document]) -> None:
    flagged = [c for c in configurations if (c.get("properties") or {}).get("primary")]
    if configurations and len(flagged) != 1:
        raise errors.invalid(
            f"Network interface {nic} must have exactly one primary IP configuration.",
            code="NetworkInterfaceMustHaveOnePrimaryIpConfiguration",
        )


def check_ip_configurations(
    azure: Azure, nic: str, configurations: list[Document], location: str
) -> None:
    """Names, references and the limit of one NIC's ipConfigs. ``location``: the NIC's region."""
    if not configurations:
        raise errors.invalid(
            f"Network interface {nic} must have one or more IP configurations.",
            code="NetworkInterfaceMustHaveAtLeastOneIpConfiguration",
        )
    check_item_names(nic, "ipConfigurations", configurations)
    if len(configurations) > MAX_IP_CONFIGURATIONS:
        raise errors.invalid(
            f"The number of IP configurations on network interface {nic} exceeds the maximum "
            f"allowed, {MAX_IP_CONFIGURATIONS}.",
            code="MaxIPConfigurationsPerNicExceeded",
        )
    for configuration in configurations:
        _check_references(azure, nic, configuration.setdefault("properties", {}), location)
    _check_ipv6(nic, configurations)


def _check_ipv6(nic: str, configurations: list[Document]) -> None:
    """A NIC has one IPv6 address at most, and its primary one is of IPv4.
    https://learn.microsoft.com/azure/virtual-network/ip-services/virtual-network-network-interface-addresses"""
    six = [c for c in configurations if c["properties"].get("privateIPAddressVersion") == "IPv6"]
    if any(c["properties"].get("primary") for c in six):
        raise errors.invalid(
            f"The primary IP configuration of network interface {nic} must be of IPv4.",
            code="PrimaryIpConfigurationMustBeIPv4",
        )
    if len(six) > 1:
        listed = ", ".join(c["name"] for c in six)
        raise errors.invalid(
            f"Network interface {nic} can have one IP configuration of IPv6, not {listed}.",
            code="MaxIPv6ConfigurationsPerNicExceeded",
        )


def _check_references(azure: Azure, nic: str, properties: dict[str, Any], location: str) -> None:
    subnet = one(properties, "subnet")
    if subnet is None:
        raise errors.invalid(
            f"An IP configuration of {nic} has no subnet.", code="IpConfigurationSubnetRequired"
        )
    version = properties.get("privateIPAddressVersion") or "IPv4"
    subnet_network(azure.require(subnet, nic, Subnets.type), version)
    for pool in properties.get("loadBalancerBackendAddressPools") or []:
        azure.require(pool.get("id", ""), nic, BACKEND_POOL)
    public = properties.get("publicIPAddressConfiguration")
    if public is None:
        return
    check_item_names(nic, "publicIPAddressConfiguration", [public])
    prefix = one(public.get("properties") or {}, "publicIPPrefix")
    if prefix:
        of_public = (public.get("properties") or {}).get("publicIPAddressVersion") or "IPv4"
        found = azure.require(prefix, nic, PublicIPPrefixes.type)
        check_region(found, nic, location)
        check_sku(found, nic)
        check_version(found, nic, of_public)
