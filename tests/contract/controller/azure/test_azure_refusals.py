"""Every row of ``docs/reference/azure-errors.md``, through the real SDKs: refused at once, or
accepted and failed later. What a user reads has Azure's code and what mends it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from azure.core.exceptions import ClientAuthenticationError

from egress_gateway.cloud import errors
from egress_gateway.cloud.azure.requests.errors import translated
from egress_gateway.cloud.azure.requests.refusals import TABLE, Refusal
from egress_gateway.cloud.protocol import CreatePrefix
from egress_gateway.controller.planning.problem import Problem, reason_of
from tests.contract.controller.azure_lab import azure_lab

CREATE: Final = CreatePrefix(name="egressgateway-x", size=30)
STATUS: Final = {errors.Forbidden: 403, errors.NotFound: 404, errors.Throttled: 429}
SIGN_IN: Final = [row for row in TABLE if row.codes[0].startswith("AADSTS")]
OTHERS: Final = [row for row in TABLE if row not in SIGN_IN]


def spelled(row: Refusal) -> list[str]:
    return [code.replace("*", "Xyz") for code in row.codes if code != "NoToken"]


def hold(row: Refusal, code: str, error: errors.CloudError) -> None:
    """What the condition of a configuration says of ``error``."""
    assert type(error) is row.kind, (code, error)
    problem = Problem.of(error)
    assert problem.reason == reason_of(row.kind)
    assert code in problem.message
    if row.kind is errors.Forbidden:
        # The lab's sentence names nobody and nothing, so no command could work.
        assert "az role assignment create" not in problem.message
        assert "An error occurred." in problem.message
    else:
        assert row.mend in problem.message


async def test_every_refusal_is_told_with_its_code_and_its_mend(tmp_path: Path) -> None:
    async with azure_lab(tmp_path) as lab:
        for row in OTHERS:
            status = 401 if row.kind is errors.Unauthenticated else STATUS.get(row.kind, 400)
            for code in spelled(row):
                fault = lab.emulator.faults.add(
                    "error", method="PUT", path="publicIPPrefixes", status=status, code=code
                )
                with pytest.raises(errors.CloudError) as refused:
                    await lab.cloud.apply(CREATE)
                hold(row, code, refused.value)
                lab.emulator.faults.remove(fault.id)


async def test_so_is_what_azure_accepts_and_then_fails(tmp_path: Path) -> None:
    async with azure_lab(tmp_path) as lab:
        for row in OTHERS:
            if row.kind in (errors.Unauthenticated, errors.Forbidden, errors.Throttled):
                continue  # these are said at once
            code = spelled(row)[0]
            lab.emulator.faults.add(
                "fail-operation", method="PUT", path="publicIPPrefixes", status=409, code=code
            )
            with pytest.raises(errors.CloudError) as refused:
                await lab.cloud.apply(CREATE)
            hold(row, code, refused.value)


@pytest.mark.parametrize(
    ("row", "code"), [(row, code) for row in SIGN_IN for code in row.codes], ids=str
)
def test_every_refusal_to_sign_in_is_told_with_its_mend(row: Refusal, code: str) -> None:
    said = ClientAuthenticationError(f"Authentication failed: {code}: what Entra says of it")
    hold(row, code, translated(said, operation="reading", resource="/x"))
