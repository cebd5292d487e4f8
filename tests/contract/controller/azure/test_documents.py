"""Every document comes back whole: what we would PUT, compared field by field with what was there.

The documents have the shape that Azure's own clients recorded of it: fields that we do not know,
back references, read-only fields, other people's rules, pools and addresses, no ``primary``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress_gateway.cloud.azure.cloud import AzureCloud
from egress_gateway.cloud.azure.machines import address_name
from egress_gateway.cloud.errors import CloudError, Unavailable
from egress_gateway.controller.apply import Writer
from egress_gateway.controller.planning.plan import plan
from egress_gateway.controller.planning.wanted import Names, Wanted
from tests.unit.controller.fake_arm import BASE, CONFIG, SUB

Json = dict[str, Any]
Path = tuple[str | int, ...]
NETWORK: Final = f"{BASE}/Microsoft.Network"
BALANCER: Final = f"{NETWORK}/loadBalancers/kubeegressgateway-ilb"
SET: Final = f"{BASE}/Microsoft.Compute/virtualMachineScaleSets/aks-np-vmss"
SUBNET: Final = f"{NETWORK}/virtualNetworks/v/subnets/s"
PREFIX: Final = f"{NETWORK}/publicIPPrefixes/brought"
ETAG: Final = 'W/"00000000-0000-0000-0000-000000000000"'
READ_ONLY: Final = {
    "etag",
    "provisioningState",
    "resourceGuid",
    "backendIPConfigurations",
    "ipAddress",
    "ipConfiguration",
}
BACK: Final = {"loadBalancingRules", "outboundRules", "inboundNatRules"}


def part(of: str, kind: str, name: str, **properties: Any) -> Json:
    return {
        "name": name,
        "id": f"{of}/{kind}/{name}",
        "etag": ETAG,
        "type": f"Microsoft.Network/x/{kind}",
        "properties": {"provisioningState": "Succeeded", **properties},
    }


def balancer() -> Json:
    front, back = f"{BALANCER}/frontendIPConfigurations", f"{BALANCER}/backendAddressPools"
    frontends = [
        part(
            BALANCER,
            "frontendIPConfigurations",
            "service",
            privateIPAddress="10.224.0.9",
            privateIPAllocationMethod="Static",
            privateIPAddressVersion="IPv4",
            subnet={"id": SUBNET},
            loadBalancingRules=[{"id": f"{BALANCER}/loadBalancingRules/service"}],
            gatewayLoadBalancer={"id": "/x"},
        )
        | {"zones": ["1", "2", "3"]},
        part(
            BALANCER,
            "frontendIPConfigurations",
            "six",
            privateIPAddress="2001:db8::9",
            privateIPAddressVersion="IPv6",
            subnet={"id": SUBNET},
        ),
    ]
    pools = [
        part(
            BALANCER,
            "backendAddressPools",
            "by-address",
            loadBalancerBackendAddresses=[
                {
                    "name": "one",
                    "properties": {
                        "ipAddress": "10.224.0.77",
                        "virtualNetwork": {"id": f"{NETWORK}/virtualNetworks/v"},
                        "adminState": "None",
                    },
                }
            ],
            syncMode="Manual",
        ),
        part(
            BALANCER,
            "backendAddressPools",
            "by-nic",
            loadBalancerBackendAddresses=[
                {
                    "name": "nic",
                    "properties": {"networkInterfaceIPConfiguration": {"id": f"{SET}/x"}},
                }
            ],
            backendIPConfigurations=[{"id": f"{SET}/x"}],
        ),
    ]
    rule = part(
        BALANCER,
        "loadBalancingRules",
        "service",
        frontendIPConfiguration={"id": f"{front}/service"},
        backendAddressPool={"id": f"{back}/by-address"},
        backendAddressPools=[{"id": f"{back}/by-address"}],
        probe={"id": f"{BALANCER}/probes/service"},
        protocol="Quic",
        frontendPort=443,
        backendPort=443,
        idleTimeoutInMinutes=4,
        enableFloatingIP=False,
        enableTcpReset=True,
        disableOutboundSnat=True,
        loadDistribution="SourceIP",
        enableConnectionTracking=False,
    )
    probe = part(
        BALANCER,
        "probes",
        "service",
        protocol="Grpc",
        port=80,
        intervalInSeconds=15,
        numberOfProbes=1,
        probeThreshold=2,
        noHealthyBackendsBehavior="AllProbedDown",
    )
    return {
        "name": "kubeegressgateway-ilb",
        "id": BALANCER,
        "etag": ETAG,
        "type": "Microsoft.Network/loadBalancers",
        "location": "swedencentral",
        "tags": {"owner": "team", "etag": "a tag of this name"},
        "sku": {"name": "Standard", "tier": "Regional"},
        "extendedLocation": {"name": "edge", "type": "EdgeZone"},
        "properties": {
            "provisioningState": "Succeeded",
            "resourceGuid": "00000000-0000-0000-0000-000000000000",
            "frontendIPConfigurations": frontends,
            "backendAddressPools": pools,
            "loadBalancingRules": [rule],
            "probes": [probe],
            "inboundNatRules": [part(BALANCER, "inboundNatRules", "ssh", frontendPort=22)],
            "inboundNatPools": [],
            "outboundRules": [part(BALANCER, "outboundRules", "out", protocol="All")],
            "scope": "Private",
        },
    }


def nic_configuration() -> Json:
    config = {
        "name": "vmss1",
        "properties": {
            "subnet": {"id": SUBNET},
            "privateIPAddressVersion": "IPv4",
            "applicationSecurityGroups": [{"id": f"{NETWORK}/applicationSecurityGroups/g"}],
            "loadBalancerBackendAddressPools": [{"id": f"{NETWORK}/loadBalancers/other/b/c"}],
            "loadBalancerInboundNatPools": [{"id": f"{NETWORK}/loadBalancers/other/n/p"}],
            "publicIPAddressConfiguration": {
                "name": "own",
                "properties": {
                    "idleTimeoutInMinutes": 10,
                    "ipTags": [{"ipTagType": "FirstPartyUsage", "tag": "/x"}],
                    "deleteOption": "Delete",
                },
                "sku": {"name": "Standard", "tier": "Regional"},
            },
        },
    }
    return {
        "name": "vmss1",
        "properties": {
            "primary": True,
            "enableAcceleratedNetworking": False,
            "disableTcpStateTracking": False,
            "networkSecurityGroup": {"id": f"{NETWORK}/networkSecurityGroups/g"},
            "dnsSettings": {"dnsServers": ["10.0.0.10"]},
            "enableIPForwarding": True,
            "deleteOption": "Delete",
            "auxiliaryMode": "None",
            "ipConfigurations": [config],
        },
    }


def scale_set() -> Json:
    return {
        "name": "aks-np-vmss",
        "id": SET,
        "type": "Microsoft.Compute/virtualMachineScaleSets",
        "location": "swedencentral",
        "etag": '"1"',
        "zones": ["1", "2"],
        "sku": {"name": "Standard_D2s_v3", "tier": "Standard", "capacity": 1},
        "tags": {"aks-managed-poolName": "np", "aks-managed-gatewayIPPrefixSize": "30"},
        "identity": {"type": "UserAssigned"},
        "properties": {
            "uniqueId": "00000000-0000-0000-0000-0000000000aa",
            "singlePlacementGroup": True,
            "orchestrationMode": "Uniform",
            "upgradePolicy": {"mode": "Manual"},
            "provisioningState": "Succeeded",
            "overprovision": False,
            "virtualMachineProfile": {
                "osProfile": {"computerNamePrefix": "vmss"},
                "networkProfile": {
                    "healthProbe": {"id": "/x"},
                    "networkInterfaceConfigurations": [nic_configuration()],
                },
                "timeCreated": "2001-02-03T04:05:06Z",
            },
        },
    }


def instance() -> Json:
    return {
        "name": "aks-np-vmss_0",
        "id": f"{SET}/virtualMachines/0",
        "type": "Microsoft.Compute/virtualMachineScaleSets/virtualMachines",
        "location": "swedencentral",
        "instanceId": "0",
        "etag": '"3"',
        "sku": {"name": "Standard_D2s_v3", "tier": "Standard"},
        "zones": ["1"],
        "properties": {
            "latestModelApplied": True,
            "modelDefinitionApplied": "VirtualMachineScaleSet",
            "networkProfileConfiguration": {
                "networkInterfaceConfigurations": [nic_configuration()]
            },
            "provisioningState": "Succeeded",
            "hardwareProfile": {"vmSize": "Standard_D2s_v3"},
            "resilientVMDeletionStatus": "Disabled",
            "vmId": "00000000-0000-0000-0000-000000000000",
        },
    }


def interface(name: str, machine: str, **tags: str) -> Json:
    config = part(
        f"{NETWORK}/networkInterfaces/{name}",
        "ipConfigurations",
        "ipConfig1",
        privateIPAddress="10.224.0.4",
        privateIPAllocationMethod="Dynamic",
        subnet={"id": SUBNET},
        primary=True,
        privateIPAddressVersion="IPv4",
        applicationSecurityGroups=[{"id": f"{NETWORK}/applicationSecurityGroups/g"}],
        publicIPAddress={"id": f"{NETWORK}/publicIPAddresses/theirs"},
    )
    return {
        "name": name,
        "id": f"{NETWORK}/networkInterfaces/{name}",
        "etag": ETAG,
        "type": "Microsoft.Network/networkInterfaces",
        "location": "swedencentral",
        "kind": "Regular",
        "tags": {"owner": "team", **tags},
        "properties": {
            "provisioningState": "Succeeded",
            "resourceGuid": "00000000-0000-0000-0000-000000000000",
            "primary": True,
            "virtualMachine": {"id": machine},
            "ipConfigurations": [config],
            "dnsSettings": {"dnsServers": [], "internalDomainNameSuffix": "x.internal"},
            "enableAcceleratedNetworking": False,
            "vnetEncryptionSupported": False,
            "enableIPForwarding": True,
            "hostedWorkloads": [],
            "tapConfigurations": [],
            "nicType": "Standard",
            "allowPort25Out": True,
            "auxiliaryMode": "None",
        },
    }


def prefix() -> Json:
    return {
        "name": "brought",
        "id": PREFIX,
        "etag": ETAG,
        "location": "swedencentral",
        "zones": ["1", "2", "3"],
        "sku": {"name": "Standard", "tier": "Regional"},
        "properties": {
            "provisioningState": "Succeeded",
            "prefixLength": 30,
            "publicIPAddressVersion": "IPv4",
            "ipPrefix": "203.0.113.0/30",
            "ipTags": [],
        },
    }


def public(name: str, state: str, **properties: Any) -> Json:
    return {
        "name": name,
        "id": f"{NETWORK}/publicIPAddresses/{name}",
        "etag": ETAG,
        "type": "Microsoft.Network/publicIPAddresses",
        "location": "swedencentral",
        "zones": ["1", "2", "3"],
        "tags": {"owner": "team"},
        "sku": {"name": "Standard", "tier": "Regional"},
        "properties": {
            "provisioningState": state,
            "resourceGuid": "00000000-0000-0000-0000-000000000000",
            "ipAddress": "203.0.113.1",
            "publicIPAddressVersion": "IPv4",
            "publicIPAllocationMethod": "Static",
            "idleTimeoutInMinutes": 10,
            "dnsSettings": {"domainNameLabel": "x", "fqdn": "x.y", "reverseFqdn": "z."},
            "ddosSettings": {"protectionMode": "VirtualNetworkInherited"},
            "ipTags": [{"ipTagType": "FirstPartyUsage", "tag": "/x"}],
            "ipConfiguration": {"id": f"{NETWORK}/networkInterfaces/x/ipConfigurations/y"},
            **properties,
        },
    }


def subnet() -> Json:
    return {
        "name": "s",
        "id": SUBNET,
        "etag": ETAG,
        "type": "Microsoft.Network/virtualNetworks/subnets",
        "properties": {
            "provisioningState": "Succeeded",
            "addressPrefixes": ["10.224.0.0/16", "2001:db8::/64"],
            "ipConfigurations": [{"id": f"{NETWORK}/networkInterfaces/x/ipConfigurations/y"}],
            "delegations": [
                {"name": "d", "id": f"{SUBNET}/delegations/d", "properties": {"serviceName": "x"}}
            ],
            "privateEndpointNetworkPolicies": "Disabled",
            "privateLinkServiceNetworkPolicies": "Enabled",
        },
    }


class Recorded:
    """Serves documents in place of ``ArmClient``, and keeps what is written to it."""

    def __init__(self) -> None:
        self.documents: dict[str, Json] = {
            "balancer": balancer(),
            "set": scale_set(),
            "instance": instance(),
            "interface": interface("vmss-nic", f"{SET}/virtualMachines/0"),
            "nic": interface(
                "gw-nic",
                f"{BASE}/Microsoft.Compute/virtualMachines/gw-0",
                **{
                    "aks-managed-static-gateway-nic": "true",
                    "aks-managed-poolName": "vms",
                    "aks-managed-gatewayIPPrefixSize": "30",
                },
            ),
            "prefix": prefix(),
            "subnet": subnet(),
            "public": public("theirs", "Succeeded"),
            "address": public(
                address_name("brought", "gw-nic"),
                "Failed",
                publicIPPrefix={"id": PREFIX},
                ipConfiguration=None,
            ),
        }
        self.put: dict[str, tuple[Json, str | None]] = {}

    def _get(self, name: str) -> Any:
        return copy.deepcopy(self.documents[name])

    async def balancer(self, group: str, name: str) -> Json:
        return self._get("balancer")  # type: ignore[no-any-return]

    async def put_balancer(self, group: str, name: str, document: Json, etag: str | None) -> None:
        self.put["balancer"] = (document, etag)

    async def scale_sets(self, group: str) -> list[Json]:
        return [self._get("set")]

    async def scale_set(self, group: str, name: str) -> Json:
        return self._get("set")  # type: ignore[no-any-return]

    async def put_scale_set(self, group: str, name: str, document: Json, etag: str | None) -> None:
        self.put["set"] = (document, etag)

    async def instances(self, group: str, name: str) -> list[Json]:
        return [self._get("instance")]

    async def put_instance(
        self, group: str, name: str, number: str, document: Json, etag: str | None
    ) -> None:
        self.put["instance"] = (document, etag)

    async def interfaces(self, group: str, name: str) -> list[Json]:
        return [self._get("interface")]

    async def public_addresses(self, group: str, name: str) -> list[Json]:
        return [self._get("public")]

    async def subnet(self, group: str, network: str, name: str) -> Json:
        return self._get("subnet")  # type: ignore[no-any-return]

    async def machine_nics(self, group: str) -> list[Json]:
        return [self._get("nic")]

    async def put_nic(self, group: str, name: str, document: Json, etag: str | None) -> None:
        self.put["nic"] = (document, etag)

    async def addresses(self, group: str) -> list[Json]:
        return [self._get("address")]

    async def put_address(self, group: str, name: str, document: Json) -> None:
        if name == self.documents["address"].get("name"):  # others are made anew
            self.put.setdefault("address", (document, None))
            (self.documents["address"].get("properties") or {})["provisioningState"] = "Succeeded"

    async def delete_address(self, group: str, name: str) -> None: ...

    async def prefixes(self, group: str) -> list[Json]:
        return [self._get("prefix")]

    async def prefix(self, group: str, name: str, resource_id: str) -> Json:
        return self._get("prefix")  # type: ignore[no-any-return]

    async def delete_prefix(self, group: str, name: str) -> None: ...


async def written(arm: Recorded) -> None:
    """Observes, plans and writes both pools, twice, as one configuration each asks for."""
    cloud = AzureCloud(CONFIG, arm)  # type: ignore[arg-type]
    wanted = Wanted(uid="u", names=Names.of("u"), prefix_id=PREFIX, prefix_size=30)
    for pool in await cloud.pools():
        for _ in range(2):  # addresses first, then what refers to them
            state = await cloud.observe(pool, [PREFIX])
            await cloud.has_ipv6(state.ref.subnet)
            decided = plan(state, [wanted], advice=cloud.advice, managed_ids={})
            await Writer(cloud).apply(pool.key, decided)


def theirs(value: Any, *, own: str = "egressgateway-u") -> Any:
    """A document without what Azure alone writes, and without what we add."""
    if isinstance(value, dict):
        kept = {k: v if k == "tags" else theirs(v) for k, v in value.items() if k not in READ_ONLY}
        for collection in ("frontendIPConfigurations", "backendAddressPools"):
            for item in kept.get(collection) or ():
                for reference in BACK:
                    (item.get("properties") or {}).pop(reference, None)
        kept.pop("primary", None)  # which we add where several need one
        return {k: v for k, v in kept.items() if v not in ([], {}, None)}
    if isinstance(value, list):
        return [theirs(item) for item in value if item is not None and not _added(item)]
    return value


def _added(item: Any) -> bool:
    """Our rules and ipConfigs; the pool's own frontend and backend, and the membership in it;
    members by NIC, which Azure lists from the NICs' side."""
    if not isinstance(item, dict):
        return False
    name, known = str(item.get("name") or ""), str(item.get("id") or "")
    if name.startswith("egressgateway-") or (name and "id" not in item and _ours(item)):
        return True
    if not name and known.startswith(f"{BALANCER}/backendAddressPools/"):
        return "by-" not in known
    return "networkInterfaceIPConfiguration" in (item.get("properties") or {})


