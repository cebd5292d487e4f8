"""Which kind serves which resource type."""

from __future__ import annotations

from egress_gateway_lab.azure.arm.kinds import Azure, Kind
from egress_gateway_lab.azure.providers import authorization, deployments, resources
from egress_gateway_lab.azure.providers.aks import containerservice, versions
from egress_gateway_lab.azure.providers.compute import (
    images,
    nics,
    power,
    scalesets,
    virtualmachines,
)
from egress_gateway_lab.azure.providers.network import (
    interfaces,
    loadbalancers,
    publicaddresses,
    virtualnetworks,
)
from egress_gateway_lab.azure.providers.network.kinds import Children, RouteTables, SecurityGroups


def register(azure: Azure) -> None:
    """Fills ``azure.kinds``."""
    kinds: list[Kind] = [
        *resources.kinds(azure),
        deployments.Deployments(azure),
        deployments.DeploymentOperations(azure),
        authorization.RoleDefinitions(azure),
        authorization.Permissions(azure),
        authorization.RoleAssignments(azure),
        virtualnetworks.VirtualNetworks(azure),
        virtualnetworks.Subnets(azure),
        publicaddresses.Usages(azure),
        SecurityGroups(azure),
        RouteTables(azure),
        publicaddresses.PublicIPPrefixes(azure),
        publicaddresses.PublicIPAddresses(azure),
        interfaces.NetworkInterfaces(azure),
        loadbalancers.LoadBalancers(azure),
        Children(azure, interfaces.NetworkInterfaces.type, "ipConfigurations"),
        *(
            Children(azure, loadbalancers.LoadBalancers.type, section)
            for section in loadbalancers.SECTIONS
        ),
        images.PlatformImages(azure),
        scalesets.ScaleSets(azure),
        scalesets.Instances(azure),
        virtualmachines.VirtualMachines(azure),
        *(
            power.InstanceViews(azure, machines.type)
            for machines in (
                scalesets.ScaleSets,
                scalesets.Instances,
                virtualmachines.VirtualMachines,
            )
        ),
        nics.InstanceNics(azure),
        nics.InstancePublicIPs(azure),
        nics.WholeScaleSet(azure, "networkInterfaces", nics.NIC),
        nics.WholeScaleSet(azure, "publicIPAddresses", nics.PUBLIC),
        Children(azure, nics.NIC, "ipConfigurations"),
        containerservice.ManagedClusters(azure),
        containerservice.AgentPools(azure),
        versions.Versions(azure),
        versions.UpgradeProfiles(azure),
    ]
    azure.kinds.update({kind.type.lower(): kind for kind in kinds})
    containerservice.register(azure)
