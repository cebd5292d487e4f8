"""``docs/reference/controller-configuration.md`` names every field of the Azure file alone."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from egress_gateway.cloud.azure.account.config import AzureConfig

TEXT = (Path(__file__).parents[4] / "docs/reference/controller-configuration.md").read_text()
ROW = re.compile(r"^\| `([^`]+)` \|([^|]*)\|", re.MULTILINE)


def section(title: str) -> dict[str, str]:
    """First and second column of the first table under a heading."""
    body = TEXT.partition(f"\n## {title}\n")[2].partition("\n#")[0]
    return {name: default.strip().strip("`") for name, default in ROW.findall(body)}


def test_every_field_of_the_azure_configuration_is_there() -> None:
    fields = {f.encode_name for f in msgspec.structs.fields(AzureConfig)}
    assert section("Azure").keys() == fields
