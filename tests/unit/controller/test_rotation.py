"""A key pair is changed: what ends each phase, what Azure and the status hold meanwhile."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress_gateway.api import keys, names
from egress_gateway.api.conditions import KEYS_ROTATED, Reason
from egress_gateway.api.types import (
    Condition,
    GatewayServerProfile,
    ObjectMeta,
    PodEndpoint,
    PodEndpointSpec,
)
from egress_gateway.controller.planning.problem import Problem
from egress_gateway.controller.reporting.status import notices
from egress_gateway.controller.rotation.phases import (
    ACTIVE,
    TWO_PAIRS,
    Pairs,
    Record,
    RotationFacts,
    Users,
    change_of,
    condition,
    following,
    pairs_of,
    servers,
    users_of,
)
from egress_gateway.kube.resources import Secret
from tests.unit.controller.fake_arm import FakeArm
from tests.unit.controller.planning.test_plan import one_pass, settle, wanted
from tests.unit.controller.test_reconcile import World

OLD = keys.generate()
BOTH = frozenset({"gw-1", "gw-2"})
ALL_MOVED, SOME, NONE = Users(moved=3), Users(moved=2, lagging={"n": 1}), Users(lagging={"n": 3})
BASE = RotationFacts(
    now=100.0,
    request="r",
    in_service=True,
    port=6000,
    second_port=6001,
    gateways=BOTH,
    prepared=BOTH,
    users=ALL_MOVED,
    timeout=600.0,
)


def record(phase: Any, **changes: Any) -> Record:
    return Record(**{"request": "r", "phase": phase, "since": 0.0, **changes})


@pytest.mark.parametrize(
    ("phase", "changes", "after"),
    [
        ("", {"request": "s"}, "Preparing"),
        ("", {"request": "s", "in_service": False}, ""),
        ("Done", {}, "Done"),
        ("Done", {"request": ""}, "Done"),
        ("Abandoned", {"request": "s"}, "Preparing"),
        ("Preparing", {}, "Moving"),
        ("Preparing", {"second_port": 0}, "Preparing"),
        ("Preparing", {"prepared": frozenset({"gw-1"})}, "Preparing"),
        ("Preparing", {"gateways": frozenset()}, "Preparing"),
        ("Preparing", {"prepared": frozenset({"gw-1"}), "now": 600.0}, "Abandoned"),
        ("Preparing", {"prepared": frozenset(), "now": 6000.0, "timeout": 0.0}, "Preparing"),
        ("Preparing", {"request": ""}, "Abandoned"),
        ("Preparing", {"request": "s"}, "Moving"),
        ("Moving", {}, "Retiring"),
        ("Moving", {"users": Users()}, "Retiring"),
        ("Moving", {"users": SOME}, "Moving"),
        ("Moving", {"users": SOME, "now": 600.0}, "Retiring"),
        ("Moving", {"users": SOME, "now": 6000.0, "timeout": 0.0}, "Moving"),
        ("Moving", {"users": NONE, "now": 600.0}, "Abandoned"),
        ("Moving", {"users": SOME, "request": ""}, "Moving"),
        ("Retiring", {"now": 1.0}, "Retiring"),
        ("Retiring", {"now": 3.0}, "Closing"),
        ("Retiring", {"now": 3.0, "users": SOME}, "Retiring"),
        ("Retiring", {"now": 61.0, "users": SOME}, "Closing"),
        ("Closing", {"now": 3.0}, "Closing"),
        ("Closing", {"now": 0.5, "prepared": frozenset()}, "Closing"),
        ("Closing", {"now": 3.0, "prepared": frozenset()}, "Settling"),
        ("Closing", {"now": 61.0}, "Settling"),
        ("Settling", {}, "Settling"),
    ],
)
def test_what_ends_each_phase(phase: Any, changes: dict[str, Any], after: str) -> None:
    before = record(phase)
    found = following(before, replace(BASE, **changes))
    assert found.phase == after
    assert (found is before) == (after == phase)


def test_the_last_phase_ends_when_the_rule_has_the_port_and_the_second_is_gone() -> None:
    settling = following(record("Closing"), replace(BASE, prepared=frozenset()))
    assert (settling.phase, settling.port) == ("Settling", 6001)
    assert following(settling, replace(BASE, port=6001)) is settling
    done = following(settling, replace(BASE, port=6001, second_port=0))
    assert (done.phase, done.request, done.port) == ("Done", "r", 0)


def test_conditions_say_who_is_waited_for_and_what_to_do() -> None:
    def said(phase: Any, **changes: Any) -> tuple[str, str, str]:
        found = condition(record(phase), replace(BASE, phase=phase, **changes))
        assert found is not None
        return found

    assert condition(Record(), RotationFacts()) is None
    assert said("Moving", users=SOME)[1:] == (
        Reason.ROTATION_MOVING,
        "2 of 3 pods use the next key pair; waiting for pods on n (1)",
    )
    assert "1 of 2 gateways" in said("Preparing", prepared=frozenset({"gw-1"}))[2]
    late = condition(record("Retiring", note="late"), replace(BASE, phase="Retiring", users=SOME))
    assert late is not None
    assert late[1] == Reason.ROTATION_LAGGING
    assert said("Done")[0] == "True"
    assert "another rotation is requested" in said("Moving", request="s")[2]
    assert said("Done", request="s")[1] == Reason.ROTATION_WAITING
    blocked = following(record("Moving"), replace(BASE, users=NONE, now=600.0))
    found = condition(blocked, BASE)
    assert found is not None
    assert found[:2] == ("False", Reason.ROTATION_ABANDONED)
    assert "UDP 6001" in found[2]


@pytest.mark.parametrize("users", [SOME, NONE, Users()])
@pytest.mark.parametrize("phase", ["Preparing", "Retiring", "Closing"])
def test_what_was_counted_in_the_phase_before_is_not_said_of_this_one(
    phase: Any, users: Users
) -> None:
    """A false Warning in each rotation: pods that were still moving at the last look of Moving
    were said to lag in Retiring."""
    found = condition(record(phase), replace(BASE, phase="Moving", users=users))
    assert found is not None
    assert found[1] != Reason.ROTATION_LAGGING
    assert " of " not in found[2], found[2]


def test_a_pod_that_attaches_while_the_pair_retires_is_no_laggard() -> None:
    """Its node had read the former pair a moment before; it moves within a second."""
    for users in (SOME, NONE):
        found = condition(record("Retiring"), replace(BASE, phase="Retiring", users=users))
        assert found is not None
        assert found[1] == Reason.ROTATION_RETIRING


def endpoint(name: str, node: str, key: str, configuration: str = "a") -> PodEndpoint:
    spec = PodEndpointSpec(
        static_gateway_configuration=configuration, node_name=node, gateway_public_key=key
    )
    return PodEndpoint(metadata=ObjectMeta(name=name), spec=spec)


def test_only_pods_of_the_configuration_on_nodes_that_are_up_are_waited_for() -> None:
    found = users_of(
        [
            endpoint("a", "n1", "new"),
            endpoint("b", "n1", "old"),
            endpoint("c", "n1", ""),
            endpoint("d", "down", "old"),
            endpoint("e", "n1", "old", "other"),
        ],
        "a",
        "new",
        frozenset({"n1"}),
    )
    assert found == Users(moved=1, lagging={"n1": 2})


# --- the Secret ------------------------------------------------------------------------------


def secret() -> Secret:
    data = {
        names.SECRET_PRIVATE_KEY: base64.b64encode(OLD.private.encode()).decode(),
        names.SECRET_PUBLIC_KEY: base64.b64encode(OLD.public.encode()).decode(),
    }
    return Secret(metadata=ObjectMeta(name="sgw-a"), data=data)


def written(before: Secret, after: Record) -> Secret:
    data = dict(before.data)
    for name, value in change_of(before, pairs_of(before).record, after).items():
        if value is None:
            data.pop(name, None)
        else:
            data[name] = value
    text = msgspec.json.encode(after).decode()
    annotations = {names.KEY_ROTATION_ANNOTATION: text}
    return Secret(metadata=ObjectMeta(name="sgw-a", annotations=annotations), data=data)


def test_the_pairs_change_places_once_and_the_former_one_goes() -> None:
    course = [pairs_of(now := secret())]
    for phase in ("Preparing", "Moving", "Retiring", "Closing", "Settling", "Done"):
        now = written(now, record(phase))
        course.append(pairs_of(now))
    new = course[1].second
    assert [(p.public, p.second) for p in course] == [
        (OLD.public, ""),
        (OLD.public, new),
        (OLD.public, new),
        (new, OLD.public),
        (new, OLD.public),
        (new, ""),
        (new, ""),
    ]
    assert base64.b64decode(now.data[names.SECRET_PUBLIC_KEY]).decode() == new
    assert sorted(now.data) == [names.SECRET_PRIVATE_KEY, names.SECRET_PUBLIC_KEY]
    abandoned = written(written(secret(), record("Preparing")), record("Abandoned"))
    assert abandoned.data == secret().data


def test_a_damaged_record_is_none() -> None:
    meta = ObjectMeta(annotations={names.KEY_ROTATION_ANNOTATION: "{"})
    assert pairs_of(Secret(metadata=meta, data=secret().data)).record == Record()
    assert pairs_of(None) == Pairs()


def test_the_status_shows_profile_and_second_server_as_they_are() -> None:
    before = GatewayServerProfile(port=6000)
    shown = {}
    for phase in ("", "Preparing", "Moving", "Retiring", "Closing", "Settling", "Done"):
        second = "second" if phase in TWO_PAIRS else ""
        port = 6001 if phase == "Settling" else 0
        pairs = Pairs(record=record(phase, port=port), public="first", second=second)
        rule = 6001 if phase == "Done" else 6000
        profile, rotation = servers(pairs, rule, 6001 if second else 0, before)
        shown[phase] = (profile, rotation.phase, rotation.port)
    assert shown == {
        "": (6000, "", 0),
        "Preparing": (6000, "Preparing", 6001),
        "Moving": (6000, "Moving", 6001),
        "Retiring": (6001, "Retiring", 6000),
        "Closing": (6001, "Closing", 6000),
        "Settling": (6001, "Closing", 0),
        "Done": (6001, "Done", 0),
    }


def test_each_step_is_an_event_and_only_trouble_a_warning() -> None:
    course: list[tuple[Any, dict[str, Any]]] = [
        ("", {"request": "s", "in_service": False}),
        ("Preparing", {"prepared": frozenset()}),
        ("Preparing", {}),
        ("Moving", {"users": SOME}),
        ("Retiring", {"users": SOME}),
        ("Closing", {}),
        ("Done", {}),
    ]
    told: list[tuple[str, str]] = []
    conditions: list[Condition] = []
    for phase, changes in course:
        note = "late" if phase == "Retiring" else ""
        said = condition(record(phase, note=note), replace(BASE, phase=phase, **changes))
        assert said is not None
        status, reason, message = said
        now = [Condition(type=KEYS_ROTATED, status=status, reason=reason, message=message)]
        told += [(notice.type, notice.reason) for notice in notices(conditions, now)]
        conditions = now
    assert told == [
        ("Normal", Reason.ROTATION_WAITING),
        ("Normal", Reason.ROTATION_PREPARING),
        ("Normal", Reason.ROTATION_MOVING),
        ("Warning", Reason.ROTATION_LAGGING),
        ("Normal", Reason.ROTATION_RETIRING),
        ("Normal", Reason.ROTATED),
    ]


# --- Azure -----------------------------------------------------------------------------------


def rules(arm: FakeArm) -> dict[str, int]:
    document = arm.balancer_document or {"properties": {"loadBalancingRules": []}}
    found = document["properties"]["loadBalancingRules"]
    return {rule["name"]: rule["properties"]["frontendPort"] for rule in found}


async def test_a_second_rule_stands_beside_the_first_and_takes_its_name_in_one_write() -> None:
    arm = FakeArm()
    key = arm.add_pool("np")
    await settle(arm, [wanted("a"), wanted("b")], key)
    assert rules(arm) == {"a": 6000, "b": 6001}
    decided = await settle(arm, [wanted("a", second=True), wanted("b")], key)
    assert rules(arm) == {"a": 6000, "b": 6001, "a-second": 6002}
    serving = decided.verdicts["a"].serving
    assert serving is not None
    assert (serving.port, serving.second_port) == (6000, 6002)
    assert arm.balancer_document is not None
    probes = {p["name"]: p for p in arm.balancer_document["properties"]["probes"]}
    assert probes["a-second"]["properties"]["requestPath"] == "/gw/a"
    arm.writes.clear()
    await one_pass(arm, [wanted("a", port=6002), wanted("b")], key)
    assert rules(arm) == {"a": 6002, "b": 6001}
    assert arm.writes == ["balancer"]
    decided = await settle(arm, [wanted("a"), wanted("b"), wanted("c")], key)
    assert rules(arm) == {"a": 6002, "b": 6001, "c": 6000}


async def test_an_abandoned_second_rule_goes_and_a_deleted_configuration_takes_both() -> None:
    arm = FakeArm()
    key = arm.add_pool("np")
    await settle(arm, [wanted("a"), wanted("b")], key)
    await settle(arm, [wanted("a", second=True), wanted("b")], key)
    await settle(arm, [wanted("a"), wanted("b")], key)
    assert rules(arm) == {"a": 6000, "b": 6001}
    await settle(arm, [wanted("a", second=True), wanted("b")], key)
    await settle(arm, [wanted("a", leaving=True), wanted("b")], key)
    assert rules(arm) == {"b": 6001}


async def test_who_is_in_trouble_keeps_both_rules() -> None:
    arm = FakeArm()
    key = arm.add_pool("np")
    await settle(arm, [wanted("a", second=True)], key)
    trouble = Problem(reason=Reason.INVALID_SPEC, message="bad")
    await settle(arm, [wanted("a", problem=trouble)], key)
    assert rules(arm) == {"a": 6000, "a-second": 6001}


async def test_a_port_that_somebody_has_is_not_taken_over() -> None:
    arm = FakeArm()
    key = arm.add_pool("np")
    await settle(arm, [wanted("a"), wanted("b")], key)
    await settle(arm, [wanted("a", port=6001), wanted("b")], key)
    assert rules(arm) == {"a": 6000, "b": 6001}


async def test_the_reconciler_wants_what_the_secret_says() -> None:
    world = World()
    world.arm.add_pool("np")
    world.cluster.write("a")
    await world.settle()
    world.cluster.keypairs.rotations["a"] = record("Preparing")
    world.reconciler.rekeyed("a")
    world.restart()
    await world.settle()
    assert rules(world.arm) == {"a": 6000, "a-second": 6001}
    world.cluster.keypairs.rotations["a"] = record("Settling", port=6001)
    await world.settle()
    assert rules(world.arm) == {"a": 6001}
    serving = world.verdict("a").serving
    assert serving is not None
    assert (serving.port, serving.second_port) == (6001, 0)


# --- a whole course ---------------------------------------------------------------------------


@dataclass
class Course:
    """Controller, two gateways, three pods, each of which hears of the others when it happens."""

    secret: Secret = field(default_factory=secret)
    now: float = 0.0
    rules: tuple[int, int] = (6000, 0)
    told: Pairs = field(default_factory=lambda: pairs_of(secret()))
    gateways: dict[str, frozenset[str]] = field(default_factory=dict)
    answering: dict[str, str] = field(default_factory=dict)
    pods: dict[str, str] = field(default_factory=dict)
    _known: tuple[Secret, Pairs] | None = None

    def __post_init__(self) -> None:
        self.gateways = {name: frozenset({OLD.public}) for name in BOTH}
        self.answering = dict.fromkeys(BOTH, "")
        self.pods = {f"p{i}": OLD.public for i in range(3)}

    def happen(self, event: str, who: int) -> None:
        if event == "time":
            self.now += 1.0
        elif event == "azure":
            phase = self.pairs.record.phase
            second = 6001 if phase in TWO_PAIRS else 0
            port = self.pairs.record.port or self.rules[0]
            self.rules = (port, second)
        elif event == "status":
            self.told = self.pairs
        elif event == "gateway":
            name = sorted(BOTH)[who % 2]
            self.gateways[name] = frozenset({self.told.public, self.told.second} - {""})
            closing = self.told.record.phase == "Closing"
            self.answering[name] = "" if closing else self.told.second
        elif event == "pod":
            name = f"p{who % 3}"
            phase = self.told.record.phase
            goal = self.told.second if phase == "Moving" else self.told.public
            # A tunnel is left only for one that has a handshake.
            if all(goal in served for served in self.gateways.values()):
                self.pods[name] = goal
        else:
            self.control()

    @property
    def pairs(self) -> Pairs:
        if self._known is None or self._known[0] is not self.secret:
            self._known = (self.secret, pairs_of(self.secret))
        return self._known[1]

    def control(self) -> None:
        pairs = self.pairs
        public = pairs.second if pairs.record.phase == "Moving" else pairs.public
        lagging = sum(1 for key in self.pods.values() if key != public)
        facts = replace(
            BASE,
            now=self.now,
            port=self.rules[0],
            second_port=self.rules[1],
            prepared=frozenset(n for n, k in self.answering.items() if k and k == pairs.second),
            users=Users(moved=3 - lagging, lagging={"n": lagging} if lagging else {}),
            timeout=0.0,
        )
        after = following(pairs.record, facts)
        if after is not pairs.record:
            self.secret = written(self.secret, after)


@settings(deadline=None, max_examples=50)
@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(["time", "azure", "status", "gateway", "pod", "control"]),
            st.integers(0, 5),
        ),
        max_size=60,
    )
)
def test_whoever_hears_when_no_pod_uses_a_pair_that_a_gateway_has_not(events: Any) -> None:
    """Whatever the order; and in the end, when all have heard, the pair is another one."""
    course = Course()
    for event, who in events:
        course.happen(event, who)
        late = course.now >= 60.0
        for key in course.pods.values():
            assert late or all(key in served for served in course.gateways.values())
    for _ in range(30):
        for event in ("azure", "status", "gateway", "pod", "control", "time"):
            for who in range(3):
                course.happen(event, who)
    assert course.pairs.record.phase == "Done"
    assert set(course.pods.values()) == {course.pairs.public} != {OLD.public}
    assert course.rules == (6001, 0)
    assert course.pairs.record.phase not in ACTIVE
