"""What a control plane does by itself. The tests play the kubelet where one is needed."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable
from typing import Any

import pytest

from egress_gateway_lab.apiserver.controllers import Timing
from egress_gateway_lab.apiserver.controllers.pods import is_ready
from egress_gateway_lab.apiserver.wire.client import KubeClient, KubeError
from lab.tests.apiserver.conftest import Cluster, Serving
from lab.tests.apiserver.test_objects import (
    add_node,
    config_map,
    heard_now,
    is_bound,
    node,
    pod,
    refusal,
)
from lab.tests.apiserver.test_patches import deployment

Object = dict[str, Any]
GONE: Callable[[Object | None], bool] = lambda obj: obj is None  # noqa: E731


async def play_kubelet(cluster: Cluster, *, silent: bool = False) -> None:
    """Runs every pod that is bound, ends every pod that is deleted, reports the nodes as ready
    unless it is ``silent``; until cancelled."""
    async with asyncio.TaskGroup() as both:
        both.create_task(_play_pods(cluster, silent=silent))
        if not silent:
            both.create_task(_report_nodes(cluster))


async def _play_pods(cluster: Cluster, *, silent: bool) -> None:
    while True:  # a server ends watches whenever it likes
        events = cluster.admin.watch("pods")
        try:
            async for event in events:
                if event["type"] in ("ADDED", "MODIFIED"):
                    await _play_pod(cluster.admin, event["object"], silent=silent)
        finally:
            await events.aclose()  # type: ignore[attr-defined]


async def _play_pod(kubelet: KubeClient, obj: Object, *, silent: bool) -> None:
    """Unless it is ``silent``, pods of a node that was called lost are ready again."""
    name, namespace, uid = (obj["metadata"][key] for key in ("name", "namespace", "uid"))
    lost = obj["status"]["phase"] == "Running" and not (silent or is_ready(obj))
    try:
        if obj["metadata"].get("deletionTimestamp"):
            await kubelet.delete("pods", name, namespace=namespace, uid=uid, grace_seconds=0)
        elif is_bound(obj) and (obj["status"]["phase"] == "Pending" or lost):
            status = {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "True"}],
                "podIP": "10.244.0.9",
            }
            running = {"metadata": {"uid": uid}, "status": status}
            await kubelet.patch("pods", name, running, namespace=namespace, subresource="status")
    except KubeError as error:
        if error.code not in (404, 409):  # it may be gone by now, or be another
            raise


async def _report_nodes(cluster: Cluster) -> None:
    """Renews their Leases: without them a node is called lost after fifty seconds by a real
    server's controllers and after six by the embedded one's, and its pods unready. Says that they
    are ready: what was called lost is not, else."""
    while True:
        for found in await cluster.admin.list("nodes"):
            try:
                await _report(cluster.admin, found["metadata"]["name"])
            except KubeError as error:
                if error.code != 404:  # deleted meanwhile
                    raise
        await asyncio.sleep(2)


async def _report(kubelet: KubeClient, name: str) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
    renewed = {"renewTime": now.replace("+00:00", "Z"), "leaseDurationSeconds": 40}
    lease = {"metadata": {"name": name}, "spec": {"holderIdentity": name, **renewed}}
    try:
        await kubelet.patch("leases", name, lease, namespace="kube-node-lease")
    except KubeError as error:
        if error.code != 404:
            raise
        await kubelet.create("leases", lease, namespace="kube-node-lease")
    await kubelet.patch("nodes", name, {"status": heard_now()}, subresource="status")


class Kubelet:
    """``async with Kubelet(cluster):`` pods run."""

    def __init__(self, cluster: Cluster, *, silent: bool = False) -> None:
        self._cluster = cluster
        self._silent = silent

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(play_kubelet(self._cluster, silent=self._silent))

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        (ended,) = await asyncio.gather(self._task, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended


def ready(count: int) -> Callable[[Object | None], bool]:
    def accept(obj: Object | None) -> bool:
        status: Object = (obj or {}).get("status") or {}
        return bool(
            status.get("readyReplicas", 0) == count
            and status.get("updatedReplicas", 0) == count
            and status.get("replicas", 0) == count
            and status.get("observedGeneration") == (obj or {})["metadata"]["generation"]
        )

    return accept


async def pods_of(cluster: Cluster, labels: str) -> list[Object]:
    """Those that are to stay."""
    found = await cluster.admin.list("pods", namespace="default", labels=labels)
    return [p for p in found if not p["metadata"].get("deletionTimestamp")]


def sized(replicas: int, image: str = "nginx", **strategy: Any) -> Object:
    obj = deployment(c=image)
    obj["spec"]["replicas"] = replicas
    if strategy:
        obj["spec"]["strategy"] = strategy
    return obj


def spread(replicas: int) -> Object:
    """One on each node. Unasked, a real scheduler spreads only by what it has heard of a new
    Deployment so far."""
    obj = sized(replicas)
    constraint = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }
    obj["spec"]["template"]["spec"]["topologySpreadConstraints"] = [constraint]
    return obj


async def test_a_deployment_spreads_its_pods_over_the_nodes(cluster: Cluster) -> None:
    for name in ("n1", "n2", "n3"):
        await add_node(cluster, node(name))
        # The scheduler knows it: a pod that can go nowhere else is there.
        there = pod(f"on-{name}", nodeSelector={"kubernetes.io/hostname": name})
        await cluster.admin.create("pods", there)
        await cluster.admin.wait_for("pods", f"on-{name}", is_bound, namespace="default")
    async with Kubelet(cluster):
        await cluster.admin.create("deployments", spread(3))
        await cluster.admin.wait_for("deployments", "web", ready(3), namespace="default")
    found = await pods_of(cluster, "app=web")
    assert {p["spec"]["nodeName"] for p in found} == {"n1", "n2", "n3"}


async def test_scaling_and_self_healing(cluster: Cluster) -> None:
    await add_node(cluster, node("n1"))
    async with Kubelet(cluster):
        await cluster.admin.create("deployments", sized(2))
        await cluster.admin.wait_for("deployments", "web", ready(2), namespace="default")
        first = (await pods_of(cluster, "app=web"))[0]["metadata"]["name"]
        await cluster.admin.delete("pods", first, namespace="default")
        await cluster.admin.wait_for("pods", first, GONE, namespace="default")
        await cluster.admin.wait_for("deployments", "web", ready(2), namespace="default")
        await cluster.admin.patch(
            "deployments",
            "web",
            {"spec": {"replicas": 5}},
            namespace="default",
            subresource="scale",
        )
        await cluster.admin.wait_for("deployments", "web", ready(5), namespace="default")
        await cluster.admin.patch(
            "deployments", "web", {"spec": {"replicas": 1}}, namespace="default"
        )
        await cluster.admin.wait_for("deployments", "web", ready(1), namespace="default")


async def test_a_rolling_update_keeps_enough_pods_ready(cluster: Cluster) -> None:
    await add_node(cluster, node("n1"))
    rolling = {"maxUnavailable": 1, "maxSurge": 1}
    body = sized(4, type="RollingUpdate", rollingUpdate=rolling)
    async with Kubelet(cluster):
        await cluster.admin.create("deployments", body)
        await cluster.admin.wait_for("deployments", "web", ready(4), namespace="default")
        fewest = 4
        page = await cluster.admin.list_page("deployments", "default")
        events = cluster.admin.watch(
            "deployments",
            namespace="default",
            since=page["metadata"]["resourceVersion"],
        )
        body["spec"]["template"]["spec"]["containers"][0]["image"] = "nginx:2"
        await cluster.admin.apply(body)
        async with asyncio.timeout(90):
            async for event in events:
                fewest = min(fewest, event["object"]["status"].get("readyReplicas", 0))
                if ready(4)(event["object"]):
                    break
        await events.aclose()  # type: ignore[attr-defined]
    assert fewest >= 3
    images = {p["spec"]["containers"][0]["image"] for p in await pods_of(cluster, "app=web")}
    assert images == {"nginx:2"}
    sets = await cluster.admin.list("replicasets", namespace="default")
    assert sorted(s["spec"]["replicas"] for s in sets) == [0, 4]


async def test_recreate_never_mixes_versions(cluster: Cluster) -> None:
    await add_node(cluster, node("n1"))
    body = sized(2, type="Recreate")
    async with Kubelet(cluster):
        await cluster.admin.create("deployments", body)
        await cluster.admin.wait_for("deployments", "web", ready(2), namespace="default")
        seen: list[set[str]] = []
        page = await cluster.admin.list_page("pods", "default")
        events = cluster.admin.watch(
            "pods", namespace="default", since=page["metadata"]["resourceVersion"]
        )
        live = {p["metadata"]["name"]: p for p in page["items"]}
        body["spec"]["template"]["spec"]["containers"][0]["image"] = "nginx:2"
        await cluster.admin.apply(body)
        async with asyncio.timeout(90):
            while sum(image_of(p) == "nginx:2" for p in live.values()) < 2:
                event = await anext(events)
                obj = event["object"]
                live[obj["metadata"]["name"]] = obj
                if event["type"] == "DELETED":
                    del live[obj["metadata"]["name"]]
                seen.append({image_of(p) for p in live.values()})
        await events.aclose()  # type: ignore[attr-defined]
    assert {"nginx", "nginx:2"} not in seen


def image_of(obj: Object) -> str:
    return str(obj["spec"]["containers"][0]["image"])


def daemon_set(**spec: Any) -> Object:
    labels = {"app": "agent"}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "agent", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "c", "image": "nginx"}], **spec},
            },
        },
    }


def scheduled(count: int) -> Callable[[Object | None], bool]:
    return lambda obj: ((obj or {}).get("status") or {}).get("numberReady") == count


def tainted(name: str, key: str, effect: str = "NoSchedule", **labels: str) -> Object:
    obj = node(name, **labels)
    obj["spec"] = {"taints": [{"key": key, "value": "true", "effect": effect}]}
    return obj


async def test_daemons_go_where_they_are_selected_and_tolerate(cluster: Cluster) -> None:
    await add_node(cluster, node("n1", pool="a"))
    await add_node(cluster, node("n2", pool="b"))
    await add_node(cluster, tainted("n3", "special", pool="a"))
    async with Kubelet(cluster):
        await cluster.admin.create("daemonsets", daemon_set(nodeSelector={"pool": "a"}))
        await cluster.admin.wait_for("daemonsets", "agent", scheduled(1), namespace="default")
        found = await pods_of(cluster, "app=agent")
        assert [p["spec"]["nodeName"] for p in found] == ["n1"]
        tolerant = daemon_set(nodeSelector={"pool": "a"}, tolerations=[{"operator": "Exists"}])
        await cluster.admin.apply(tolerant)
        await cluster.admin.wait_for("daemonsets", "agent", scheduled(2), namespace="default")
        # A node that comes is served.
        await add_node(cluster, node("n4", pool="a"))
        await cluster.admin.wait_for("daemonsets", "agent", scheduled(3), namespace="default")


@pytest.mark.embedded_only("a real cluster collects a lost node's pods after forty seconds")
async def test_a_node_that_goes_takes_its_daemons_along(cluster: Cluster) -> None:
    for name in ("n1", "n2"):
        await add_node(cluster, node(name))
    async with Kubelet(cluster):
        await cluster.admin.create("daemonsets", daemon_set())
        await cluster.admin.wait_for("daemonsets", "agent", scheduled(2), namespace="default")
        await cluster.admin.delete("nodes", "n1")
        await cluster.admin.wait_for("daemonsets", "agent", scheduled(1), namespace="default")


async def test_on_delete_daemons_stay_as_they_are(cluster: Cluster) -> None:
    await add_node(cluster, node("n1"))
    body = daemon_set()
    body["spec"]["updateStrategy"] = {"type": "OnDelete"}
    async with Kubelet(cluster):
        await cluster.admin.create("daemonsets", body)
        await cluster.admin.wait_for("daemonsets", "agent", scheduled(1), namespace="default")
        (before,) = await pods_of(cluster, "app=agent")
        body["spec"]["template"]["spec"]["containers"][0]["image"] = "nginx:2"
        await cluster.admin.apply(body)
        await cluster.admin.wait_for(
            "daemonsets",
            "agent",
            lambda o: (o or {})["status"]["observedGeneration"] == 2,
            namespace="default",
        )
        (after,) = await pods_of(cluster, "app=agent")
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        await cluster.admin.delete("pods", before["metadata"]["name"], namespace="default")
        await cluster.admin.wait_for(
            "daemonsets",
            "agent",
            lambda o: (
                (o or {})["status"].get("updatedNumberScheduled") == 1
                and (o or {})["status"].get("numberReady") == 1
            ),
            namespace="default",
        )
        (renewed,) = await pods_of(cluster, "app=agent")
        assert image_of(renewed) == "nginx:2"


async def test_a_pod_that_fits_nowhere_says_why_and_goes_when_it_can(cluster: Cluster) -> None:
    await add_node(cluster, tainted("n1", "gateway"))
    await add_node(cluster, node("n2"))
    await cluster.admin.create("pods", pod("p", nodeSelector={"disk": "ssd"}))

    def refused(obj: Object | None) -> bool:
        conditions = ((obj or {}).get("status") or {}).get("conditions") or []
        return any(c.get("reason") == "Unschedulable" for c in conditions)

    waiting = await cluster.admin.wait_for("pods", "p", refused, namespace="default")
    assert waiting is not None
    message = waiting["status"]["conditions"][0]["message"]
    assert message.startswith(
        "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, "
        "1 node(s) had untolerated taint(s)."
    )
    fields = "involvedObject.name=p,reason=FailedScheduling"
    async with asyncio.timeout(60):
        while not (
            events := await cluster.admin.list("events", namespace="default", fields=fields)
        ):
            await asyncio.sleep(0.05)
    assert events[0]["message"] == message
    await cluster.admin.patch("nodes", "n2", {"metadata": {"labels": {"disk": "ssd"}}})
    bound = await cluster.admin.wait_for("pods", "p", is_bound, namespace="default")
    assert bound is not None
    assert bound["spec"]["nodeName"] == "n2"


def owned(name: str, owner: Object, **reference: Any) -> Object:
    obj = config_map(name)
    obj["metadata"]["ownerReferences"] = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            **reference,
        }
    ]
    return obj


async def test_dependents_go_with_their_owner(cluster: Cluster) -> None:
    owner = await cluster.admin.create("configmaps", config_map("owner"))
    child = await cluster.admin.create("configmaps", owned("child", owner))
    await cluster.admin.create("configmaps", owned("grandchild", child))
    await cluster.admin.delete("configmaps", "owner", namespace="default")
    for name in ("child", "grandchild"):
        await cluster.admin.wait_for("configmaps", name, GONE, namespace="default")
    # Born after its owner's death: it must not stay either.
    await cluster.admin.create("configmaps", owned("late", owner))
    await cluster.admin.wait_for("configmaps", "late", GONE, namespace="default")


async def test_orphans_are_let_go_and_foreground_waits(cluster: Cluster) -> None:
    owner = await cluster.admin.create("configmaps", config_map("owner"))
    await cluster.admin.create("configmaps", owned("child", owner))
    await cluster.admin.delete("configmaps", "owner", namespace="default", propagation="Orphan")
    await cluster.admin.wait_for("configmaps", "owner", GONE, namespace="default")
    child = await cluster.admin.get("configmaps", "child", namespace="default")
    assert not child["metadata"].get("ownerReferences")

    owner = await cluster.admin.create("configmaps", config_map("owner"))
    held = owned("held", owner, blockOwnerDeletion=True)
    held["metadata"]["finalizers"] = ["example.com/hold"]
    await cluster.admin.create("configmaps", held)
    await cluster.admin.delete("configmaps", "owner", namespace="default", propagation="Foreground")
    await cluster.admin.wait_for(
        "configmaps",
        "held",
        lambda o: bool((o or {})["metadata"].get("deletionTimestamp")),
        namespace="default",
    )
    assert await cluster.admin.get("configmaps", "owner", namespace="default")
    release = {"metadata": {"finalizers": None}}
    await cluster.admin.patch("configmaps", "held", release, namespace="default")
    await cluster.admin.wait_for("configmaps", "owner", GONE, namespace="default")


async def test_a_namespace_takes_its_content_along(cluster: Cluster) -> None:
    await cluster.admin.create(
        "namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}
    )
    body = config_map("a")
    body["metadata"] |= {"namespace": "x", "finalizers": ["example.com/hold"]}
    await cluster.admin.create("configmaps", body)
    await cluster.admin.delete("namespaces", "x")
    ending = await cluster.admin.get("namespaces", "x")
    assert ending["status"]["phase"] == "Terminating"
    body = config_map("b")
    body["metadata"]["namespace"] = "x"
    error = await refusal(cluster.admin.create("configmaps", body))
    assert "because it is being terminated" in str(error)
    release = {"metadata": {"finalizers": None}}
    await cluster.admin.patch("configmaps", "a", release, namespace="x")
    await cluster.admin.wait_for("namespaces", "x", GONE)


def lease(name: str, renewed: str) -> Object:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": name, "renewTime": renewed},
    }


@pytest.mark.embedded_only("a real one waits for forty seconds")
async def test_a_silent_node_is_unknown_and_comes_back(serving: Serving) -> None:
    async with serving(timing=Timing(node_grace=0.5)) as cluster:
        admin = cluster.admin
        await add_node(cluster, node("n1"))
        ready_status = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        await admin.patch("nodes", "n1", ready_status, subresource="status")
        async with Kubelet(cluster, silent=True):
            await admin.create("pods", pod("p"))
            await admin.wait_for(
                "pods",
                "p",
                lambda o: (o or {})["status"]["phase"] == "Running",
                namespace="default",
            )
        await admin.create("leases", lease("n1", "2026-01-01T00:00:00.000000Z"))

        def unknown(obj: Object | None) -> bool:
            (condition,) = (obj or {})["status"]["conditions"]
            keys = {t["key"] for t in (obj or {})["spec"].get("taints") or []}
            return condition["status"] == "Unknown" and keys == {"node.kubernetes.io/unreachable"}

        await admin.wait_for("nodes", "n1", unknown)
        silent = await admin.get("pods", "p", namespace="default")
        assert silent["status"]["conditions"][0]["status"] == "False"

        async def beat() -> None:
            for second in range(1, 60):
                renewed = lease("n1", f"2026-01-01T00:00:{second:02}.000000Z")
                await admin.patch("leases", "n1", renewed, namespace="kube-node-lease")
                await admin.patch("nodes", "n1", ready_status, subresource="status")
                await asyncio.sleep(0.1)

        beating = asyncio.create_task(beat())
        await admin.wait_for("nodes", "n1", lambda o: not (o or {})["spec"].get("taints"))
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)


async def test_no_execute_ends_what_does_not_tolerate_it(cluster: Cluster) -> None:
    await add_node(cluster, node("n1"))
    async with Kubelet(cluster):
        await cluster.admin.create("pods", pod("weak"))
        await cluster.admin.create("pods", pod("strong", tolerations=[{"operator": "Exists"}]))
        for name in ("weak", "strong"):
            await cluster.admin.wait_for("pods", name, is_bound, namespace="default")
        spec = {"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}}
        await cluster.admin.patch("nodes", "n1", spec)
        await cluster.admin.wait_for("pods", "weak", GONE, namespace="default")
        assert await cluster.admin.get("pods", "strong", namespace="default")
