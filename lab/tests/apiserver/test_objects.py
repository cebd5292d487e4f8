"""What every resource promises: identity, versions, conflicts, lists, selectors, deletion."""

from __future__ import annotations

import asyncio
import datetime
import json
from typing import Any

import pytest

from egress_gateway_lab.apiserver.wire.client import HttpTransport, KubeClient, KubeError
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


@pytest.mark.parametrize("said", ["query", "body", "eviction"])
async def test_a_deletion_that_is_no_more_than_tried_deletes_nothing(
    cluster: Cluster, said: str
) -> None:
    await cluster.admin.create("pods", pod("p"))
    path, dry = "/api/v1/namespaces/default/pods/p", {"dryRun": ["All"]}
    match said:
        case "query":
            await cluster.admin.call("DELETE", path, query={"dryRun": "All"})
        case "body":
            await cluster.admin.call("DELETE", path, body={"kind": "DeleteOptions"} | dry)
        case "eviction":
            body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
            body["deleteOptions"] = dry
            await cluster.admin.call("POST", f"{path}/eviction", body=body)
    kept = await cluster.admin.get("pods", "p", namespace="default")
    assert "deletionTimestamp" not in kept["metadata"]


async def test_a_status_cannot_be_deleted(cluster: Cluster) -> None:
    await cluster.admin.create("pods", pod("p"))
    path = "/api/v1/namespaces/default/pods/p/status"
    error = await refusal(cluster.admin.call("DELETE", path))
    assert (error.code, error.reason) == (405, "MethodNotAllowed")
    await cluster.admin.get("pods", "p", namespace="default")


@pytest.mark.parametrize("name", ["default", "kube-system", "kube-public"])
async def test_namespaces_of_the_cluster_itself_stay(cluster: Cluster, name: str) -> None:
    error = await refusal(cluster.admin.delete("namespaces", name))
    assert (error.code, error.reason) == (403, "Forbidden")
    assert str(error).endswith("this namespace may not be deleted")


@pytest.mark.parametrize("kind", ["ConfigMap", "Secret"])
async def test_what_is_immutable_is_not_changed(cluster: Cluster, kind: str) -> None:
    plural = f"{kind.lower()}s"
    made = config_map("a") | {"kind": kind, "immutable": True, "data": {"a": "MQ=="}}
    await cluster.admin.create(plural, made)
    for change in ({"data": {"a": "Mg=="}}, {"immutable": False}, {"binaryData": {"b": "MQ=="}}):
        if kind == "Secret" and "binaryData" in change:
            continue
        error = await refusal(cluster.admin.patch(plural, "a", change, namespace="default"))
        assert (error.code, error.reason) == (422, "Invalid")
        assert "field is immutable when `immutable` is set" in str(error)
    label = {"metadata": {"labels": {"b": "c"}}}
    await cluster.admin.patch(plural, "a", label, namespace="default")


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        ({"limit": "many"}, 400, "invalid syntax"),
        ({"resourceVersion": "abc"}, 400, "invalid resource version"),
        ({"resourceVersion": "99999999"}, 504, "Too large resource version"),
        ({"resourceVersionMatch": "Exact"}, 422, "forbidden unless resourceVersion is provided"),
        (
            {"resourceVersion": "0", "resourceVersionMatch": "Exact"},
            422,
            'forbidden for resourceVersion "0"',
        ),
        (
            {"resourceVersion": "1", "resourceVersionMatch": "Roughly"},
            422,
            'Unsupported value: "Roughly"',
        ),
    ],
)
async def test_a_list_that_cannot_be_is_refused(
    cluster: Cluster, query: dict[str, str], code: int, words: str
) -> None:
    path = "/api/v1/namespaces/default/configmaps"
    error = await refusal(cluster.admin.call("GET", path, query=query))
    assert error.code == code
    assert words in str(error)


async def test_a_deletion_by_a_policy_that_there_is_not_is_refused(cluster: Cluster) -> None:
    await cluster.admin.create("configmaps", config_map("a"))
    path, body = "/api/v1/namespaces/default/configmaps/a", {"propagationPolicy": "Later"}
    error = await refusal(cluster.admin.call("DELETE", path, body={"kind": "DeleteOptions"} | body))
    assert (error.code, error.reason) == (422, "Invalid")
    assert 'propagationPolicy: Unsupported value: "Later"' in str(error)
    await cluster.admin.get("configmaps", "a", namespace="default")


async def answered_as(cluster: Cluster, form: str, query: str = "") -> list[dict[str, Any]]:
    """What a client gets of the ConfigMaps that asks for them as ``form``; of a watch, each
    object."""
    transport = cluster.admin.transport
    assert isinstance(transport, HttpTransport)
    accept = f"application/vnd.kubernetes.protobuf;as={form};g=meta.k8s.io;v=v1"
    accept += f",application/json;as={form};g=meta.k8s.io;v=v1,application/json"
    if cluster.plane is not None:  # which speaks protobuf indeed
        accept = accept.partition(",")[2]
    path = f"{cluster.url}/api/v1/namespaces/default/configmaps?labelSelector=app{query}"
    headers = transport._headers() | {"Accept": accept}  # noqa: SLF001
    async with transport._open().get(path, headers=headers) as response:  # noqa: SLF001
        lines = (await response.read()).splitlines()
    found = [json.loads(line) for line in lines]
    return [one["object"] for one in found] if query else found


async def test_who_asks_for_metadata_gets_no_more(cluster: Cluster) -> None:
    """client-go's metadata informers refuse any other kind."""
    for name in "ab":
        await cluster.admin.create("configmaps", config_map(name, app="x"))
    (listed,) = await answered_as(cluster, "PartialObjectMetadataList")
    assert (listed["kind"], listed["apiVersion"]) == ("PartialObjectMetadataList", "meta.k8s.io/v1")
    watch = "&watch=1&timeoutSeconds=1&sendInitialEvents=true&allowWatchBookmarks=true"
    watch += "&resourceVersionMatch=NotOlderThan"
    watched = await answered_as(cluster, "PartialObjectMetadata", watch)
    assert [o["metadata"]["name"] for o in listed["items"]] == ["a", "b"]
    assert [o["metadata"].get("name", "") for o in watched][:2] == ["a", "b"]
    assert "k8s.io/initial-events-end" in watched[2]["metadata"]["annotations"]
    for one in (*listed["items"], *watched):
        assert one.keys() == {"kind", "apiVersion", "metadata"}
        assert one["kind"] == "PartialObjectMetadata"


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
