"""Writers in any order: whatever they do, the store stays a state that Azure could be in."""

from __future__ import annotations

import copy
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from egress_gateway_lab.azure.arm.errors import ArmError
from egress_gateway_lab.azure.arm.store import NAMES_ONLY, references
from lab.tests.azure.running import GROUP
from lab.tests.unit.azure.in_process import COMPUTE, NETWORK, SUBNET, InProcess, located

NAMES = st.sampled_from(["a", "b", "c"])
MODES = st.sampled_from(["Manual", "Automatic"])
BALANCER = f"{NETWORK}/loadBalancers/lb"
SCALE_SET = f"{COMPUTE}/virtualMachineScaleSets/vmss"


def sub(path: str) -> dict[str, str]:
    return {"id": path}


class Writers(RuleBasedStateMachine):
    """Requests overlap: an operation ends only when ``settle`` says so."""

    def __init__(self) -> None:
        super().__init__()
        self.world = InProcess(prefix_networks=[IPv4Network("203.0.113.0/28")])
        self.world.put(GROUP, {"location": "swedencentral"})
        space = {"addressPrefixes": ["10.1.0.0/16"]}
        subnets = [{"name": "one", "properties": {"addressPrefix": "10.1.0.0/28"}}]
        path = f"{NETWORK}/virtualNetworks/net"
        self.world.put(path, located(addressSpace=space, subnets=subnets))

    def teardown(self) -> None:
        self.world.settle()
        self.world.close()

    def send(self, method: str, path: str, body: Any = None) -> None:
        answer = self.world.ask(method, path, body)
        if isinstance(answer, ArmError):
            assert 400 <= answer.status < 500, answer

    @rule(name=NAMES, length=st.sampled_from([29, 30, 31]))
    def put_prefix(self, name: str, length: int) -> None:
        self.send("PUT", f"{NETWORK}/publicIPPrefixes/{name}", located(prefixLength=length))

    @rule(name=NAMES, prefix=st.none() | NAMES)
    def put_address(self, name: str, prefix: str | None) -> None:
        body = located(publicIPAllocationMethod="Static")
        if prefix:
            body["properties"]["publicIPPrefix"] = sub(f"{NETWORK}/publicIPPrefixes/{prefix}")
        self.send("PUT", f"{NETWORK}/publicIPAddresses/{name}", body)

    @rule(name=NAMES, public=st.none() | NAMES, pool=st.booleans(), more=st.integers(0, 5))
    def put_nic(self, name: str, public: str | None, pool: bool, more: int) -> None:
        first: dict[str, Any] = {"primary": True, "subnet": sub(SUBNET)}
        if public:
            first["publicIPAddress"] = sub(f"{NETWORK}/publicIPAddresses/{public}")
        if pool:
            first["loadBalancerBackendAddressPools"] = [sub(f"{BALANCER}/backendAddressPools/p")]
        configurations = [{"name": "ip0", "properties": first}]
        for number in range(1, more + 1):
            configurations.append({"name": f"ip{number}", "properties": {"subnet": sub(SUBNET)}})
        self.send(
            "PUT", f"{NETWORK}/networkInterfaces/{name}", located(ipConfigurations=configurations)
        )

    @rule(frontends=st.sets(NAMES, min_size=1), pool=st.booleans())
    def put_balancer(self, frontends: set[str], pool: bool) -> None:
        fronts = [{"name": f, "properties": {"subnet": sub(SUBNET)}} for f in sorted(frontends)]
        pools = [{"name": "p"}] if pool else []
        self.send(
            "PUT",
            BALANCER,
            located(frontendIPConfigurations=fronts, backendAddressPools=pools),
        )

    @rule(capacity=st.integers(0, 3), prefix=st.none() | NAMES, mode=MODES)
    def put_scale_set(self, capacity: int, prefix: str | None, mode: str) -> None:
        configurations: list[dict[str, Any]] = [
            {"name": "ip0", "properties": {"primary": True, "subnet": sub(SUBNET)}}
        ]
        if prefix:
            public = {"publicIPPrefix": sub(f"{NETWORK}/publicIPPrefixes/{prefix}")}
            configuration = {"name": "pub", "properties": public}
            properties = {"subnet": sub(SUBNET), "publicIPAddressConfiguration": configuration}
            configurations.append({"name": "ip1", "properties": properties})
        nic = {"name": "nic", "properties": {"primary": True, "ipConfigurations": configurations}}
        profile = {"networkProfile": {"networkInterfaceConfigurations": [nic]}}
        body = located(upgradePolicy={"mode": mode}, virtualMachineProfile=profile)
        self.send("PUT", SCALE_SET, {**body, "sku": {"name": "s", "capacity": capacity}})

    @rule()
    def upgrade(self) -> None:
        self.send("POST", f"{SCALE_SET}/manualupgrade", {"instanceIds": ["*"]})

    @rule(
        path=st.sampled_from(
            [
                *(f"{NETWORK}/{kind}/{name}" for name in "abc"
                  for kind in ("publicIPPrefixes", "publicIPAddresses", "networkInterfaces")),
                BALANCER, SCALE_SET, SUBNET, f"{NETWORK}/virtualNetworks/net",
            ]
        )
    )  # fmt: skip
    def delete(self, path: str) -> None:
        self.send("DELETE", path)

    @rule()
    def settle(self) -> None:
        for operation in self.world.settle():
            assert (operation.error or {}).get("code") != "InternalServerError", operation.error

    @invariant()
    def no_address_is_held_twice(self) -> None:
        held: list[IPv4Address] = []
        for entry in self.world.azure.store.everything():
            properties = entry.document["properties"]
            owners = [properties, *(c["properties"] for c in _inside(properties))]
            for owner in owners:
                text = owner.get("ipAddress") or owner.get("privateIPAddress")
                held += [IPv4Address(text)] if text else []
        assert len(held) == len(set(held)), sorted(held)

    @invariant()
    def public_addresses_lie_in_their_prefix_and_in_no_other(self) -> None:
        store = self.world.azure.store
        prefixes = {
            e.id.lower(): IPv4Network(e.document["properties"]["ipPrefix"])
            for e in store.everything()
            if e.type.endswith("publicIPPrefixes")
        }
        for entry in store.everything():
            address = entry.document["properties"].get("ipAddress")
            if address:
                prefix = entry.document["properties"].get("publicIPPrefix", {}).get("id", "")
                inside = {i for i, n in prefixes.items() if IPv4Address(address) in n}
                assert inside == ({prefix.lower()} if prefix else set())

    @invariant()
    def what_is_referred_to_exists(self) -> None:
        """Also says that nothing in use could be deleted."""
        azure = self.world.azure
        for entry in azure.store.everything():
            if entry.type.lower().startswith(NAMES_ONLY):
                continue
            if entry.document["properties"].get("provisioningState") == "Failed":
                continue
            for target, source in references(copy.deepcopy(entry.document)):
                assert azure.find(target) is not None, f"{source} refers to {target}"


def _inside(properties: dict[str, Any]) -> list[dict[str, Any]]:
    listed = (properties.get(k) for k in ("ipConfigurations", "frontendIPConfigurations"))
    return [item for items in listed for item in items or []]


Writers.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=[Phase.generate],
)
TestWriters = Writers.TestCase
