"""Microsoft.Network/loadBalancers: one document with everything inside.

A PUT replaces the whole balancer, so what a writer leaves out is gone: frontends keep their
addresses by name, pools that a scale set still refers to cannot go, and rules must refer to
what stands in the same document.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from egress_gateway_lab.azure.arm import errors, ids
from egress_gateway_lab.azure.arm.errors import ArmError
from egress_gateway_lab.azure.arm.kinds import Call, one
from egress_gateway_lab.azure.arm.store import Document
from egress_gateway_lab.azure.providers.network.interfaces import NetworkInterfaces
from egress_gateway_lab.azure.providers.network.kinds import (
    NetworkKind,
    check_item_names,
    check_zones,
)
from egress_gateway_lab.azure.providers.network.publicaddresses import check_region
from egress_gateway_lab.azure.providers.network.virtualnetworks import lease_private

MAX_RULES = 1500
"""Per Standard load balancer."""
MAX_RULES_PER_NIC = 300
"""https://learn.microsoft.com/azure/azure-resource-manager/management/azure-subscription-service-limits"""

SECTIONS = (
    "frontendIPConfigurations",
    "backendAddressPools",
    "loadBalancingRules",
    "probes",
    "inboundNatRules",
    "outboundRules",
    "inboundNatPools",
)
COMPUTED = {
    "frontendIPConfigurations": (
        "loadBalancingRules",
        "outboundRules",
        "inboundNatRules",
        "inboundNatPools",
    ),
    "backendAddressPools": (
        "backendIPConfigurations",
        "loadBalancingRules",
        "outboundRules",
        "inboundNatRules",
    ),
    "probes": ("loadBalancingRules",),
}
"""Back references that answers carry and requests may repeat; never stored."""

RULE_DEFAULTS: dict[str, Any] = {
    "idleTimeoutInMinutes": 4,
    "enableFloatingIP": False,
    "enableTcpReset": False,
    "disableOutboundSnat": False,
    "loadDistribution": "Default",
}


