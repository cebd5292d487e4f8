"""What the controller tells people to do in Azure: ``cloud.protocol.Advice`` in ``az`` commands."""

from __future__ import annotations

from egress_gateway.api import names


class AzureAdvice:
    """Parts of sentences; see ``Advice`` for what each stands for."""

    def create_pool(self, name: str) -> str:
        return f"az aks nodepool add --name {name} --mode gateway --gateway-prefix-size 30"

    def no_gateway_pool(self) -> str:
        return (
            f"its scale set has no tag {names.POOL_PREFIX_SIZE_TAG} of 28 to 31; create one with "
            "--mode gateway"
        )

    def no_such_pool(self, group: str, name: str) -> str:
        return (
            f"scale set {name} does not exist in resource group {group}; "
            "create it or correct spec.gatewayVmssProfile"
        )

    def create_prefix(self, size: int, *, ipv6: bool) -> str:
        version = "--version IPv6 " if ipv6 else ""
        return f"az network public-ip prefix create {version}--length {size}"

    def add_ipv6(self) -> str:
        return (
            "add a /64 of the virtual network's IPv6 address space to it "
            "(az network vnet subnet update --address-prefixes)"
        )

    def stop_predecessor(self) -> str:
        return "az aks update --disable-static-egress-gateway"
