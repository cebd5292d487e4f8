"""Verdicts become conditions, Events and fields; what is in service is never wiped."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

import pytest
from msgspec import structs

from egress_gateway.api import conditions
from egress_gateway.api.types import (
    Condition,
    GatewayProblem,
    GatewayServerProfile,
    KeyRotation,
    ObjectMeta,
    PodEndpoint,
    PodEndpointSpec,
    PodEndpointStatus,
    RotationPhase,
    SeenAddress,
    StaticGatewayConfiguration,
    StaticGatewayConfigurationStatus,
    UnreachedGateway,
    UnreachedReason,
)
from egress_gateway.controller.observed.reported import stands
from egress_gateway.controller.planning.problem import Note, Problem
from egress_gateway.controller.planning.verdict import Serving, ServingGateway, Verdict
from egress_gateway.controller.reporting.status import (
    Gateways,
    Notice,
    Pods,
    going,
    keys_replaced,
    notices,
    pods_of,
    status_of,
)
from egress_gateway.controller.rotation.phases import Pairs

SERVING = Serving(
    server=IPv4Address("10.224.0.14"),
    port=6000,
    prefix="203.0.113.0/30",
    gateways=tuple(
        ServingGateway(
            provider_id=f"azure:///VMSS/{n}",
            primary=IPv4Address(f"10.224.0.1{n}"),
            secondary=IPv4Address(f"10.224.0.2{n}"),
            public=IPv4Address(f"203.0.113.{n}"),
        )
        for n in range(2)
    ),
)
NODES = {"azure:///vmss/0": "node-0", "azure:///vmss/1": "node-1"}
GOOD = Verdict(serving=SERVING, settled=True)


def status(
    verdict: Verdict,
    *,
    ready: tuple[str, ...] = ("node-0", "node-1"),
    nodes: dict[str, str] = NODES,
    before: StaticGatewayConfigurationStatus | None = None,
    now: str = "2026-01-01T00:00:00Z",
    problems: dict[str, GatewayProblem] | None = None,
    pods: Pods | None = None,
    departing: dict[str, bool] | None = None,
    **known: Collection[str],
) -> StaticGatewayConfigurationStatus:
    sgc = StaticGatewayConfiguration(
        metadata=ObjectMeta(name="a", namespace="default", uid="uid-1", generation=3),
        status=before or StaticGatewayConfigurationStatus(),
    )
    gateways = Gateways(
        nodes=nodes,
        ready=frozenset(ready),
        problems=problems or {},
        **{kind: frozenset(told) for kind, told in known.items()},  # type: ignore[arg-type]
    )
    return status_of(
        sgc,
        verdict,
        gateways,
        pairs=Pairs(public="PUB"),
        keys_namespace="sys",
        now=now,
        pods=pods or Pods(),
        departing=departing or {},
    )


def condition(of: StaticGatewayConfigurationStatus, kind: str) -> Condition:
    found = conditions.find(of.conditions, kind)
    assert found is not None
    return found


def test_a_served_configuration_is_ready_and_lists_its_gateways() -> None:
    result = status(Verdict(serving=SERVING, settled=True))
    assert result.egress_ip_prefix == "203.0.113.0/30"
    assert result.gateway_server_profile.ip == "10.224.0.14"
    assert result.gateway_server_profile.public_key == "PUB"
    secret = result.gateway_server_profile.private_key_secret_ref
    assert secret is not None
    assert (secret.namespace, secret.name) == ("sys", "sgw-uid-1")
    assert [g.node for g in result.gateways] == ["node-0", "node-1"]
    assert result.gateways[1].public_ip == "203.0.113.1"
    assert condition(result, conditions.READY).status == "True"
    assert result.observed_generation == 3


def test_a_gateway_that_is_going_stays_listed_while_pods_leave_it() -> None:
    one, other = SERVING.gateways
    swapped = replace(SERVING, gateways=(other,), going=(one,))
    found = status(Verdict(serving=swapped), departing={"node-0": True})
    assert [(g.node, g.leaving) for g in found.gateways] == [("node-1", False), ("node-0", True)]
    assert condition(found, conditions.READY).status == "True"
    # While it is listed it counts: no "2 of 1 gateway nodes ready", and nothing is lost.
    agents = condition(found, conditions.GATEWAYS_READY)
    assert (agents.reason, agents.message) == ("AllGatewaysReady", "2 of 2 gateway nodes ready")
    assert condition(found, conditions.DEGRADED).status == "False"
    after = status(Verdict(serving=swapped), before=found)
    assert [(g.node, g.leaving) for g in after.gateways] == [("node-1", False)]


PRIVATE = replace(
    SERVING,
    prefix="10.224.0.20,10.224.0.21",
    gateways=tuple(replace(g, public=None) for g in SERVING.gateways),
)
OTHER = replace(
    SERVING,
    prefix="198.51.100.0/30",
    gateways=tuple(
        replace(g, public=IPv4Address(f"198.51.100.{n}")) for n, g in enumerate(SERVING.gateways)
    ),
)
SIX = replace(
    SERVING,
    prefix6="2001:db8::/126",
    gateways=tuple(
        replace(g, public6=IPv6Address(f"2001:db8::{n}")) for n, g in enumerate(SERVING.gateways)
    ),
)
SIX_ELSEWHERE = replace(
    SIX,
    prefix6="2001:db8:1::/126",
    gateways=tuple(
        replace(g, public6=IPv6Address(f"2001:db8:1::{n}")) for n, g in enumerate(SIX.gateways)
    ),
)


@pytest.mark.parametrize(
    ("old", "new", "both"),
    [
        (SERVING, OTHER, "198.51.100.0/30,203.0.113.0/30"),
        (SERVING, PRIVATE, "10.224.0.20,10.224.0.21,203.0.113.0/30"),
        (PRIVATE, SERVING, "203.0.113.0/30,10.224.0.20"),
        (SIX, SIX_ELSEWHERE, "203.0.113.0/30,2001:db8:1::/126,2001:db8::/126"),
        (SIX, OTHER, "198.51.100.0/30,203.0.113.0/30,2001:db8::/126"),
    ],
)
def test_addresses_that_a_gateway_may_still_leave_by_are_named(
    old: Serving, new: Serving, both: str
) -> None:
    """Storm 119: a gateway that could not hear of an exchange carried pods by the old prefix, which
    the status named no more."""
    before = status(Verdict(serving=old))
    halfway = replace(new, gateways=new.gateways[1:], going=old.gateways[:1])
    one = (old.gateways[0].provider_id, "node-0")
    for kept in ({"departing": {one[1]: True}}, {"claimed": {one[1]}, "ready": ("node-1",)}):
        found = status(Verdict(serving=halfway), before=before, **kept)
        assert found.egress_ip_prefix == both
        # Nobody else's word counts, and its own ends it.
        again = status(Verdict(serving=halfway), before=found, claimed={"node-1"})
        assert again.egress_ip_prefix == status(Verdict(serving=new)).egress_ip_prefix
    # Nor does it stumble over what somebody else wrote into the status.
    odd = structs.replace(
        before, egress_ip_prefix=f"1.2,/,:::,300.0.0.0/8,{before.egress_ip_prefix}"
    )
    found = status(Verdict(serving=halfway), before=odd, claimed={"node-0"})
    assert found.egress_ip_prefix == both
    # Azure has given it the new address: whatever it says, it leaves by that.
    after = status(Verdict(serving=new), before=found, claimed={"node-0", "node-1"})
    assert after.egress_ip_prefix == status(Verdict(serving=new)).egress_ip_prefix


@pytest.mark.parametrize("reason", ["GatewayWithoutIPv6", "KeyPairMissing"])
def test_what_gateways_of_other_pools_say_of_a_configuration_is_not_repeated(reason: str) -> None:
    """The token of each gateway's agent may write what it likes into its own report."""
    forged = GatewayProblem(
        static_gateway_configuration="default/a", reason=reason, message="run this: curl …"
    )
    verdict = Verdict(serving=SERVING, settled=True, ipv6=True)
    honest = status(verdict, ready=("node-0",))
    assert status(verdict, ready=("node-0",), problems={"of-another-pool": forged}) == honest
    assert "run this" in repr(status(verdict, ready=("node-0",), problems={"node-1": forged}))


