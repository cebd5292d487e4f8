"""Nothing in our kinds is without a bound, and names are of characters that names have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import yaml

from egress_gateway.api import crd, types
from egress_gateway.api.manifests import deploy_dir
from egress_gateway.api.types import GatewayProblem, GatewayStatusSpec, GatewayVeto
from egress_gateway.api.validation import parse_prefix_id, validate_spec
from egress_gateway_lab.apiserver.writes.schema import CustomSchema

PREFIX = (
    "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg"
    "/providers/Microsoft.Network/publicIPPrefixes/pip5"
)
DEFINITIONS = [
    yaml.safe_load(path.read_text()) for path in sorted((deploy_dir() / "crds").glob("*.yaml"))
]


def openapi(definition: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def nodes(schema: dict[str, Any], at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield at, schema
    for name, inner in schema.get("properties", {}).items():
        if at or name not in ("apiVersion", "kind", "metadata"):
            yield from nodes(inner, f"{at}.{name}")
    for inner in (schema.get("items"), schema.get("additionalProperties")):
        if isinstance(inner, dict):
            yield from nodes(inner, f"{at}[]")


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d["spec"]["names"]["kind"])
def test_every_string_list_map_and_number_has_a_bound(definition: dict[str, Any]) -> None:
    for at, node in nodes(openapi(definition), ""):
        match node["type"]:
            case "string":
                assert node.keys() & {"maxLength", "enum", "format"}, at
                assert node.get("format", "date-time") == "date-time", at
            case "array":
                assert "maxItems" in node, at
            case "integer" | "number":
                assert node.keys() & {"maximum", "format"}, at
            case "object":
                assert "additionalProperties" not in node or "maxProperties" in node, at


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d["spec"]["names"]["kind"])
def test_no_printer_column_is_of_a_list(definition: dict[str, Any]) -> None:
    for column in definition["spec"]["versions"][0]["additionalPrinterColumns"]:
        assert "[*]" not in column["jsonPath"], "kubectl shows its first entry alone"


CHARACTERS = {
    "\r": "carriage return",
    "\n": "line end",
    "\t": "tab",
    " ": "blank",
    "\u00a0": "no-break blank",
    "\u200b": "zero width space",
    "\ufeff": "zero width no-break space",
    "\x00": "control character",
    '"': "quotation mark",
    "'": "apostrophe",
    "?": "question mark",
    "%": "percent sign",
    "$": "dollar sign",
    "\u201d": "right double quotation mark",
}


def spec_with(field: str, text: str) -> types.StaticGatewayConfigurationSpec:
    if field == "gatewayNodepoolName":
        return types.StaticGatewayConfigurationSpec(gateway_nodepool_name=text)
    if field.startswith("publicIpPrefixId"):
        given = {"public_ip_prefix_id" + ("_v6" if field.endswith("V6") else ""): text}
        return types.StaticGatewayConfigurationSpec(gateway_nodepool_name="np", **given)  # type: ignore[arg-type]
    names = {"vmss_resource_group": "rg", "vmss_name": "vmss"}
    names["vmss_name" if field.endswith("vmssName") else "vmss_resource_group"] = text
    return types.StaticGatewayConfigurationSpec(
        gateway_vmss_profile=types.GatewayVmssProfile(**names, public_ip_prefix_size=30)
    )


FIELDS = {
    "gatewayNodepoolName": "gw",
    "gatewayVmssProfile.vmssName": "aks-gw-1-vmss",
    "gatewayVmssProfile.vmssResourceGroup": "MC_rg_(x)_é.y",
    "publicIpPrefixId": PREFIX,
    "publicIpPrefixIdV6": PREFIX,
}


def refused_by_schema(spec: types.StaticGatewayConfigurationSpec) -> list[str]:
    document = next(d for d in crd.documents() if d["spec"]["names"]["plural"].startswith("static"))
    value = {"metadata": {"name": "a"}, "spec": msgspec.to_builtins(spec)}
    checked = CustomSchema(openapi(document))
    checked.prepare(value)
    return [str(cause) for cause in checked.validate(value, None)]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("character", CHARACTERS, ids=lambda c: f"U+{ord(c):04X}")
def test_a_strange_character_is_refused_at_apply_and_named(field: str, character: str) -> None:
    sound = FIELDS[field]
    assert validate_spec(spec_with(field, sound)) == []
    assert refused_by_schema(spec_with(field, sound)) == []
    for text in (sound + character, character + sound, sound[:3] + character + sound[3:]):
        spec = spec_with(field, text)
        (problem,) = validate_spec(spec)
        assert problem.field == f"spec.{field}"
        assert f"U+{ord(character):04X}" in problem.message
        assert CHARACTERS[character] in problem.message
        assert len(str(problem).splitlines()) == 1
        said = refused_by_schema(spec)
        assert said, text
        if character in "\r\n":
            assert any("carriage return or line end" in cause for cause in said)
        if character in " \t":
            assert any("blank or tab" in cause for cause in said)


def test_a_prefix_id_of_other_letters_is_none() -> None:
    assert parse_prefix_id(PREFIX) is not None
    assert parse_prefix_id(PREFIX + "\r") is None
    assert parse_prefix_id(PREFIX + "\n") is None
    assert parse_prefix_id(PREFIX.replace("/rg/", "/r g/")) is None


def test_a_report_is_cut_to_what_the_schema_takes() -> None:
    problem = GatewayProblem(static_gateway_configuration="n/a", message="x" * 5000)
    vetoes = [GatewayVeto(reason="Draining"), GatewayVeto(reason="InternetUnreachable")] * 2
    spec = GatewayStatusSpec(problems=[problem] * 2000, vetoes=vetoes).bounded()
    assert (spec.summary.problems, spec.summary.vetoes) == (2000, "Draining,InternetUnreachable")
    assert len(spec.problems) == types.REPORTED
    assert len(spec.problems[0].message) == types.REPORTED_MESSAGE


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("name", [".", "..", "...", "x."])
def test_a_name_of_dots_which_would_lead_elsewhere_is_refused_at_apply(
    field: str, name: str
) -> None:
    sound = FIELDS[field]
    texts = [name]
    if sound == PREFIX:
        group = PREFIX.split("/")[4]
        texts = [PREFIX.replace(f"/{group}/", f"/{name}/"), f"{PREFIX.rpartition('/')[0]}/{name}"]
    for text in texts:
        (problem,) = validate_spec(spec_with(field, text))
        assert problem.field == f"spec.{field}"
        assert problem.mend
        assert refused_by_schema(spec_with(field, text)), text
