"""How parts of Azure's documents are read."""

from __future__ import annotations

import pytest

from egress_gateway.cloud.azure.requests.shapes import strings_of


@pytest.mark.parametrize(
    ("value", "strings"),
    [
        (["1", "2"], {"1", "2"}),
        (["1", None, "", 3, ["4"], {}], {"1"}),
        ([], set()),
        (None, set()),
        ("12", set()),
        ({"1": "2"}, set()),
        (12, set()),
    ],
)
def test_strings_are_those_of_a_list(value: object, strings: set[str]) -> None:
    assert strings_of(value) == strings
