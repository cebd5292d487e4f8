"""Documents of pools made of machines (AKS type VirtualMachines): NICs and public addresses. Pure.

A scale set makes public addresses by itself; for a machine we make one per ipConfig, as a resource
of its own. Its name is the Go project's (prefix, then a hash of the NIC's name). Two ipConfigs of a
NIC may use the same prefix, which that name cannot tell apart: the second gets one more hash.
A NIC refers to a public address by id only, so prefix and address are looked up in the addresses
that were listed: comparing names instead keeps the Go project rewriting NICs for ever.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address
from typing import Final

from egress_gateway.api import names
from egress_gateway.cloud.azure import documents, forms
from egress_gateway.cloud.azure.forms import CONFIG_TAG, POOL_TAG
from egress_gateway.cloud.azure.requests.shapes import (
    Json,
    address_of,
    any_address_of,
    group_of,
    id_name,
    items_of,
    name_of,
    properties_of,
    reference_of,
    writable,
)
from egress_gateway.cloud.protocol import (
    Address,
    Instance,
    InterfaceSpec,
    PoolRef,
    PublicAddress,
)

LONGEST_NAME: Final = 80
"""Characters: https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules
(Microsoft.Network, publicIPAddresses)."""
_HASH: Final = 17
"""Characters of a hash with the hyphen before it, at most."""
_FNV_OFFSET: Final = 0xCBF29CE484222325
_FNV_PRIME: Final = 0x100000001B3
_NAMESPACE: Final = uuid.UUID(names.VM_POOL_NAMESPACE)


def pool_key(name: str) -> str:
    """What a pool of machines is called on the load balancer."""
    return str(uuid.uuid3(_NAMESPACE, name))


def fnv1a(text: str) -> str:
    """FNV-1a of 64 bits, in hexadecimal digits without leading zeros."""
    value = _FNV_OFFSET
    for byte in text.encode():
        value = ((value ^ byte) * _FNV_PRIME) & 0xFFFFFFFFFFFFFFFF
    return f"{value:x}"


def address_name(prefix: str, nic: str) -> str:
    """Name of the public address of ``nic`` from the prefix with this name."""
    return _named(prefix, fnv1a(nic))


def spare_name(prefix: str, nic: str, config: str) -> str:
    """The same when another ipConfig of the NIC has that name already."""
    return _named(prefix, fnv1a(nic), fnv1a(config))


def _named(prefix: str, *hashes: str) -> str:
    """A prefix's name may be as long as any: then its hash stands for its end."""
    room = LONGEST_NAME - len(hashes) * _HASH
    if len(prefix) > room:
        prefix = f"{prefix[: room - _HASH]}-{fnv1a(prefix)}"
    return "-".join((prefix, *hashes))


# --- reading ---------------------------------------------------------------------------------


def gateway_pool(nic: Json) -> str:
    """Name of the gateway pool that a NIC belongs to; empty if to none."""
    tags = nic.get("tags") or {}
    return tags.get(names.POOL_NAME_TAG) or "" if names.GATEWAY_NIC_TAG in tags else ""


def read_pools(nics: Iterable[Json]) -> list[PoolRef]:
    """The pools that NICs say they belong to. Raises ``Malformed`` if one does not tell."""
    by_pool: dict[str, list[Json]] = {}
    for nic in nics:
        if name := gateway_pool(forms.read(nic, forms.TAGGED)):
            by_pool.setdefault(name, []).append(nic)
    return [read_pool(name, members) for name, members in by_pool.items()]


def read_pool(name: str, nics: list[Json]) -> PoolRef:
    """One pool of at least one NIC."""
    unread = None
    try:
        forms.listed(nics, forms.NIC)
    except forms.Malformed as error:
        nics, unread = [documents.bare(nic) for nic in nics], error
    sizes = (documents.prefix_size(nic.get("tags") or {}) for nic in nics)
    return PoolRef(
        key=pool_key(name),
        name=name,
        resource_id=nics[0]["id"],
        resource_group=group_of(nics[0]["id"]),
        resource_name=name,
        prefix_size=next(filter(None, sizes), None),
        subnet=next((s for nic in nics if (s := documents.subnet_of([nic]))), ""),
        kind="machines",
        traces=frozenset(name_of(c) for nic in nics for c in _ours(nic)),
        unread=unread,
    )