class LoadBalancers(NetworkKind):
    """Standard load balancers, internal and public."""

    type = "Microsoft.Network/loadBalancers"

    def complete(self, call: Call, body: Document, old: Document | None) -> Document:
        properties = body["properties"]
        body.setdefault("sku", {"name": "Standard"})
        body["sku"].setdefault("tier", "Regional")
        for section in SECTIONS:
            properties[section] = [
                self._item(body["id"], section, item) for item in properties.get(section) or []
            ]
            check_item_names(body["id"], section, properties[section])
        self._check_rules(body)
        if old:
            self._check_removed(old, body)
            _check_zones(old, body)
        for frontend in properties["frontendIPConfigurations"]:
            self._check_frontend(frontend, body["location"])
        for frontend in properties["frontendIPConfigurations"]:
            self._address(frontend)
        self._release_frontends(old, body)
        return body

    def _item(self, balancer: str, section: str, item: Document) -> Document:
        properties = {
            k: v
            for k, v in (item.get("properties") or {}).items()
            if k not in COMPUTED.get(section, ()) and v is not None
        }
        if section == "loadBalancingRules":
            properties = {**RULE_DEFAULTS, **properties}
        if section == "backendAddressPools":
            members = properties.get("loadBalancerBackendAddresses") or []
            own = [m for m in members if not _of_nic(m)]
            properties["loadBalancerBackendAddresses"] = own
        if section == "probes":
            properties = {"numberOfProbes": 1, "intervalInSeconds": 15, **properties}
        properties["provisioningState"] = "Succeeded"
        name = item.get("name") or ""
        return {
            "name": name,
            "id": f"{balancer}/{section}/{name}",
            "type": f"{self.type}/{section}",
            **{k: v for k, v in item.items() if k == "zones"},
            "properties": properties,
        }

    def _check_frontend(self, frontend: Document, location: str) -> None:
        properties = frontend["properties"]
        public, prefix = one(properties, "publicIPAddress"), one(properties, "publicIPPrefix")
        subnet = one(properties, "subnet")
        if not (public or prefix or subnet):
            raise errors.invalid(
                f"Frontend IP configuration {frontend['id']} must refer to a subnet, a public IP "
                "address or a public IP prefix.",
                code="FrontendIPConfigurationHasNoReference",
            )
        wanted = ("publicIPAddresses", "publicIPPrefixes", "virtualNetworks/subnets")
        for target, kind in zip((public, prefix, subnet), wanted, strict=True):
            if target:
                found = self.azure.require(target, frontend["id"], f"Microsoft.Network/{kind}")
                check_region(found, frontend["id"], location)
        for target in filter(None, (public, prefix)):
            users = self.azure.store.referrers(target)
            if public and any(not ids.same(u, frontend["id"]) for u in users):
                raise errors.invalid(
                    f"Resource {frontend['id']} is referencing public IP address {target} that "
                    f"is already allocated to resource {users[0]}.",
                    code="PublicIPAddressInUse",
                )

    def _address(self, frontend: Document) -> None:
        properties = frontend["properties"]
        properties.setdefault("privateIPAllocationMethod", "Dynamic")
        if public := one(properties, "publicIPAddress"):
            properties["publicIPAddress"] = {"id": public}
        subnet = one(properties, "subnet")
        if subnet:
            found = self.azure.require(subnet, frontend["id"])
            properties["subnet"] = {"id": found["id"]}
            properties.setdefault("privateIPAddressVersion", "IPv4")
            lease_private(self.azure, frontend["id"], properties, found)

    def _release_frontends(self, old: Document | None, new: Document | None) -> None:
        def frontends(document: Document | None) -> set[str]:
            items = document["properties"]["frontendIPConfigurations"] if document else []
            return {f["id"].lower() for f in items}

        for gone in frontends(old) - frontends(new):
            self.azure.addresses.release(gone)

    def _check_rules(self, body: Document) -> None:
        properties = body["properties"]
        rules = properties["loadBalancingRules"]
        if len(rules) > MAX_RULES:
            raise errors.invalid(
                f"The number of rules of load balancer {body['id']} exceeds the maximum allowed, "
                f"{MAX_RULES}.",
                code="LoadBalancingRuleCountLimitReached",
            )
        known = {i["id"].lower() for s in SECTIONS for i in properties[s]}
        for rule in [*rules, *properties["outboundRules"]]:
            for target in references_of(rule["properties"]):
                if target.lower() not in known:
                    raise errors.missing_reference(target, rule["id"])
        for rule in rules:
            check_rule(rule)
        for rule in properties["outboundRules"]:
            require_members(rule, "frontendIPConfigurations", "backendAddressPool", "protocol")
        for probe in properties["probes"]:
            check_probe(probe)
        check_ports(rules)
        self._check_rules_per_nic(rules)

    def _check_rules_per_nic(self, rules: list[Document]) -> None:
        """The rules of all pools that a NIC is in, on this balancer."""
        pools = Counter((one(r["properties"], "backendAddressPool") or "").lower() for r in rules)
        by_nic: Counter[str] = Counter()
        for pool, count in pools.items():
            members = self.azure.store.referrers(pool)
            nics = {
                m.lower().partition("/ipconfigurations/")[0]
                for m in members
                if "/ipconf" in m.lower()
            }
            for nic in nics:
                by_nic[nic] += count
        worst = max(by_nic, key=lambda nic: by_nic[nic], default="")
        if by_nic[worst] > MAX_RULES_PER_NIC:
            raise errors.invalid(
                f"The number of load balancing rules on network interface {worst} would be "
                f"{by_nic[worst]}, which exceeds the maximum allowed, {MAX_RULES_PER_NIC}.",
                code="LoadBalancingRulesPerNicLimitReached",
            )

    def _check_removed(self, old: Document, new: Document) -> None:
        kept = {p["id"].lower() for p in new["properties"]["backendAddressPools"]}
        for pool in old["properties"]["backendAddressPools"]:
            if pool["id"].lower() in kept:
                continue
            scale_set = self._scale_set_using(pool["id"])
            if scale_set:
                raise ArmError(
                    400,
                    "LoadBalancerBackendAddressPoolInUseByVirtualMachineScaleSet",
                    f"Cannot remove backend address pool {pool['name']} from load balancer since "
                    f"it is in use by virtual machine scale set {scale_set}.",
                )
            self._leave_pool(pool["id"])

    def check_delete(self, document: Document) -> None:
        for pool in document["properties"]["backendAddressPools"]:
            scale_set = self._scale_set_using(pool["id"])
            if scale_set:
                raise ArmError(
                    400,
                    "LoadBalancerInUseByVirtualMachineScaleSet",
                    f"Cannot delete load balancer {document['id']} since its child resources "
                    f"{pool['name']} are in use by virtual machine scale set {scale_set}.",
                )

    async def remove(self, document: Document) -> None:
        for pool in document["properties"]["backendAddressPools"]:
            self._leave_pool(pool["id"])
        self._release_frontends(document, None)
        await super().remove(document)

    def _scale_set_using(self, pool_id: str) -> str | None:
        for user in self.azure.store.referrers(pool_id):
            at = user.lower().find("/virtualmachinescalesets/")
            if at >= 0:
                end = user.find("/", at + len("/virtualmachinescalesets/"))
                return user if end < 0 else user[:end]
        return None

    def _leave_pool(self, pool_id: str) -> None:
        """Takes stand-alone NICs out of a pool that goes."""
        for user in self.azure.store.referrers(pool_id):
            nic_id, mark, _ = user.partition("/ipConfigurations/")
            document = self.azure.store.get(nic_id) if mark else None
            if document is None:
                continue
            new = copy.deepcopy(document)
            for configuration in new["properties"]["ipConfigurations"]:
                pools = configuration["properties"].get("loadBalancerBackendAddressPools") or []
                left = [p for p in pools if not ids.same(p["id"], pool_id)]
                configuration["properties"]["loadBalancerBackendAddressPools"] = left
            self.azure.store.put(NetworkInterfaces.type, new)

    def view(self, document: Document) -> Document:
        document = copy.deepcopy(super().view(document))
        properties = document["properties"]
        used_by: dict[str, dict[str, list[Document]]] = defaultdict(lambda: defaultdict(list))
        for section in ("loadBalancingRules", "outboundRules"):
            for rule in properties[section]:
                for target in own_references(document["id"], rule["properties"]):
                    used_by[target.lower()][section].append({"id": rule["id"]})
        for section in SECTIONS:
            for item in properties[section]:
                item["etag"] = document["etag"]
                if section in COMPUTED:
                    item["properties"].update(used_by[item["id"].lower()])
        for pool in properties["backendAddressPools"]:
            members = [
                {"id": u}
                for u in self.azure.store.referrers(pool["id"])
                if "/ipconfigurations/" in u.lower()
            ]
            if members:
                pool["properties"]["backendIPConfigurations"] = members
            pool["properties"].setdefault("loadBalancerBackendAddresses", [])
            pool["properties"]["loadBalancerBackendAddresses"] += [
                {"name": str(number), "properties": {"networkInterfaceIPConfiguration": member}}
                for number, member in enumerate(members)
            ]
        return document


