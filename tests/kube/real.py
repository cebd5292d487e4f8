"""One real control plane for a whole test run, as good as new for every test.

kube-apiserver takes seconds to start, so tests share one; before each of them everything that
the last one left is deleted (``wipe``), and what informers carry around inside the server (roles,
policies) is waited for by markers that were written later (``settle``), never by the clock.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from egress_gateway_lab.apiserver.wire.client import KubeClient, KubeError
from egress_gateway_lab.realcluster import binaries
from egress_gateway_lab.realcluster.control_plane import ControlPlane, Settings

Object = dict[str, Any]
_RBAC = "rbac.authorization.k8s.io"
_ADMISSION = "admissionregistration.k8s.io"
_NUMBERS = itertools.count(1)
_BASELINE: dict[str, set[str]] = {}


@pytest.fixture(scope="session")
def real_plane() -> Iterator[ControlPlane]:
    """A running control plane without nodes; skipped, aloud, where there are no programs."""
    try:
        programs = binaries.find(*binaries.CONTROL_PLANE)
    except binaries.Unavailable as error:
        pytest.skip(f"NO KUBERNETES: nothing was tested on a real API server: {error}")
    # A short path: sockets are in it.
    with tempfile.TemporaryDirectory(prefix="kube-", dir="/tmp") as folder:
        plane = ControlPlane(Settings(directory=Path(folder)), programs)
        # NB: its programs die with the thread that starts them; this one is pytest's own.
        asyncio.run(plane.start())
        try:
            asyncio.run(_note_baseline(plane))
            yield plane
        finally:
            plane.stop()


@asynccontextmanager
async def administrator(plane: ControlPlane, manager: str = "tests") -> AsyncIterator[KubeClient]:
    async with plane.transport() as transport:
        yield KubeClient(transport, manager=manager)


async def _note_baseline(plane: ControlPlane) -> None:
    async with administrator(plane) as admin:
        await until(lambda: _started(admin), "the controllers' first objects")
        _BASELINE[plane.url] = {path for path, _ in await _everything(admin)}


async def _started(admin: KubeClient) -> bool:
    """The objects that come a moment after readiness are there."""
    namespaces = await admin.list("namespaces")
    accounts = await admin.list("serviceaccounts")
    bundles = await admin.list("configmaps", fields="metadata.name=kube-root-ca.crt")
    default = [a for a in accounts if a["metadata"]["name"] == "default"]
    return len(namespaces) >= 4 and len(default) == len(bundles) == len(namespaces)


async def until(condition: Any, what: str, timeout: float = 180.0) -> None:
    """Polls an async condition. Raises ``TimeoutError`` naming ``what`` after that long."""
    ends = time.monotonic() + timeout
    while not await condition():
        if time.monotonic() > ends:
            raise TimeoutError(f"not within {timeout:.0f} s: {what}")
        await asyncio.sleep(0.05)


# -- as good as new


async def wipe(plane: ControlPlane) -> None:
    """Deletes everything that the server had not when it was new."""
    async with administrator(plane) as admin:
        left: list[str] = []

        async def clean() -> bool:
            left[:] = [
                path
                for path, meta in await _everything(admin)
                if path not in _BASELINE[plane.url] and not await _deleted(admin, path, meta)
            ]
            return not left

        try:
            await until(clean, "a clean server")
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {', '.join(left[:5])} stay") from error


async def _deleted(admin: KubeClient, path: str, meta: Object) -> bool:
    """Starts a deletion; true where nothing is left to wait for."""
    definition = "/customresourcedefinitions/" in path
    if meta.get("finalizers") and not definition:  # a definition's is the server's own work
        await _quietly(
            admin.call(
                "PATCH",
                path,
                body={"metadata": {"finalizers": None}},
                content_type="application/merge-patch+json",
            )
        )
    if meta.get("deletionTimestamp") and "/pods/" not in path:
        return False
    body = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
    await _quietly(admin.call("DELETE", path, body=body))
    return "/events/" in path  # late ones of the past concern nobody


async def _quietly(call: Any) -> None:
    try:
        await call
    except KubeError as error:
        if error.code not in (404, 405, 409):
            raise


async def _everything(admin: KubeClient) -> list[tuple[str, Object]]:
    """Path and metadata of every object that can be listed and deleted."""
    kinds = await _kinds(admin)
    pages = await asyncio.gather(*(_listed(admin, kind) for kind in kinds))
    return [
        (_path(kind, item["metadata"]), item["metadata"])
        for kind, page in zip(kinds, pages, strict=True)
        for item in page
    ]


async def _listed(admin: KubeClient, kind: tuple[str, str]) -> list[Object]:
    root, plural = kind
    try:
        return list((await admin.call("GET", f"{root}/{plural}"))["items"])
    except KubeError as error:
        if error.code in (404, 405, 429):  # its definition is going
            return []
        raise


def _path(kind: tuple[str, str], meta: Object) -> str:
    root, plural = kind
    inside = f"/namespaces/{meta['namespace']}" if meta.get("namespace") else ""
    return f"{root}{inside}/{plural}/{meta['name']}"


async def _kinds(admin: KubeClient) -> list[tuple[str, str]]:
    """(root path, plural), each resource in one version; not those that others make and undo."""
    groups = (await admin.call("GET", "/apis"))["groups"]
    preferred = [g["preferredVersion"]["groupVersion"] for g in groups]
    roots = ["/api/v1", *(f"/apis/{v}" for v in preferred if not v.startswith("events.k8s.io/"))]
    answers = await asyncio.gather(*(admin.transport.request("GET", root) for root in roots))
    found = [
        (root, entry)
        for root, answer in zip(roots, answers, strict=True)
        if answer.status == 200  # else its last definition has just gone
        for entry in answer.body["resources"]
    ]
    derived = ("componentstatuses", "endpoints", "endpointslices", "controllerrevisions")
    return [
        (root, entry["name"])
        for root, entry in found
        if {"list", "delete"} <= set(entry["verbs"])
        and "/" not in entry["name"]
        and entry["name"] not in derived
    ]


# -- what has been written is in force


async def settle(admin: KubeClient) -> None:
    """Returns when all roles and policies written before are what the server asks.

    Informers see objects of a kind in the order of their writing, and policies are compiled all
    at once: when a marker that was written later is in force, so is what was before it.
    """
    name = f"marker-{next(_NUMBERS)}"
    for document in _markers(name):
        kind = document["kind"].lower()
        plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
        await admin.create(f"{plural}.{document['apiVersion']}", document)
    await until(lambda: _in_force(admin, name), "roles and policies in force")


def _markers(name: str) -> Iterator[Object]:
    role = {"apiGroups": ["marker"], "resources": ["markers"], "verbs": ["get"]}
    subject = {"kind": "User", "name": name, "apiGroup": _RBAC}
    for kind, meta in (
        ("ClusterRole", {"name": name}),
        ("Role", {"name": name, "namespace": "default"}),
    ):
        base = {"apiVersion": f"{_RBAC}/v1", "metadata": meta}
        verbs = ["get"] if kind == "Role" else ["list"]
        yield {**base, "kind": kind, "rules": [{**role, "verbs": verbs}]}
        reference = {"apiGroup": _RBAC, "kind": kind, "name": name}
        yield {**base, "kind": f"{kind}Binding", "roleRef": reference, "subjects": [subject]}
    condition = {"name": "marker", "expression": f"request.name == '{name}'"}
    rule = {
        "apiGroups": ["coordination.k8s.io"],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": ["leases"],
    }
    common = {"matchConstraints": {"resourceRules": [rule]}, "matchConditions": [condition]}
    add = "[JSONPatch{op: 'add', path: '/metadata/labels', value: {'mutated': 'yes'}}]"
    mutation = {"patchType": "JSONPatch", "jsonPatch": {"expression": add}}
    mutating = {"reinvocationPolicy": "Never", "mutations": [mutation]}
    # Refused once both are in force.
    seen = "!has(object.metadata.labels) || !('mutated' in object.metadata.labels)"
    refusing = {"validations": [{"expression": seen, "message": f"{name} refuses"}]}
    for kind, spec, binding in (
        ("Mutating", mutating, {}),
        ("Validating", refusing, {"validationActions": ["Deny"]}),
    ):
        base = {"apiVersion": f"{_ADMISSION}/v1", "metadata": {"name": name}}
        yield {**base, "kind": f"{kind}AdmissionPolicy", "spec": {**common, **spec}}
        yield {
            **base,
            "kind": f"{kind}AdmissionPolicyBinding",
            "spec": {"policyName": name, **binding},
        }


async def _in_force(admin: KubeClient, name: str) -> bool:
    for verb, namespace in (("list", ""), ("get", "default")):
        asked = {"group": "marker", "resource": "markers", "verb": verb, "namespace": namespace}
        review = {"spec": {"user": name, "resourceAttributes": asked}}
        reviewed = await admin.create("subjectaccessreviews.authorization.k8s.io/v1", review)
        if not reviewed["status"]["allowed"]:
            return False
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}}
    answer = await admin.transport.request(
        "POST",
        "/apis/coordination.k8s.io/v1/namespaces/default/leases",
        body=lease,
        query={"dryRun": "All"},
    )
    return answer.status == 422 and f"{name} refuses" in str(answer.body)