def _ours(nic: Json) -> list[Json]:
    configs = items_of(nic, "ipConfigurations")
    return [c for c in configs if name_of(c).startswith(names.MANAGED_PREFIX)]


def read_machine(nic: Json, publics: Mapping[str, Json], backend_id: str) -> Instance:
    """``publics`` are public addresses by id in lower case."""
    configs = items_of(nic, "ipConfigurations")
    machine = reference_of(nic, "virtualMachine")
    return Instance(
        id=nic["id"],
        name=id_name(machine) if machine else nic["name"],
        provider_id=f"azure://{machine}" if machine else "",
        state=properties_of(nic).get("provisioningState") or "",
        interface=InterfaceSpec(
            configs={name_of(c): _prefix_of(c, publics) for c in _ours(nic)},
            joined=documents.joins(documents.primary(configs), backend_id),
            others=len(configs) - len(_ours(nic)),
            others6=documents.foreign_ipv6(configs),
        ),
        primary=_private(documents.primary(configs)),
        addresses={name_of(c): _addresses(c, publics) for c in _ours(nic)},
    )


def _public(config: Json, publics: Mapping[str, Json]) -> Json | None:
    return publics.get(reference_of(config, "publicIPAddress").lower())


def _prefix_of(config: Json, publics: Mapping[str, Json]) -> str | None:
    """None in private mode; empty for a public address of no prefix that we know."""
    if not reference_of(config, "publicIPAddress"):
        return None
    return reference_of(_public(config, publics) or {}, "publicIPPrefix").lower()


def _private(config: Json | None) -> IPv4Address | None:
    return address_of(properties_of(config or {}).get("privateIPAddress"))


def _addresses(config: Json, publics: Mapping[str, Json]) -> Address:
    public = properties_of(_public(config, publics) or {}).get("ipAddress")
    private = properties_of(config).get("privateIPAddress")
    return Address(secondary=any_address_of(private), public=any_address_of(public or None))


def summary(machines: Iterable[Instance]) -> InterfaceSpec:
    """What a scale set's model would say: the union of the NICs' ipConfigs."""
    listed = list(machines)
    configs = {name: prefix for m in listed for name, prefix in m.interface.configs.items()}
    return InterfaceSpec(
        configs=configs,
        joined=any(m.interface.joined for m in listed),
        others=max((m.interface.others for m in listed), default=0),
        others6=max((m.interface.others6 for m in listed), default=0),
    )


def read_publics(
    pool: PoolRef, nics: Collection[Json], addresses: Iterable[Json]
) -> tuple[PublicAddress, ...]:
    """The public addresses that were made for the NICs of ``pool``, by tag or by name."""
    holders = {
        reference_of(config, "publicIPAddress").lower(): name_of(config)
        for nic in nics
        for config in _ours(nic)
    }
    ids = {nic["name"]: nic["id"] for nic in nics}
    return tuple(made for item in addresses if (made := _read_public(item, pool.key, ids, holders)))


def _read_public(
    item: Json, key: str, ids: Mapping[str, str], holders: Mapping[str, str]
) -> PublicAddress | None:
    """``ids`` of NICs by name. What is of no prefix is ours by its tag alone: somebody took the
    prefix out of what we wrote."""
    prefix = reference_of(item, "publicIPPrefix")
    tags = item.get("tags") or {}
    if tags.get(POOL_TAG, key if prefix else "") != key:
        return None
    name = id_name(prefix)
    nic = next((i for of, i in ids.items() if _is_named(item, name, of)), "")
    if POOL_TAG not in tags and not nic:
        return None
    made_for = tags.get(CONFIG_TAG) or (name if name.startswith(names.MANAGED_PREFIX) else "")
    holder = holders.get(item["id"].lower())
    return PublicAddress(
        name=name_of(item),
        prefix=prefix.lower(),
        instance=nic,
        config=holder or made_for,
        attached=bool(holder or reference_of(item, "ipConfiguration")),
        state=properties_of(item).get("provisioningState") or "Succeeded",
    )


