"""The documents that requests may carry, as types: what ARM's own deserializer refuses.

Only what the emulator looks into is typed, everything else passes as it is. Every member may be
left out or null, because clients do either; which ones a resource needs is its kind's to say. One
check at the door keeps every kind's code free of questions about types, and no malformed
document reaches it.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

import msgspec

from egress_gateway_lab.azure.arm.errors import ArmError

Tags = dict[str, str | None]


class SubResource(TypedDict, total=False):
    id: str | None


class Sku(TypedDict, total=False):
    name: str | None
    tier: str | None
    capacity: int | None


class Group(TypedDict, total=False):
    location: str | None
    tags: Tags | None


class AddressSpace(TypedDict, total=False):
    addressPrefixes: list[str] | None


class SubnetProperties(TypedDict, total=False):
    addressPrefix: str | None
    addressPrefixes: list[str] | None
    networkSecurityGroup: SubResource | None
    routeTable: SubResource | None


class Subnet(TypedDict, total=False):
    name: str | None
    properties: SubnetProperties | None


class NetworkProperties(TypedDict, total=False):
    addressSpace: AddressSpace | None
    subnets: list[Subnet] | None


class VirtualNetwork(Group, total=False):
    properties: NetworkProperties | None


class PrefixProperties(TypedDict, total=False):
    prefixLength: int | None
    publicIPAddressVersion: Literal["IPv4", "IPv6"] | None
    ipTags: list[Any] | None


class PublicIPPrefix(Group, total=False):
    sku: Sku | None
    properties: PrefixProperties | None


class AddressProperties(TypedDict, total=False):
    publicIPAddressVersion: Literal["IPv4", "IPv6"] | None
    publicIPAllocationMethod: str | None
    idleTimeoutInMinutes: int | None
    publicIPPrefix: SubResource | None


class PublicIPAddress(Group, total=False):
    sku: Sku | None
    properties: AddressProperties | None


class PublicIPConfigurationProperties(TypedDict, total=False):
    publicIPPrefix: SubResource | None


class PublicIPConfiguration(TypedDict, total=False):
    name: str | None
    properties: PublicIPConfigurationProperties | None


class IPConfigurationProperties(TypedDict, total=False):
    primary: bool | None
    subnet: SubResource | None
    privateIPAddress: str | None
    privateIPAddressVersion: str | None
    privateIPAllocationMethod: str | None
    publicIPAddress: SubResource | None
    publicIPAddressConfiguration: PublicIPConfiguration | None
    loadBalancerBackendAddressPools: list[SubResource] | None


class IPConfiguration(TypedDict, total=False):
    name: str | None
    properties: IPConfigurationProperties | None


class NicProperties(TypedDict, total=False):
    primary: bool | None
    ipConfigurations: list[IPConfiguration] | None
    networkSecurityGroup: SubResource | None
    dnsSettings: dict[str, Any] | None
    enableIPForwarding: bool | None
    enableAcceleratedNetworking: bool | None


class Nic(Group, total=False):
    properties: NicProperties | None


class FrontendProperties(TypedDict, total=False):
    privateIPAddress: str | None
    privateIPAllocationMethod: str | None
    subnet: SubResource | None
    publicIPAddress: SubResource | None
    publicIPPrefix: SubResource | None


class Frontend(TypedDict, total=False):
    name: str | None
    properties: FrontendProperties | None


class RuleProperties(TypedDict, total=False):
    frontendIPConfiguration: SubResource | None
    frontendIPConfigurations: list[SubResource] | None
    backendAddressPool: SubResource | None
    probe: SubResource | None
    protocol: str | None
    frontendPort: int | None
    backendPort: int | None
    idleTimeoutInMinutes: int | None
    enableFloatingIP: bool | None
    enableTcpReset: bool | None
    disableOutboundSnat: bool | None
    loadDistribution: str | None
    allocatedOutboundPorts: int | None


class Rule(TypedDict, total=False):
    name: str | None
    properties: RuleProperties | None


class ProbeProperties(TypedDict, total=False):
    protocol: str | None
    port: int | None
    requestPath: str | None
    intervalInSeconds: int | None
    numberOfProbes: int | None
    probeThreshold: int | None


class Probe(TypedDict, total=False):
    name: str | None
    properties: ProbeProperties | None


class Named(TypedDict, total=False):
    name: str | None
    properties: dict[str, Any] | None


class BalancerProperties(TypedDict, total=False):
    frontendIPConfigurations: list[Frontend] | None
    backendAddressPools: list[Named] | None
    loadBalancingRules: list[Rule] | None
    probes: list[Probe] | None
    inboundNatRules: list[Named] | None
    outboundRules: list[Rule] | None
    inboundNatPools: list[Named] | None


class LoadBalancer(Group, total=False):
    sku: Sku | None
    properties: BalancerProperties | None


class NicConfiguration(TypedDict, total=False):
    name: str | None
    properties: NicProperties | None


class ScaleSetNetwork(TypedDict, total=False):
    networkInterfaceConfigurations: list[NicConfiguration] | None


class OsProfile(TypedDict, total=False):
    computerNamePrefix: str | None
    computerName: str | None


class MachineProfile(TypedDict, total=False):
    osProfile: OsProfile | None
    networkProfile: ScaleSetNetwork | None


class UpgradePolicy(TypedDict, total=False):
    mode: str | None


class ScaleSetProperties(TypedDict, total=False):
    upgradePolicy: UpgradePolicy | None
    virtualMachineProfile: MachineProfile | None
    singlePlacementGroup: bool | None
    overprovision: bool | None
    orchestrationMode: str | None


class ScaleSet(Group, total=False):
    sku: Sku | None
    properties: ScaleSetProperties | None


class InstanceProperties(TypedDict, total=False):
    networkProfileConfiguration: ScaleSetNetwork | None
    osProfile: OsProfile | None


class Instance(Group, total=False):
    properties: InstanceProperties | None


class MachineNetwork(TypedDict, total=False):
    networkInterfaces: list[SubResource] | None


class MachineProperties(TypedDict, total=False):
    networkProfile: MachineNetwork | None
    osProfile: OsProfile | None
    hardwareProfile: dict[str, Any] | None


class VirtualMachine(Group, total=False):
    properties: MachineProperties | None


class GatewayProfile(TypedDict, total=False):
    publicIPPrefixSize: int | None


class ManualScale(TypedDict, total=False):
    size: str | None
    count: int | None


class Scale(TypedDict, total=False):
    manual: list[ManualScale] | None


class MachinesProfile(TypedDict, total=False):
    scale: Scale | None


class LocalDNSProfile(TypedDict, total=False):
    mode: str | None
    vnetDNSOverrides: dict[str, Any] | None
    kubeDNSOverrides: dict[str, Any] | None


class PoolProperties(TypedDict, total=False):
    count: int | None
    minCount: int | None
    maxCount: int | None
    mode: str | None
    type: str | None
    vmSize: str | None
    osType: str | None
    osSKU: str | None
    maxPods: int | None
    orchestratorVersion: str | None
    enableAutoScaling: bool | None
    availabilityZones: list[str] | None
    podSubnetID: str | None
    vnetSubnetID: str | None
    gatewayProfile: GatewayProfile | None
    localDNSProfile: LocalDNSProfile | None
    virtualMachinesProfile: MachinesProfile | None
    nodeLabels: Tags | None
    nodeTaints: list[str] | None
    tags: Tags | None


class Pool(TypedDict, total=False):
    properties: PoolProperties | None


class PoolProfile(PoolProperties, total=False):
    name: str | None


class Enabled(TypedDict, total=False):
    enabled: bool | None


class ManagedOutbound(TypedDict, total=False):
    count: int | None


class OutboundPrefixes(TypedDict, total=False):
    publicIPPrefixes: list[SubResource] | None


class OutboundAddresses(TypedDict, total=False):
    publicIPs: list[SubResource] | None


class OutboundProfile(TypedDict, total=False):
    managedOutboundIPs: ManagedOutbound | None
    outboundIPPrefixes: OutboundPrefixes | None
    outboundIPs: OutboundAddresses | None
    idleTimeoutInMinutes: int | None
    allocatedOutboundPorts: int | None


class NetworkProfile(TypedDict, total=False):
    networkPlugin: str | None
    networkPluginMode: str | None
    loadBalancerSku: str | None
    outboundType: str | None
    podCidr: str | None
    serviceCidr: str | None
    staticEgressGatewayProfile: Enabled | None
    loadBalancerProfile: OutboundProfile | None


class ClusterProperties(TypedDict, total=False):
    kubernetesVersion: str | None
    dnsPrefix: str | None
    nodeResourceGroup: str | None
    agentPoolProfiles: list[PoolProfile] | None
    networkProfile: NetworkProfile | None


class Cluster(Group, total=False):
    sku: Sku | None
    properties: ClusterProperties | None


class AssignmentProperties(TypedDict, total=False):
    roleDefinitionId: str | None
    principalId: str | None
    principalType: str | None


class Assignment(TypedDict, total=False):
    properties: AssignmentProperties | None


class InstanceIds(TypedDict, total=False):
    instanceIds: list[str] | None


_NETWORK, _COMPUTE = "microsoft.network/", "microsoft.compute/"
BODIES: dict[str, Any] = {
    "microsoft.resources/subscriptions/resourcegroups": Group,
    f"{_NETWORK}virtualnetworks": VirtualNetwork,
    f"{_NETWORK}virtualnetworks/subnets": Subnet,
    f"{_NETWORK}publicipprefixes": PublicIPPrefix,
    f"{_NETWORK}publicipaddresses": PublicIPAddress,
    f"{_NETWORK}networkinterfaces": Nic,
    f"{_NETWORK}loadbalancers": LoadBalancer,
    f"{_COMPUTE}virtualmachinescalesets": ScaleSet,
    f"{_COMPUTE}virtualmachinescalesets/virtualmachines": Instance,
    f"{_COMPUTE}virtualmachines": VirtualMachine,
    "microsoft.containerservice/managedclusters": Cluster,
    "microsoft.containerservice/managedclusters/agentpools": Pool,
    "microsoft.authorization/roleassignments": Assignment,
}
"""By resource type in lower case."""


def check(resource_type: str, method: str, body: Any) -> None:
    """Raises InvalidRequestContent if a write's body is not of its type's shape."""
    if method in ("PUT", "PATCH"):
        wanted = BODIES.get(resource_type.lower(), Group)
        if body is None and method == "PATCH":
            return
    elif method == "POST":
        wanted = InstanceIds | None
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
