"""The load balancer's document, read and rewritten: pure functions over JSON.

Rules, frontends and members that are not ours stay as they are. What is written has the Go
project's shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from egress_gateway.cloud.azure import forms
from egress_gateway.cloud.azure.requests.shapes import (
    Json,
    address_of,
    id_name,
    items_of,
    name_of,
    objects_of,
    properties_of,
    reference_of,
    writable,
)
from egress_gateway.cloud.azure.suitability import unsuitable
from egress_gateway.cloud.protocol import BalancingRule, LoadBalancer, WriteBalancer

_BACK_REFERENCES: Final = ("loadBalancingRules", "outboundRules", "inboundNatRules")


def read_balancer(document: Json | None, *, location: str = "") -> LoadBalancer:
    """``location``: the region of the gateway pools; empty: it was made there. Raises
    ``Malformed``."""
    if document is None:
        return LoadBalancer()
    forms.read(document, forms.BALANCER)
    probes = {name_of(probe): probe for probe in items_of(document, "probes")}
    rules: dict[str, BalancingRule] = {}
    ports: dict[str, set[int]] = {}
    for item in items_of(document, "loadBalancingRules"):
        rule = _read_rule(item, probes)
        rules[rule.name] = rule
        ports.setdefault(rule.pool, set()).update((rule.port, rule.backend_port))
    return LoadBalancer(
        exists=True,
        failed=properties_of(document).get("provisioningState") == "Failed",
        rules=rules,
        frontends={
            name_of(item): address_of(properties_of(item).get("privateIPAddress"))
            for item in items_of(document, "frontendIPConfigurations")
        },
        backends=frozenset(name_of(item) for item in items_of(document, "backendAddressPools")),
        ports={pool: frozenset(used) for pool, used in ports.items()},
        unusable=_unusable_balancer(document, location),
    )


def _unusable_balancer(document: Json, location: str) -> str:
    """We make it Standard, regional and where the pools are; somebody else's may be otherwise, and
    Azure changes none of that.
    https://learn.microsoft.com/azure/load-balancer/skus"""
    match unsuitable(document, location):
        case None:
            return ""
        case "region", found:
            what = f"is in region {found}, and the gateway pools are in {location}"
        case "SKU", found:
            what = f"is of SKU {found}, and gateways need one of SKU Standard"
        case _, found:
            what = f"is of tier {found}, and gateways need a Regional one"
    return (
        f"load balancer {document.get('name') or ''} {what}; delete it (we make another), or name "
        "another one in gatewayLoadBalancerName of the Azure configuration"
    )


def _read_rule(item: Json, probes: Mapping[str, Json]) -> BalancingRule:
    properties = properties_of(item)
    probe = properties_of(probes.get(id_name(reference_of(item, "probe")), {}))
    return BalancingRule(
        name=name_of(item),
        pool=id_name(reference_of(item, "backendAddressPool")),
        frontend=id_name(reference_of(item, "frontendIPConfiguration")),
        port=properties.get("frontendPort") or 0,
        backend_port=properties.get("backendPort") or 0,
        protocol=properties.get("protocol") or "",
        floating=bool(properties.get("enableFloatingIP")),
        probe_path=probe.get("requestPath") or "",
        probe_port=probe.get("port") or 0,
        probe_protocol=probe.get("protocol") or "",
        probe_interval=probe.get("intervalInSeconds") or 0,
        probe_threshold=probe.get("probeThreshold") or 1,
    )


def write_balancer(
    document: Json | None,
    action: WriteBalancer,
    *,
    balancer_id: str,
    location: str,
    subnet: str,
    zones: Sequence[str] = (),
) -> Json | None:
    """The whole document after ``action``; None when nothing is left on the load balancer."""
    result = _rewritable(document) if document else _new_balancer(balancer_id, location)
    properties: Json = result["properties"]
    for collection in ("frontendIPConfigurations", "backendAddressPools"):
        properties[collection] = objects_of(properties.get(collection))
    key = action.pool.key
    here = {r.name for r in read_balancer(document).rules.values() if r.pool == key}
    gone = here & action.names
    _replace(properties, "loadBalancingRules", gone, [_rule(r, balancer_id) for r in action.rules])
    left = {name_of(item) for item in properties["loadBalancingRules"]}
    _replace(properties, "probes", action.names - left, [_probe(r) for r in action.rules])
    if action.present:
        made: Json = {"zones": list(zones)} if zones else {}
        _ensure(properties, "frontendIPConfigurations", key, _frontend(subnet), **made)
        _ensure(properties, "backendAddressPools", key, {})
    else:
        for collection in ("frontendIPConfigurations", "backendAddressPools"):
            _replace(properties, collection, {key}, [])
    return result if properties["frontendIPConfigurations"] else None


def _new_balancer(balancer_id: str, location: str) -> Json:
    return {
        "name": id_name(balancer_id),
        "location": location,
        "sku": {"name": "Standard", "tier": "Regional"},
        "properties": {},
    }


def _replace(properties: Json, collection: str, remove: Iterable[str], add: list[Json]) -> None:
    removed = set(remove) | {name_of(item) for item in add}
    listed = (item for item in properties.get(collection) or () if item)
    kept = [item for item in listed if name_of(item) not in removed]
    properties[collection] = [*kept, *add]


def _ensure(properties: Json, collection: str, name: str, wanted: Json, **beside: Any) -> None:
    items = properties[collection]
    if not any(name_of(item) == name for item in items):
        items.append({"name": name, "properties": wanted, **beside})


def _frontend(subnet: str) -> Json:
    return {
        "privateIPAddressVersion": "IPv4",
        "privateIPAllocationMethod": "Dynamic",
        "subnet": {"id": subnet},
    }


def _rule(rule: BalancingRule, balancer_id: str) -> Json:
    return {
        "name": rule.name,
        "properties": {
            "protocol": rule.protocol,
            "frontendPort": rule.port,
            "backendPort": rule.backend_port,
            "enableFloatingIP": rule.floating,
            "frontendIPConfiguration": {
                "id": f"{balancer_id}/frontendIPConfigurations/{rule.frontend}"
            },
            "backendAddressPool": {"id": f"{balancer_id}/backendAddressPools/{rule.pool}"},
            "probe": {"id": f"{balancer_id}/probes/{rule.name}"},
        },
    }


def _probe(rule: BalancingRule) -> Json:
    return {
        "name": rule.name,
        "properties": {
            "protocol": rule.probe_protocol,
            "port": rule.probe_port,
            "requestPath": rule.probe_path,
            "intervalInSeconds": rule.probe_interval,
            "probeThreshold": rule.probe_threshold,
        },
    }


def _rewritable(document: Json) -> Json:
    result = writable(document)
    for collection in ("frontendIPConfigurations", "backendAddressPools", "probes"):
        for item in items_of(result, collection):
            for reference in _BACK_REFERENCES:
                properties_of(item).pop(reference, None)
    for item in items_of(result, "backendAddressPools"):
        # Members that are NICs join by their own ipConfig; listing them here would make the
        # pool one of addresses. Members by address (somebody else's pool) exist here alone.
        members = objects_of(properties_of(item).pop("loadBalancerBackendAddresses", None))
        if by_address := [
            m for m in members if not reference_of(m, "networkInterfaceIPConfiguration")
        ]:
            item["properties"]["loadBalancerBackendAddresses"] = by_address
    return result
