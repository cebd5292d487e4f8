"""What of AKS the lab makes a cluster of. What would be another network, or other machines, is
refused: a person who rehearses with it would learn what is not so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Final

from egress_gateway_lab.azure.arm.errors import invalid, not_modelled
from egress_gateway_lab.azure.providers.network.kinds import ZONES

_NETWORK: Final = {
    "networkPlugin": ("azure",),
    "networkPluginMode": ("overlay",),
    "networkPolicy": ("none", ""),
    "networkDataplane": ("azure",),
    "loadBalancerSku": ("standard",),
    "outboundType": ("loadbalancer",),
}
"""Members of a network profile, and what they may be (AKS does not mind the case)."""
_POOL: Final = {
    "osType": ("linux",),
    "scaleSetPriority": ("regular", ""),
    "enableNodePublicIP": ("false",),
    "enableAutoScaling": ("false",),
}
_VM_SIZE: Final = re.compile(r"standard_[a-z]{1,4}\d+[a-z0-9_-]*", re.IGNORECASE)
_PODS: Final = range(10, 251)
_LABEL: Final = re.compile(r"([a-z0-9.-]{1,253}/)?[\w]([\w.-]{0,61}\w)?", re.ASCII)
_RESERVED: Final = "kubernetes.azure.com/"
"""https://learn.microsoft.com/azure/aks/use-labels#reserved-system-labels"""


def check_network(network: Mapping[str, Any]) -> None:
    """Raises ``ArmError`` for a network that the lab does not model, or that cannot be."""
    _only(network, _NETWORK, "networkProfile")
    pods, services = (IPv4Network(network[name]) for name in ("podCidr", "serviceCidr"))
    if pods.overlaps(services):
        raise invalid(
            f"The podCidr {pods} and the serviceCidr {services} overlap.",
            target="networkProfile.serviceCidr",
        )
    if IPv4Address(network["dnsServiceIP"]) not in services:
        raise invalid(
            f"The dnsServiceIP {network['dnsServiceIP']} is not in the serviceCidr {services}.",
            target="networkProfile.dnsServiceIP",
        )


def check_machines(name: str, pool: Mapping[str, Any]) -> None:
    """Raises ``ArmError`` for a pool of machines that the lab does not model, or that cannot be."""
    _only(pool, _POOL, f"agentPoolProfile ({name})")
    size, pods = str(pool["vmSize"]), pool["maxPods"]
    if not _VM_SIZE.fullmatch(size):
        raise invalid(
            f"The VM size of {size} is not allowed in your subscription.",
            code="BadRequest",
            target="agentPoolProfile.vmSize",
        )
    if pods not in _PODS:
        raise invalid(
            f"The value of parameter agentPoolProfile.maxPods is invalid: {pods} is not between "
            f"{_PODS[0]} and {_PODS[-1]}.",
            target="agentPoolProfile.maxPods",
        )
    if not ZONES.issuperset(zones := pool.get("availabilityZones") or ()):
        raise invalid(
            f"Availability zones {', '.join(zones)} of node pool {name} are not supported: there "
            "are 1, 2 and 3.",
            code="AvailabilityZoneNotSupported",
            target="agentPoolProfile.availabilityZones",
        )
    for key in pool.get("nodeLabels") or ():
        if not _LABEL.fullmatch(key) or key.startswith(_RESERVED):
            raise invalid(
                f"The value of parameter agentPoolProfile.nodeLabels is invalid: the key '{key}' "
                "is no label, or is reserved.",
                target="agentPoolProfile.nodeLabels",
            )


def _only(given: Mapping[str, Any], allowed: Mapping[str, tuple[str, ...]], where: str) -> None:
    for member, values in allowed.items():
        if (value := given.get(member)) is not None and str(value).lower() not in values:
            raise not_modelled(f"{where}.{member} '{value}'", f"'{values[0]}'")
