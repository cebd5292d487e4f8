"""The documents that requests may carry, as types: what ARM's own deserializer refuses.

Only what the emulator looks into is typed, everything else passes as it is. Every member may be
left out or null, because clients do either; which ones a resource needs is its kind's to say. One
check at the door keeps every kind's code free of questions about types, and no malformed
document reaches it.
"""

from __future__ import annotations

from types import GenericAlias
from typing import Any, Final, Literal

import msgspec

from egress_gateway_lab.azure.arm.errors import ArmError


def _document(**members: Any) -> Any:
    """The type of a document with these members. ``[T]`` is a list of documents of type T."""
    fields = []
    for name, kind in members.items():
        known = GenericAlias(list, (kind[0],)) if isinstance(kind, list) else kind
        fields.append((name, known | None, None))
    return msgspec.defstruct("Document", fields)


def _resource(properties: Any, **members: Any) -> Any:
    """The type of a resource: what all have, its own ``properties`` and further ``members``."""
    return _document(location=str, tags=_TAGS, properties=properties, **members)


def _named(properties: Any) -> Any:
    """The type of what lives inside a resource."""
    return _document(name=str, properties=properties)


_TAGS: Final = dict[str, str | None]
_REFERENCE = _document(id=str)
_SKU = _document(name=str, tier=str, capacity=int)
_FAMILY: Any = Literal["IPv4", "IPv6"]
_GROUP = _document(location=str, tags=_TAGS)

_SUBNET = _named(
    _document(
        addressPrefix=str,
        addressPrefixes=[str],
        networkSecurityGroup=_REFERENCE,
        routeTable=_REFERENCE,
    )
)
_NETWORK = _resource(_document(addressSpace=_document(addressPrefixes=[str]), subnets=[_SUBNET]))
_PREFIX = _resource(
    _document(prefixLength=int, publicIPAddressVersion=_FAMILY, ipTags=[Any]), sku=_SKU
)
_ADDRESS = _resource(
    _document(
        publicIPAddressVersion=_FAMILY,
        publicIPAllocationMethod=str,
        idleTimeoutInMinutes=int,
        publicIPPrefix=_REFERENCE,
    ),
    sku=_SKU,
)
_IP_CONFIGURATION = _named(
    _document(
        primary=bool,
        subnet=_REFERENCE,
        privateIPAddress=str,
        privateIPAddressVersion=str,
        privateIPAllocationMethod=str,
        publicIPAddress=_REFERENCE,
        publicIPAddressConfiguration=_named(_document(publicIPPrefix=_REFERENCE)),
        loadBalancerBackendAddressPools=[_REFERENCE],
    )
)
_NIC_PROPERTIES = _document(
    primary=bool,
    ipConfigurations=[_IP_CONFIGURATION],
    networkSecurityGroup=_REFERENCE,
    dnsSettings=dict[str, Any],
    enableIPForwarding=bool,
    enableAcceleratedNetworking=bool,
)
_FRONTEND = _named(
    _document(
        privateIPAddress=str,
        privateIPAllocationMethod=str,
        subnet=_REFERENCE,
        publicIPAddress=_REFERENCE,
        publicIPPrefix=_REFERENCE,
    )
)
_RULE = _named(
    _document(
        frontendIPConfiguration=_REFERENCE,
        frontendIPConfigurations=[_REFERENCE],
        backendAddressPool=_REFERENCE,
        probe=_REFERENCE,
        protocol=str,
        frontendPort=int,
        backendPort=int,
        idleTimeoutInMinutes=int,
        enableFloatingIP=bool,
        enableTcpReset=bool,
        disableOutboundSnat=bool,
        loadDistribution=str,
        allocatedOutboundPorts=int,
    )
)
_PROBE = _named(
    _document(
        protocol=str,
        port=int,
        requestPath=str,
        intervalInSeconds=int,
        numberOfProbes=int,
        probeThreshold=int,
    )
)
_UNTYPED = _named(dict[str, Any])
_BALANCER = _resource(
    _document(
        frontendIPConfigurations=[_FRONTEND],
        backendAddressPools=[_UNTYPED],
        loadBalancingRules=[_RULE],
        probes=[_PROBE],
        inboundNatRules=[_UNTYPED],
        outboundRules=[_RULE],
        inboundNatPools=[_UNTYPED],
    ),
    sku=_SKU,
)
_MODEL_NICS = _document(networkInterfaceConfigurations=[_named(_NIC_PROPERTIES)])
_OS = _document(computerNamePrefix=str, computerName=str)
_SCALE_SET = _resource(
    _document(
        upgradePolicy=_document(mode=str),
        virtualMachineProfile=_document(osProfile=_OS, networkProfile=_MODEL_NICS),
        singlePlacementGroup=bool,
        overprovision=bool,
        orchestrationMode=str,
    ),
    sku=_SKU,
)
_INSTANCE = _resource(_document(networkProfileConfiguration=_MODEL_NICS, osProfile=_OS))
_MACHINE = _resource(
    _document(
        networkProfile=_document(networkInterfaces=[_REFERENCE]),
        osProfile=_OS,
        hardwareProfile=dict[str, Any],
    )
)
_POOL = {
    "count": int,
    "minCount": int,
    "maxCount": int,
    "mode": str,
    "type": str,
    "vmSize": str,
    "osType": str,
    "osSKU": str,
    "maxPods": int,
    "orchestratorVersion": str,
    "enableAutoScaling": bool,
    "availabilityZones": [str],
    "podSubnetID": str,
    "vnetSubnetID": str,
    "gatewayProfile": _document(publicIPPrefixSize=int),
    "localDNSProfile": _document(
        mode=str, vnetDNSOverrides=dict[str, Any], kubeDNSOverrides=dict[str, Any]
    ),
    "virtualMachinesProfile": _document(scale=_document(manual=[_document(size=str, count=int)])),
    "nodeLabels": _TAGS,
    "nodeTaints": [str],
    "tags": _TAGS,
}
_OUTBOUND = _document(
    managedOutboundIPs=_document(count=int),
    outboundIPPrefixes=_document(publicIPPrefixes=[_REFERENCE]),
    outboundIPs=_document(publicIPs=[_REFERENCE]),
    idleTimeoutInMinutes=int,
    allocatedOutboundPorts=int,
)
_CLUSTER = _resource(
    _document(
        kubernetesVersion=str,
        dnsPrefix=str,
        nodeResourceGroup=str,
        agentPoolProfiles=[_document(name=str, **_POOL)],
        networkProfile=_document(
            networkPlugin=str,
            networkPluginMode=str,
            loadBalancerSku=str,
            outboundType=str,
            podCidr=str,
            serviceCidr=str,
            staticEgressGatewayProfile=_document(enabled=bool),
            loadBalancerProfile=_OUTBOUND,
        ),
    ),
    sku=_SKU,
)
_ASSIGNMENT = _document(
    properties=_document(roleDefinitionId=str, principalId=str, principalType=str)
)
_INSTANCES = _document(instanceIds=[str])

