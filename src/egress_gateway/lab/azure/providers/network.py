"""Microsoft.Network but for load balancers: networks, public addresses, prefixes, NICs.

A PUT replaces the whole document. What Azure assigned (address, prefix, GUID) stays with the
resource; what refers to it is computed when it is read.
"""

from __future__ import annotations

import copy
import re
import uuid
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from egress_gateway.lab.azure import errors, ids
from egress_gateway.lab.azure.addressing import AddressPool, Exhausted, OverQuota
from egress_gateway.lab.azure.errors import ArmError
from egress_gateway.lab.azure.kinds import Answer, Azure, Call, Kind, one
from egress_gateway.lab.azure.store import Document

MAX_IP_CONFIGURATIONS = 256
"""Per NIC. https://learn.microsoft.com/azure/azure-resource-manager/management/azure-subscription-service-limits"""

BACKEND_POOL = "Microsoft.Network/loadBalancers/backendAddressPools"
OUTBOUND_TAG = "aks-managed-type"
OUTBOUND_TAG_VALUE = "aks-slb-managed-outbound-ip"


class NetworkKind(Kind):
    """ETag in the document, a resource GUID, and full replacement."""

    def draft(self, call: Call, old: Document | None) -> Document:
        document = super().draft(call, old)
        guid = old["properties"].get("resourceGuid") if old else None
        document["properties"]["resourceGuid"] = guid or str(uuid.uuid4())
        document["properties"].pop("provisioningState", None)
        return document

    def view(self, document: Document) -> Document:
        entry = self.azure.store.entry(document["id"])
        return {**document, "etag": entry.etag} if entry else document

    def check_busy(self, call: Call) -> None:
        """Networks and their subnets are written one at a time, together."""
        super().check_busy(call)
        at = call.id.text
        for operation in self.azure.operations.under_way():
            if ids.within(at, operation.target) or ids.within(operation.target, at):
                raise self.busy(call, operation)


def with_etags(document: Document, etag: str) -> Document:
    """A NIC's view: its ipConfigurations carry its ETag as well."""
    configurations = [
        {**c, "etag": etag} for c in document["properties"].get("ipConfigurations") or []
    ]
    properties = {**document["properties"], "ipConfigurations": configurations}
    return {**document, "etag": etag, "properties": properties}


class PlainNetworkKind(NetworkKind):
    """Kept as given: types that the lab's network does not act on."""


class SecurityGroups(PlainNetworkKind):
    """Network security groups."""

    type = "Microsoft.Network/networkSecurityGroups"


class RouteTables(PlainNetworkKind):
    """Route tables."""

    type = "Microsoft.Network/routeTables"


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

    def complete(self, call: Call, body: Document, old: Document | None) -> Document:
        properties = body["properties"]
        properties.pop("ipConfigurations", None)
        properties.pop("resourceGuid", None)
        parent = self.azure.store.get(body["id"].rpartition("/subnets/")[0])
        assert parent is not None
        space = parent["properties"]["addressSpace"]["addressPrefixes"]
        check_inside(body, [IPv4Network(p) for p in space])
        return body

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


class PublicIPPrefixes(NetworkKind):
    """Public IP prefixes: /28 to /31, without overlap."""

    type = "Microsoft.Network/publicIPPrefixes"

    def complete(self, call: Call, body: Document, old: Document | None) -> Document:
        properties = body["properties"]
        for computed in ("publicIPAddresses", "loadBalancerFrontendIpConfiguration"):
            properties.pop(computed, None)
        length = properties.get("prefixLength")
        require_standard(body)
        if not isinstance(length, int) or not 28 <= length <= 31:
            raise errors.invalid(
                f"Invalid IP prefix length {length} was provided for {body['id']}. IP prefix "
                "length must be between 28 and 31 for IPv4.",
                code="InvalidPublicIpPrefixLength",
            )
        if old and old["properties"]["prefixLength"] != length:
            raise errors.invalid(
                f"The prefix length of {body['id']} cannot be changed once it is created.",
                code="PublicIpPrefixLengthCannotBeChanged",
            )
        properties.setdefault("publicIPAddressVersion", "IPv4")
        properties.setdefault("ipTags", [])
        properties["ipPrefix"] = str(self._allocate(body["id"], length))
        return body

    def _allocate(self, prefix_id: str, length: int) -> IPv4Network:
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
        return {**document, "properties": {**document["properties"], **extra}}


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
        properties.setdefault("publicIPAddressVersion", "IPv4")
        properties.setdefault("publicIPAllocationMethod", "Static")
        properties.setdefault("idleTimeoutInMinutes", 4)
        properties["ipAddress"] = str(
            allocate_public(self.azure, body["id"], prefix, outbound=is_outbound(body))
        )
        return body

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