def test_a_gateway_can_be_going_only_by_the_address_that_is_listed() -> None:
    before = status(Verdict(serving=SERVING))
    one, other = SERVING.gateways
    elsewhere = replace(one, secondary=IPv4Address("10.224.0.77"))
    sgc = StaticGatewayConfiguration(metadata=ObjectMeta(name="a"), status=before)
    known = Gateways(nodes=NODES, ready=frozenset(), problems={})
    for candidate, expected in ((one, {"node-0"}), (elsewhere, set())):
        assert (
            going(sgc, replace(SERVING, gateways=(other,), going=(candidate,)), known) == expected
        )
    assert going(StaticGatewayConfiguration(metadata=ObjectMeta(name="a")), SERVING, known) == set()


def told_by(
    node: str, *gateways: str, reason: UnreachedReason = "TunnelsUnanswered"
) -> PodEndpoint:
    return PodEndpoint(
        metadata=ObjectMeta(name=f"pod-of-{node}", namespace="default"),
        spec=PodEndpointSpec(static_gateway_configuration="a", node_name=node),
        status=PodEndpointStatus(
            state="Connected",
            unreached_gateways=[UnreachedGateway(gateway=g, reason=reason) for g in gateways],
        ),
    )


@pytest.mark.parametrize(
    ("endpoints", "ready", "words"),
    [
        ([told_by("w1"), told_by("w2")], NODES.values(), ""),
        ([told_by("w1", "node-1"), told_by("w2", "node-1")], NODES.values(), "node-1: 2 of 2"),
        ([told_by("w1", "node-1"), told_by("w2")], NODES.values(), "node-1: 1 of 2"),
        ([told_by("w1", "node-1")], NODES.values(), "UDP 6000 passes"),
        ([told_by("w1", "node-1", reason="LargePacketsLost")], NODES.values(), "MTU"),
        ([told_by("down", "node-1"), told_by("w2")], NODES.values(), ""),
        ([told_by("w1", "another")], NODES.values(), ""),
        ([told_by("w1", "node-1")], ["node-0"], "1 of 2 gateway nodes ready"),
    ],
)
def test_a_gateway_that_nodes_do_not_reach_is_lost_redundancy(
    endpoints: list[PodEndpoint], ready: Collection[str], words: str
) -> None:
    """Not by what a node that is down has said, and not of a gateway that says so itself."""
    before = status(Verdict(serving=SERVING, settled=True))
    pods = pods_of(endpoints, {"w1", "w2"})
    found = status(
        Verdict(serving=SERVING, settled=True), ready=tuple(ready), pods=pods, before=before
    )
    said = condition(found, conditions.DEGRADED)
    assert (said.status, said.reason) == (
        ("True", "RedundancyLost") if words else ("False", "AsExpected")
    )
    assert words in said.message
    assert condition(found, conditions.READY).status == "True"
    events = {n.reason: n.type for n in notices(before.conditions, found.conditions)}
    assert events.get("RedundancyLost") == ("Warning" if words else None)
    again = status(Verdict(serving=SERVING, settled=True), before=found, pods=Pods())
    back = notices(found.conditions, again.conditions)
    assert [n.type for n in back if n.reason == "AsExpected"] == (["Normal"] if words else [])


