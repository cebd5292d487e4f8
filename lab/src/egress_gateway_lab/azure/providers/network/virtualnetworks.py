"""Virtual networks, their subnets, and the private addresses that are taken from these."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any

from egress_gateway_lab.azure.arm import errors, ids
from egress_gateway_lab.azure.arm.addressing import AddressPool, Exhausted, IPAddress, IPNetwork
from egress_gateway_lab.azure.arm.errors import ArmError
from egress_gateway_lab.azure.arm.kinds import Azure, Call
from egress_gateway_lab.azure.arm.store import Document
from egress_gateway_lab.azure.providers.network.kinds import NetworkKind, check_item_names


class VirtualNetworks(NetworkKind):
    """Virtual networks. Subnets are resources of their own, shown inside."""

    type = "Microsoft.Network/virtualNetworks"

    def complete(self, call: Call, body: Document, old: Document | None) -> Document:
        subnets = body["properties"].pop("subnets", None) or []
        space = (body["properties"].get("addressSpace") or {}).get("addressPrefixes") or []
        if not space:
            raise errors.invalid(
                f"Virtual network {body['id']} needs at least one address prefix.",
                code="AddressPrefixStringCannotBeNullOrEmpty",
            )
        networks = [parse_network(p, body["id"]) for p in space]
        check_item_names(body["id"], "subnets", subnets)
        for subnet in subnets:
            check_inside(subnet, networks)
        kept = {s["name"].lower() for s in subnets}
        for existing in self.azure.store.of_type(Subnets.type, body["id"]):
            if existing["name"].lower() not in kept:
                Subnets(self.azure).check_delete(existing)
                self.azure.store.delete(existing["id"])
        for subnet in subnets:
            self._put_subnet(body["id"], subnet)
        return body

    def _put_subnet(self, network_id: str, subnet: Document) -> None:
        subnet_id = f"{network_id}/subnets/{subnet['name']}"
        properties = {**(subnet.get("properties") or {}), "provisioningState": "Succeeded"}
        properties.pop("ipConfigurations", None)
        document = {"id": subnet_id, "name": subnet["name"], "type": Subnets.type}
        self.azure.store.put(Subnets.type, {**document, "properties": properties})

    def check_delete(self, document: Document) -> None:
        for subnet in self.azure.store.of_type(Subnets.type, document["id"]):
            Subnets(self.azure).check_delete(subnet)

    def view(self, document: Document) -> Document:
        kind = Subnets(self.azure)
        subnets = [kind.view(s) for s in self.azure.store.of_type(Subnets.type, document["id"])]
        document = super().view(document)
        return {**document, "properties": {**document["properties"], "subnets": subnets}}


class Subnets(NetworkKind):
    """Subnets of a virtual network."""

    type = "Microsoft.Network/virtualNetworks/subnets"
    tracked = False

    def missing(self, resource_id: ids.ResourceId) -> ArmError:
        """As recorded: another code than that of resources with a provider of their own."""
        return ArmError(404, "NotFound", f"Resource {resource_id.text} not found.")

    def complete(self, call: Call, body: Document, old: Document | None) -> Document:
        properties = body["properties"]
        properties.pop("ipConfigurations", None)
        properties.pop("resourceGuid", None)
        parent = self.azure.store.get(body["id"].rpartition("/subnets/")[0])
        assert parent is not None
        space = parent["properties"]["addressSpace"]["addressPrefixes"]
        self._check_delegations(body, old)
        check_inside(body, [ip_network(p) for p in space])
        return body

    def _check_delegations(self, body: Document, old: Document | None) -> None:
        """Those of a subnet in use stay as they are."""
        before, after = (d["properties"].get("delegations") or [] for d in (old or body, body))
        users = self.azure.store.referrers(body["id"])
        if users and before != after:
            raise errors.invalid(
                f"Delegations of subnet {body['id']} cannot be changed from {before} to {after} "
                f"because it is being used by the resource {users[0]}.",
                code="SubnetDelegationsCannotChangeWhenSubnetUsedByResource",
            )

    def check_delete(self, document: Document) -> None:
        users = self.azure.store.referrers(document["id"])
        if users:
            raise ArmError(
                400,
                "InUseSubnetCannotBeDeleted",
                f"Subnet {document['name']} is in use by {users[0]} and cannot be deleted. In "
                "order to delete the subnet, delete all the resources within the subnet. See "
                "aka.ms/deletesubnet.",
            )

    def view(self, document: Document) -> Document:
        document = super().view(document)
        users = [
            {"id": u}
            for u in self.azure.store.referrers(document["id"])
            if "/ipconfigurations/" in u.lower()
        ]
        if not users:
            return document
        return {**document, "properties": {**document["properties"], "ipConfigurations": users}}


def subnet_networks(subnet: Document) -> list[IPNetwork]:
    """One or two, of a family each. Raises ``ArmError``."""
    properties = subnet["properties"]
    one = properties.get("addressPrefix")
    texts = [one] if one else properties.get("addressPrefixes") or [""]
    try:
        return [ip_network(text) for text in texts]
    except ValueError as error:
        raise errors.invalid(
            f"Subnet '{subnet['name']}' has an invalid address prefix: {error}.",
            code="InvalidAddressPrefixFormat",
        ) from error


def subnet_network(subnet: Document, version: str = "IPv4") -> IPNetwork:
    """The subnet's network of a family. Raises ``ArmError`` if it has none."""
    for network in subnet_networks(subnet):
        if f"IPv{network.version}" == version:
            return network
    raise errors.invalid(
        f"Subnet {subnet.get('id') or subnet['name']} has no {version} address prefix, so no IP "
        f"configuration of version {version} can be in it.",
        code="SubnetHasNoAddressPrefixOfVersion",
    )


