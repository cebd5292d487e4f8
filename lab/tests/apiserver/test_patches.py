"""All four patches, and who owns which field."""

from __future__ import annotations

from typing import Any

import pytest

from egress_gateway_lab.apiserver.wire.client import (
    APPLY_PATCH,
    JSON_PATCH,
    MERGE_PATCH,
    STRATEGIC_PATCH,
    KubeClient,
    KubeError,
)
from lab.tests.apiserver.conftest import Cluster
from lab.tests.apiserver.test_objects import config_map, refusal


def deployment(**containers: str) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": n, "image": i} for n, i in containers.items()]},
            },
        },
    }


def images(obj: dict[str, Any]) -> dict[str, str]:
    return {c["name"]: c["image"] for c in obj["spec"]["template"]["spec"]["containers"]}


async def test_json_patch(cluster: Cluster) -> None:
    await cluster.admin.create("configmaps", config_map("a"))

    async def patch(*operations: dict[str, Any]) -> dict[str, Any]:
        return await cluster.admin.patch(
            "configmaps",
            "a",
            list(operations),
            namespace="default",
            content_type=JSON_PATCH,
        )

    changed = await patch({"op": "add", "path": "/data/b", "value": "2"})
    assert changed["data"] == {"a": "1", "b": "2"}
    error = await refusal(
        patch(
            {"op": "test", "path": "/data/a", "value": "wrong"},
            {"op": "remove", "path": "/data/a"},
        )
    )
    assert error.code == 422


async def test_merge_patch_replaces_lists_and_null_removes(cluster: Cluster) -> None:
    await cluster.admin.create("configmaps", config_map("a"))
    patch = {"data": {"a": None, "b": "2"}, "metadata": {"finalizers": ["x.example/a"]}}
    changed = await cluster.admin.patch(
        "configmaps", "a", patch, namespace="default", content_type=MERGE_PATCH
    )
    assert changed["data"] == {"b": "2"}
    patch = {"metadata": {"finalizers": ["x.example/b"]}}
    changed = await cluster.admin.patch("configmaps", "a", patch, namespace="default")
    assert changed["metadata"]["finalizers"] == ["x.example/b"]


async def test_strategic_merge_patch_merges_containers_by_name(cluster: Cluster) -> None:
    await cluster.admin.create("deployments", deployment(a="one", b="two"))

    async def patch(*containers: dict[str, Any], **more: Any) -> dict[str, Any]:
        body = {"spec": {"template": {"spec": {"containers": list(containers), **more}}}}
        return await cluster.admin.patch(
            "deployments", "web", body, namespace="default", content_type=STRATEGIC_PATCH
        )

    changed = await patch({"name": "b", "image": "three"}, {"name": "c", "image": "four"})
    assert images(changed) == {"a": "one", "b": "three", "c": "four"}
    changed = await patch({"name": "a", "$patch": "delete"})
    assert images(changed) == {"b": "three", "c": "four"}
    order = {"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}]}
    changed = await patch({"name": "c", "image": "five"}, **order)
    assert list(images(changed)) == ["c", "b"]


async def test_finalizers_merge_as_a_set(cluster: Cluster) -> None:
    body = config_map("a")
    body["metadata"]["finalizers"] = ["x.example/a"]
    await cluster.admin.create("configmaps", body)
    changed = await cluster.admin.patch(
        "configmaps",
        "a",
        {"metadata": {"finalizers": ["x.example/b"]}},
        namespace="default",
        content_type=STRATEGIC_PATCH,
    )
    assert changed["metadata"]["finalizers"] == ["x.example/b", "x.example/a"]
    changed = await cluster.admin.patch(
        "configmaps",
        "a",
        {"metadata": {"$deleteFromPrimitiveList/finalizers": ["x.example/a"]}},
        namespace="default",
        content_type=STRATEGIC_PATCH,
    )
    assert changed["metadata"]["finalizers"] == ["x.example/b"]


async def test_an_unknown_patch_is_refused(cluster: Cluster) -> None:
    await cluster.admin.create("configmaps", config_map("a"))
    error = await refusal(
        cluster.admin.patch(
            "configmaps", "a", {}, namespace="default", content_type="application/patch"
        )
    )
    assert error.code == 415


def applied(**data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "shared", "namespace": "default"},
        "data": data,
    }


async def test_two_appliers_keep_their_own_fields(cluster: Cluster) -> None:
    one = KubeClient(cluster.admin.transport, manager="one")
    two = KubeClient(cluster.admin.transport, manager="two")
    await one.apply(applied(a="1", b="1"))
    both = await two.apply(applied(c="2"))
    assert both["data"] == {"a": "1", "b": "1", "c": "2"}
    # What one no longer applies goes; what two applied stays.
    both = await one.apply(applied(a="1"))
    assert both["data"] == {"a": "1", "c": "2"}


async def test_apply_conflicts_unless_forced(cluster: Cluster) -> None:
    one = KubeClient(cluster.admin.transport, manager="one")
    two = KubeClient(cluster.admin.transport, manager="two")
    await one.apply(applied(a="1"))
    with pytest.raises(KubeError) as caught:
        await two.apply(applied(a="2"), force=False)
    assert caught.value.code == 409
    assert str(caught.value) == 'Apply failed with 1 conflict: conflict with "one": .data.a'
    forced = await two.apply(applied(a="2"), force=True)
    assert forced["data"] == {"a": "2"}
    # one has lost the field: not applying it any more must not remove it.
    kept = await one.apply(applied())
    assert kept["data"] == {"a": "2"}
    same = await one.apply(applied(a="2"), force=False)
    assert same["data"] == {"a": "2"}


async def test_an_ordinary_write_takes_ownership(cluster: Cluster) -> None:
    one = KubeClient(cluster.admin.transport, manager="one")
    await one.apply(applied(a="1"))
    await cluster.admin.patch("configmaps", "shared", {"data": {"a": "x"}}, namespace="default")
    with pytest.raises(KubeError) as caught:
        await one.apply(applied(a="1"), force=False)
    assert 'conflict with "tests" using v1: .data.a' in str(caught.value)


async def test_apply_merges_keyed_lists(cluster: Cluster) -> None:
    one = KubeClient(cluster.admin.transport, manager="one")
    two = KubeClient(cluster.admin.transport, manager="two")
    await one.apply(deployment(a="one"))
    sidecar = deployment(b="two")
    del sidecar["spec"]["replicas"]
    both = await two.apply(sidecar)
    assert images(both) == {"a": "one", "b": "two"}
    alone = await one.apply(deployment(c="three"))
    assert images(alone) == {"b": "two", "c": "three"}


async def test_apply_creates_and_repeats_without_a_new_version(cluster: Cluster) -> None:
    path = "/api/v1/namespaces/default/configmaps/shared"

    async def apply() -> tuple[int, dict[str, Any]]:
        answer = await cluster.admin.transport.request(
            "PATCH",
            path,
            body=applied(a="1"),
            content_type=APPLY_PATCH,
            query={"fieldManager": "one"},
        )
        return answer.status, answer.body

    status, made = await apply()
    assert status == 201
    status, again = await apply()
    assert status == 200
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    error = await refusal(
        cluster.admin.call("PATCH", path, body=applied(a="1"), content_type=APPLY_PATCH)
    )
    assert str(error) == (
        'PatchOptions.meta.k8s.io "" is invalid: '
        "fieldManager: Required value: is required for apply patch"
    )
