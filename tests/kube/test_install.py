"""What is installed, put before a real API server: definitions, documents, golden objects."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from egress_gateway.api import names
from egress_gateway.api.manifests import deploy_dir
from egress_gateway_lab.apiserver.wire.client import APPLY_PATCH, KubeClient
from egress_gateway_lab.realcluster.control_plane import ControlPlane
from lab.tests.apiserver.conftest import real
from lab.tests.apiserver.test_custom_resources import install
from lab.tests.apiserver.test_objects import refusal
from tests.kube.chart import in_order, installed, rendered
from tests.unit.api.bad_specs import BAD_SPECS

pytestmark = pytest.mark.kube
GOLDEN = Path(__file__).parents[2] / "lab/tests/azure/golden/end-state.json"
SGCS = "staticgatewayconfigurations"
Object = dict[str, Any]


async def strictly(client: KubeClient, document: Object, *, dry: bool = True) -> str:
    """What the server says against a document, unknown fields included; empty: nothing."""
    resource = await client.resource_of(document["apiVersion"], document["kind"])
    plural, _, version = resource.partition(".")
    meta = document["metadata"]
    inside = f"/namespaces/{meta['namespace']}" if meta.get("namespace") else ""
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    query = {"fieldManager": "helm", "fieldValidation": "Strict", "force": "true"}
    answer = await client.transport.request(
        "PATCH",
        f"{root}{inside}/{plural}/{meta['name']}",
        body=document,
        content_type=APPLY_PATCH,
        query=query | ({"dryRun": "All"} if dry else {}),
    )
    said = answer.body.get("message", "") if answer.status >= 300 else ""
    return f"{document['kind']}/{meta['name']}: {said}" if said else ""


async def complaints(client: KubeClient, documents: list[Object]) -> list[str]:
    """Of a server-side dry run. What others need to be there (a namespace, definitions) is made."""
    found = []
    for document in in_order(documents):
        needed = document["kind"] in ("Namespace", "CustomResourceDefinition")
        found.append(await strictly(client, document, dry=not needed))
    return [said for said in found if said]


@pytest.mark.parametrize(
    "values",
    [
        (),
        ("admission.mode=webhook",),
    ],
    ids=["default", "webhook"],
)
async def test_the_server_takes_all_that_helm_renders(
    real_plane: ControlPlane, clients: Path, values: tuple[str, ...]
) -> None:
    async with real(real_plane) as cluster:
        assert await complaints(cluster.admin, rendered(clients, *values)) == []


async def test_the_server_takes_all_of_the_plain_manifests(real_plane: ControlPlane) -> None:
    files = sorted((deploy_dir() / "manifests").rglob("*.yaml"))
    files += sorted((deploy_dir() / "crds").glob("*.yaml"))
    documents = [d for file in files for d in yaml.safe_load_all(file.read_text()) if d]
    async with real(real_plane) as cluster:
        assert await complaints(cluster.admin, documents) == []
        # A field that Kubernetes does not know is seen by this check.
        wrong = {**documents[0], "specs": {}}
        assert "specs" in await strictly(cluster.admin, wrong)


def golden(kind: str) -> list[Object]:
    """Objects as the Go project wrote them, without what a server gives."""
    found = [d for d in json.loads(GOLDEN.read_text())["kubernetes"] if d["kind"] == kind]
    for document in found:
        given = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields")
        for name in given:
            document["metadata"].pop(name, None)
    return found


async def test_what_the_go_project_wrote_passes(real_plane: ControlPlane, clients: Path) -> None:
    documents = golden("StaticGatewayConfiguration")
    assert documents
    async with installed(real_plane, clients) as cluster:
        for document in documents:
            made = await cluster.admin.create(SGCS, document)
            assert made["spec"] == document["spec"]
            status = {**made, "status": document["status"]}
            kept = await cluster.admin.replace(SGCS, status, subresource="status")
            assert kept["status"] == document["status"]


def configuration(name: str, **spec: Any) -> Object:
    meta = {"name": name, "namespace": "default"}
    return {
        "apiVersion": names.API_VERSION,
        "kind": "StaticGatewayConfiguration",
        "metadata": meta,
        "spec": spec,
    }


async def test_what_schema_and_rules_can_refuse_is_refused_with_field_and_mend(
    real_plane: ControlPlane, clients: Path
) -> None:
    async with installed(real_plane, clients) as cluster:
        for spec, field, mend in BAD_SPECS:
            error = await refusal(cluster.admin.create(SGCS, configuration("a", **spec)))
            assert (error.code, error.reason) == (422, "Invalid"), spec
            fields = [cause["field"] for cause in error.status["details"]["causes"]]
            assert field in fields, (spec, fields)
            assert mend in str(error), (spec, str(error))
        unknown = configuration("a", gatewayNodepoolName="p", gatewayNodePool="p")
        assert "field not declared in schema" in await strictly(cluster.admin, unknown)


async def test_an_invalid_object_that_exists_can_be_released_and_deleted(
    real_plane: ControlPlane, clients: Path
) -> None:
    """As in a cluster that moves over: it was there before our rules were."""
    async with real(real_plane) as cluster:
        admin = cluster.admin
        await install(cluster)
        name = f"{SGCS}.{names.GROUP}"
        strict = await admin.get("customresourcedefinitions", name)
        loose = [dict(v) for v in strict["spec"]["versions"]]
        for version in loose:
            version["schema"] = {
                "openAPIV3Schema": {
                    "type": "object",
                    "x-kubernetes-preserve-unknown-fields": True,
                }
            }
        await admin.patch("customresourcedefinitions", name, {"spec": {"versions": loose}})
        bad = configuration("bad", gatewayNodepoolName="", excludeCidrs=["nonsense"])
        bad["metadata"]["finalizers"] = ["example.com/f"]
        await accepted(admin, bad)
        was = {"spec": {"versions": strict["spec"]["versions"]}}
        await admin.patch("customresourcedefinitions", name, was)
        await refused_again(admin)
        await admin.delete(SGCS, "bad", namespace="default")
        release = {"metadata": {"finalizers": None}}
        await admin.patch(SGCS, "bad", release, namespace="default")
        assert await admin.find(SGCS, "bad", namespace="default") is None


async def accepted(admin: KubeClient, document: Object) -> None:
    """A definition's change reaches the server's handlers after it is stored."""
    path = f"/apis/{names.API_VERSION}/namespaces/default/{SGCS}"
    async with asyncio.timeout(180):
        while (await admin.transport.request("POST", path, body=document)).status != 201:
            await asyncio.sleep(0.1)


async def refused_again(admin: KubeClient) -> None:
    path = f"/apis/{names.API_VERSION}/namespaces/default/{SGCS}"
    probe = configuration("probe", gatewayNodepoolName="", excludeCidrs=["nonsense"])
    query = {"dryRun": "All"}
    async with asyncio.timeout(180):
        while (await admin.transport.request("POST", path, body=probe, query=query)).status != 422:
            await asyncio.sleep(0.1)