def parse_network(text: str, owner: str) -> IPNetwork:
    """Raises ``ArmError``."""
    try:
        return ip_network(text)
    except ValueError as error:
        raise errors.invalid(
            f"Address prefix {text} of resource {owner} is not formatted correctly. It should "
            "follow CIDR notation, for example 10.0.0.0/24.",
            code="InvalidCIDRNotation",
        ) from error


def parse_address(text: str | None, owner: str) -> IPAddress:
    """Raises ``ArmError``."""
    try:
        return ip_address(text or "")
    except ValueError as error:
        raise errors.invalid(
            f"IP configuration {owner} with static allocation has no valid private IP address: "
            f"'{text or ''}'.",
            code="PrivateIPAddressInvalid",
        ) from error


def check_inside(subnet: Document, space: list[IPNetwork]) -> None:
    """A subnet lies in its network's address space; IPv4 it must have, and IPv6 is a /64."""
    subnet = {**subnet, "properties": subnet.get("properties") or {}}
    subnet_network(subnet)
    for network in subnet_networks(subnet):
        if not any(_within(network, whole) for whole in space):
            raise errors.invalid(
                f"Subnet '{subnet['name']}' is not valid because its IP address range is outside "
                "the IP address range of virtual network.",
                code="NetcfgInvalidSubnet",
            )
        if network.version == 6 and network.prefixlen != 64:
            raise errors.invalid(
                f"Subnet '{subnet['name']}' has IPv6 address prefix {network}; the length of IPv6 "
                "subnets is 64.",
                code="InvalidIPv6SubnetPrefixLength",
            )


def _within(inner: IPNetwork, outer: IPNetwork) -> bool:
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return not isinstance(outer, IPv4Network) and inner.subnet_of(outer)


def lease_private(azure: Azure, owner: str, properties: dict[str, Any], subnet: Document) -> None:
    """Gives an ipConfig or frontend its private address: the one it has, asks for, or next."""
    _check_delegated(owner, subnet)
    version = properties.get("privateIPAddressVersion") or "IPv4"
    pool = azure.addresses.subnet(subnet["id"], subnet_network(subnet, version))
    static = properties.get("privateIPAllocationMethod") == "Static"
    wanted = parse_address(properties.get("privateIPAddress"), owner) if static else None
    try:
        properties["privateIPAddress"] = str(pool.lease(owner, wanted))
    except Exhausted as error:
        raise subnet_full(subnet, pool, 1) from error
    except ValueError as error:
        raise _not_free(wanted, owner, subnet, pool.owner(wanted) if wanted else None) from error
    properties.setdefault("privateIPAllocationMethod", "Dynamic")


def _not_free(
    wanted: IPAddress | None, owner: str, subnet: Document, holder: str | None
) -> ArmError:
    if holder is None:
        return errors.invalid(
            f"Private static IP address {wanted} does not belong to the range of subnet prefix of "
            f"{subnet['id']}.",
            code="PrivateIPAddressNotInSubnet",
        )
    return errors.invalid(
        f"IP configuration {owner} is using the private IP address {wanted} which is already "
        f"allocated to resource {holder}.",
        code="PrivateIPAddressIsAllocated",
    )


def _check_delegated(owner: str, subnet: Document) -> None:
    """A delegated subnet holds what its service makes: no network interface or frontend of others.
    https://learn.microsoft.com/azure/virtual-network/subnet-delegation-overview"""
    services = [
        str((delegation.get("properties") or {}).get("serviceName") or delegation.get("name"))
        for delegation in subnet["properties"].get("delegations") or ()
    ]
    if services:
        raise errors.invalid(
            f"Resource {owner} is not permitted on subnet {subnet['id']}, which is delegated to "
            f"{', '.join(services)}.",
            code="ResourceNotPermittedOnDelegatedSubnet",
        )


def subnet_full(subnet: Document, pool: AddressPool, count: int) -> ArmError:
    """No address left for ``count`` more."""
    return errors.invalid(
        f"Subnet {subnet['name']} with address prefix {pool.network} does not have enough "
        f"capacity for {count} IP addresses.",
        code="SubnetIsFull",
    )
