"""What others do to scale sets beside us: rollouts in place and the cloud provider's writes."""

from __future__ import annotations

import copy

from egress_gateway_lab.azure.arm import ids
from egress_gateway_lab.azure.arm.kinds import Azure
from egress_gateway_lab.azure.arm.store import Document
from egress_gateway_lab.azure.providers.compute.nics import ScaleSetNics
from egress_gateway_lab.azure.providers.compute.scalesets import Instances, ScaleSets, model_nics


def strip(azure: Azure, target: str) -> None:
    """Takes the secondary ipConfigs from the NICs of an instance, or of all instances of a scale
    set, and from no document. Recorded of AKS's rollouts: addresses were gone for twelve hours."""
    for instance in azure.store.of_type(Instances.type):
        if ids.within(instance["id"], target):
            ScaleSetNics(azure).strip(instance["id"])


def join_pool(azure: Azure, path: str, pool: str) -> None:
    """Adds a backend pool to the primary ipConfigs of the model of the scale set around ``path``;
    nothing if there is no such scale set."""
    for scale_set in azure.store.of_type(ScaleSets.type):
        if ids.within(path, scale_set["id"]):
            new = copy.deepcopy(scale_set)
            for nic in model_nics(new):
                _join(nic["properties"]["ipConfigurations"], pool)
            azure.store.put(ScaleSets.type, new)


def _join(configurations: list[Document], pool: str) -> None:
    for configuration in configurations:
        properties = configuration["properties"]
        if properties.get("primary") or len(configurations) == 1:
            pools = properties.setdefault("loadBalancerBackendAddressPools", [])
            if all(not ids.same(p["id"], pool) for p in pools):
                pools.append({"id": pool})
