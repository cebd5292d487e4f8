"""Documents of gateway pools and prefixes, read and rewritten: pure functions over JSON.

Everything that we do not own (other people's ipConfigs, fields unknown to us) is carried
through as it is. Reading is liberal (case of ids, absent fields), writing is exactly the Go
project's shape.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_network
from typing import Any, Final

from egress_gateway.api import names
from egress_gateway.api.validation import PREFIX_SIZES
from egress_gateway.cloud import errors
from egress_gateway.cloud.azure import forms
from egress_gateway.cloud.azure.requests.shapes import (
    Json,
    address_of,
    any_address_of,
    group_of,
    id_name,
    items_of,
    name_of,
    objects_of,
    properties_of,
    reference_of,
    same_id,
    strings_of,
)
from egress_gateway.cloud.azure.suitability import unsuitable
from egress_gateway.cloud.protocol import (
    Address,
    Instance,
    InterfaceSpec,
    PoolRef,
    Prefix,
)

_SIZES: Final = frozenset(map(str, PREFIX_SIZES))
_OF_AKS: Final = names.POOL_NAME_TAG.removesuffix("poolName")
"""What tags begin with that AKS gives its scale sets; users' own tags cannot
(https://learn.microsoft.com/azure/aks/use-tags)."""


# --- NIC configurations of models and instances ----------------------------------------------


def primary(items: Iterable[Json]) -> Json | None:
    """The primary one of NIC configurations or ipConfigs: the one that says so, else the only one
    that does not deny it. A scale set made by hand flags none (``az vmss create``)."""
    flags = [(item, properties_of(item).get("primary")) for item in items]
    for item, flag in flags:
        if flag:
            return item
    possible = [item for item, flag in flags if flag is not False]
    if len(possible) == 1:
        return possible[0]
    return flags[0][0] if len(flags) == 1 else None


def flagged(configs: list[Json]) -> list[Json]:
    """ipConfigs as Azure takes them: of several, one is marked as primary (else 400
    ``VMScaleSetNetworkInterfaceConfigurationMustHaveOneIpConfigAsPrimary``)."""
    head = primary(configs) or primary(
        c for c in configs if not name_of(c).startswith(names.MANAGED_PREFIX)
    )
    if len(configs) > 1 and head is not None:
        head.setdefault("properties", {})["primary"] = True
    return configs


def needed_subnet(subnet: str, owner: str) -> str:
    """``subnet``; raises ``Failed`` for none: Azure would be asked for an address of nowhere."""
    if subnet:
        return subnet
    raise errors.Failed(
        f"{owner} has no primary ipConfig with a subnet, so no ipConfig can be added to it",
        code="SubnetUnknown",
        hint="mark one ipConfig as primary, and give it a subnet",
    )


def read_interface(nics: list[Json], backend_id: str) -> InterfaceSpec:
    """What we have on the primary NIC of a model or an instance, and how much others have."""
    nic = primary(nics)
    if nic is None:
        return InterfaceSpec()
    configs = items_of(nic, "ipConfigurations")
    ours = [c for c in configs if name_of(c).startswith(names.MANAGED_PREFIX)]
    return InterfaceSpec(
        configs={name_of(c): _prefix_of(c) for c in ours},
        joined=joins(primary(configs), backend_id),
        others=len(configs) - len(ours),
        others6=foreign_ipv6(configs),
    )


def foreign_ipv6(configs: Iterable[Json]) -> int:
    """How many ipConfigs of IPv6 are not ours."""
    versions = (
        properties_of(c).get("privateIPAddressVersion")
        for c in configs
        if not name_of(c).startswith(names.MANAGED_PREFIX)
    )
    return sum(version == "IPv6" for version in versions)


def _prefix_of(config: Json) -> str | None:
    public = properties_of(config).get("publicIPAddressConfiguration")
    if not public:
        return None
    return (((public.get("properties") or {}).get("publicIPPrefix") or {}).get("id") or "").lower()


def joins(config: Json | None, backend_id: str) -> bool:
    """Whether an ipConfig is in the load balancer's backend pool."""
    pools = items_of(config or {}, "loadBalancerBackendAddressPools")
    return any(same_id(pool.get("id") or "", backend_id) for pool in pools)


def subnet_of(nics: list[Json]) -> str:
    """Id of the subnet of the primary ipConfig."""
    nic = primary(nics)
    config = primary(items_of(nic, "ipConfigurations")) if nic else None
    return reference_of(config, "subnet") if config else ""


def write_interface(
    nics: list[Json],
    *,
    configs: Mapping[str, str | None],
    owned: Iterable[str],
    joined: bool,
    backend_id: str,
    owner: str = "",
) -> list[Json]:
    """NIC configurations with our ipConfigs exactly ``configs``; order and the rest stay.
    ``owner`` names the document in an error. Raises ``Failed`` if there is no subnet to be in."""
    result: list[Json] = copy.deepcopy(nics)
    nic = primary(result)
    if nic is None:
        return result
    existing = items_of(nic, "ipConfigurations")
    subnet = subnet_of(result)
    mine = set(owned)
    kept = [c for c in existing if name_of(c) not in mine or _as_wanted(c, configs)]
    present = {name_of(c) for c in kept}
    added = [
        _ip_config(name, prefix, needed_subnet(subnet, owner))
        for name, prefix in configs.items()
        if name not in present
    ]
    head = primary(kept)
    if head is not None:
        set_joined(head, backend_id, joined)
    nic["properties"]["ipConfigurations"] = flagged([*kept, *added])
    return result


def _as_wanted(config: Json, configs: Mapping[str, str | None]) -> bool:
    name = name_of(config)
    if name not in configs:
        return False
    wanted = configs[name]
    return (wanted.lower() if wanted else None) == _prefix_of(config)


def set_joined(config: Json, backend_id: str, joined: bool) -> None:
    """Puts an ipConfig into the backend pool or takes it out; other pools stay."""
    properties = config.setdefault("properties", {})
    pools = items_of(config, "loadBalancerBackendAddressPools")
    others = [p for p in pools if not same_id(p.get("id") or "", backend_id)]
    if joined:
        already = [p for p in pools if same_id(p.get("id") or "", backend_id)]
        properties["loadBalancerBackendAddressPools"] = (
            [*others, *already[:1]]
            if already
            else [
                *others,
                {"id": backend_id},
            ]
        )
    elif pools:
        properties["loadBalancerBackendAddressPools"] = others


def _ip_config(name: str, prefix: str | None, subnet: str) -> Json:
    properties: Json = {
        "primary": False,
        "privateIPAddressVersion": ip_version(name),
        "subnet": {"id": subnet},
    }
    if prefix:
        public: Json = {"publicIPPrefix": {"id": prefix}}
        if names.is_ipv6_config(name):
            public["publicIPAddressVersion"] = "IPv6"
        properties["publicIPAddressConfiguration"] = {"name": name, "properties": public}
    return {"name": name, "properties": properties}


def ip_version(config: str) -> str:
    """Of a managed ipConfig, as Azure spells it."""
    return "IPv6" if names.is_ipv6_config(config) else "IPv4"


# --- pools, instances, prefixes --------------------------------------------------------------


def model_nics(scale_set: Json) -> list[Json]:
    """The NICs of a scale set's model (virtualMachineProfile)."""
    profile = properties_of(scale_set).get("virtualMachineProfile") or {}
    network = profile.get("networkProfile") or {}
    return objects_of(network.get("networkInterfaceConfigurations"))


def instance_nics(instance: Json) -> list[Json]:
    """The NICs of one instance as it was written; the NIC resources may differ."""
    network = properties_of(instance).get("networkProfileConfiguration") or {}
    return objects_of(network.get("networkInterfaceConfigurations"))


def known_pool(scale_set: Json) -> PoolRef:
    """As ``read_pool``; a document that makes no sense is the pool's own trouble."""
    try:
        return read_pool(scale_set)
    except forms.Malformed as error:
        found = read_pool(bare(scale_set))
        return replace(found, key=found.key or found.resource_id.lower(), unread=error)


def bare(document: Json) -> Json:
    """What of a document tells whose it is, as far as it makes sense."""
    properties = document.get("properties")
    unique = properties.get("uniqueId") if isinstance(properties, dict) else None
    kept = {"id": document["id"], "name": id_name(document["id"])}
    kept["properties"] = {"uniqueId": unique} if isinstance(unique, str) else {}
    try:
        forms.read({"tags": document.get("tags")}, forms.TAGGED)
    except forms.Malformed:
        return kept
    return kept | {"tags": document.get("tags")}


def read_pool(scale_set: Json) -> PoolRef:
    """Raises ``Malformed``."""
    forms.read(scale_set, forms.SCALE_SET)
    tags = scale_set.get("tags") or {}
    nics = model_nics(scale_set)
    subnet = subnet_of(nics)
    return PoolRef(
        key=properties_of(scale_set).get("uniqueId") or "",
        name=tags.get(names.POOL_NAME_TAG) or "",
        resource_id=scale_set["id"],
        resource_group=group_of(scale_set["id"]),
        resource_name=name_of(scale_set) or id_name(scale_set["id"]),
        prefix_size=prefix_size(tags),
        subnet=subnet,
        unusable=_unusable_set(scale_set, subnet),
        zones=strings_of(scale_set.get("zones")),
        traces=frozenset(read_interface(nics, "").configs),
        machines=f"azure://{scale_set['id']}/virtualMachines/".lower(),
        managed=any(tag.lower().startswith(_OF_AKS.lower()) for tag in tags),
        rolling=(properties_of(scale_set).get("upgradePolicy") or {}).get("mode", "Manual")
        != "Manual",
    )


def prefix_size(tags: Mapping[str, Any]) -> int | None:
    """What a gateway pool's tag says; None for none, and for what no gateway pool has."""
    size = str(tags.get(names.POOL_PREFIX_SIZE_TAG) or "")
    return int(size) if size in _SIZES else None


def _unusable_set(scale_set: Json, subnet: str) -> str:
    mode = properties_of(scale_set).get("orchestrationMode") or "Uniform"
    if mode != "Uniform":
        return (
            f"is a scale set of orchestration {mode}, whose machines have network interfaces of "
            "their own; use one of orchestration Uniform (az vmss create --orchestration-mode "
            "Uniform)"
        )
    if not subnet:
        return (
            "has no primary ipConfig with a subnet in its scale set's model; mark one as primary "
            "and give it a subnet (az vmss update)"
        )
    return ""


def read_instance(
    instance: Json, interface: Json | None, publics: Mapping[str, str], backend_id: str
) -> Instance:
    """``interface`` is the instance's primary NIC; ``publics`` maps the id (lower case) of a
    public IP address to the address. Raises ``Malformed``."""
    forms.read(instance, forms.INSTANCE)
    configs = items_of(interface or {}, "ipConfigurations")
    head = primary(configs)
    interface_spec = read_interface(instance_nics(instance), backend_id)
    if head is not None and not joins(head, backend_id):
        # What counts is the network interface: a rollout may strip it and leave the document.
        interface_spec = replace(interface_spec, joined=False)
    return Instance(
        id=instance["id"],
        name=instance.get("name") or id_name(instance["id"]),
        base=instance,
        provider_id="azure://" + instance["id"],
        state=properties_of(instance).get("provisioningState") or "",
        interface=interface_spec,
        primary=address_of(properties_of(head or {}).get("privateIPAddress")),
        addresses={
            name_of(c): _addresses(c, publics)
            for c in configs
            if name_of(c).startswith(names.MANAGED_PREFIX)
        },
    )


def _addresses(config: Json, publics: Mapping[str, str]) -> Address:
    public = reference_of(config, "publicIPAddress").lower()
    return Address(
        secondary=any_address_of(properties_of(config).get("privateIPAddress")),
        public=any_address_of(publics.get(public)),
    )


def managed_prefix(document: Json) -> Prefix:
    """As ``read_prefix``, of one that we made; a document that makes no sense is its own trouble:
    what it is of it is not known, but that it exists."""
    try:
        return read_prefix(document)
    except forms.Malformed as error:
        here = document["id"]
        return Prefix(id=here, name=id_name(here), size=0, used=True, unread=error)


def read_prefix(document: Json, *, location: str = "") -> Prefix:
    """``location``: the region of the gateway pools; empty: it was made there. Raises
    ``Malformed``."""
    properties = properties_of(forms.read(document, forms.PREFIX))
    network = properties.get("ipPrefix")
    return Prefix(
        id=document["id"],
        name=document.get("name") or id_name(document["id"]),
        size=int(properties.get("prefixLength") or 0),
        network=ip_network(network) if network else None,
        state=properties.get("provisioningState") or "Succeeded",
        used=bool(properties.get("publicIPAddresses")),
        zones=strings_of(document.get("zones")),
        unusable=_unusable_prefix(document, location),
    )


def _unusable_prefix(document: Json, location: str) -> str:
    """Source: https://learn.microsoft.com/azure/virtual-network/ip-services/public-ip-address-prefix
    (region; SKU Standard for scale sets and network interfaces; tier Global for load balancers
    across regions)."""
    match unsuitable(document, location):
        case None:
            return ""
        case "region", found:
            return (
                f"is in region {found}, and the gateway pools are in {location}; use a prefix of "
                "that region"
            )
        case "SKU", found:
            return (
                f"has the SKU {found}, and gateway nodes take addresses of SKU Standard; use such "
                "one"
            )
        case _, found:
            return f"has the tier {found}, and gateway nodes take Regional addresses; use such one"


def new_prefix(name: str, size: int, location: str, zones: Sequence[str] = ()) -> Json:
    """A public IPv4 prefix to be made; ``size`` is its prefix length in bits."""
    made: Json = {"zones": list(zones)} if zones else {}
    return made | {
        "name": name,
        "location": location,
        "sku": {"name": "Standard", "tier": "Regional"},
        "properties": {"prefixLength": size, "publicIPAddressVersion": "IPv4"},
    }
