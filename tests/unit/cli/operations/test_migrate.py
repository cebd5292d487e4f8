"""What a person reads before and after a move."""

from __future__ import annotations

from typing import Any

import pytest

from egress_gateway.api.types import ObjectMeta, StaticGatewayConfiguration
from egress_gateway.cli.operations.migrate import _judges_configurations
from egress_gateway.cli.operations.migrate_report import Report, render, report
from egress_gateway.controller.migration.adopt import Adoption, Dispute, Leftovers
from egress_gateway.controller.planning.wanted import Names
from egress_gateway.kube.resources import Key

SGC = StaticGatewayConfiguration(metadata=ObjectMeta(name="one", namespace="team", uid="u"))


def said(*adoptions: Adoption, acted: bool = False, **given: Any) -> Report:
    usual: dict[str, Any] = {"blockers": [], "remains": [], "azure": None}
    return report(
        Leftovers(configurations=[SGC]),
        adoptions,
        {},
        acted=acted,
        keys_namespace="system",
        **(usual | given),
    )


def adoption(uid: str = "u", dispute: Dispute | None = None) -> Adoption:
    return Adoption(
        uid=uid,
        configuration=Key("team", "one"),
        names=Names(rule="lb", ip_config="egressgateway-vm", probe_path=f"/gw/{uid}"),
        record={"a": "b"},
        dispute=dispute,
    )


@pytest.mark.parametrize(
    ("adoptions", "state"),
    [
        ((), "ours"),
        ((adoption(),), "to be taken over"),
        ((adoption(dispute=Dispute("two rules", "Choose one")),), "disputed"),
    ],
)
def test_states(adoptions: tuple[Adoption, ...], state: str) -> None:
    (entry,) = said(*adoptions)["configurations"]
    assert entry["state"] == state


def test_a_dispute_stands_in_the_way_and_plans_nothing() -> None:
    found = said(adoption(dispute=Dispute("two rules", "Choose one")))
    assert found["blockers"] == [{"what": "two rules", "mend": "Choose one"}]
    assert found["configurations"][0]["actions"] == []
    assert "STANDS IN THE WAY: two rules\n  Choose one" in render(found)


def test_objects_of_a_configuration_that_is_gone_are_listed_too() -> None:
    states = [c["state"] for c in said(adoption(uid="gone"))["configurations"]]
    assert states[0] == "ours"
    assert states[1].startswith("deleted")


def test_the_text_says_what_was_done_and_what_would_be() -> None:
    assert "would annotate Secret system/sgw-u (a=b)" in render(said(adoption()))
    after = render(said(adoption(), acted=True))
    assert "team/one: taken over" in after
    assert "did annotate Secret system/sgw-u" in after


@pytest.mark.parametrize(
    ("azure", "line"),
    [
        ({"writes": [], "problems": {}}, "Azure: the controller's first pass would write nothing"),
        ({"writes": ["write x"], "problems": {}}, "Azure: would write x"),
        ({"writes": [], "problems": {"team/one": "no pool"}}, "Azure: team/one: no pool"),
    ],
)
def test_azure_is_told_in_lines(azure: dict[str, Any], line: str) -> None:
    assert line in render(said(azure=azure)).splitlines()


@pytest.mark.parametrize(
    ("resources", "judges"),
    [(["staticgatewayconfigurations"], True), (["pods"], False), ([], False)],
)
def test_only_webhooks_on_configurations_matter(resources: list[str], judges: bool) -> None:
    hook = {"webhooks": [{"rules": [{"resources": resources}]}]}
    assert _judges_configurations(hook) is judges
