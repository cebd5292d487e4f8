"""Public IP prefixes, and public addresses from them or from the region's space."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from egress_gateway_lab.azure.arm import errors
from egress_gateway_lab.azure.arm.addressing import (
    AddressPool,
    Exhausted,
    IPAddress,
    IPNetwork,
    OverQuota,
)
from egress_gateway_lab.azure.arm.errors import ArmError
from egress_gateway_lab.azure.arm.kinds import Answer, Azure, Call, Kind, one
from egress_gateway_lab.azure.arm.store import Document
from egress_gateway_lab.azure.providers.network.kinds import NetworkKind, check_zones

OUTBOUND_TAG = "aks-managed-type"


LENGTHS = {"IPv4": (28, 31), "IPv6": (124, 127)}
"""https://learn.microsoft.com/azure/virtual-network/ip-services/public-ip-address-prefix"""


OUTBOUND_TAG_VALUE = "aks-slb-managed-outbound-ip"


class PublicIPPrefixes(NetworkKind):
    """Public IP prefixes: /28 to /31, of IPv6 /124 to /127, without overlap."""

    type = "Microsoft.Network/publicIPPrefixes"

    def complete(self, call: Call, body: Document, old: Document | None) -> Document:
        properties = body["properties"]
        for computed in ("publicIPAddresses", "loadBalancerFrontendIpConfiguration"):
            properties.pop(computed, None)
        length = properties.get("prefixLength")
        require_standard(body)
        version = properties.setdefault("publicIPAddressVersion", "IPv4")
        least, most = LENGTHS.get(version, LENGTHS["IPv4"])
        if not isinstance(length, int) or not least <= length <= most:
            raise errors.invalid(
                f"Invalid IP prefix length {length} was provided for {body['id']}. IP prefix "
                f"length must be between {least} and {most} for {version}.",
                code="InvalidPublicIpPrefixLength",
            )
        if old and old["properties"]["prefixLength"] != length:
            raise errors.invalid(
                f"The prefix length of {body['id']} cannot be changed once it is created.",
                code="PublicIpPrefixLengthCannotBeChanged",
            )
        check_zones(old, body)
        properties.setdefault("ipTags", [])
        properties["ipPrefix"] = str(self._allocate(body["id"], length))
        return body

    def _allocate(self, prefix_id: str, length: int) -> IPNetwork:
        try:
            return self.azure.addresses.allocate_prefix(prefix_id, length)
        except OverQuota as error:
            raise over_quota(error) from error
        except Exhausted as error:
            raise errors.invalid(
                f"Cannot create public IP prefix {prefix_id}: the region has no block of length "
                f"/{length} left.",
                code="PublicIPPrefixCountLimitReached",
            ) from error

    def check_delete(self, document: Document) -> None:
        users = self.azure.store.referrers(document["id"])
        if users:
            raise ArmError(
                400,
                "InUsePublicIpPrefixCannotBeDeleted",
                f"Public IP prefix {document['id']} cannot be deleted since it is in use by "
                f"{', '.join(users)}.",
            )

    def view(self, document: Document) -> Document:
        document = super().view(document)
        users = self.azure.store.referrers(document["id"])
        extra: dict[str, Any] = {}
        addresses = [{"id": u} for u in users if "/publicipaddresses/" in u.lower()]
        if addresses:
            extra["publicIPAddresses"] = addresses
        frontend = next((u for u in users if "/frontendipconfigurations/" in u.lower()), None)
        if frontend:
            extra["loadBalancerFrontendIpConfiguration"] = {"id": frontend}
        properties = {**document["properties"], **extra}
        if properties.get("provisioningState") == "Creating":
            del properties["ipPrefix"]  # as recorded: it is there when the operation has ended
        return {**document, "properties": properties}


class PublicIPAddresses(NetworkKind):
    """Public addresses, from a prefix or not."""

    type = "Microsoft.Network/publicIPAddresses"

    def complete(self, call: Call, body: Document, old: Document | None) -> Document:
        properties = body["properties"]
        for computed in ("ipConfiguration", "ipAddress"):
            properties.pop(computed, None)
        prefix = one(properties, "publicIPPrefix")
        if (
            old
            and (one(old["properties"], "publicIPPrefix") or "").lower() != (prefix or "").lower()
        ):
            raise errors.invalid(
                f"The public IP prefix of {body['id']} cannot be changed.",
                code="PublicIpPrefixOfPublicIpAddressCannotBeChanged",
            )
        self._check_place(body, old, prefix)
        version = properties.setdefault("publicIPAddressVersion", "IPv4")
        properties.setdefault("publicIPAllocationMethod", "Static")
        properties.setdefault("idleTimeoutInMinutes", 4)
        properties["ipAddress"] = str(
            allocate_public(
                self.azure, body["id"], prefix, version=version, outbound=is_outbound(body)
            )
        )
        return body

    def _check_place(self, body: Document, old: Document | None, prefix: str | None) -> None:
        """Region and zones are the prefix's; a new address has them without naming them."""
        if prefix is not None:
            found = self.azure.require(prefix, body["id"], PublicIPPrefixes.type)
            check_region(found, body["id"], body["location"])
            check_sku(found, body["id"], (body.get("sku") or {}).get("name") or "Standard")
            if old is None and found.get("zones"):
                body.setdefault("zones", list(found["zones"]))
        check_zones(old, body)

    def check_delete(self, document: Document) -> None:
        users = self.azure.store.referrers(document["id"])
        if users:
            raise ArmError(
                400,
                "PublicIPAddressCannotBeDeleted",
                f"Public IP address {document['id']} can not be deleted since it is still "
                f"allocated to resource {users[0]}. In order to delete the public IP, "
                "disassociate/detach the Public IP address from the resource.  To learn how to "
                "do this, see aka.ms/deletepublicip.",
            )

    def view(self, document: Document) -> Document:
        document = super().view(document)
        user = next(iter(self.azure.store.referrers(document["id"])), None)
        if user is None:
            return document
        return {
            **document,
            "properties": {**document["properties"], "ipConfiguration": {"id": user}},
        }