def test_a_gateway_that_is_not_reached_any_more_is_news() -> None:
    assert stands(told_by("w1", "node-1")) != stands(told_by("w1"))
    assert stands(told_by("w1", "node-1")) == stands(told_by("w1", "node-1"))


def test_no_gateway_ready_means_not_ready() -> None:
    result = status(Verdict(serving=SERVING, settled=True), ready=())
    ready = condition(result, conditions.READY)
    assert (ready.status, ready.reason) == ("False", "NoGatewayReady")
    assert condition(result, conditions.PROVISIONED).status == "True"


def test_some_gateways_are_enough_and_the_silent_one_says_why() -> None:
    said = GatewayProblem(static_gateway_configuration="default/a", message="no Secret")
    result = status(
        Verdict(serving=SERVING, settled=True), ready=("node-0",), problems={"node-1": said}
    )
    agents = condition(result, conditions.GATEWAYS_READY)
    assert (agents.status, agents.reason) == ("True", "SomeGatewaysReady")
    assert agents.message == "1 of 2 gateway nodes ready; node-1: no Secret"


def test_instances_without_a_node_are_not_guessed() -> None:
    result = status(Verdict(serving=SERVING, settled=True), nodes={}, ready=())
    assert result.gateways == []
    assert condition(result, conditions.READY).reason == "GatewayNodeUnknown"


