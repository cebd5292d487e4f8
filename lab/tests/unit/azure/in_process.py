"""An emulator without sockets: calls go to the dispatcher, operations end when asked to."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from egress_gateway_lab.azure.arm.dispatch import dispatch, parse_path
from egress_gateway_lab.azure.arm.errors import ArmError
from egress_gateway_lab.azure.arm.kinds import Answer, Call
from egress_gateway_lab.azure.arm.operations import Operation
from egress_gateway_lab.azure.emulator import SUBSCRIPTION, Emulator
from egress_gateway_lab.azure.identity.directory import Principal
from lab.tests.azure.running import GROUP, Machines

NETWORK = f"{GROUP}/providers/Microsoft.Network"
COMPUTE = f"{GROUP}/providers/Microsoft.Compute"
SERVICE = f"{GROUP}/providers/Microsoft.ContainerService/managedClusters"
SUBNET = f"{NETWORK}/virtualNetworks/net/subnets/one"


class InProcess:
    """One Owner at one emulator."""

    def __init__(self, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        # No buckets: hundreds of requests a second are asked here.
        options = {"operation_seconds": 0, "compute_share": None, **options}
        self.machines = Machines()
        self.emulator = self.loop.run_until_complete(self._make(options))
        self.azure = self.emulator.azure
        self.who: Principal = self.emulator.directory.sign_in_with_secret("owner", "any")

    async def _make(self, options: dict[str, Any]) -> Emulator:
        return Emulator(backend=self.machines, **options)

    def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Answer | ArmError:
        """The answer or the refusal; what is neither is raised. Operations stay under way."""
        call = Call(
            method=method,
            id=parse_path(path),
            body=copy.deepcopy(body),
            query={},
            base="https://lab",
            principal=self.who,
            **more,
        )
        try:
            return self.loop.run_until_complete(dispatch(self.azure, call))
        except ArmError as error:
            return error

    def settle(self) -> list[Operation]:
        """Waits for all operations under way and answers them."""
        under_way = [o for o in self.azure.operations.all() if not o.done.is_set()]

        async def done() -> None:
            await asyncio.gather(*(o.done.wait() for o in under_way))

        self.loop.run_until_complete(done())
        return under_way

    def put(self, path: str, body: Any) -> Any:
        """Writes and waits; the stored document. Fails the test if it is refused."""
        answer = self.ask("PUT", path, body)
        assert isinstance(answer, Answer), answer
        failed = [o.error for o in self.settle() if o.error]
        assert not failed, failed
        got = self.ask("GET", path)
        assert isinstance(got, Answer), got
        return got.body

    def close(self) -> None:
        self.loop.run_until_complete(self.emulator.close())
        self.loop.close()


@contextmanager
def in_process(**options: Any) -> Iterator[InProcess]:
    """With a group, a network with a subnet, and a prefix of size 30."""
    started = InProcess(**options)
    try:
        started.put(GROUP, {"location": "swedencentral"})
        space = {"addressPrefixes": ["10.1.0.0/16"]}
        subnets = [{"name": "one", "properties": {"addressPrefix": "10.1.0.0/24"}}]
        started.put(f"{NETWORK}/virtualNetworks/net", located(addressSpace=space, subnets=subnets))
        started.put(f"{NETWORK}/publicIPPrefixes/pip", located(prefixLength=30))
        yield started
    finally:
        started.close()


def located(**properties: Any) -> dict[str, Any]:
    return {"location": "swedencentral", "properties": properties}


def documents() -> dict[str, dict[str, Any]]:
    """A valid request body by path, one of each type, in an order in which they can be made."""
    balancer = f"{NETWORK}/loadBalancers/lb"
    pool = {"id": f"{balancer}/backendAddressPools/p"}
    rule = {
        "frontendIPConfiguration": {"id": f"{balancer}/frontendIPConfigurations/f"},
        "backendAddressPool": pool,
        "probe": {"id": f"{balancer}/probes/probe"},
        "protocol": "Udp",
        "frontendPort": 6000,
        "backendPort": 6000,
        "enableFloatingIP": True,
    }
    probe = {"protocol": "Http", "port": 8082, "requestPath": "/gw/x", "intervalInSeconds": 5}
    public = {
        "name": "pub",
        "properties": {"publicIPPrefix": {"id": f"{NETWORK}/publicIPPrefixes/pip"}},
    }
    primary = {"primary": True, "subnet": {"id": SUBNET}, "loadBalancerBackendAddressPools": [pool]}
    second = {"subnet": {"id": SUBNET}, "publicIPAddressConfiguration": public}
    configurations = [
        {"name": "ipconfig1", "properties": primary},
        {"name": "second", "properties": second},
    ]
    nic = {"name": "nic", "properties": {"primary": True, "ipConfigurations": configurations}}
    profile = {"networkInterfaceConfigurations": [nic]}
    alone = {
        "primary": True,
        "subnet": {"id": SUBNET},
        "privateIPAllocationMethod": "Static",
        "privateIPAddress": "10.1.0.40",
        "publicIPAddress": {"id": f"{NETWORK}/publicIPAddresses/own"},
    }
    agent_pool = {
        "name": "nodepool1",
        "count": 1,
        "mode": "System",
        "nodeTaints": ["a=b:NoExecute"],
    }
    cluster = located(
        kubernetesVersion="1.34",
        agentPoolProfiles=[agent_pool],
        networkProfile={
            "networkPlugin": "azure",
            "podCidr": "10.244.0.0/16",
            "staticEgressGatewayProfile": {"enabled": True},
            "loadBalancerProfile": {"managedOutboundIPs": {"count": 1}},
        },
    )
    gateway = {"mode": "Gateway", "count": 2, "gatewayProfile": {"publicIPPrefixSize": 30}}
    return {
        GROUP: {"location": "swedencentral", "tags": {"a": "b"}},
        f"{NETWORK}/virtualNetworks/other": located(
            addressSpace={"addressPrefixes": ["10.2.0.0/16"]},
            subnets=[{"name": "s", "properties": {"addressPrefix": "10.2.1.0/24"}}],
        ),
        f"{NETWORK}/virtualNetworks/net/subnets/two": {
            "properties": {"addressPrefix": "10.1.7.0/24"}
        },
        f"{NETWORK}/publicIPPrefixes/other": {
            **located(prefixLength=31, publicIPAddressVersion="IPv4"),
            "sku": {"name": "Standard"},
        },
        f"{NETWORK}/publicIPAddresses/own": {
            **located(publicIPAllocationMethod="Static"),
            "sku": {"name": "Standard", "tier": "Regional"},
        },
        f"{NETWORK}/networkSecurityGroups/nsg": located(securityRules=[]),
        balancer: {
            **located(
                frontendIPConfigurations=[{"name": "f", "properties": {"subnet": {"id": SUBNET}}}],
                backendAddressPools=[{"name": "p"}],
                loadBalancingRules=[{"name": "r", "properties": rule}],
                probes=[{"name": "probe", "properties": probe}],
            ),
            "sku": {"name": "Standard"},
        },
        f"{NETWORK}/networkInterfaces/nic": located(
            ipConfigurations=[{"name": "ipconfig1", "properties": alone}]
        ),
        f"{COMPUTE}/virtualMachineScaleSets/vmss": {
            **located(
                upgradePolicy={"mode": "Manual"},
                virtualMachineProfile={
                    "osProfile": {"computerNamePrefix": "vm"},
                    "networkProfile": profile,
                },
            ),
            "sku": {"name": "Standard_D2pds_v6", "capacity": 2},
        },
        f"{COMPUTE}/virtualMachineScaleSets/vmss/virtualMachines/0": {
            "properties": {"networkProfileConfiguration": profile}
        },
        f"{COMPUTE}/virtualMachines/vm": located(
            osProfile={"computerName": "vm"},
            networkProfile={"networkInterfaces": [{"id": f"{NETWORK}/networkInterfaces/nic"}]},
        ),
        f"{SERVICE}/aks": cluster,
        f"{SERVICE}/aks/agentPools/npegress": {"properties": gateway},
        f"{NETWORK}/publicIPPrefixes/pip/providers/Microsoft.Authorization/roleAssignments/"
        "00000000-0000-0000-0000-00000000000f": {
            "properties": {
                "roleDefinitionId": f"/subscriptions/{SUBSCRIPTION}/providers/"
                "Microsoft.Authorization/roleDefinitions/4d97b98b-1d4f-4787-a291-c67834d212e7",
                "principalId": "00000000-0000-0000-0000-000000000000",
            }
        },
    }