def check_region(found: Document, referrer: str, location: str) -> None:
    """What is referred to lies in the same region."""
    if found.get("location") not in (None, location):
        raise errors.missing_reference(found["id"], referrer)


def check_sku(prefix: Document, referrer: str, wanted: str = "Standard") -> None:
    """An address has its prefix's SKU; machines have addresses of SKU Standard."""
    sku = (prefix.get("sku") or {}).get("name") or "Standard"
    if sku != wanted:
        raise errors.invalid(
            f"Public IP address {referrer} of SKU {wanted} cannot be made from public IP prefix "
            f"{prefix['id']} of SKU {sku}.",
            code="PublicIpAddressSkuDoesNotMatchPublicIpPrefixSku",
        )


def check_zone(prefix: Document, machine: Document) -> None:
    """A machine in a zone takes addresses of that zone, or of none."""
    zones, of_machine = prefix.get("zones") or [], machine.get("zones") or []
    if zones and of_machine and not set(of_machine) & set(zones):
        raise errors.invalid(
            f"Compute resource {machine['id']} has a zone constraint {of_machine[0]} but the "
            f"public IP prefix {prefix['id']} has a different zone constraint "
            f"{', '.join(zones)}.",
            code="ComputeResourceZoneConstraintDoesNotMatchPublicIPAddressZoneConstraint",
        )


def require_standard(body: Document) -> None:
    """Prefixes and their addresses have SKU Standard."""
    sku = body.setdefault("sku", {"name": "Standard", "tier": "Regional"})
    sku.setdefault("tier", "Regional")
    if sku.get("name") not in ("Standard", "StandardV2"):
        raise errors.invalid(
            f"Resource {body['id']} must have Standard SKU.", code="PublicIpPrefixSkuNotSupported"
        )


def is_outbound(body: Document) -> bool:
    """Whether a public address was made for a cluster's load balancer by its provider."""
    return (body.get("tags") or {}).get(OUTBOUND_TAG) == OUTBOUND_TAG_VALUE


def over_quota(error: OverQuota) -> ArmError:
    """The subscription's limit, in Azure's words."""
    return errors.invalid(
        "Cannot create more than the allowed number of public IP addresses for this subscription "
        f"in this region: {error}. Request a quota increase, or delete what is not used.",
        code="PublicIPCountLimitReached",
    )


def check_version(prefix: Document, owner: str, version: str) -> None:
    """An address is of its prefix's family."""
    of_prefix = prefix["properties"].get("publicIPAddressVersion") or "IPv4"
    if of_prefix != version:
        raise errors.invalid(
            f"Public IP address {owner} of version {version} cannot be made from public IP prefix "
            f"{prefix['id']}, whose version is {of_prefix}.",
            code="PublicIpAddressVersionDoesNotMatchPublicIpPrefixVersion",
        )


def prefix_pool(azure: Azure, prefix: Document) -> AddressPool:
    network = ip_network(prefix["properties"]["ipPrefix"])
    return azure.addresses.prefix(prefix["id"], network)


def allocate_public(
    azure: Azure,
    owner: str,
    prefix_id: str | None,
    *,
    version: str = "IPv4",
    outbound: bool = False,
) -> IPAddress:
    """The address of a public IP resource, from its prefix if it has one."""
    if prefix_id is None:
        try:
            ipv6 = version == "IPv6"
            return azure.addresses.allocate_public(owner, outbound=outbound, ipv6=ipv6)
        except OverQuota as error:
            raise over_quota(error) from error
        except Exhausted as error:
            raise errors.invalid(
                "Cannot create more public IP addresses for this subscription in this region.",
                code="PublicIPCountLimitReached",
            ) from error
    prefix = azure.require(prefix_id, owner, PublicIPPrefixes.type)
    check_version(prefix, owner, version)
    try:
        return prefix_pool(azure, prefix).lease(owner)
    except Exhausted as error:
        raise errors.invalid(
            f"There are no public IP addresses left in public IP prefix {prefix['id']}.",
            code="PublicIpPrefixOutOfIpAddresses",
        ) from error


class Usages(Kind):
    """What of a region's quotas is used; of those that the emulator holds anybody to."""

    type = "Microsoft.Network/locations/usages"
    tracked = False

    async def list(self, call: Call) -> Answer:
        told = self.azure.addresses.command({})
        name = "PublicIPAddresses"
        usage = {
            "id": f"{call.id.text}/{name}",
            "name": {"value": name, "localizedValue": "Public IP Addresses"},
            "currentValue": told["used"],
            "limit": told["public_addresses"],
            "unit": "Count",
        }
        return Answer(200, {"value": [usage]})
