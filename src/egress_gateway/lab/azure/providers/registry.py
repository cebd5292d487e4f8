"""Which kind serves which resource type."""

from __future__ import annotations

from egress_gateway.lab.azure.kinds import Azure, Kind
from egress_gateway.lab.azure.providers import (
    aks_versions,
    authorization,
    compute,
    containerservice,
    interfaces,
    loadbalancers,
    networkkinds,
    power,
    publicaddresses,
    resources,
    scalesetnics,
    virtualmachines,
    virtualnetworks,
)


def register(azure: Azure) -> None:
    """Fills ``azure.kinds``."""
    kinds: list[Kind] = [
        *resources.kinds(azure),
        authorization.RoleDefinitions(azure),
        authorization.RoleAssignments(azure),
        virtualnetworks.VirtualNetworks(azure),
        virtualnetworks.Subnets(azure),
        networkkinds.SecurityGroups(azure),
        networkkinds.RouteTables(azure),
        publicaddresses.PublicIPPrefixes(azure),
        publicaddresses.PublicIPAddresses(azure),
        interfaces.NetworkInterfaces(azure),
        loadbalancers.LoadBalancers(azure),
        networkkinds.Children(azure, interfaces.NetworkInterfaces.type, "ipConfigurations"),
        *(
            networkkinds.Children(azure, loadbalancers.LoadBalancers.type, section)
            for section in loadbalancers.SECTIONS
        ),
        compute.ScaleSets(azure),
        compute.Instances(azure),
        virtualmachines.VirtualMachines(azure),
        *(
            power.InstanceViews(azure, machines.type)
            for machines in (compute.ScaleSets, compute.Instances, virtualmachines.VirtualMachines)
        ),
        scalesetnics.InstanceNics(azure),
        scalesetnics.InstancePublicIPs(azure),
        scalesetnics.WholeScaleSet(azure, "networkInterfaces", scalesetnics.NIC),
        scalesetnics.WholeScaleSet(azure, "publicIPAddresses", scalesetnics.PUBLIC),
        networkkinds.Children(azure, scalesetnics.NIC, "ipConfigurations"),
        containerservice.ManagedClusters(azure),
        containerservice.AgentPools(azure),
        aks_versions.Versions(azure),
        aks_versions.UpgradeProfiles(azure),
    ]
    azure.kinds.update({kind.type.lower(): kind for kind in kinds})
    containerservice.register(azure)