def _check_zones(old: Document, new: Document) -> None:
    before = {f["name"]: f for f in old["properties"]["frontendIPConfigurations"]}
    for frontend in new["properties"]["frontendIPConfigurations"]:
        check_zones(before.get(frontend["name"]), frontend)


def _of_nic(member: Document) -> bool:
    """Whether a pool's member is there because a NIC says so: those are shown, not written."""
    return one(member.get("properties") or {}, "networkInterfaceIPConfiguration") is not None


def check_ports(rules: list[Document]) -> None:
    """No two rules share frontend and port, nor (with floating IP) pool and backend port."""
    seen: dict[tuple[Any, ...], str] = {}
    for rule in rules:
        p = rule["properties"]
        if p["enableFloatingIP"] and p.get("frontendPort") != p.get("backendPort"):
            raise errors.invalid(
                f"Load balancing rule {rule['id']} with floating IP must have the same frontend "
                "and backend port.",
                code="FloatingIPRulePortsDiffer",
            )
        protocol = str(p.get("protocol", "")).lower()
        front = (one(p, "frontendIPConfiguration") or "").lower()
        back = (one(p, "backendAddressPool") or "").lower()
        floating = front if p["enableFloatingIP"] else ""
        for key, code in (
            (("front", front, p.get("frontendPort"), protocol), _SAME_FRONTEND),
            (("back", back, p.get("backendPort"), protocol, floating), _SAME_BACKEND),
        ):
            if key in seen:
                raise errors.invalid(
                    f"Load balancing rules {seen[key]} and {rule['id']} use the same port and "
                    "protocol.",
                    code=code,
                )
            seen[key] = rule["id"]


