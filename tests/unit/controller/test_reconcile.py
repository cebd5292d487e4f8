"""The reconciler over documents in memory: who is told what, and what is left in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec
import pytest

from egress_gateway.api import names
from egress_gateway.api.types import (
    GatewayVmssProfile,
    ObjectMeta,
    StaticGatewayConfiguration,
    StaticGatewayConfigurationSpec,
    StaticGatewayConfigurationStatus,
)
from egress_gateway.cloud import errors
from egress_gateway.cloud.azure.cloud import AzureCloud
from egress_gateway.cloud.protocol import PoolRef
from egress_gateway.controller.observed.arrivals import Arrivals
from egress_gateway.controller.observed.departures import Departures
from egress_gateway.controller.planning.grants import Grants
from egress_gateway.controller.planning.pools import Joined
from egress_gateway.controller.planning.verdict import Verdict
from egress_gateway.controller.planning.wanted import Names
from egress_gateway.controller.reconcile import Reconciler
from egress_gateway.controller.rotation.phases import Record
from tests.unit.controller.fake_arm import FakeArm, forbidden


def _machines(verdict: Verdict | None) -> frozenset[str]:
    serving = verdict.serving if verdict else None
    return frozenset(g.provider_id.lower() for g in serving.gateways) if serving else frozenset()


class FakeKeyPairs:
    """What the reconciler asks of ``controller.observed.keypairs.KeyPairs``."""

    def __init__(self) -> None:
        self.made: set[str] = set()
        self.rotations: dict[str, Record] = {}

    def recorded(self) -> set[str]:
        return set(self.made)

    def names(self, uid: str) -> Names:
        return Names.of(uid)

    def rotation(self, uid: str) -> Record:
        return self.rotations.get(uid, Record())

    def invalidate_roles(self) -> None: ...

    def public_key(self, uid: str) -> str:
        return f"key of {uid}"

    async def ensure(self, sgc: StaticGatewayConfiguration) -> None:
        self.made.add(sgc.metadata.uid)

    async def forget(self, uid: str) -> None:
        self.made.discard(uid)

    async def grant(self, live: Iterable[StaticGatewayConfiguration]) -> None: ...


class FakeCluster:
    """What the reconciler asks of ``controller.observed.cluster.Cluster``."""

    def __init__(self) -> None:
        self.objects: dict[str, StaticGatewayConfiguration] = {}
        self.keypairs = FakeKeyPairs()
        self.told: dict[str, Verdict] = {}
        self.listed: dict[str, frozenset[str]] = {}
        self.claimed: dict[str, frozenset[str]] = {}
        self.carried: dict[str, frozenset[str]] = {}
        """Of what is deleted, the machines of which neither agent nor nodes have spoken."""
        self.changed: Callable[[Any, Any], None] = lambda old, new: None
        self.grants = Grants(annotations={})
        self.strict_pools = False
        self.nodes: dict[str, Joined] = {}
        """Of each scale set, by name."""

    def configurations(self) -> dict[str, StaticGatewayConfiguration]:
        return dict(self.objects)

    def generation(self, uid: str) -> int:
        return self.objects[uid].metadata.generation if uid in self.objects else 0

    def joined(self, pool: PoolRef) -> Joined:
        return self.nodes.get(pool.resource_name, Joined())

    def on_configuration(self, callback: Callable[[Any, Any], None]) -> None:
        self.changed = callback

    def on_agents(self, callback: Callable[[Iterable[str]], None]) -> None:
        self.agents_spoke = callback

    def using(self, sgc: StaticGatewayConfiguration) -> tuple[frozenset[str], frozenset[str]]:
        """The status is what was told last; agents follow when ``agents_follow`` is called."""
        verdict = self.told.get(sgc.metadata.uid)
        serving = verdict.serving if verdict else None
        if serving is not None:
            self.listed[sgc.metadata.uid] = _machines(verdict)
        listed = self.listed.get(sgc.metadata.uid, frozenset())
        return listed, self.claimed.get(sgc.metadata.uid, frozenset())

    def carrying(self, uid: str) -> frozenset[str]:
        return self.carried.get(uid, frozenset())

    def agents_follow(self) -> None:
        for uid, sgc in self.objects.items():
            ending = sgc.metadata.deletion_timestamp is not None
            self.claimed[uid] = frozenset() if ending else self.using(sgc)[0]
            self.agents_spoke([uid])

    def on_machines(self, callback: Callable[[], None]) -> None: ...
    def on_pods(self, callback: Callable[[str], None]) -> None: ...

    def on_grants(self, callback: Callable[[], None]) -> None: ...

    async def hold(self, sgc: StaticGatewayConfiguration) -> None:
        meta = msgspec.structs.replace(sgc.metadata, finalizers=[names.FINALIZER])
        self.objects[sgc.metadata.uid] = msgspec.structs.replace(sgc, metadata=meta)

    async def release(self, sgc: StaticGatewayConfiguration) -> None:
        del self.objects[sgc.metadata.uid]

    async def report(
        self, uid: str, verdict: Verdict, departures: Departures, arrivals: Arrivals
    ) -> None:
        self.told[uid] = verdict

    # --- the user ------------------------------------------------------------------------

    def write(self, uid: str, **spec: Any) -> None:
        """Creates or edits; ``pool`` defaults to ``np``."""
        spec = {"gateway_nodepool_name": "np"} | spec
        old = self.objects.get(uid)
        meta = old.metadata if old else ObjectMeta(name=uid, namespace="default", uid=uid)
        meta = msgspec.structs.replace(meta, generation=meta.generation + 1)
        new = StaticGatewayConfiguration(metadata=meta, spec=StaticGatewayConfigurationSpec(**spec))
        self.objects[uid] = new
        self.changed(old, new)

    def delete(self, uid: str, *, heard: bool = True) -> None:
        """``heard``: gateways have stopped serving it before the controller looks."""
        if heard:
            self.claimed.pop(uid, None)
        old = self.objects[uid]
        if not old.metadata.finalizers:
            del self.objects[uid]
            self.changed(old, None)
            return
        meta = msgspec.structs.replace(
            old.metadata,
            generation=old.metadata.generation + 1,
            deletion_timestamp="2026-01-01T00:00:00Z",
        )
        new = self.objects[uid] = msgspec.structs.replace(old, metadata=meta)
        self.changed(old, new)


class Clouds(Protocol):
    def cloud(self) -> AzureCloud: ...


class World:
    """``azure``: another than the documents in memory."""

    def __init__(self, azure: Clouds | None = None) -> None:
        self.arm = FakeArm()
        self._azure = azure or self.arm
        self.cluster = FakeCluster()
        self.now = 0.0
        self.restart()

    def restart(self) -> None:
        """A new controller process on the same world."""
        self.reconciler = Reconciler(
            self._azure.cloud(),
            self.cluster,  # type: ignore[arg-type]
            drift_interval=60,
            retry_limit=30,
            clock=lambda: self.now,
        )

    async def turn(self) -> None:
        """One look at everything, as the drift check does."""
        await self.reconciler.handle("survey")
        for key in [*self.reconciler.pools]:
            await self.reconciler.handle(key)
        for uid in self.cluster.objects:
            await self.reconciler.report(uid)

    async def settle(self) -> None:
        await self.turn()
        await self.turn()

    def verdict(self, uid: str) -> Verdict:
        return self.cluster.told[uid]

    def reason(self, uid: str) -> str | None:
        problem = self.cluster.told[uid].problem
        return problem.reason if problem else None


async def test_a_settled_pool_is_looked_at_with_few_calls_and_no_write(world: World) -> None:
    world.arm.add_pool("np")
    for n in range(5):
        world.cluster.write(f"u{n}", public_ip_prefix_id=world.arm.add_prefix(f"p{n}"))
    await world.settle()
    reads, writes = world.arm.reads, len(world.arm.writes)
    await world.turn()
    assert len(world.arm.writes) == writes
    assert world.arm.reads - reads <= 9


async def test_an_invalid_object_that_never_worked_can_be_deleted_at_once(world: World) -> None:
    world.arm.add_pool("np")
    world.cluster.write("a", exclude_cidrs=["nonsense"])
    await world.settle()
    assert world.reason("a") == "InvalidSpec"
    assert world.cluster.objects["a"].metadata.finalizers == []


async def test_moving_to_another_pool_serves_there_before_it_leaves_here(world: World) -> None:
    first = world.arm.add_pool("np")
    second = world.arm.add_pool("other")
    world.cluster.write("a")
    await world.settle()
    served: list[tuple[bool, bool]] = []

    def watch(write: str) -> None:
        served.append(
            tuple(  # type: ignore[arg-type]
                any(
                    c["name"] == "egressgateway-a"
                    for nic_id, nic in world.arm.nics.items()
                    if f"/aks-{pool}-vmss/" in nic_id
                    for c in nic["properties"]["ipConfigurations"]
                )
                for pool in ("np", "other")
            )
        )

    world.arm.before = watch
    world.cluster.write("a", gateway_nodepool_name="other")
    for _ in range(3):
        await world.turn()
    assert all(here or there for here, there in served)
    assert world.verdict("a").settled
    document = world.arm.balancer_document
    assert document is not None
    assert [b["name"] for b in document["properties"]["backendAddressPools"]] == [second]
    assert first != second
    profile = world.arm.sets["aks-np-vmss"]["properties"]["virtualMachineProfile"]
    configs = profile["networkProfile"]["networkInterfaceConfigurations"][0]["properties"]
    assert len(configs["ipConfigurations"]) == 1
    assert "egressgateway-a" in world.arm.made


async def test_a_pool_that_is_gone_holds_up_no_deletion(world: World) -> None:
    world.arm.add_pool("np")
    world.cluster.write("a")
    await world.settle()
    del world.arm.sets["aks-np-vmss"]
    world.arm.nics.clear()
    await world.settle()
    assert world.reason("a") == "GatewayPoolNotFound"
    world.cluster.delete("a")
    await world.settle()
    assert world.cluster.objects == {}
    assert world.arm.balancer_document is None
    assert world.arm.made == {}


async def test_the_culprit_of_a_gathered_write_is_found_and_the_others_are_served(
    world: World,
) -> None:
    world.arm.add_pool("np", size=28)
    for n in range(8):
        world.cluster.write(f"u{n}")

    def refuse(write: str) -> None:
        if write.startswith("model") and "egressgateway-u5" in written:
            raise errors.Failed("something is wrong", code="BadRequest")

    written = _spy_on_models(world)
    world.arm.before = refuse
    await world.settle()
    await world.settle()
    served = {uid for uid in world.cluster.objects if world.verdict(uid).serving}
    assert served == {f"u{n}" for n in range(8)} - {"u5"}
    assert world.reason("u5") == "AzureError"


def _spy_on_models(world: World) -> list[str]:
    """Always the ipConfigs of the model write that is under way."""
    put = world.arm.put_scale_set
    current: list[str] = []

    async def spying(group: str, name: str, document: dict[str, Any], etag: str | None) -> None:
        profile = document["properties"]["virtualMachineProfile"]["networkProfile"]
        nic = profile["networkInterfaceConfigurations"][0]
        current[:] = [c["name"] for c in nic["properties"]["ipConfigurations"]]
        await put(group, name, document, etag)

    world.arm.put_scale_set = spying  # type: ignore[method-assign]
    return current


async def in_service_without_the_cloud(world: World) -> None:
    world.arm.add_pool("np")
    world.cluster.write("a")
    await world.settle()

    async def down(group: str, name: str) -> Any:
        raise errors.Unavailable("no route to Azure")

    world.arm.balancer = down  # type: ignore[method-assign]


async def test_a_cloud_that_does_not_answer_flips_nothing_that_works(world: World) -> None:
    await in_service_without_the_cloud(world)
    world.cluster.write("b")
    for key in [*world.reconciler.pools]:
        await world.reconciler.handle(key)
    for uid in ("a", "b"):
        await world.reconciler.report(uid)
    assert world.verdict("a").problem is None
    assert world.reason("b") == "AzureError"


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ({"exclude_cidrs": ["nonsense"]}, "InvalidSpec"),
        ({"exclude_cidrs": ["10.0.0.0/8"]}, None),
        ({"default_route": "azureNetworking"}, None),
        ({"provision_public_ips": False}, "AzureError"),
    ],
)
async def test_an_edit_while_the_cloud_is_away_is_judged_as_far_as_can_be(
    world: World, edit: dict[str, Any], reason: str | None
) -> None:
    await in_service_without_the_cloud(world)
    world.cluster.write("a", **edit)
    for _ in range(2):
        await world.turn()
        assert world.reason("a") == reason
        assert world.verdict("a").generation == 2
        assert world.verdict("a").serving is not None


async def test_what_mends_an_invalid_edit_while_the_cloud_is_away_is_not_called_invalid(
    world: World,
) -> None:
    await in_service_without_the_cloud(world)
    world.cluster.write("a", exclude_cidrs=["nonsense"])
    await world.turn()
    assert world.reason("a") == "InvalidSpec"
    world.cluster.write("a", exclude_cidrs=["10.0.0.0/8"])
    await world.turn()
    assert (world.reason("a"), world.verdict("a").generation) == ("AzureError", 3)


async def test_a_scale_set_named_directly_lends_its_pool(world: World) -> None:
    world.arm.add_pool("np")
    group = world.arm.sets["aks-np-vmss"]["id"].split("/")[4]
    profile = GatewayVmssProfile(
        vmss_resource_group=group.lower(), vmss_name="aks-np-vmss", public_ip_prefix_size=31
    )
    world.cluster.write("a", gateway_nodepool_name="", gateway_vmss_profile=profile)
    await world.settle()
    assert world.verdict("a").settled
    assert world.arm.made["egressgateway-a"]["properties"]["prefixLength"] == 31


async def test_a_role_that_is_taken_away_is_told_to_those_in_service(world: World) -> None:
    world.arm.add_pool("np")
    world.cluster.write("a")
    await world.settle()
    pools = world.arm.scale_sets
    refusal = forbidden("/group")

    async def refuse(group: str) -> list[dict[str, Any]]:
        raise refusal

    world.arm.scale_sets = refuse  # type: ignore[method-assign]
    await world.reconciler.handle("survey")
    await world.reconciler.report("a")
    verdict = world.verdict("a")
    assert verdict.serving is not None
    assert verdict.problem is None
    assert "az role assignment create" in str(verdict.note)
    world.arm.scale_sets = pools  # type: ignore[method-assign]
    await world.turn()
    assert world.verdict("a").note is None


async def test_a_removal_that_azure_refuses_says_why_waits_and_holds_up_nobody(
    world: World,
) -> None:
    world.arm.add_pool("np")
    world.cluster.write("a")
    await world.settle()

    def refuse(write: str) -> None:
        if write.startswith("delete prefix"):
            raise forbidden("/subscriptions/s/prefix")

    world.arm.before = refuse
    world.cluster.delete("a")
    world.cluster.write("b")
    writes = len(world.arm.writes)
    await world.turn()
    assert world.reason("a") == "AuthorizationFailed"
    assert world.verdict("b").settled
    assert len(world.arm.writes) - writes < 8
    world.arm.before = lambda write: None
    await world.settle()
    assert "a" not in world.cluster.objects


async def test_a_refusal_goes_on_being_said_while_it_is_tried_again(world: World) -> None:
    world.arm.add_pool("np")
    world.cluster.write("a")
    said: list[str | None] = []
    report = world.cluster.report

    async def listen(
        uid: str, verdict: Verdict, departures: Departures, arrivals: Arrivals
    ) -> None:
        said.append(verdict.problem.reason if verdict.problem else None)
        await report(uid, verdict, departures, arrivals)

    def refuse(write: str) -> None:
        raise errors.Quota("enough")

    world.cluster.report = listen  # type: ignore[method-assign]
    world.arm.before = refuse
    for _ in range(4):
        await world.turn()
    assert said == ["QuotaExceeded"] * 4


async def test_a_pool_that_was_just_made_is_looked_for_before_anybody_says_that_there_is_none(
    world: World,
) -> None:
    world.arm.add_pool("np")
    world.cluster.write("moving")
    await world.settle()
    world.arm.add_pool("later")  # since the last survey
    world.cluster.write("new", gateway_nodepool_name="later")
    world.cluster.write("moving", gateway_nodepool_name="later")
    for key in [*world.reconciler.pools]:
        await world.reconciler.handle(key)
    for uid in ("new", "moving"):
        await world.reconciler.report(uid)
        assert world.reason(uid) == "Provisioning"
    await world.settle()
    assert world.verdict("new").settled

    world.cluster.write("new", gateway_nodepool_name="nowhere")
    await world.turn()
    assert world.reason("new") == "GatewayPoolNotFound"


async def test_a_status_that_somebody_else_wrote_is_put_right_at_once(world: World) -> None:
    world.arm.add_pool("np")
    world.cluster.write("a")
    await world.settle()
    reports = world.reconciler.reports
    while len(reports):
        reports.done(await reports.get())
    known = world.cluster.objects["a"]
    written = StaticGatewayConfigurationStatus(egress_ip_prefix="203.0.113.0/31")
    world.cluster.changed(known, msgspec.structs.replace(known, status=written))
    async with asyncio.timeout(60):
        assert await reports.get() == "a"
