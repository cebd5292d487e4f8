"""What the controller tells people to do in Azure: ``cloud.protocol.Advice`` in ``az`` commands."""

from __future__ import annotations

from egress_gateway.api import names


class AzureAdvice:
    """Parts of sentences; see ``Advice`` for what each stands for."""

    def create_pool(self, name: str) -> str:
        """The command of AKS's page on static egress gateways; 30 makes prefixes of 4 addresses."""
        return f"az aks nodepool add --name {name} --mode gateway --gateway-prefix-size 30"

    def no_gateway_pool(self) -> str:
        """AKS puts this tag on each scale set of mode Gateway, with the prefix size."""
        return (
            f"its scale set has no tag {names.POOL_PREFIX_SIZE_TAG} of 28 to 31; create one with "
            "--mode gateway"
        )

    def no_such_pool(self, group: str, name: str) -> str:
        """``group`` and ``name`` as ``spec.gatewayVmssProfile`` has them."""
        return (
            f"scale set {name} does not exist in resource group {group}; "
            "create it or correct spec.gatewayVmssProfile"
        )

    def create_prefix(self, size: int, *, ipv6: bool) -> str:
        """``size`` is the length of the prefix: 28 to 31 for IPv4, 124 to 127 for IPv6."""
        version = "--version IPv6 " if ipv6 else ""
        return f"az network public-ip prefix create {version}--length {size}"

    def add_ipv6(self) -> str:
        """Azure accepts a /64 only as a subnet's IPv6 range."""
        return (
            "add a /64 of the virtual network's IPv6 address space to it "
            "(az network vnet subnet update --address-prefixes)"
        )

    def stop_predecessor(self) -> str:
        """Turns AKS's add-on off."""
        return "az aks update --disable-static-egress-gateway"
