"""A deleted configuration's private addresses are another's next: no pod of the first may use them.

Azure gives a free address to whoever asks next, lowest first. Each test deletes a configuration
while somebody cannot hear of it, and makes another one as soon as its addresses are free. A packet
socket at the Internet's edge sees all that the first one's pod sends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

import pytest

from egress_gateway.api import names
from egress_gateway_lab.demo.world import NETWORK_CONTRIBUTOR, World, until
from tests.lab.conftest import POOL, configured
from tests.lab.test_bad_input import remove
from tests.storms.judge.edge import Edge
from tests.storms.judge.ledger import Seen
from tests.storms.place import Place, pod

pytestmark = pytest.mark.root
SGCS = "staticgatewayconfigurations"


@dataclass(slots=True)
class Leaver:
    """A configuration that is about to go, and its pod. ``private``: its gateways' addresses."""

    world: World
    place: Place
    edge: Edge
    prefix: IPv4Network
    private: dict[str, str]
    worker: str
    name: str = "leaver"

    def _seen(self) -> list[Seen]:
        return [one for one in self.edge.seen() if one.pod == self.name]

    def sources(self) -> set[IPv4Address]:
        return {one.source for one in self._seen()}

    def first(self, prefix: IPv4Network) -> float:
        return min(one.at for one in self._seen() if one.source in prefix)

    def last(self, prefix: IPv4Network) -> float:
        return max(one.at for one in self._seen() if one.source in prefix)

    async def goes_on(self) -> bool:
        """Whether it sent something within the last second."""
        return max(one.at for one in self._seen()) > time.time() - 1

    async def answered_from(self, prefix: IPv4Network) -> None:
        await until(
            lambda: self._now(prefix), timeout=120, what=f"pod {self.name} to leave from {prefix}"
        )

    async def _now(self, prefix: IPv4Network) -> bool:
        life = self.edge.lives.get(self.name)
        return life is not None and life.source in prefix and life.since() > 0

    async def deleted(self) -> None:
        await self.world.kube.delete(SGCS, self.name, namespace="default")

    async def kill(self, *components: str) -> None:
        for component in components:
            for pid in await self.place.ours(component):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


async def held(world: World, uid: str) -> dict[str, str]:
    """The private address of a configuration on each network interface that has one."""
    group = await world.node_group_id()
    scale_sets = await world.arm.get(
        f"{group}/providers/Microsoft.Compute/virtualMachineScaleSets", "2024-07-01"
    )
    pool = next(s for s in scale_sets["value"] if s["tags"].get(names.POOL_NAME_TAG) == POOL)
    nics = await world.arm.get(f"{pool['id']}/networkInterfaces", "2023-09-01")
    return {
        nic["id"].lower(): one["properties"]["privateIPAddress"]
        for nic in nics["value"]
        for one in nic["properties"]["ipConfigurations"]
        if one["name"] == names.managed(uid)
    }


async def uid_of(world: World, name: str) -> str:
    return str((await world.kube.get(SGCS, name, namespace="default"))["metadata"]["uid"])


async def without_controller(place: Place) -> tuple[str, str]:
    """A worker, and its role, on which nobody decides: a cut must not reach the controller."""
    pods = await place.world.kube.list("pods", namespace=names.SYSTEM_NAMESPACE)
    deciding = {p["spec"].get("nodeName") for p in pods if "controller" in p["metadata"]["name"]}
    machines = await place.machines()
    role = next(r for r, m in machines.items() if r[0] == "w" and m["name"] not in deciding)
    return machines[role]["name"], role


@contextlib.asynccontextmanager
async def leaving(world: World) -> AsyncIterator[Leaver]:
    inside = (await world.control.call("status"))["internet"]
    place = Place(world, world.lab)
    async with Edge(f"/proc/{world.lab.pid}/fd/{inside.rpartition('/')[2]}") as edge:
        await in_order(world)
        prefix = IPv4Network(await configured(world, "leaver"))
        private = await given(world, "leaver")
        worker, role = await without_controller(place)
        address = str(edge.address("leaver"))
        await world.kube.create("pods", pod("leaver", worker, "leaver", address))
        made = Leaver(world, place, edge, prefix, private, role)
        await made.answered_from(prefix)
        try:
            yield made
        finally:
            await world.kube.delete("pods", "leaver", namespace="default", grace_seconds=0)
            for name in ("heir", "leaver"):
                if await world.kube.find(SGCS, name, namespace="default"):
                    await remove(world, name)
        assert edge.missed() == 0


