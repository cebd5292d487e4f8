"""The emulator's resources as plain documents, and back.

What is written is what ARM would answer, so a state recorded elsewhere (a cluster that another
controller has managed, say) can be loaded as well. Addresses that documents carry are leased
again to those who have them; a document that contradicts another is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Any

from egress_gateway_lab.azure.arm import ids
from egress_gateway_lab.azure.arm.kinds import Azure, one
from egress_gateway_lab.azure.arm.store import Document, Entry
from egress_gateway_lab.azure.providers.compute.scalesets import Instances, ScaleSets
from egress_gateway_lab.azure.providers.network.loadbalancers import COMPUTED, LoadBalancers
from egress_gateway_lab.azure.providers.network.publicaddresses import PublicIPPrefixes, prefix_pool
from egress_gateway_lab.azure.providers.network.virtualnetworks import subnet_network
from egress_gateway_lab.azure.providers.resources import GROUP

_UNDER_WAY = ("Creating", "Updating")
"""States of operations that nobody would end: a snapshot holds resources, not operations."""
_READ_ONLY = ("publicIPAddresses", "loadBalancerFrontendIpConfiguration")


def stored_type(resource_id: str) -> str:
    """The type under which the store keeps a resource."""
    kind = ids.parse(resource_id).type
    return GROUP if kind.lower() == "microsoft.resources/subscriptions/resourcegroups" else kind


def dump(azure: Azure) -> list[Document]:
    """All resources, ready for ``load``; role assignments too, principals not."""
    return [copy.deepcopy(e.document) for e in azure.store.everything()]


def load(azure: Azure, documents: Iterable[Document]) -> None:
    """Adds resources as they are; raises ``ValueError`` for an address held twice."""
    loaded = sorted(copy.deepcopy(list(documents)), key=lambda d: _order(stored_type(d["id"])))
    for document in loaded:
        kind = stored_type(document["id"])
        document.setdefault("properties", {})
        document.pop("etag", None)
        _prepare(azure, kind, document)
        azure.store.put(kind, document)
    for document in loaded:
        _lease(azure, document)


def restore(azure: Azure, entries: Iterable[Entry]) -> None:
    """Puts back what the store held, ETags included, in its order."""
    kept = list(entries)
    for entry in kept:
        document = {k: v for k, v in entry.document.items() if k != "_started"}
        azure.store.put(entry.type, document, etag=entry.etag)
        if entry.type == PublicIPPrefixes.type:
            network = ip_network(document["properties"]["ipPrefix"])
            azure.addresses.claim_prefix(document["id"], network)
    for entry in kept:
        _lease(azure, entry.document)


def _order(kind: str) -> int:
    """Subnets and prefixes first: addresses are leased from them."""
    early = (GROUP.lower(), "/virtualnetworks", "/publicipprefixes", "/virtualmachinescalesets")
    lower = kind.lower()
    return next((i for i, word in enumerate(early) if lower.endswith(word)), len(early))


def _prepare(azure: Azure, kind: str, document: Document) -> None:
    properties = document["properties"]
    if properties.get("provisioningState") in _UNDER_WAY:
        properties["provisioningState"] = "Succeeded"
    if kind == ScaleSets.type:
        document.setdefault("_model", 1)
        document.setdefault("_next", int(document["sku"]["capacity"]))
    if kind == Instances.type:
        document.setdefault("_model", 1)
        for computed in ("latestModelApplied", "modelDefinitionApplied"):
            properties.pop(computed, None)
        scale_set = ids.parse(document["id"]).parent
        owner = copy.deepcopy(azure.store.get(scale_set.text)) if scale_set else None
        if owner is not None:
            owner["_next"] = max(owner["_next"], int(document["instanceId"]) + 1)
            azure.store.put(ScaleSets.type, owner)
    if kind == PublicIPPrefixes.type:
        for computed in _READ_ONLY:
            properties.pop(computed, None)
        network = ip_network(properties["ipPrefix"])
        azure.addresses.claim_prefix(document["id"], network)
    if kind == LoadBalancers.type:
        _prepare_balancer(properties)


def _prepare_balancer(properties: dict[str, Any]) -> None:
    for section in ("inboundNatRules", "outboundRules", "inboundNatPools", *COMPUTED):
        for item in properties.setdefault(section, []):
            for computed in COMPUTED.get(section, ()):
                item["properties"].pop(computed, None)
    properties.setdefault("loadBalancingRules", [])


def _lease(azure: Azure, document: Document) -> None:
    properties = document["properties"]
    configurations = properties.get("ipConfigurations")
    if isinstance(configurations, list):
        for configuration in configurations:
            _lease_private(azure, configuration)
    for frontend in properties.get("frontendIPConfigurations") or []:
        _lease_private(azure, frontend)
    address = properties.get("ipAddress")
    if address:
        prefix = azure.store.get(one(properties, "publicIPPrefix") or "")
        if prefix is not None:
            prefix_pool(azure, prefix).lease(document["id"], ip_address(address))
        else:
            azure.addresses.claim_public(document["id"], ip_address(address))


def _lease_private(azure: Azure, item: Document) -> None:
    properties = item.get("properties") or {}
    subnet = azure.store.get(one(properties, "subnet") or "")
    address = properties.get("privateIPAddress")
    if subnet is not None and address:
        version = properties.get("privateIPAddressVersion") or "IPv4"
        pool = azure.addresses.subnet(subnet["id"], subnet_network(subnet, version))
        pool.lease(item["id"], ip_address(address))
