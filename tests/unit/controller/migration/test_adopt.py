"""Which names are remembered, which objects are let go: tables, and every interruption."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.api import names
from egress_gateway.api.types import (
    GatewayServerProfile,
    ObjectMeta,
    ObjectReference,
    OwnerReference,
    StaticGatewayConfiguration,
    StaticGatewayConfigurationStatus,
)
from egress_gateway.controller.migration.adopt import (
    Adoption,
    Leftovers,
    misplaced,
    plan_adoption,
)
from egress_gateway.controller.observed.record import annotations_of, names_of
from egress_gateway.controller.planning.wanted import Names
from egress_gateway.kube.resources import GoGatewayConfiguration, Secret

NAMESPACE = "team"


def configuration(name: str, uid: str, key_namespace: str = "") -> StaticGatewayConfiguration:
    reference = ObjectReference(namespace=key_namespace, name=f"sgw-{uid}")
    profile = GatewayServerProfile(private_key_secret_ref=reference if key_namespace else None)
    return StaticGatewayConfiguration(
        metadata=ObjectMeta(name=name, namespace=NAMESPACE, uid=uid),
        status=StaticGatewayConfigurationStatus(gateway_server_profile=profile),
    )


def old(
    name: str, uid: str, *, kind: str, owner: str, finalizers: tuple[str, ...] = ()
) -> GoGatewayConfiguration:
    reference = OwnerReference(api_version=names.API_VERSION, kind=kind, name=name, uid=owner)
    meta = ObjectMeta(
        name=name,
        namespace=NAMESPACE,
        uid=uid,
        finalizers=list(finalizers),
        owner_references=[reference] if owner else [],
    )
    return GoGatewayConfiguration(metadata=meta)


def balancing(name: str, uid: str, owner: str) -> GoGatewayConfiguration:
    finalizers = (names.GO_LB_FINALIZER, "backup.example.com/hold")
    return old(name, uid, kind="StaticGatewayConfiguration", owner=owner, finalizers=finalizers)


def machines(name: str, uid: str, owner: str) -> GoGatewayConfiguration:
    return old(
        name, uid, kind="GatewayLBConfiguration", owner=owner, finalizers=(names.GO_VM_FINALIZER,)
    )


def secret(uid: str, **annotations: str) -> Secret:
    spelled = {
        "rule": names.RULE_ANNOTATION,
        "ip_config": names.IP_CONFIGURATION_ANNOTATION,
    }
    written = {spelled[key]: value for key, value in annotations.items()}
    return Secret(metadata=ObjectMeta(name=f"sgw-{uid}", annotations=written))


ONE = Leftovers(
    configurations=[configuration("one", "sgc-1")],
    balancing=[balancing("one", "lb-1", "sgc-1")],
    machines=[machines("one", "vm-1", "lb-1")],
    secrets=[secret("sgc-1")],
)


def changed(found: Leftovers, **changes: object) -> Leftovers:
    return Leftovers(
        **{
            name: changes.get(name, getattr(found, name))
            for name in ("configurations", "balancing", "machines", "secrets")
        }  # type: ignore[arg-type]
    )


def only(found: Leftovers) -> Adoption:
    (adoption,) = plan_adoption(found)
    return adoption


def test_names_come_from_the_uids_of_the_old_objects_and_are_recorded_before_a_release() -> None:
    adoption = only(ONE)
    assert adoption.names == Names(
        rule="lb-1", ip_config="egressgateway-vm-1", probe_path="/gw/sgc-1"
    )
    assert adoption.record == annotations_of(adoption.names)
    kinds = [release.resource.kind for release in adoption.releases]
    assert kinds == ["GatewayVMConfiguration", "GatewayLBConfiguration"]


def test_other_peoples_finalizers_stay() -> None:
    by_kind = {r.resource.kind: r.finalizers for r in only(ONE).releases}
    assert by_kind == {
        "GatewayVMConfiguration": (),
        "GatewayLBConfiguration": ("backup.example.com/hold",),
    }


def test_what_is_recorded_is_not_recorded_again_but_still_released() -> None:
    done = secret("sgc-1", rule="lb-1", ip_config="egressgateway-vm-1")
    adoption = only(changed(ONE, secrets=[done]))
    assert adoption.record == {}
    assert len(adoption.releases) == 2


def test_a_record_is_never_overwritten() -> None:
    """The old controller was started once more and made new objects."""
    done = secret("sgc-1", rule="lb-0", ip_config="egressgateway-vm-0")
    adoption = only(changed(ONE, secrets=[done]))
    assert "sgw-sgc-1" in str(adoption.dispute)
    assert not adoption.record
    assert not adoption.releases
    assert adoption.names.rule == "lb-0"


def test_without_machines_yet_the_ip_configuration_will_be_our_own() -> None:
    adoption = only(changed(ONE, machines=[]))
    assert adoption.names == Names(
        rule="lb-1", ip_config="egressgateway-sgc-1", probe_path="/gw/sgc-1"
    )
    assert adoption.record == {names.RULE_ANNOTATION: "lb-1"}


def test_a_namesake_made_after_the_owner_went_inherits_nothing() -> None:
    """The owner was removed by force; its objects are released under its own UID."""
    found = changed(ONE, configurations=[configuration("one", "sgc-2")])
    assert only(found).uid == "sgc-1"


@pytest.mark.parametrize(("owner", "expected"), [("", "sgc-1"), ("sgc-9", "sgc-9")])
def test_an_object_without_owner_belongs_to_its_namesake(owner: str, expected: str) -> None:
    found = changed(ONE, balancing=[balancing("one", "lb-1", owner)])
    assert only(found).uid == expected


@pytest.mark.parametrize(
    ("reference", "secrets", "expected"),
    [
        ("elsewhere", [], {"sgc-1": "elsewhere"}),
        ("elsewhere", [secret("sgc-1")], {}),
        ("system", [], {}),
        ("", [], {}),
    ],
)
def test_key_pairs_in_another_namespace_are_noticed(
    reference: str, secrets: list[Secret], expected: dict[str, str]
) -> None:
    found = Leftovers(configurations=[configuration("one", "sgc-1", reference)], secrets=secrets)
    assert misplaced(found, "system") == expected


def test_annotations_that_make_no_sense_are_not_believed() -> None:
    assert names_of("u", {names.IP_CONFIGURATION_ANNOTATION: "ipconfig1"}) == Names.of("u")
    assert names_of("u", {names.RULE_ANNOTATION: ""}) == Names.of("u")


@given(st.lists(st.booleans(), max_size=12), st.integers(min_value=1, max_value=4))
def test_cut_off_anywhere_the_next_look_ends_in_the_same_names(
    cuts: list[bool], count: int
) -> None:
    """Each step (record, release, release) may be the last one before a crash."""
    found = Leftovers(
        configurations=[configuration(f"c{i}", f"sgc-{i}") for i in range(count)],
        balancing=[balancing(f"c{i}", f"lb-{i}", f"sgc-{i}") for i in range(count)],
        machines=[machines(f"c{i}", f"vm-{i}", f"lb-{i}") for i in range(count)],
    )
    crashes = iter(cuts)
    while plan_adoption(found):
        found = _applied(found, crashes)
    written = {s.metadata.name: s.metadata.annotations for s in found.secrets}
    for i in range(count):
        assert names_of(f"sgc-{i}", written[f"sgw-sgc-{i}"]) == Names(
            rule=f"lb-{i}", ip_config=f"egressgateway-vm-{i}", probe_path=f"/gw/sgc-{i}"
        )


def _applied(found: Leftovers, crashes: object) -> Leftovers:
    """One pass of the take-over against values, until ``crashes`` says stop."""
    for adoption in plan_adoption(found):
        if adoption.record:
            found = changed(found, secrets=_annotated(found.secrets, adoption))
            if next(crashes, False):  # type: ignore[call-overload]
                return found
        for release in adoption.releases:
            left = {
                field: [o for o in getattr(found, field) if o.metadata.uid != release.uid]
                for field in ("balancing", "machines")
            }
            found = changed(found, **left)
            if next(crashes, False):  # type: ignore[call-overload]
                return found
    return found


def _annotated(secrets: object, adoption: Adoption) -> list[Secret]:
    listed = {s.metadata.name: s for s in secrets}  # type: ignore[attr-defined]
    before = listed.get(f"sgw-{adoption.uid}", secret(adoption.uid))
    annotations = before.metadata.annotations | dict(adoption.record)
    meta = msgspec.structs.replace(before.metadata, annotations=annotations)
    listed[meta.name] = msgspec.structs.replace(before, metadata=meta)
    return list(listed.values())