def test_a_problem_keeps_what_is_in_service() -> None:
    good = status(Verdict(serving=SERVING, settled=True))
    problem = Problem(reason="InvalidSpec", message="bad", accepted=False)
    kept = Serving(server=SERVING.server, port=6000, prefix=None, gateways=SERVING.gateways)
    for serving in (kept, None):
        bad = status(Verdict(problem=problem, serving=serving), before=good)
        assert bad.egress_ip_prefix == good.egress_ip_prefix
        assert bad.gateway_server_profile == good.gateway_server_profile
        assert bad.gateways == good.gateways
        assert condition(bad, conditions.ACCEPTED).reason == "InvalidSpec"
        assert condition(bad, conditions.READY).status == "False"


def test_a_controller_that_begins_anew_and_may_not_look_leaves_in_service_what_is() -> None:
    refused = Problem(reason="CredentialRejected", message="no token")
    blind, good = Verdict(problem=refused, unseen=True), status(GOOD)
    found = status(blind, before=good)
    assert condition(found, conditions.READY).status == "True"
    assert found.gateways == good.gateways
    said = condition(found, conditions.PROVISIONED)
    assert (said.status, said.reason) == ("True", "CredentialRejected")
    assert said.message.startswith("existing addresses stay in service")
    assert condition(found, conditions.DEGRADED).reason == "AzureNotReachable"
    assert "AzureNotReachable" in {n.reason for n in notices(good.conditions, found.conditions)}
    assert status(blind, before=found, now="2027-01-01T00:00:00Z") == found
    assert condition(status(blind, before=found, ready=()), conditions.READY).status == "False"


def test_what_was_said_of_another_spec_or_never_is_not_in_service() -> None:
    blind = Verdict(problem=Problem(reason="CredentialRejected", message="no"), unseen=True)
    good = status(GOOD)
    older = [structs.replace(c, observed_generation=2) for c in good.conditions]
    for before in (None, structs.replace(good, conditions=older)):
        found = status(blind, before=before)
        ready = condition(found, conditions.READY)
        assert (ready.status, ready.reason) == ("False", "CredentialRejected")


def test_a_verdict_says_of_which_spec_it_is() -> None:
    found = status(replace(GOOD, generation=2))
    assert found.observed_generation == 2
    assert {c.observed_generation for c in found.conditions} == {2}


def test_what_still_serves_by_the_addresses_before_is_not_called_provisioned() -> None:
    note = Note("Provisioning", "exchanging")
    during = Verdict(serving=replace(SERVING, prefix=None), note=note)
    said = condition(status(during, before=status(GOOD)), conditions.PROVISIONED)
    assert (said.status, said.reason) == ("False", "Provisioning")


def test_the_same_verdict_later_changes_nothing() -> None:
    verdict = Verdict(serving=SERVING, settled=True)
    first = status(verdict)
    assert status(verdict, before=first, now="2027-01-01T00:00:00Z") == first


def test_events_tell_each_refusal_once_and_good_news_when_it_comes() -> None:
    refused = Verdict(problem=Problem(reason="AuthorizationFailed", message="no role"))
    first = status(refused)
    told = notices([], first.conditions)
    assert [(n.type, n.reason) for n in told] == [("Warning", "AuthorizationFailed")]
    assert notices(first.conditions, status(refused, before=first).conditions) == []
    good = status(Verdict(serving=SERVING, settled=True), before=first)
    assert {(n.type, n.reason) for n in notices(first.conditions, good.conditions)} == {
        ("Normal", "Provisioned"),
        ("Normal", "AllGatewaysReady"),
    }


def test_losing_every_gateway_is_news_and_starting_up_is_not() -> None:
    starting = status(Verdict(serving=SERVING, settled=True), ready=())
    assert "NoGatewayReady" not in {n.reason for n in notices([], starting.conditions)}
    good = status(Verdict(serving=SERVING, settled=True), before=starting)
    lost = status(Verdict(serving=SERVING, settled=True), ready=(), before=good)
    assert [(n.type, n.reason) for n in notices(good.conditions, lost.conditions)] == [
        ("Warning", "NoGatewayReady")
    ]