class NetworkInterfaces(NetworkKind):
    """NICs that stand alone; a scale set's NICs belong to the compute provider."""

    type = "Microsoft.Network/networkInterfaces"

    def complete(self, call: Call, body: Document, old: Document | None) -> Document:
        properties = body["properties"]
        properties.pop("virtualMachine", None)
        configurations = properties.get("ipConfigurations") or []
        check_ip_configurations(self.azure, body["id"], configurations)
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
        lease_private(self.azure, configuration["id"], properties, subnet)
        properties.setdefault("privateIPAddressVersion", "IPv4")
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


class Children(Kind):
    """Children that live inside their parent's document: readable on their own."""

    tracked = False

    def __init__(self, azure: Azure, parent_type: str, word: str) -> None:
        super().__init__(azure)
        self.type = f"{parent_type}/{word}"  # type: ignore[misc]
        self._parent_type = parent_type
        self._word = word

    def _items(self, call: Call) -> list[Document]:
        parent = ids.parse(call.id.text.lower().rpartition(f"/{self._word.lower()}")[0])
        document = self.azure.store.get(parent.text)
        if document is None:
            raise self.missing(call.id.parent or call.id)
        items = self.azure.view(self._parent_type, document)["properties"].get(self._word)
        return list(items or [])

    async def get(self, call: Call) -> Answer:
        for item in self._items(call):
            if item["name"].lower() == call.id.name.lower():
                return Answer(200, copy.deepcopy(item))
        raise ArmError(404, "NotFound", f"Resource {call.id.text} not found.")

    async def list(self, call: Call) -> Answer:
        return Answer(200, {"value": self._items(call)})

    async def put(self, call: Call) -> Answer:
        raise errors.method_not_allowed("PUT", self.type)

    patch = delete = put


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


def subnet_network(subnet: Document) -> IPv4Network:
    properties = subnet["properties"]
    prefix = properties.get("addressPrefix") or (properties.get("addressPrefixes") or [""])[0]
    try:
        return IPv4Network(prefix)
    except ValueError as error:
        raise errors.invalid(
            f"Subnet '{subnet['name']}' has an invalid address prefix '{prefix}'.",
            code="InvalidAddressPrefixFormat",
        ) from error


def parse_network(text: str, owner: str) -> IPv4Network:
    """Raises ``ArmError``; the lab's networks are IPv4."""
    try:
        return IPv4Network(text)
    except ValueError as error:
        raise errors.invalid(
            f"Address prefix {text} of resource {owner} is not formatted correctly. It should "
            "follow CIDR notation, for example 10.0.0.0/24.",
            code="InvalidCIDRNotation",
        ) from error


def parse_address(text: str | None, owner: str) -> IPv4Address:
    """Raises ``ArmError``."""
    try:
        return IPv4Address(text or "")
    except ValueError as error:
        raise errors.invalid(
            f"IP configuration {owner} with static allocation has no valid private IP address: "
            f"'{text or ''}'.",
            code="PrivateIPAddressInvalid",
        ) from error


def check_inside(subnet: Document, space: list[IPv4Network]) -> None:
    """A subnet lies in its network's address space."""
    network = subnet_network({**subnet, "properties": subnet.get("properties") or {}})
    if not any(network.subnet_of(whole) for whole in space):
        raise errors.invalid(
            f"Subnet '{subnet['name']}' is not valid because its IP address range is outside "
            "the IP address range of virtual network.",
            code="NetcfgInvalidSubnet",
        )


_ITEM = re.compile(r"\w(?:[\w.-]{0,78}\w)?", re.ASCII)


def check_item_names(owner: str, section: str, items: list[Document]) -> None:
    """What lies inside a document has a good name of its own."""
    names = [str(i.get("name") or "") for i in items]
    for name in names:
        if not _ITEM.fullmatch(name):
            raise errors.invalid(
                f"Resource name '{name}' in {section} of {owner} is invalid. The name can be up to "
                "80 characters long. It must begin with a word character, and it must end with a "
                "word character or with '_'. The name may contain word characters or '.', '-', "
                "'_'.",
                code="InvalidResourceName",
            )
    if len({n.lower() for n in names}) != len(names):
        raise errors.invalid(
            f"Resource {owner} has more than one item of the same name in {section}.",
            code="DuplicateResourceName",
        )


