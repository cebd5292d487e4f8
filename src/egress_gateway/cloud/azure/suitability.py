"""What every resource must be that gateways use: SKU Standard, tier Regional, in one region."""

from __future__ import annotations

from egress_gateway.cloud.azure.requests.shapes import Json


def unsuitable(document: Json, location: str) -> tuple[str, str] | None:
    """What of a resource is not as gateways need it, "region", "SKU" or "tier", and how it is. They
    need SKU Standard and tier Regional, in whatever case Azure spells them, in the pools' region
    (``location``; empty: unknown). What a document leaves out is so."""
    region, sku = document.get("location") or "", document.get("sku") or {}
    if location and region and _folded(region) != _folded(location):
        return "region", region
    for what, key, needed in (("SKU", "name", "Standard"), ("tier", "tier", "Regional")):
        found = sku.get(key) or needed
        if found.lower() != needed.lower():
            return what, found
    return None


def _folded(region: str) -> str:
    """Azure spells a region for people ("Sweden Central") and for programs."""
    return region.replace(" ", "").lower()