# --- Degraded --------------------------------------------------------------------------------


def course(*looks: StaticGatewayConfigurationStatus) -> list[tuple[str, str]]:
    """Events about ``Degraded`` and gateways, from one status to the next."""
    told: list[Notice] = []
    before: list[Condition] = []
    for look in looks:
        told += notices(before, look.conditions)
        before = look.conditions
    quiet = ("Provisioned", "Valid")
    return [(n.type, n.reason) for n in told if n.reason not in quiet]


@pytest.mark.parametrize("reason", ["", "OfALaterVersion"])
def test_a_problem_is_known_by_its_reason_and_never_by_its_words(reason: str) -> None:
    """Agents of another version: an older one gives no reason, a newer one gives its own."""
    words = "IPv6 is held back here: the node's kernel has no IPv6"
    told = GatewayProblem(static_gateway_configuration="default/a", message=words, reason=reason)
    problems = {"node-1": told}
    asked = Verdict(serving=SERVING, settled=True, ipv6=True)
    got = status(asked, ready=("node-0",), problems=problems)
    assert condition(got, "IPv6Ready").reason != "GatewayWithoutIPv6"
    assert words in condition(got, "GatewaysReady").message
    problems = {"node-1": structs.replace(told, reason="GatewayWithoutIPv6")}
    got = status(asked, problems=problems)
    assert condition(got, "IPv6Ready").reason == "GatewayWithoutIPv6"
    assert words in condition(got, "IPv6Ready").message
    assert words not in condition(got, "GatewaysReady").message


def test_a_lost_gateway_and_its_return_are_told_and_the_last_word_is_good() -> None:
    none = status(GOOD, ready=(), arriving=NODES)
    one = status(GOOD, ready=("node-0",), before=none, arriving=["azure:///vmss/1"])
    both = status(GOOD, before=one)
    for look in (none, one):
        assert condition(look, conditions.DEGRADED).status == "False"
    assert condition(both, conditions.DEGRADED).status == "False"
    assert course(none, one, both) == [
        ("Normal", "SomeGatewaysReady"),
        ("Normal", "AllGatewaysReady"),
    ]
    lost = status(GOOD, ready=("node-1",), before=both)
    back = status(GOOD, before=lost)
    assert course(both, lost, back)[-2:] == [
        ("Warning", "RedundancyLost"),
        ("Normal", "AsExpected"),
    ]
    assert condition(lost, conditions.READY).status == "True"


MORE = replace(
    SERVING, gateways=(*SERVING.gateways, replace(SERVING.gateways[0], provider_id="New"))
)
COMPLAINT = GatewayProblem(static_gateway_configuration="default/a", message="no key")


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize(
    ("ready", "arriving", "lost"),
    [
        (("node-0", "node-1"), ["new"], False),
        (("node-0", "node-1"), [], True),  # it does not come
        (("node-1",), ["new"], True),  # another has gone meanwhile
        (("node-1",), ["new", "azure:///vmss/0"], False),
    ],
)
def test_gateways_that_are_added_are_no_loss_and_one_that_goes_meanwhile_is(
    joined: bool, ready: tuple[str, ...], arriving: list[str], lost: bool
) -> None:
    nodes = NODES | ({"new": "node-2"} if joined else {})
    both, wanted = status(GOOD), Verdict(serving=MORE, settled=True)
    grown = status(wanted, nodes=nodes, ready=ready, before=both, arriving=arriving)
    said = condition(grown, conditions.DEGRADED)
    assert (said.status, said.reason) == (
        ("True", "RedundancyLost") if lost else ("False", "AsExpected")
    )
    assert f"{len(ready)} of 3 gateway nodes ready" in said.message
    found = notices(both.conditions, grown.conditions)
    assert [n.reason for n in found if n.type == "Warning"] == ["RedundancyLost"] * lost


def test_pods_that_are_well_again_are_no_good_news_while_no_gateway_serves() -> None:
    lost = status(GOOD, ready=(), pods=Pods(attached=2, connected=0, lost={"x": 2}))
    none = Verdict(serving=replace(SERVING, gateways=()), settled=True)
    well = status(none, ready=(), pods=Pods(attached=2, connected=2), before=lost)
    assert condition(well, conditions.DEGRADED).status == "False"
    assert "AsExpected" not in {n.reason for n in notices(lost.conditions, well.conditions)}