def _ours(item: Json) -> bool:
    return str(item["name"]) == "u" or len(str(item["name"])) == 36


def nics_of(document: Json) -> Any:
    properties = document.get("properties") or {}
    model = (properties.get("virtualMachineProfile") or {}).get("networkProfile") or {}
    profile = properties.get("networkProfileConfiguration") or model
    return profile.get("networkInterfaceConfigurations") or []


def compared(arm: Recorded) -> None:
    """What was written differs from what was there by what we add alone."""
    for name, (document, _) in arm.put.items():
        before = arm.documents[name]
        if name in ("set", "instance"):
            assert theirs(nics_of(document)) == theirs(nics_of(before)), name
        else:
            assert theirs(document) == theirs(before), name


async def test_documents_of_others_come_back_whole_and_under_their_etag() -> None:
    arm = Recorded()
    await written(arm)
    assert arm.put.keys() == {"balancer", "set", "instance", "nic", "address"}
    compared(arm)
    for name, (_, etag) in arm.put.items():
        if name == "address":  # nobody else writes those, and the SDK takes none
            continue
        assert etag == arm.documents[name]["etag"], name
    (nic,) = nics_of(arm.put["set"][0])
    flags = [c["properties"].get("primary") for c in nic["properties"]["ipConfigurations"]]
    assert flags == [True, False]


