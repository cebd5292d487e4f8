"""Specifications of configurations that schema and CEL rules refuse, the same for every judge: the
lab's evaluator, the embedded API server, and kube-apiserver."""

from __future__ import annotations

from typing import Any, Final

PREFIX: Final = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Network/publicIPPrefixes/p"
_POOL: Final = {"gatewayNodepoolName": "np"}
_SCALE_SET: Final = {"vmssResourceGroup": "rg", "vmssName": "v", "publicIpPrefixSize": 30}

BAD_SPECS: Final[list[tuple[dict[str, Any], str, str]]] = [
    ({}, "spec", "neither gatewayNodepoolName nor gatewayVmssProfile is set"),
    ({}, "spec", "name the gateway node pool, or the scale set"),
    ({"gatewayNodepoolName": "", "gatewayVmssProfile": {}}, "spec", "name the gateway node"),
    ({"gatewayNodepoolName": 5}, "spec.gatewayNodepoolName", "must be of type string"),
    (_POOL | {"gatewayVmssProfile": {"vmssName": "v"}}, "spec", "keep one of the two"),
    (_POOL | {"gatewayVmssProfile": _SCALE_SET}, "spec", "keep one of the two"),
    (
        {"gatewayVmssProfile": {"vmssName": "v", "publicIpPrefixSize": 30}},
        "spec.gatewayVmssProfile",
        "name the scale set's resource group",
    ),
    (
        {"gatewayVmssProfile": {"vmssResourceGroup": "rg", "publicIpPrefixSize": 30}},
        "spec.gatewayVmssProfile",
        "name the scale set",
    ),
    *(
        (
            {"gatewayVmssProfile": _SCALE_SET | {"publicIpPrefixSize": size}},
            "spec.gatewayVmssProfile",
            "choose 28",
        )
        for size in (12, 24)
    ),
    (
        _POOL | {"provisionPublicIps": False, "publicIpPrefixId": PREFIX},
        "spec",
        "remove it, or set provisionPublicIps to true",
    ),
    (
        _POOL | {"provisionPublicIps": False, "publicIpPrefixIdV6": PREFIX},
        "spec",
        "remove it, or set provisionPublicIps to true",
    ),
    *(
        (_POOL | {field: name}, f"spec.{field}", "az network public-ip prefix show")
        for field in ("publicIpPrefixId", "publicIpPrefixIdV6")
        for name in ("pip-prefix-egress", "mine")
    ),
    (_POOL | {"verifyTargets": ["a:1", "a"]}, "spec.verifyTargets[1]", "Invalid value"),
    (_POOL | {"startPolicy": "x"}, "spec.startPolicy", 'supported values: "Wait", "HeldBack"'),
    (_POOL | {"excludeCidrs": ["10.0.0.0/33"]}, "spec.excludeCidrs[0]", "Invalid value"),
    *(
        (_POOL | {"excludeCidrs": ["10.0.0.0/8", cidr]}, "spec.excludeCidrs[1]", "address/length")
        for cidr in ("172.16.0.0", "10.0.0.0")
    ),
    (
        _POOL | {"defaultRoute": "x"},
        "spec.defaultRoute",
        'supported values: "staticEgressGateway", "azureNetworking"',
    ),
]
"""The specification, the field that the refusal names, and what its message says."""