def _is_named(item: Json, prefix: str, nic: str) -> bool:
    """Whether a public address has a name that we, or the Go project, give one of ``nic``."""
    found = name_of(item)
    return found == address_name(prefix, nic) or found.startswith(
        spare_name(prefix, nic, "").removesuffix(fnv1a(""))
    )


# --- writing ---------------------------------------------------------------------------------


def address_for(
    config: str, prefix: str, nic: Json, publics: Mapping[str, Json], claimed: Iterable[str]
) -> tuple[str, Json | None]:
    """Name and document of the public address from ``prefix`` for an ipConfig: what it has, what
    an earlier try has left, or (no document) the name of one to be made. ``claimed`` are names
    that other ipConfigs of the NIC get in the same write."""
    for item in _ours(nic):
        held = _public(item, publics)
        if name_of(item) == config and held and _from(held, prefix):
            return held["name"], held
    known = {name_of(item): item for item in publics.values()}
    plain = address_name(id_name(prefix), nic["name"])
    spare = spare_name(id_name(prefix), nic["name"], config)
    for name in (plain, spare):
        found = known.get(name)
        if name in claimed or (found and not _free(found, prefix, config)):
            continue
        return name, found
    return spare, known.get(spare)


def _from(public: Json, prefix: str) -> bool:
    return reference_of(public, "publicIPPrefix").lower() == prefix.lower()


def _free(public: Json, prefix: str, config: str) -> bool:
    made_for = (public.get("tags") or {}).get(CONFIG_TAG, config)
    attached = reference_of(public, "ipConfiguration")
    return _from(public, prefix) and made_for == config and not attached


def written_again(address: Json) -> Json:
    """The write that mends a public address whose last write has failed. It keeps what somebody
    has added to it (a DNS name, protection)."""
    result = writable(address)
    for told in ("ipAddress", "ipConfiguration"):  # Azure's to say
        properties_of(result).pop(told, None)
    return result


def new_address(name: str, prefix: str, *, location: str, pool: str, config: str) -> Json:
    """A public address to be made from ``prefix`` (its id), tagged with the pool and ipConfig that
    it is for."""
    return {
        "name": name,
        "location": location,
        "sku": {"name": "Standard", "tier": "Regional"},
        "tags": {POOL_TAG: pool, CONFIG_TAG: config},
        "properties": {
            "publicIPAddressVersion": documents.ip_version(config),
            "publicIPAllocationMethod": "Static",
            "publicIPPrefix": {"id": prefix},
        },
    }


def write_nic(
    nic: Json,
    *,
    configs: Mapping[str, str | None],
    owned: Iterable[str],
    joined: bool,
    backend_id: str,
) -> Json:
    """The NIC with our ipConfigs exactly ``configs`` (name → id of the public address). One that
    is there keeps its private address: only its public one is exchanged."""
    result: Json = writable(nic)
    mine = set(owned)
    existing = items_of(result, "ipConfigurations")
    kept = [c for c in existing if name_of(c) not in mine or name_of(c) in configs]
    for config in kept:
        if name_of(config) in mine:
            _set_public(config, configs[name_of(config)])
    present = {name_of(config) for config in kept}
    subnet = documents.subnet_of([nic])
    for name, public in configs.items():
        if name not in present:
            kept.append(_ip_config(name, public, documents.needed_subnet(subnet, nic["name"])))
    head = documents.primary(c for c in kept if name_of(c) not in mine) or documents.primary(kept)
    if head is not None:
        documents.set_joined(head, backend_id, joined)
    result["properties"]["ipConfigurations"] = documents.flagged(kept)
    return result


def _set_public(config: Json, public: str | None) -> None:
    properties = config.setdefault("properties", {})
    if public is None:
        properties.pop("publicIPAddress", None)
    elif reference_of(config, "publicIPAddress").lower() != public.lower():
        properties["publicIPAddress"] = {"id": public}


def _ip_config(name: str, public: str | None, subnet: str) -> Json:
    properties: Json = {
        "primary": False,
        "privateIPAddressVersion": documents.ip_version(name),
        "subnet": {"id": subnet},
    }
    if public:
        properties["publicIPAddress"] = {"id": public}
    return copy.deepcopy({"name": name, "properties": properties})
