"""Custom resources: the shipped definitions, and what a schema promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from egress_gateway.api import names
from lab.tests.apiserver.conftest import Cluster
from lab.tests.apiserver.test_objects import refusal
from tests.unit.api.bad_specs import BAD_SPECS

_CRDS = Path(__file__).parents[3] / "deploy" / "crds"
WIDGETS = "widgets.example.com/v1"


async def install(cluster: Cluster) -> None:
    for file in sorted(_CRDS.glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            await cluster.admin.apply(document)
    await cluster.served(*(file_name(f) for f in _CRDS.glob("*.yaml")))


def file_name(file: Path) -> str:
    return f"{file.stem}.{names.GROUP}"


async def define(cluster: Cluster, schema: dict[str, Any], **version: Any) -> None:
    await cluster.admin.create("customresourcedefinitions", definition(schema, **version))
    await cluster.served("widgets.example.com")


def configuration(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "StaticGatewayConfiguration",
        "metadata": {"name": "my-gateway", "namespace": "default"},
        "spec": spec,
    }


def definition(schema: dict[str, Any], **version: Any) -> dict[str, Any]:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    **version,
                }
            ],
        },
    }


def spec_schema(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "spec": {"type": "object", "properties": properties},
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    }


def widget(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": {"name": "w", "namespace": "default"},
        "spec": spec,
    }


async def test_the_shipped_definitions_are_served_at_once(cluster: Cluster) -> None:
    await install(cluster)
    for kind in ("StaticGatewayConfiguration", "PodEndpoint", "GatewayStatus"):
        assert await cluster.admin.resource_of(names.API_VERSION, kind)
    made = await cluster.admin.apply(configuration(gatewayNodepoolName="npegress"))
    assert made["spec"] == {
        "gatewayNodepoolName": "npegress",
        "defaultRoute": "staticEgressGateway",
        "provisionPublicIps": True,
    }
    assert made["metadata"]["generation"] == 1


@pytest.mark.parametrize(("spec", "field", "mend"), BAD_SPECS)
async def test_a_bad_configuration_is_refused_with_the_field(
    cluster: Cluster, spec: dict[str, Any], field: str, mend: str
) -> None:
    await install(cluster)
    error = await refusal(
        cluster.admin.create("staticgatewayconfigurations", configuration(**spec))
    )
    assert (error.code, error.reason) == (422, "Invalid")
    assert f"{field}: " in str(error)
    assert mend in str(error)


@pytest.mark.parametrize(
    ("empty", "kept"),
    [
        ({"excludeCidrs": None}, {}),
        ({"publicIpPrefixId": None}, {}),
        ({"gatewayVmssProfile": None}, {}),
        ({"gatewayVmssProfile": {"vmssName": None}}, {"gatewayVmssProfile": {}}),
        ({"defaultRoute": None, "provisionPublicIps": None}, {}),
    ],
)
async def test_a_field_with_nothing_behind_it_as_of_a_template_is_no_field(
    cluster: Cluster, empty: dict[str, Any], kept: dict[str, Any]
) -> None:
    await install(cluster)
    body = configuration(gatewayNodepoolName="npegress", **empty)
    made = await cluster.admin.create("staticgatewayconfigurations", body)
    assert made["spec"] == {
        "gatewayNodepoolName": "npegress",
        "defaultRoute": "staticEgressGateway",
        "provisionPublicIps": True,
        **kept,
    }
    body = configuration(gatewayNodepoolName="npegress", excludeCidrs=[None])
    body["metadata"]["name"] = "another"
    error = await refusal(cluster.admin.create("staticgatewayconfigurations", body))
    assert error.code == 422


async def test_unknown_fields_are_pruned_or_refused(cluster: Cluster) -> None:
    await define(cluster, spec_schema(size={"type": "integer"}))
    path = "/apis/example.com/v1/namespaces/default/widgets"
    error = await refusal(
        cluster.admin.call(
            "POST",
            path,
            body=widget({"size": 1, "shape": "x"}),
            query={"fieldValidation": "Strict"},
        )
    )
    assert str(error) == (
        'Widget in version "v1" cannot be handled as a Widget: '
        'strict decoding error: unknown field "spec.shape"'
    )
    made = await cluster.admin.call("POST", path, body=widget({"size": 1, "shape": "x"}))
    assert made["spec"] == {"size": 1}


async def test_status_and_specification_are_written_apart(cluster: Cluster) -> None:
    await define(cluster, spec_schema(size={"type": "integer"}), subresources={"status": {}})
    made = await cluster.admin.create(WIDGETS, {**widget({"size": 1}), "status": {"a": 1}})
    assert "status" not in made
    both = {"spec": {"size": 2}, "status": {"ready": True}}
    after = await cluster.admin.patch(WIDGETS, "w", both, namespace="default", subresource="status")
    assert (after["spec"], after["status"]) == ({"size": 1}, {"ready": True})
    assert after["metadata"]["generation"] == 1
    both["status"] = {"ready": False}
    after = await cluster.admin.patch(WIDGETS, "w", both, namespace="default")
    assert (after["spec"], after["status"]) == ({"size": 2}, {"ready": True})
    assert after["metadata"]["generation"] == 2
    marked = {
        **widget({}),
        "spec": {"size": 9},
        "status": {"ready": True, "seen": 2},
    }
    after = await cluster.admin.apply(marked, resource=WIDGETS, subresource="status")
    assert (after["spec"], after["status"]) == ({"size": 2}, {"ready": True, "seen": 2})


async def test_an_update_must_name_the_version_it_is_of(cluster: Cluster) -> None:
    await define(cluster, spec_schema())
    await cluster.admin.create(WIDGETS, widget({}))
    error = await refusal(cluster.admin.replace(WIDGETS, widget({})))
    assert "metadata.resourceVersion" in str(error)
    assert error.code == 422


async def test_transition_rules_see_the_old_value(cluster: Cluster) -> None:
    name = {
        "type": "string",
        "x-kubernetes-validations": [
            {"rule": "self == oldSelf", "message": "the name is for ever"}
        ],
    }
    await define(cluster, spec_schema(name=name))
    await cluster.admin.create(WIDGETS, widget({"name": "a"}))
    error = await refusal(
        cluster.admin.patch(WIDGETS, "w", {"spec": {"name": "b"}}, namespace="default")
    )
    assert 'spec.name: Invalid value: "b": the name is for ever' in str(error)


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("self.size.launch()", "undeclared reference to 'launch'"),
        ("self.weight > 1", "undefined field 'weight'"),
        ("size(", "Syntax error"),
        ("other.size == 1", "undeclared reference to 'other'"),
    ],
)
async def test_a_rule_that_cannot_be_evaluated_is_refused(
    cluster: Cluster, rule: str, why: str
) -> None:
    schema = spec_schema(size={"type": "integer"})
    schema["properties"]["spec"]["x-kubernetes-validations"] = [{"rule": rule}]
    error = await refusal(cluster.admin.create("customresourcedefinitions", definition(schema)))
    assert (error.code, error.reason) == (422, "Invalid")
    assert why in str(error)


async def test_deleting_a_definition_deletes_its_objects(cluster: Cluster) -> None:
    await define(cluster, spec_schema())
    await cluster.admin.create(WIDGETS, widget({}))
    await cluster.admin.delete("customresourcedefinitions", "widgets.example.com")
    await cluster.admin.wait_for(
        "customresourcedefinitions", "widgets.example.com", lambda obj: obj is None
    )
    assert (await refusal(cluster.admin.list(WIDGETS))).code == 404
    await define(cluster, spec_schema())
    assert await cluster.admin.list(WIDGETS) == []