def test_a_gateway_that_is_added_and_complains_is_told_at_once() -> None:
    both, wanted = status(GOOD), Verdict(serving=MORE, settled=True)
    nodes = NODES | {"new": "node-2"}
    problems = {"node-2": COMPLAINT}
    grown = status(wanted, nodes=nodes, before=both, arriving=["new"], problems=problems)
    said = condition(grown, conditions.DEGRADED)
    assert (said.status, said.reason) == ("True", "RedundancyLost")
    assert "no key" in said.message


def test_pods_without_a_tunnel_are_counted_and_ready_is_never_better_than_they_are() -> None:
    whole = status(GOOD, pods=Pods(attached=3, connected=3))
    assert "3 of 3 pods have a working tunnel" in condition(whole, conditions.READY).message
    lost = {"TunnelsUnanswered": 1}
    some = status(GOOD, pods=Pods(attached=3, connected=2, lost=lost), before=whole)
    said = condition(some, conditions.DEGRADED)
    assert (said.status, said.reason) == ("True", "PodsWithoutTunnel")
    assert said.message.startswith("2 of 3 pods have a working tunnel (1 TunnelsUnanswered)")
    assert condition(some, conditions.READY).status == "True"
    more = status(GOOD, pods=Pods(attached=3, connected=1, lost={"a": 2}), before=some)
    nobody = status(GOOD, pods=Pods(attached=3, connected=0, lost={"a": 3}), before=more)
    ready = condition(nobody, conditions.READY)
    assert (ready.status, ready.reason) == ("False", "PodsWithoutTunnel")
    back = status(GOOD, pods=Pods(attached=3, connected=3), before=nobody)
    assert condition(back, conditions.READY).status == "True"
    assert course(whole, some, more, nobody, back)[-2:] == [
        ("Warning", "PodsWithoutTunnel"),
        ("Normal", "AsExpected"),
    ]


def test_the_gravest_thing_gives_the_reason_and_all_are_said() -> None:
    cloud = Problem(reason="CredentialRejected", message="the token expired")
    found = status(
        Verdict(serving=SERVING, settled=True, cloud=cloud),
        ready=("node-0",),
        pods=Pods(attached=2, connected=1, lost={"x": 1}),
    )
    said = condition(found, conditions.DEGRADED)
    assert said.reason == "PodsWithoutTunnel"
    for words in ("1 of 2 pods", "1 of 2 gateway nodes", "the token expired"):
        assert words in said.message


def test_a_cloud_that_refuses_is_told_before_anything_needs_it() -> None:
    cloud = Problem(reason="CredentialRejected", message="the token expired")
    before = status(GOOD)
    found = status(Verdict(serving=SERVING, settled=True, cloud=cloud), before=before)
    assert condition(found, conditions.DEGRADED).reason == "AzureNotReachable"
    assert condition(found, conditions.READY).status == "True"
    after = status(GOOD, before=found)
    assert course(before, found, after)[-2:] == [
        ("Warning", "AzureNotReachable"),
        ("Normal", "AsExpected"),
    ]


@pytest.mark.parametrize(
    ("was", "now", "phase", "told"),
    [
        ("K1", "", "", 1),
        ("K1", "K2", "", 1),
        ("K1", "K2", "Done", 1),
        ("K1", "K2", "Abandoned", 1),
        ("K1", "K2", "Moving", 0),
        ("K1", "K2", "Retiring", 0),
        ("K1", "K1", "", 0),
        ("", "K1", "", 0),
    ],
)
def test_a_key_pair_that_nobody_changed_and_is_another_is_an_event(
    was: str, now: str, phase: RotationPhase | Literal[""], told: int
) -> None:
    rotation = KeyRotation(phase=phase)
    before, after = (
        StaticGatewayConfigurationStatus(
            gateway_server_profile=GatewayServerProfile(public_key=key), key_rotation=rotation
        )
        for key in (was, now)
    )
    found = keys_replaced(before, after)
    assert [(n.type, n.reason) for n in found] == [("Warning", "KeyPairReplaced")] * told


