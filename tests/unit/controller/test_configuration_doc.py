"""``docs/controller-configuration.md`` names every setting and every field, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from egress_gateway.cloud.azure.config import AzureConfig
from egress_gateway.controller.settings import Settings

TEXT = (Path(__file__).parents[3] / "docs" / "controller-configuration.md").read_text()
ROW = re.compile(r"^\| `([^`]+)` \|([^|]*)\|", re.MULTILINE)


def section(title: str) -> dict[str, str]:
    """First and second column of the first table under a heading."""
    body = TEXT.partition(f"\n## {title}\n")[2].partition("\n#")[0]
    return {name: default.strip().strip("`") for name, default in ROW.findall(body)}


def shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) or "empty"


def test_every_setting_is_there_with_its_default() -> None:
    expected = {
        f"--{f.name.replace('_', '-')}": shown(f.default) for f in msgspec.structs.fields(Settings)
    }
    assert section("Settings") == expected


def test_every_field_of_the_azure_configuration_is_there() -> None:
    fields = {f.encode_name for f in msgspec.structs.fields(AzureConfig)}
    assert section("Azure").keys() == fields
