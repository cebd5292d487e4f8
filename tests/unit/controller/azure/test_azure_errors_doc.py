"""``docs/reference/azure-errors.md`` shows the table of the code. Write it anew:
``python -m tests.unit.controller.azure.test_azure_errors_doc``."""

from __future__ import annotations

from pathlib import Path

import pytest

from egress_gateway.api.conditions import Reason
from egress_gateway.cloud import errors
from egress_gateway.cloud.azure.requests.refusals import TABLE, known
from egress_gateway.controller.planning.problem import reason_of

DOCUMENT = Path(__file__).parents[4] / "docs/reference/azure-errors.md"
START, END = "<!-- table -->\n", "<!-- /table -->"


def table() -> str:
    lines = ["| Azure says | reason | what it means | how to fix it |", "|---|---|---|---|"]
    for row in TABLE:
        codes = ", ".join(f"`{code}`" for code in row.codes)
        mend = row.mend or "nothing: it is tried again by itself"
        lines.append(f"| {codes} | `{reason_of(row.kind)}` | {row.says} | {mend} |")
    return "\n".join(lines) + "\n"


def rewritten(text: str) -> str:
    before, _, rest = text.partition(START)
    return before + START + table() + END + rest.partition(END)[2]


def test_the_document_shows_the_table_of_the_code() -> None:
    text = DOCUMENT.read_text()
    assert text == rewritten(text)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.codes[0])
def test_every_code_is_found_in_its_own_row(row: object) -> None:
    for code in row.codes:  # type: ignore[attr-defined]
        assert known(code.replace("*", "Xyz")) is row


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.codes[0])
def test_what_only_a_person_can_mend_says_how(row: object) -> None:
    waits = (errors.Throttled, errors.Conflict, errors.Unavailable)
    kind = row.kind  # type: ignore[attr-defined]
    if kind is errors.Unauthenticated or not issubclass(kind, waits):
        assert row.mend  # type: ignore[attr-defined]


def test_reasons_are_those_of_the_contract() -> None:
    known_reasons = {v for k, v in vars(Reason).items() if k.isupper()}
    assert {reason_of(row.kind) for row in TABLE} <= known_reasons


if __name__ == "__main__":
    DOCUMENT.write_text(rewritten(DOCUMENT.read_text()))
