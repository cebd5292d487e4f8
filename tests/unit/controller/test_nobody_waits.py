"""Nobody waits for a configuration in trouble: any mix of refusals that last, named or not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress_gateway.cloud import errors
from egress_gateway.cloud.azure.requests.errors import missing_role
from tests.unit.controller.fake_arm import FakeArm
from tests.unit.controller.test_reconcile import World

Where = Literal["model", "instance", "instance-0", "both"]
How = Literal["prefix", "config", "nobody"]
What = Literal["failed", "forbidden", "exhausted", "quota"]


@dataclass
class Trouble:
    """Azure refuses every document ``where`` that carries the ipConfig of ``uid``, says so of
    ``how``, and means ``what``."""

    uid: str
    where: Where
    how: How
    what: What


@dataclass
class Refusing:
    """A FakeArm whose writes are refused for what they carry."""

    arm: FakeArm
    prefixes: dict[str, str]
    troubles: list[Trouble] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._put_set, self._put_instance = self.arm.put_scale_set, self.arm.put_instance
        self.arm.put_scale_set = self._scale_set  # type: ignore[method-assign]
        self.arm.put_instance = self._instance  # type: ignore[method-assign]

    async def _scale_set(self, group: str, name: str, document: Any, etag: str | None) -> None:
        profile = document["properties"]["virtualMachineProfile"]["networkProfile"]
        self._refuse(profile, ("model", "both"))
        await self._put_set(group, name, document, etag)

    async def _instance(
        self, group: str, name: str, number: str, document: Any, etag: str | None
    ) -> None:
        profile = document["properties"]["networkProfileConfiguration"]
        try:
            self._refuse(profile, ("instance", f"instance-{number}", "both"))
        except errors.CloudError:
            # Azure keeps what was asked for in the document, and the NIC as it was.
            found = next(i for i in self.arm.machines[name] if i["instanceId"] == number)
            found["properties"]["networkProfileConfiguration"] = profile
            found["properties"]["provisioningState"] = "Failed"
            raise
        await self._put_instance(group, name, number, document, etag)

    def _refuse(self, profile: Any, places: tuple[str, ...]) -> None:
        (nic,) = profile["networkInterfaceConfigurations"]
        carried = {c["name"] for c in nic["properties"]["ipConfigurations"]}
        for trouble in self.troubles:
            if f"egressgateway-{trouble.uid}" in carried and trouble.where in places:
                raise self._error(trouble)

    def _error(self, trouble: Trouble) -> errors.CloudError:
        prefix = self.prefixes[trouble.uid]
        message = {
            "prefix": f"prefix {prefix}' is refused",
            "config": f"ipConfig egressgateway-{trouble.uid} is refused",
            "nobody": "something is wrong",
        }[trouble.how]
        related = [prefix] if trouble.how == "prefix" else []
        if trouble.what == "forbidden":
            return missing_role(message, "LinkedAuthorizationFailed", message, prefix)
        kind = {"failed": errors.Failed, "exhausted": errors.Exhausted, "quota": errors.Quota}
        return kind[trouble.what](message, code="Lasting", related=related)


def served(world: World, uid: str, *, before: str = "", gateways: int = 2) -> bool:
    verdict = world.cluster.told.get(uid)
    return bool(
        verdict
        and verdict.serving
        and verdict.serving.prefix not in (None, before)
        and len(verdict.serving.gateways) >= gateways
    )


def addresses(azure: Refusing, uid: str) -> int:
    """On how many machines the network interface has its address."""
    return sum(f"egressgateway-{uid}'" in str(nic["properties"]) for nic in azure.arm.nics.values())


async def turns(world: World, seconds: float) -> None:
    """What happens within ``seconds``: a turn for each, agents that follow."""
    end = world.now + seconds
    while world.now < end:
        await world.turn()
        world.cluster.agents_follow()
        world.now += 1.0 if seconds < 30 else 10.0


troubles = st.builds(
    Trouble,
    uid=st.sampled_from(["c", "d"]),
    where=st.sampled_from(["model", "instance", "instance-0", "both"]),
    how=st.sampled_from(["prefix", "config", "nobody"]),
    what=st.sampled_from(["failed", "forbidden", "exhausted", "quota"]),
)


def world_of(shared: bool) -> tuple[World, Refusing]:
    world = World()
    world.arm.add_pool("np", size=28)
    own = {uid: world.arm.add_prefix(f"p-{uid}", 28) for uid in ("a", "b", "c", "d", "e")}
    if shared:  # a was there before, with the prefix that c asks for
        own["c"] = own["a"]
    return world, Refusing(world.arm, own)


@settings(max_examples=20, deadline=None)
@given(listed=st.lists(troubles, min_size=1, max_size=2), shared=st.booleans())
def test_neighbours_are_served_edited_and_deleted_beside_who_is_refused(
    listed: list[Trouble], shared: bool
) -> None:
    async def run() -> None:
        world, azure = world_of(shared)
        # One machine of two that refuses a write and names nobody cannot be told from one that is
        # broken: whoever is new or edited is served by the other one.
        broken = any(t.where == "instance-0" and t.how == "nobody" for t in listed)
        gateways = 1 if broken else 2
        for uid in ("a", "b"):
            world.cluster.write(uid, public_ip_prefix_id=azure.prefixes[uid])
        await turns(world, 2)
        azure.troubles = listed
        for uid in ("c", "d"):
            world.cluster.write(uid, public_ip_prefix_id=azure.prefixes[uid])
        await turns(world, 2)
        world.cluster.write("e", public_ip_prefix_id=azure.prefixes["e"])
        await turns(world, 10)
        assert served(world, "e", gateways=gateways), world.cluster.told["e"]
        before = str(azure.arm.brought[azure.prefixes["b"].lower()]["properties"]["ipPrefix"])  # type: ignore[index]
        world.cluster.write("b", public_ip_prefix_id=world.arm.add_prefix("other", 28))
        await turns(world, 10)
        assert served(world, "b", before=before, gateways=gateways), world.cluster.told["b"]
        assert served(world, "a")
        world.cluster.delete("e")
        await turns(world, 10)
        assert "e" not in world.cluster.objects
        azure.troubles = []
        await turns(world, 62)
        for uid in ("a", "b", "c", "d"):
            assert world.verdict(uid).settled, (uid, world.verdict(uid))

    asyncio.run(run())


@pytest.mark.parametrize("how", get_args(How))
@pytest.mark.parametrize("what", get_args(What))
async def test_a_role_that_is_taken_away_stops_nobody_else(
    how: How, what: What, request: pytest.FixtureRequest
) -> None:
    """``c`` serves, and then Azure refuses every document that carries what it has."""
    if what == "exhausted" and how != "nobody":
        request.applymarker(pytest.mark.xfail(reason="who has an address is not believed to be it"))
    world, azure = world_of(shared=False)
    for uid in ("a", "c"):
        world.cluster.write(uid, public_ip_prefix_id=azure.prefixes[uid])
    await turns(world, 2)
    assert served(world, "c")
    azure.troubles = [Trouble("c", "both", how, what)]
    await turns(world, 2)
    assert served(world, "c"), "nobody needs a write: it keeps what it has"
    assert addresses(azure, "c") == 2
    world.cluster.write("e", public_ip_prefix_id=azure.prefixes["e"])
    await turns(world, 10)
    assert served(world, "e", gateways=1), world.cluster.told["e"]
    assert served(world, "a")
    assert world.verdict("c").problem is not None
    assert addresses(azure, "c") == 1, "nobody loses a working address by a change of roles"
    before = str(azure.arm.brought[azure.prefixes["a"].lower()]["properties"]["ipPrefix"])  # type: ignore[index]
    world.cluster.write("a", public_ip_prefix_id=world.arm.add_prefix("other", 28))
    await turns(world, 10)
    assert served(world, "a", before=before, gateways=1), world.cluster.told["a"]
    world.cluster.delete("e")
    await turns(world, 30)
    assert "e" not in world.cluster.objects
    assert addresses(azure, "c") == 1
    azure.troubles = []
    await turns(world, 62)
    assert world.verdict("c").settled
    assert world.verdict("a").settled
    assert addresses(azure, "c") == 2
    assert addresses(azure, "e") == 0


@pytest.mark.parametrize(
    ("guilty", "newcomers"), [("c", "ef"), ("ac", "e"), ("abcd", "e"), ("e", "e"), ("ce", "ef")]
)
async def test_whom_an_unnamed_refusal_is_about_is_found_among_those_who_were_there(
    guilty: str, newcomers: str
) -> None:
    """Who is innocent keeps all that it has meanwhile."""
    world = World()
    world.arm.add_pool("np", size=28)
    own = {uid: world.arm.add_prefix(f"p-{uid}", 28) for uid in "abcdef"}
    azure = Refusing(world.arm, own)
    for uid in "abcd":
        world.cluster.write(uid, public_ip_prefix_id=own[uid])
    await turns(world, 2)
    azure.troubles = [Trouble(uid, "both", "nobody", "failed") for uid in guilty]
    for uid in newcomers:
        world.cluster.write(uid, public_ip_prefix_id=own[uid])
    for _ in range(20):
        await turns(world, 1)
        assert all(addresses(azure, uid) == 2 for uid in {*"abcd"} - {*guilty})
    for uid in {*newcomers} - {*guilty}:
        assert served(world, uid, gateways=1), world.cluster.told[uid]
    if {*guilty} <= {*newcomers}:
        assert all(addresses(azure, uid) == 2 for uid in "abcd")
    azure.troubles = []
    await turns(world, 62)
    assert all(addresses(azure, uid) == 2 for uid in ("abcd" + newcomers))


@pytest.mark.parametrize("course", ["RA", "RARA", "RARRA"])
@pytest.mark.parametrize("there", ["a", "abcd"])
async def test_an_outage_that_meets_a_trial_is_nobodys_fault(course: str, there: str) -> None:
    """Azure takes (A) and refuses (R) writes of the model so, whatever they carry, refuses it for a
    while, and names nobody. Who gives way would lose its addresses to writes for others."""
    world = World()
    world.arm.add_pool("np", size=28)
    own = {uid: world.arm.add_prefix(f"p-{uid}", 28) for uid in "abcde"}
    azure = Refusing(world.arm, own)
    for uid in there:
        world.cluster.write(uid, public_ip_prefix_id=own[uid])
    await turns(world, 2)
    put, answers = world.arm.put_scale_set, iter(course + "R" * 9)

    async def answer(group: str, name: str, document: Any, etag: str | None) -> None:
        if next(answers, "A") == "R":
            raise errors.Failed("it is broken", code="Broken")
        await put(group, name, document, etag)

    world.arm.put_scale_set = answer  # type: ignore[method-assign]
    world.cluster.write("e", public_ip_prefix_id=own["e"])
    for _ in range(40):
        await turns(world, 1)
        backoff = world.reconciler._backoff  # noqa: SLF001  (chance decides whose addresses go)
        assert not any(map(backoff.gives_way, there))
        world.now += 30
    assert all(served(world, uid) and addresses(azure, uid) == 2 for uid in there + "e")


async def test_a_prefix_whose_deletion_hangs_keeps_no_other_from_going() -> None:
    world = World()
    world.arm.add_pool("np")
    for uid in "abc":
        world.cluster.write(uid)
    await turns(world, 2)
    assert len(world.arm.made) == 3
    world.arm.sets.clear()
    world.arm.machines.clear()
    world.arm.nics.clear()
    for uid in "abc":
        world.cluster.delete(uid)
    world.arm.balancer_document = None
    world.restart()
    delete = world.arm.delete_prefix
    asked: list[str] = []

    async def slow(group: str, name: str) -> None:
        asked.append(name)
        await (asyncio.Event().wait() if len(asked) == 1 else delete(group, name))

    world.arm.delete_prefix = slow  # type: ignore[method-assign]
    turn = asyncio.create_task(turns(world, 60))
    async with asyncio.timeout(20):
        while len(world.cluster.objects) > 1:
            await asyncio.sleep(0)
    turn.cancel()
    await asyncio.wait([turn])