def paths(value: Any, so_far: Path = ()) -> Iterator[Path]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in pairs:
        yield (*so_far, key)
        if isinstance(item, dict | list):
            yield from paths(item, (*so_far, key))


EVERY: Final = [(name, path) for name, d in Recorded().documents.items() for path in paths(d)]


def damaged(arm: Recorded, name: str, path: Path, *, null: bool) -> bool:
    """Whether there was such a field still."""
    owner: Any = arm.documents[name]
    try:
        for key in path[:-1]:
            owner = owner[key]
        if null:
            owner[path[-1]]
            owner[path[-1]] = None
        else:
            del owner[path[-1]]
    except (KeyError, IndexError, TypeError):
        return False
    return True


async def survive(arm: Recorded) -> None:
    """A refusal in our own words is an answer too; anything else would stop every pool."""
    try:
        await written(arm)
    except CloudError:
        return
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


@pytest.mark.parametrize("null", [False, True], ids=["missing", "null"])
@pytest.mark.parametrize("name", list(Recorded().documents))
async def test_each_field_may_be_missing_or_null(name: str, null: bool) -> None:
    for document, path in EVERY:
        if document != name:
            continue
        arm = Recorded()
        damaged(arm, name, path, null=null)
        try:
            await survive(arm)
            if path[-1] not in ("id", "name") and not isinstance(path[-1], int):
                compared(arm)
        except Exception as error:
            raise AssertionError(f"{name}: {path}") from error


