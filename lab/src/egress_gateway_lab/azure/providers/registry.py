"""Which kind serves which resource type."""

from __future__ import annotations

from egress_gateway_lab.azure.arm.kinds import Azure, Kind
from egress_gateway_lab.azure.providers import authorization, resources
from egress_gateway_lab.azure.providers.aks import containerservice
from egress_gateway_lab.azure.providers.aks import versions as aks_versions
from egress_gateway_lab.azure.providers.compute import (
    nics as scalesetnics,
)
from egress_gateway_lab.azure.providers.compute import (
    power,
    virtualmachines,
)
from egress_gateway_lab.azure.providers.compute import (
    scalesets as compute,
)
from egress_gateway_lab.azure.providers.network import (
    interfaces,
    loadbalancers,
    publicaddresses,
    virtualnetworks,
)
from egress_gateway_lab.azure.providers.network import (
    kinds as networkkinds,
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