def over_quota(error: OverQuota) -> ArmError:
    """The subscription's limit, in Azure's words."""
    return errors.invalid(
        "Cannot create more than the allowed number of public IP addresses for this subscription "
        f"in this region: {error}. Request a quota increase, or delete what is not used.",
        code="PublicIPCountLimitReached",
    )


def prefix_pool(azure: Azure, prefix: Document) -> AddressPool:
    network = IPv4Network(prefix["properties"]["ipPrefix"])
    return azure.addresses.prefix(prefix["id"], network)


def allocate_public(
    azure: Azure, owner: str, prefix_id: str | None, *, outbound: bool = False
) -> IPv4Address:
    """The address of a public IP resource, from its prefix if it has one."""
    if prefix_id is None:
        try:
            return azure.addresses.allocate_public(owner, outbound=outbound)
        except OverQuota as error:
            raise over_quota(error) from error
        except Exhausted as error:
            raise errors.invalid(
                "Cannot create more public IP addresses for this subscription in this region.",
                code="PublicIPCountLimitReached",
            ) from error
    prefix = azure.require(prefix_id, owner, PublicIPPrefixes.type)
    try:
        return prefix_pool(azure, prefix).lease(owner)
    except Exhausted as error:
        raise errors.invalid(
            f"There are no public IP addresses left in public IP prefix {prefix['id']}.",
            code="PublicIpPrefixOutOfIpAddresses",
        ) from error


def lease_private(azure: Azure, owner: str, properties: dict[str, Any], subnet: Document) -> None:
    """Gives an ipConfig or frontend its private address: the one it has, asks for, or next."""
    pool = azure.addresses.subnet(subnet["id"], subnet_network(subnet))
    static = properties.get("privateIPAllocationMethod") == "Static"
    wanted = parse_address(properties.get("privateIPAddress"), owner) if static else None
    try:
        properties["privateIPAddress"] = str(pool.lease(owner, wanted))
    except Exhausted as error:
        raise subnet_full(subnet, pool, 1) from error
    except ValueError as error:
        raise errors.invalid(
            f"Private IP address {wanted} is not available in subnet {subnet['id']}.",
            code="PrivateIPAddressInUse",
        ) from error
    properties.setdefault("privateIPAllocationMethod", "Dynamic")


def subnet_full(subnet: Document, pool: AddressPool, count: int) -> ArmError:
    """No address left for ``count`` more."""
    return errors.invalid(
        f"Subnet {subnet['name']} with address prefix {pool.network} does not have enough "
        f"capacity for {count} IP addresses.",
        code="SubnetIsFull",
    )


def check_ip_configurations(azure: Azure, nic: str, configurations: list[Document]) -> None:
    """Names, the primary, references and the limit of one NIC's ipConfigs."""
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
    if len(configurations) == 1:
        configurations[0].setdefault("properties", {}).setdefault("primary", True)
    primaries = [c for c in configurations if (c.get("properties") or {}).get("primary")]
    if len(primaries) != 1:
        raise errors.invalid(
            f"Network interface {nic} must have exactly one primary IP configuration.",
            code="NetworkInterfaceMustHaveOnePrimaryIpConfiguration",
        )
    for configuration in configurations:
        _check_references(azure, nic, configuration.setdefault("properties", {}))


def _check_references(azure: Azure, nic: str, properties: dict[str, Any]) -> None:
    subnet = one(properties, "subnet")
    if subnet is None:
        raise errors.invalid(
            f"An IP configuration of {nic} has no subnet.", code="IpConfigurationSubnetRequired"
        )
    azure.require(subnet, nic, Subnets.type)
    for pool in properties.get("loadBalancerBackendAddressPools") or []:
        azure.require(pool.get("id", ""), nic, BACKEND_POOL)
    public = properties.get("publicIPAddressConfiguration")
    if public is None:
        return
    check_item_names(nic, "publicIPAddressConfiguration", [public])
    prefix = one(public.get("properties") or {}, "publicIPPrefix")
    if prefix:
        azure.require(prefix, nic, PublicIPPrefixes.type)