def test_a_configuration_that_is_being_deleted_has_lost_nothing() -> None:
    before = status(GOOD)
    deleting = Verdict(problem=Problem(reason="Deleting", message="m"))
    gone = status(deleting, ready=(), before=before)
    assert "RedundancyLost" not in {n.reason for n in notices(before.conditions, gone.conditions)}


def test_pods_are_counted_where_somebody_speaks_for_them() -> None:
    def pod(state: str, node: str = "up", reason: str = "Connected") -> PodEndpoint:
        return PodEndpoint(
            metadata=ObjectMeta(name="p"),
            spec=PodEndpointSpec(node_name=node),
            status=PodEndpointStatus(state=state, reason=reason),  # type: ignore[arg-type]
        )

    found = pods_of(
        [
            pod("Connected"),
            pod("Lost", reason="TunnelsUnanswered"),
            pod("Waiting", reason="NoGateway"),
            pod(""),
            pod("Lost", "down", "TunnelsUnanswered"),
        ],
        {"up"},
    )
    assert (found.attached, found.connected) == (3, 1)
    assert found.lost == {"TunnelsUnanswered": 1, "NoGateway": 1}


# --- EgressVerified --------------------------------------------------------------------------


def seen(
    first: str | None,
    second: str | None,
    *,
    answered: bool = True,
    before: StaticGatewayConfigurationStatus | None = None,
    expected: str = "203.0.113.",
) -> StaticGatewayConfigurationStatus:
    """What the Internet sees of the two gateways; None: they have not asked."""
    told = {
        f"node-{n}": SeenAddress(
            static_gateway_configuration="default/a",
            expected_ip=f"{expected}{n}",
            seen_ip=address,
        )
        for n, address in enumerate((first, second))
        if address is not None
    }
    sgc = StaticGatewayConfiguration(
        metadata=ObjectMeta(name="a", namespace="default", uid="uid-1"),
        status=before or StaticGatewayConfigurationStatus(),
    )
    gateways = Gateways(
        nodes=NODES,
        ready=frozenset({"node-0", "node-1"}),
        problems={},
        seen=told,
        answered=answered,
    )
    return status_of(sgc, GOOD, gateways, pairs=Pairs(public="PUB"), keys_namespace="sys", now="t")


def verified(of: StaticGatewayConfigurationStatus) -> tuple[str, str]:
    found = condition(of, conditions.EGRESS_VERIFIED)
    return found.status, found.reason


def test_an_address_that_the_internet_sees_is_verified_and_in_the_status() -> None:
    found = seen("203.0.113.0", "203.0.113.1")
    assert verified(found) == ("True", "AddressesVerified")
    assert [g.seen_ip for g in found.gateways] == ["203.0.113.0", "203.0.113.1"]
    assert condition(found, conditions.DEGRADED).status == "False"


def test_another_address_and_none_are_degraded_and_name_the_gateway() -> None:
    for second, words in (
        ("192.0.2.9", "node-1: the Internet sees 192.0.2.9 in place of 203.0.113.1"),
        ("", "node-1: no server on the Internet answers 203.0.113.1"),
    ):
        found = seen("203.0.113.0", second)
        assert verified(found) == ("False", "AddressNotVerified")
        said = condition(found, conditions.DEGRADED)
        assert (said.status, said.reason) == ("True", "AddressNotVerified")
        assert words in said.message


def test_where_nobody_ever_answered_nothing_is_judged() -> None:
    """Clusters without a way to these servers."""
    found = seen("", "", answered=False)
    assert verified(found) == ("Unknown", "NotAnswered")
    assert condition(found, conditions.DEGRADED).status == "False"
    assert verified(seen(None, None, answered=False)) == ("Unknown", "NotAsked")
    # But who was answered once, and is so no more, has lost something.
    lost = seen("", "", answered=False, before=seen("203.0.113.0", "203.0.113.1"))
    assert verified(lost) == ("False", "AddressNotVerified")


def test_what_was_asked_of_an_address_before_is_not_judged() -> None:
    """While addresses are exchanged agents ask for the new ones a moment later."""
    found = seen("198.51.100.0", "198.51.100.1", expected="198.51.100.")
    assert verified(found) == ("Unknown", "NotAsked")