_AT_NETWORK, _AT_COMPUTE = "microsoft.network/", "microsoft.compute/"
BODIES: dict[str, Any] = {
    "microsoft.resources/subscriptions/resourcegroups": _GROUP,
    f"{_AT_NETWORK}virtualnetworks": _NETWORK,
    f"{_AT_NETWORK}virtualnetworks/subnets": _SUBNET,
    f"{_AT_NETWORK}publicipprefixes": _PREFIX,
    f"{_AT_NETWORK}publicipaddresses": _ADDRESS,
    f"{_AT_NETWORK}networkinterfaces": _resource(_NIC_PROPERTIES),
    f"{_AT_NETWORK}loadbalancers": _BALANCER,
    f"{_AT_COMPUTE}virtualmachinescalesets": _SCALE_SET,
    f"{_AT_COMPUTE}virtualmachinescalesets/virtualmachines": _INSTANCE,
    f"{_AT_COMPUTE}virtualmachines": _MACHINE,
    "microsoft.containerservice/managedclusters": _CLUSTER,
    "microsoft.containerservice/managedclusters/agentpools": _document(
        properties=_document(**_POOL)
    ),
    "microsoft.authorization/roleassignments": _ASSIGNMENT,
}
"""By resource type in lower case."""


def check(resource_type: str, method: str, body: Any) -> None:
    """Raises InvalidRequestContent if a write's body is not of its type's shape."""
    if method in ("PUT", "PATCH"):
        wanted = BODIES.get(resource_type.lower(), _GROUP)
        if body is None and method == "PATCH":
            return
    elif method == "POST":
        wanted = _INSTANCES | None
    else:
        return
    try:
        msgspec.convert(body, wanted)
    except msgspec.ValidationError as error:
        raise ArmError(
            400,
            "InvalidRequestContent",
            f"The request content was invalid and could not be deserialized: '{error}'.",
        ) from error


def without_nulls(value: Any) -> Any:
    """A copy in which null members are left out: for a full replacement both mean the same."""
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [without_nulls(v) for v in value]
    return value
