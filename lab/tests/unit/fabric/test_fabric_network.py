"""How documents of the emulator are read. Ids compare without regard to case."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any

from egress_gateway_lab.fabric.network import LOAD_BALANCERS, NICS, VIRTUAL_NETWORKS, observe

LB = "/subscriptions/s/resourceGroups/MC/providers/Microsoft.Network/loadBalancers/lb"
VNET = "/subscriptions/s/resourceGroups/MC/providers/Microsoft.Network/virtualNetworks/v"


class Documents:
    def __init__(self, **by_type: list[dict[str, Any]]) -> None:
        types = {"nics": NICS, "balancers": LOAD_BALANCERS, "networks": VIRTUAL_NETWORKS}
        self._by_type = {types[k]: v for k, v in by_type.items() if k in types}
        self._others = by_type.get("others", [])

    revision = 1

    def get(self, resource_id: str) -> dict[str, Any] | None:
        found = (d for d in self._others if d["id"].lower() == resource_id.lower())
        return next(found, None)

    def list(self, resource_type: str) -> list[dict[str, Any]]:
        return self._by_type.get(resource_type, [])

    async def changed(self, since: int) -> int:
        return since + 1


def ip_config(name: str, **properties: Any) -> dict[str, Any]:
    return {"name": name, "properties": properties}


def test_a_nic_is_read_with_its_subnet_pools_and_public_address() -> None:
    subnet = {"name": "aks", "properties": {"addressPrefix": "10.224.0.0/16"}}
    seen = observe(
        Documents(
            networks=[
                {
                    "id": VNET,
                    "properties": {
                        "addressSpace": {"addressPrefixes": ["10.224.0.0/12", "fd00::/48"]},
                        "subnets": [subnet],
                    },
                }
            ],
            nics=[
                {
                    "id": "/NICS/One",
                    "properties": {
                        "macAddress": "00-0D-3A-00-00-01",
                        "ipConfigurations": [
                            ip_config(
                                "primary",
                                primary=True,
                                privateIPAddress="10.224.0.4",
                                subnet={"id": f"{VNET.upper()}/subnets/AKS"},
                                loadBalancerBackendAddressPools=[{"id": "/POOL"}],
                            ),
                            ip_config(
                                "second",
                                privateIPAddress="10.224.0.101",
                                publicIPAddress={"id": "/PIPS/A"},
                            ),
                            ip_config(
                                "third",
                                privateIPAddress="10.224.0.102",
                                publicIPAddress={"id": "/pips/deleted"},
                            ),
                            ip_config("waiting"),
                        ],
                    },
                }
            ],
            others=[{"id": "/pips/a", "properties": {"ipAddress": "203.0.113.16"}}],
        )
    )
    nic = seen.nics["/nics/one"]
    assert nic.mac == "00:0d:3a:00:00:01"
    assert nic.subnet == IPv4Network("10.224.0.0/16")
    assert nic.primary.pools == {"/pool"}
    assert [(str(c.private), c.public and str(c.public)) for c in nic.ip_configs] == [
        ("10.224.0.4", None),
        ("10.224.0.101", "203.0.113.16"),
        ("10.224.0.102", None),
    ]
    assert seen.prefixes == (IPv4Network("10.224.0.0/12"),)


def test_a_nic_without_an_address_is_not_there_yet() -> None:
    nic = {"id": "/nics/one", "properties": {"ipConfigurations": [ip_config("waiting")]}}
    assert observe(Documents(nics=[nic])).nics == {}


def test_a_balancer_is_read_with_rules_probes_and_outbound_prefix() -> None:
    balancer = {
        "id": LB,
        "properties": {
            "frontendIPConfigurations": [
                ip_config("inside", privateIPAddress="10.224.0.200"),
                ip_config("outside", publicIPPrefix={"id": "/prefixes/p"}),
                ip_config("dangling", publicIPAddress={"id": "/pips/deleted"}),
            ],
            "loadBalancingRules": [
                ip_config(
                    "r",
                    frontendIPConfiguration={"id": f"{LB.lower()}/frontendipconfigurations/INSIDE"},
                    backendAddressPool={"id": f"{LB}/backendAddressPools/Pool"},
                    protocol="Udp",
                    frontendPort=6000,
                    backendPort=6000,
                    enableFloatingIP=True,
                    probe={"id": f"{LB}/probes/P"},
                ),
                ip_config(
                    "nowhere",
                    frontendIPConfiguration={"id": f"{LB}/frontendIPConfigurations/dangling"},
                    backendAddressPool={"id": f"{LB}/backendAddressPools/Pool"},
                    protocol="Tcp",
                    frontendPort=80,
                    backendPort=80,
                ),
            ],
            "probes": [
                ip_config("p", protocol="Http", port=8082, requestPath="/gw/u", probeThreshold=2)
            ],
            "outboundRules": [
                ip_config(
                    "o",
                    frontendIPConfigurations=[{"id": f"{LB}/frontendIPConfigurations/outside"}],
                    backendAddressPool={"id": f"{LB}/backendAddressPools/Pool"},
                )
            ],
        },
    }
    prefix = {"id": "/prefixes/p", "properties": {"ipPrefix": "203.0.113.0/31"}}
    seen = observe(Documents(balancers=[balancer], others=[prefix]))
    (rule,) = seen.balancing
    assert rule.frontend == IPv4Address("10.224.0.200")
    assert (rule.protocol, rule.floating, rule.frontend_port) == ("udp", True, 6000)
    assert rule.probe is not None
    assert (rule.probe.path, rule.probe.threshold, rule.probe.interval) == ("/gw/u", 2, 15.0)
    (outbound,) = seen.outbound
    assert outbound.pool == rule.pool
    assert [str(a) for a in outbound.addresses] == ["203.0.113.0", "203.0.113.1"]