_SAME_FRONTEND = "RulesUseSameFrontendPortProtocolAndVip"
_SAME_BACKEND = "RulesUseSameBackendPortProtocolAndPool"


def references_of(properties: Document) -> Iterator[str]:
    """Every id that a rule refers to."""
    for value in properties.values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict) and "id" in item:
                yield str(item["id"])


def require_members(item: Document, *members: str) -> None:
    """Raises ``ArmError`` if an item lacks something, or names nothing by it."""
    for member in members:
        value = item["properties"].get(member)
        named = [i.get("id") for i in value] if isinstance(value, list) else [value]
        if isinstance(value, dict):
            named = [value.get("id")]
        if not named or any(n is None or n == "" for n in named):
            raise errors.invalid(
                f"Property {member} of {item['id']} is missing.", code="MissingJsonReferenceId"
            )


def check_rule(rule: Document) -> None:
    """A load balancing rule has all that packets need."""
    require_members(
        rule, "frontendIPConfiguration", "backendAddressPool", "protocol", "frontendPort",
        "backendPort",
    )  # fmt: skip
    _check_range(rule, "frontendPort", 0, 65534)
    _check_range(rule, "backendPort", 0, 65535)
    _check_range(rule, "idleTimeoutInMinutes", 4, 100)
    _check_words(rule, "protocol", ("Tcp", "Udp", "All"))


def check_probe(probe: Document) -> None:
    """A probe says where to ask and how often."""
    require_members(probe, "protocol", "port")
    _check_range(probe, "port", 1, 65535)
    _check_range(probe, "intervalInSeconds", 5, 2147483646)
    _check_words(probe, "protocol", ("Http", "Https", "Tcp"))
    if str(probe["properties"]["protocol"]).lower() != "tcp":
        require_members(probe, "requestPath")


def _check_range(item: Document, member: str, least: int, most: int) -> None:
    value = item["properties"].get(member, least)
    if not least <= value <= most:
        raise errors.invalid(
            f"Value {value} of property {member} of {item['id']} is not between {least} and "
            f"{most}.",
            code="InvalidPropertyValue",
        )


def _check_words(item: Document, member: str, allowed: tuple[str, ...]) -> None:
    value = str(item["properties"][member])
    if value.lower() not in {a.lower() for a in allowed}:
        raise errors.invalid(
            f"Value '{value}' of property {member} of {item['id']} is not one of "
            f"{', '.join(allowed)}.",
            code="InvalidPropertyValue",
        )


def own_references(balancer: str, properties: Document) -> Iterator[str]:
    """Ids in a rule that point into its own balancer."""
    for value in properties.values():
        for item in value if isinstance(value, list) else [value]:
            target = item.get("id") if isinstance(item, dict) else None
            if isinstance(target, str) and ids.within(target, balancer):
                yield target