ODD: Final[tuple[Any, ...]] = ("odd", True, [["odd"]], {"odd": "odd"})


def mistaken(arm: Recorded, path: Path, name: str, value: Any) -> bool:
    """Puts a value of another type into a document; False if it is of the field's own type."""
    owner: Any = arm.documents[name]
    for key in path[:-1]:
        owner = owner[key]
    if type(owner[path[-1]]) is type(value):
        return False
    owner[path[-1]] = copy.deepcopy(value)
    return True


@pytest.mark.parametrize("name", list(Recorded().documents))
async def test_a_field_of_another_type_is_read_over_or_told_with_document_and_field(
    name: str,
) -> None:
    """What we do not read comes back as it is, of whatever type."""
    wrong: list[str] = []
    called = Recorded().documents[name]["id"].rpartition("/")[2]
    for document, path in EVERY:
        if document != name:
            continue
        for value in ODD:
            arm = Recorded()
            if not mistaken(arm, path, name, value):
                continue
            try:
                await written(arm)
            except Unavailable as refusal:
                told = str(refusal)
                field = next(key for key in reversed(path) if isinstance(key, str))
                if called not in told or field not in told:
                    wrong.append(f"{path} = {value!r}: {told}")
            except Exception as error:  # all of them are told, at once
                wrong.append(f"{path} = {value!r}: {type(error).__name__} {error}")
    assert not wrong, f"{len(wrong)}\n" + "\n".join(wrong[:60])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(EVERY), st.booleans()), min_size=2, max_size=6))
async def test_several_fields_may_be(several: list[tuple[tuple[str, Path], bool]]) -> None:
    arm = Recorded()
    for (name, path), null in several:
        damaged(arm, name, path, null=null)
    await survive(arm)


def test_ids_of_the_subscription_are_ours() -> None:
    assert SUB in PREFIX
