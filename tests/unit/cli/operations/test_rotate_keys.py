"""What is asked, what is refused, and how far it is said to be."""

from __future__ import annotations

from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway.api.conditions import KEYS_ROTATED, Reason
from egress_gateway.api.types import (
    Condition,
    GatewayServerProfile,
    KeyRotation,
    ObjectMeta,
    StaticGatewayConfiguration,
    StaticGatewayConfigurationStatus,
)
from egress_gateway.cli.operations.rotate_keys import progress_of, refusal


def sgc(asked: str, told: str = "", phase: Any = "", *said: str) -> StaticGatewayConfiguration:
    """``said``: reason and message of the condition."""
    annotations = {names.ROTATE_KEYS_ANNOTATION: asked} if asked else {}
    found = [
        Condition(type=KEYS_ROTATED, status="False", reason=r, message=m)
        for r, m in [said or ("", "")]
        if r
    ]
    return StaticGatewayConfiguration(
        metadata=ObjectMeta(name="a", namespace="ns", annotations=annotations),
        status=StaticGatewayConfigurationStatus(
            gateway_server_profile=GatewayServerProfile(port=6001, public_key="K"),
            key_rotation=KeyRotation(request=told, phase=phase),
            conditions=found,
        ),
    )


SAID = (Reason.ROTATION_MOVING, "2 of 3 pods")


@pytest.mark.parametrize(
    ("present", "why"),
    [
        (sgc("", "", "", "", ""), ""),
        (sgc("1", "1", "Done", "KeysRotated", "the key pair has changed"), ""),
        (sgc("1", "1", "Abandoned", Reason.ROTATION_ABANDONED, "x"), ""),
        (sgc("1", "1", "Moving", *SAID), "being changed already (Moving)"),
        (sgc("2", "1", "Moving", *SAID), "being changed already (Moving)"),
        (sgc("2", "1", "Done", "KeysRotated", "the key pair has changed"), "no controller"),
        (sgc("2", "1", "Done", Reason.ROTATION_WAITING, "asked for; begins"), "begins"),
        (sgc("1", "", "", "", ""), "no controller"),
    ],
)
def test_of_two_at_once_the_second_is_refused(
    present: StaticGatewayConfiguration, why: str
) -> None:
    assert why in refusal(present)
    assert bool(why) == bool(refusal(present))


@pytest.mark.parametrize(
    ("present", "state", "message"),
    [
        (sgc("1", "", "", "", ""), "under way", "no controller"),
        (sgc("1", "0", "Done", "KeysRotated", "old news"), "under way", "no controller"),
        (sgc("1", "1", "Moving", *SAID), "under way", "2 of 3 pods"),
        (sgc("1", "1", "Closing", *SAID), "under way", "2 of 3 pods"),
        (sgc("1", "1", "Done", "KeysRotated", "changed"), "done", "changed"),
        (sgc("2", "1", "Done", "KeysRotated", "changed"), "done", "changed"),
        (sgc("1", "1", "Abandoned", Reason.ROTATION_ABANDONED, "UDP"), "abandoned", "UDP"),
        (sgc("1", "1", "", "", ""), "abandoned", "made anew"),
        (sgc("2", "0", "Done", "", ""), "refused", "somebody else"),
        (sgc("", "0", "Done", "", ""), "refused", "took it back"),
    ],
)
def test_progress_is_that_of_the_own_request(
    present: StaticGatewayConfiguration, state: str, message: str
) -> None:
    found = progress_of(present, "1")
    assert (found.configuration, found.state, found.port) == ("ns/a", state, 6001)
    assert message in found.message
