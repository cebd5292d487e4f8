"""What every resource promises: identity, versions, conflicts, lists, selectors, deletion."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import pytest

from egress_gateway_lab.apiserver.wire.client import KubeClient, KubeError
from lab.tests.apiserver.conftest import Cluster


def config_map(name: str, **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "data": {"a": "1"},
    }


async def refusal(call: Any) -> KubeError:
    with pytest.raises(KubeError) as caught:
        await call
    return caught.value


async def test_a_created_object_has_identity_and_version(cluster: Cluster) -> None:
    made = await cluster.admin.create("configmaps", config_map("a"))
    meta = made["metadata"]
    assert meta["uid"]
    assert meta["creationTimestamp"]
    assert int(meta["resourceVersion"]) > 0
    assert await cluster.admin.get("configmaps", "a", namespace="default") == made


async def test_a_name_is_taken_once(cluster: Cluster) -> None:
    await cluster.admin.create("configmaps", config_map("a"))
    error = await refusal(cluster.admin.create("configmaps", config_map("a")))
    assert (error.code, error.reason) == (409, "AlreadyExists")
    assert str(error) == 'configmaps "a" already exists'


async def test_generate_name_makes_different_names(cluster: Cluster) -> None:
    body = config_map("unused")
    body["metadata"] = {"generateName": "x-", "namespace": "default"}
    made = [await cluster.admin.create("configmaps", body) for _ in range(5)]
    found = {m["metadata"]["name"] for m in made}
    assert len(found) == 5
    assert all(name.startswith("x-") and len(name) == 7 for name in found)


async def test_a_stale_write_is_a_conflict(cluster: Cluster) -> None:
    first = await cluster.admin.create("configmaps", config_map("a"))
    second = await cluster.admin.replace("configmaps", {**first, "data": {"a": "2"}})
    assert second["metadata"]["resourceVersion"] != first["metadata"]["resourceVersion"]
    error = await refusal(cluster.admin.replace("configmaps", {**first, "data": {"a": "3"}}))
    assert (error.code, error.reason) == (409, "Conflict")
    assert "the object has been modified" in str(error)


async def test_a_write_that_changes_nothing_makes_no_version(cluster: Cluster) -> None:
    first = await cluster.admin.create("configmaps", config_map("a"))
    patched = await cluster.admin.patch(
        "configmaps", "a", {"data": {"a": "1"}}, namespace="default"
    )
    assert patched["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_dry_run_answers_and_stores_nothing(cluster: Cluster) -> None:
    path = "/api/v1/namespaces/default/configmaps"
    made = await cluster.admin.call("POST", path, body=config_map("a"), query={"dryRun": "All"})
    assert made["metadata"]["name"] == "a"
    assert await cluster.admin.find("configmaps", "a", namespace="default") is None


async def test_labels_and_fields_select(cluster: Cluster) -> None:
    for name, labels in (("a", {"app": "x"}), ("b", {"app": "y"}), ("c", {"tier": "z"})):
        await cluster.admin.create("configmaps", config_map(name, **labels))

    async def chosen(**selectors: str) -> str:
        found = await cluster.admin.list("configmaps", namespace="default", **selectors)
        listed = (o["metadata"]["name"] for o in found)
        return "".join(n for n in listed if len(n) == 1)

    assert await chosen(labels="app=x") == "a"
    assert await chosen(labels="app in (x, y)") == "ab"
    assert await chosen(labels="app,app!=x") == "b"
    assert await chosen(labels="!app") == "c"
    assert await chosen(labels="app notin (x),app") == "b"
    assert await chosen(fields="metadata.name=b") == "b"
    error = await refusal(chosen(fields="data.a=1"))
    assert error.code == 400
    assert '"data.a" is not a known field selector' in str(error)
    error = await refusal(cluster.admin.list("pods", fields="data.a=1"))
    assert str(error) == "field label not supported: data.a"


async def test_pages_show_one_moment(cluster: Cluster) -> None:
    for i in range(7):
        await cluster.admin.create("configmaps", config_map(f"n{i}", page="yes"))
    path = "/api/v1/namespaces/default/configmaps"
    query = {"limit": "3", "labelSelector": "page"}
    page = await cluster.admin.call("GET", path, query=query)
    seen = [o["metadata"]["name"] for o in page["items"]]
    await cluster.admin.delete("configmaps", "n5", namespace="default")
    while token := page["metadata"].get("continue"):
        page = await cluster.admin.call("GET", path, query={**query, "continue": token})
        seen += [o["metadata"]["name"] for o in page["items"]]
    assert seen == [f"n{i}" for i in range(7)]


async def test_a_finalizer_holds_an_object_until_it_is_released(cluster: Cluster) -> None:
    body = config_map("a")
    body["metadata"]["finalizers"] = ["example.com/hold"]
    await cluster.admin.create("configmaps", body)
    await cluster.admin.delete("configmaps", "a", namespace="default")
    held = await cluster.admin.get("configmaps", "a", namespace="default")
    assert held["metadata"]["deletionTimestamp"]
    await cluster.admin.patch(
        "configmaps", "a", {"metadata": {"finalizers": None}}, namespace="default"
    )
    assert await cluster.admin.find("configmaps", "a", namespace="default") is None


async def test_a_deletion_may_insist_on_the_uid(cluster: Cluster) -> None:
    await cluster.admin.create("configmaps", config_map("a"))
    error = await refusal(cluster.admin.delete("configmaps", "a", namespace="default", uid="other"))
    assert error.code == 409
    assert 'ConfigMap "a": the UID in the precondition (other) does not match' in str(error)


async def test_a_pod_that_runs_is_given_its_grace(cluster: Cluster) -> None:
    await add_node(cluster, node("n1"))
    await cluster.admin.create("pods", pod("p"))
    await cluster.admin.wait_for("pods", "p", is_bound, namespace="default")
    await cluster.admin.delete("pods", "p", namespace="default", grace_seconds=7)
    ending = await cluster.admin.get("pods", "p", namespace="default")
    assert ending["metadata"]["deletionGracePeriodSeconds"] == 7
    # What a kubelet does when the processes are gone:
    await cluster.admin.delete("pods", "p", namespace="default", grace_seconds=0)
    assert await cluster.admin.find("pods", "p", namespace="default") is None


async def test_what_does_not_exist_says_so(cluster: Cluster) -> None:
    admin = cluster.admin
    error = await refusal(admin.get("configmaps", "zzz", namespace="default"))
    assert (error.code, str(error)) == (404, 'configmaps "zzz" not found')
    error = await refusal(admin.list("flyingmachines.apps/v1"))
    assert error.code == 404
    assert str(error) == "the server could not find the requested resource"
    body = config_map("a")
    body["metadata"]["namespace"] = "nowhere"
    error = await refusal(admin.create("configmaps", body))
    assert (error.code, str(error)) == (404, 'namespaces "nowhere" not found')


async def test_a_bad_object_names_the_field(cluster: Cluster) -> None:
    error = await refusal(cluster.admin.create("configmaps", config_map("Not_A_Name")))
    assert (error.code, error.reason) == (422, "Invalid")
    assert str(error).startswith(
        'ConfigMap "Not_A_Name" is invalid: metadata.name: Invalid value: "Not_A_Name"'
    )
    empty = pod("p")
    empty["spec"]["containers"] = []
    error = await refusal(cluster.admin.create("pods", empty))
    assert str(error) == 'Pod "p" is invalid: spec.containers: Required value'
    broken = pod("p")
    broken["spec"] = {"containers": "none"}
    assert (await refusal(cluster.admin.create("pods", broken))).code in (400, 422)


async def test_events_and_leases_are_ordinary_objects(cluster: Cluster) -> None:
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "l", "namespace": "default"},
        "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15},
    }
    made = await cluster.admin.create("leases", lease)
    taken = {**made, "spec": {**made["spec"], "holderIdentity": "b"}}
    await cluster.admin.replace("leases", taken)
    late = await refusal(cluster.admin.replace("leases", taken))
    assert late.reason == "Conflict"
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Tested",
        "type": "Normal",
    }
    await cluster.admin.create("events", event)
    fields = "involvedObject.name=p,involvedObject.kind=Pod,reason=Tested"
    assert len(await cluster.admin.list("events", namespace="default", fields=fields)) == 1


@pytest.mark.embedded_only("a real server is in no process of ours")
async def test_in_process_and_https_are_the_same_api(cluster: Cluster) -> None:
    local = KubeClient(cluster.server.transport())
    made = await local.create("configmaps", config_map("a"))
    assert await cluster.admin.get("configmaps", "a", namespace="default") == made
    made["data"]["a"] = "changed by its owner"
    again = await local.get("configmaps", "a", namespace="default")
    assert again["data"]["a"] == "1"
    watching = local.watch("configmaps", namespace="default", fields="metadata.name=a")
    first = await asyncio.wait_for(anext(watching), 60)
    assert first["object"]["metadata"]["name"] == "a"
    error = await refusal(local.get("configmaps", "zzz", namespace="default"))
    assert error.code == 404
    await watching.aclose()  # type: ignore[attr-defined]


def heard_now() -> dict[str, Any]:
    """What a kubelet reports of its node. The time counts: a real server's controllers remember a
    name beyond its node's deletion, and would take a new one for the lost one of an earlier test.
    """
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": now}]}


def node(name: str, **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}},
        # As its kubelet would report it: schedulers look at what there is room for.
        "status": {
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
            "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110"},
            **heard_now(),
        },
    }


async def add_node(cluster: Cluster, obj: dict[str, Any]) -> None:
    """A node that takes pods: a real server taints new ones until its controllers have seen that
    they are ready."""
    await cluster.admin.create("nodes", obj)
    await cluster.admin.wait_for("nodes", obj["metadata"]["name"], _is_open)


def _is_open(obj: dict[str, Any] | None) -> bool:
    taints = ((obj or {}).get("spec") or {}).get("taints") or []
    return not any(t["key"].startswith("node.kubernetes.io/") for t in taints)


def pod(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "nginx"}], **spec},
    }


def is_bound(obj: dict[str, Any] | None) -> bool:
    return obj is not None and bool(obj["spec"].get("nodeName"))