async def given(world: World, name: str) -> dict[str, str]:
    """What a configuration has once Azure gave each gateway an address for it."""
    uid = await uid_of(world, name)

    async def both() -> dict[str, str]:
        found = await held(world, uid)
        return found if len(found) == 2 else {}

    found: dict[str, str] = await until(both, timeout=120, what=f"the addresses of {name}")
    return found


async def in_order(world: World) -> None:
    """The pool's second machine is written after the first: who asks anew gets the same."""
    await world.control.call(
        "fault", path="/virtualMachines/1$", kind="delay", method="PUT", times=1, seconds=5
    )


async def heir_asked_for(leaver: Leaver, *, name: str = "heir") -> IPv4Network:
    """Somebody makes a configuration with a prefix of its own; its prefix."""
    world = leaver.place.world
    await in_order(world)
    made = await world.create_prefix(f"pip-{name}-next", length=30)
    scope = world.prefix_id(f"pip-{name}-next")
    cluster = await world.arm.get(world.cluster_id, "2026-06-01")
    await world.grant(cluster["identity"]["principalId"], NETWORK_CONTRIBUTOR, scope)
    await world.configure(name, leaver.place.spec(f"pip-{name}-next", []))
    return IPv4Network(made["properties"]["ipPrefix"])


async def gone(world: World) -> None:
    async def looked() -> bool:
        return await world.kube.find(SGCS, "leaver", namespace="default") is None

    await until(looked, timeout=120, what="the deleted configuration to be gone")


@pytest.mark.storm
async def test_who_cannot_hear_of_a_deletion_keeps_its_own_address(world: World) -> None:
    """Neither the pod's node nor the gateways hear: packets go on, and nobody else may have their
    addresses until one side has spoken. The object goes all the same, and others are served."""
    async with leaving(world) as leaver:
        uid = await uid_of(world, "leaver")
        async with leaver.place.without_api(leaver.worker, "g0", "g1"):
            await leaver.deleted()
            await gone(world)
            heirs = await heir_asked_for(leaver)
            got = await given(world, "heir")
            assert await held(world, uid) == leaver.private
            assert set(got.values()).isdisjoint(leaver.private.values())
            await until(leaver.goes_on, timeout=120, what="the pod to go on")
        await world.configuration_condition(
            "heir", lambda c: c["type"] == "Ready" and c["status"] == "True", timeout=120
        )

        async def free() -> bool:
            return not await held(world, uid)

        await until(free, timeout=120, what="the addresses to be given back")
        assert all(s in leaver.prefix for s in leaver.sources()), (leaver.sources(), heirs)


@pytest.mark.parametrize(
    "deaf",
    [
        "gateways",
        pytest.param("worker", marks=pytest.mark.storm),
        pytest.param("killed", marks=pytest.mark.storm),
    ],
)
async def test_no_pod_of_a_deleted_configuration_leaves_from_its_heirs_prefix(
    deaf: str, world: World
) -> None:
    """One side hears, or all begin anew just then: the addresses become the heir's at once."""
    async with leaving(world) as leaver:
        roles = {"gateways": ("g0", "g1"), "worker": (leaver.worker,), "killed": ()}[deaf]
        async with leaver.place.without_api(*roles):
            await leaver.deleted()
            if deaf == "killed":
                await leaver.kill("node", "gateway")
            await gone(world)
            heirs = await heir_asked_for(leaver)
            assert await given(world, "heir") == leaver.private, "the race is on"
        await world.configuration_condition(
            "heir", lambda c: c["type"] == "Ready" and c["status"] == "True", timeout=120
        )
        assert all(s in leaver.prefix for s in leaver.sources()), (leaver.sources(), heirs)


@pytest.mark.storm
async def test_a_configuration_of_the_same_name_serves_the_pods_from_its_own_prefix(
    world: World,
) -> None:
    async with leaving(world) as leaver:
        await leaver.deleted()
        await gone(world)
        heirs = await heir_asked_for(leaver, name="leaver")
        await leaver.answered_from(heirs)
        sources = leaver.sources()
        assert all(s in leaver.prefix or s in heirs for s in sources), sources
        # No answer of the first life's prefix comes after the second's.
        assert leaver.last(leaver.prefix) < leaver.first(heirs)
