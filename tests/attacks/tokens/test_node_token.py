"""A compromised worker: what the token of its node agent, and its kubelet's credential, can do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from egress_gateway.api import names
from egress_gateway.kube import config
from egress_gateway.kube.client import Client
from egress_gateway.kube.informer.cache import Cache
from egress_gateway.kube.resources import POD_ENDPOINTS
from egress_gateway.node.reporting.endpoints import Endpoints
from egress_gateway_lab.apiserver.wire.client import KubeClient, KubeError
from lab.tests.apiserver.conftest import Cluster
from lab.tests.apiserver.test_admission import (
    SYSTEM,
    account_token,
    agent_token,
    endpoint,
    forbidden,
    owned,
    two_agents,
)
from lab.tests.apiserver.test_objects import pod
from tests.unit.node.node_values import attachment

TAINT = {"key": names.CNI_NOT_READY_TAINT, "effect": "NoSchedule"}
# With its time, as an agent reads it: a server may give one that has none a new one at each write.
OTHER = {
    "key": "example.com/quarantine",
    "effect": "NoExecute",
    "value": "yes",
    "timeAdded": "2026-01-01T00:00:00Z",
}
READY = names.NODE_READY_LABEL


async def tainted(cluster: Cluster) -> None:
    change = {
        "metadata": {"labels": {"team": "a"}, "annotations": {"note": "n"}},
        "spec": {"taints": [OTHER, TAINT], "podCIDR": "10.244.1.0/24"},
    }
    await cluster.admin.patch("nodes", "node-a", change)


async def test_an_agent_earns_its_label_and_takes_its_taint_off(cluster: Cluster) -> None:
    async with two_agents(cluster) as (a, _):
        await tainted(cluster)
        change: dict[str, Any] = {"metadata": {"labels": {READY: "true"}}}
        await a.patch("nodes", "node-a", change)
        node = await a.patch("nodes", "node-a", {"spec": {"taints": [OTHER]}})
        assert node["metadata"]["labels"][READY] == "true"
        assert [t["key"] for t in node["spec"]["taints"]] == [OTHER["key"]]
        await a.patch("nodes", "node-a", {"metadata": {"labels": {READY: None}}})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metadata": {"labels": {names.GATEWAY_NODE_LABEL: "true"}}}, "change no label"),
        ({"metadata": {"labels": {names.AKS_MODE_LABEL: "gateway"}}}, "change no label"),
        ({"metadata": {"labels": {"node-restriction.kubernetes.io/pci": "true"}}}, "no label"),
        ({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}, "no label"),
        ({"metadata": {"labels": {"topology.kubernetes.io/zone": "1", READY: "true"}}}, "no label"),
        ({"metadata": {"labels": {"team": "b"}}}, "change no label"),
        ({"metadata": {"labels": {"team": None}}}, "change no label"),
        ({"metadata": {"labels": {READY: "false"}}}, 'is "true" or not there'),
        ({"metadata": {"annotations": {"cluster-autoscaler.kubernetes.io/x": "1"}}}, "annotation"),
        ({"metadata": {"annotations": {"note": None}}}, "annotation"),
        ({"metadata": {"finalizers": ["example.com/stay"]}}, "finalizer"),
        ({"spec": {"taints": [TAINT]}}, "spec"),
        ({"spec": {"taints": None}}, "spec"),
        ({"spec": {"taints": [OTHER, TAINT, {"key": "x", "effect": "NoExecute"}]}}, "spec"),
        ({"spec": {"taints": [{**OTHER, "effect": "NoSchedule"}]}}, "spec"),
        ({"spec": {"unschedulable": True}}, "spec"),
        ({"spec": {"providerID": "azure:///subscriptions/forged"}}, "spec"),
    ],
)
async def test_an_agent_changes_nothing_else_of_its_node(
    cluster: Cluster, change: dict[str, Any], words: str
) -> None:
    async with two_agents(cluster) as (a, _):
        await tainted(cluster)
        before = await cluster.admin.get("nodes", "node-a")
        await forbidden(a.patch("nodes", "node-a", change), words)
        after = await cluster.admin.get("nodes", "node-a")
        assert after["metadata"]["labels"] == before["metadata"]["labels"]
        assert after["spec"] == before["spec"]


@pytest.mark.parametrize(
    "label", [names.GATEWAY_NODE_LABEL, names.AKS_MODE_LABEL, names.AKS_POOL_LABEL]
)
@pytest.mark.parametrize("sub", ["", "status"])
async def test_a_kubelet_does_not_make_its_node_a_gateway(
    cluster: Cluster, label: str, sub: str
) -> None:
    async with two_agents(cluster), cluster.as_node("node-a") as kubelet:
        await kubelet.patch("nodes", "node-a", {"metadata": {"labels": {"example.com/x": "1"}}})
        change = {"metadata": {"labels": {label: "true"}}}
        await forbidden(kubelet.patch("nodes", "node-a", change, subresource=sub), label)
        # An administrator may, and then the kubelet may not take it away.
        await cluster.admin.patch("nodes", "node-a", change)
        away = {"metadata": {"labels": {label: None}}}
        await forbidden(kubelet.patch("nodes", "node-a", away, subresource=sub), label)


def forged(document: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {**document, "metadata": {**document["metadata"], **metadata}}


async def test_an_endpoint_is_owned_by_the_pod_of_its_name(cluster: Cluster) -> None:
    """Squatted names: what no pod owns would never be collected."""
    async with two_agents(cluster) as (a, _):
        mine = await owned(cluster, "mine", "node-a")
        other = await cluster.admin.create("pods", pod("web-0", nodeName="node-b"))
        (owner,) = mine["metadata"]["ownerReferences"]
        theirs = other["metadata"]["uid"]
        words = "exactly one owner"
        squat = endpoint("web-0", "node-a", podUid="0" * 8)
        for owners in (
            [],
            [{**owner, "name": "mine"}],
            [{**owner, "name": "web-0", "uid": theirs}],
            [{**owner, "name": "web-0", "kind": "ReplicaSet", "apiVersion": "apps/v1"}],
        ):
            document = forged(squat, ownerReferences=owners)
            await forbidden(a.create("podendpoints", document), words)
        second = {**owner, "name": "web-0", "uid": theirs}
        await forbidden(
            a.create("podendpoints", forged(mine, ownerReferences=[owner, second])), words
        )
        unlabelled = forged(mine, labels={})
        await forbidden(a.create("podendpoints", unlabelled), f"the label {names.GROUP}/node")
        mislabelled = forged(mine, labels={f"{names.GROUP}/node": "node-b"})
        await forbidden(a.create("podendpoints", mislabelled), f"the label {names.GROUP}/node")
        kept = forged(mine, finalizers=["example.com/stay"])
        await forbidden(a.create("podendpoints", kept), "no finalizer")
        await a.create("podendpoints", mine)
        for change in (
            {"metadata": {"ownerReferences": None}},
            {"metadata": {"ownerReferences": [second]}},
            {"spec": {"podUid": theirs}},
            {"metadata": {"labels": {f"{names.GROUP}/node": None}}},
            {"metadata": {"finalizers": ["example.com/stay"]}},
        ):
            refused = a.patch("podendpoints", "mine", change, namespace="default")
            await forbidden(refused, "PodEndpoint")


async def test_what_is_said_of_a_pod_is_said_by_its_nodes_agent_alone(cluster: Cluster) -> None:
    """Its status: where it leaves from, whether it has a tunnel."""
    async with two_agents(cluster) as (a, b):
        await a.create("podendpoints", await owned(cluster, "mine", "node-a"))
        words = {"status": {"state": "Lost", "reason": "TunnelsUnanswered", "message": "m"}}

        async def say(agent: KubeClient, change: dict[str, Any]) -> dict[str, Any]:
            return await agent.patch(
                "podendpoints", "mine", change, namespace="default", subresource="status"
            )

        told = await say(a, words)
        assert told["status"]["state"] == "Lost"
        await forbidden(say(b, words), 'PodEndpoint of node "node-a"')
        await forbidden(say(cluster.admin, words), "by nobody else")
        # By this door nothing else of it is changed.
        theirs = {"spec": {"nodeName": "node-b"}, "metadata": {"labels": {"x": "y"}}}
        kept = await say(a, {**theirs, **words})
        assert kept["spec"]["nodeName"] == "node-a"
        # And a status that comes with the object is none.
        change = {"status": {"state": "Connected", "egressIp": "203.0.113.9"}}
        after = await a.patch("podendpoints", "mine", change, namespace="default")
        assert after["status"]["state"] == "Lost"


async def test_a_squat_that_names_a_pod_that_is_not_there_is_collected(cluster: Cluster) -> None:
    async with two_agents(cluster) as (a, b):
        uid = "00000000-0000-4000-8000-000000000000"
        squat = endpoint("web-0", "node-a", podUid=uid)
        owner = {"apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": uid}
        labels = {f"{names.GROUP}/node": "node-a"}
        await a.create("podendpoints", forged(squat, ownerReferences=[owner], labels=labels))
        await cluster.admin.wait_for(
            "podendpoints", "web-0", lambda e: e is None, namespace="default"
        )
        await b.create("podendpoints", await owned(cluster, "web-0", "node-b"))


async def test_a_gateway_agent_changes_no_node(cluster: Cluster) -> None:
    async with two_agents(cluster):
        token = await agent_token(cluster, "egress-gateway-gateway", "node-a")
        async with cluster.as_token(token) as gateway:
            await refused_everywhere(gateway)


async def refused_everywhere(gateway: KubeClient) -> None:
    change = {"metadata": {"labels": {READY: "true"}}}
    await forbidden(gateway.patch("nodes", "node-a", change), "cannot patch")
    secrets = gateway.call("GET", f"/api/v1/namespaces/{SYSTEM}/secrets")
    await forbidden(secrets, "cannot list")


def event(name: str, **changes: Any) -> dict[str, Any]:
    ours = "static-egress-gateway-node"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": "kube-system"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "kube-system"},
        "type": "Warning",
        "reason": "EgressNotReady",
        "message": "m",
        "source": {"component": ours},
        "reportingComponent": ours,
        "reportingInstance": "node-a",
        **changes,
    }


async def test_an_agents_events_carry_its_own_name(cluster: Cluster) -> None:
    async with two_agents(cluster) as (a, b):
        await a.create("events", event("mine"))
        kubelet = {"source": {"component": "kubelet"}, "reportingComponent": "kubelet"}
        for forged_event in (
            event("x", reportingInstance="node-b"),
            event("x", **kubelet),
            event("x", source={"component": "kubelet"}),
        ):
            await forbidden(a.create("events", forged_event), "truly")
        long = event("x", message="m" * 1025)
        await forbidden(a.create("events", long), "short")
        secret = event("x", involvedObject={"kind": "Secret", "namespace": "kube-system"})
        await forbidden(a.create("events", secret), "short, and about")
        of_pod, huge = event("x")["involvedObject"], "x" * 10_000
        named = {"name": "x", "namespace": "kube-system"}
        for ballast in (
            {"reason": huge},
            {"type": huge},
            {"action": "x"},
            {"related": {"name": huge}},
            {"involvedObject": {**of_pod, "fieldPath": huge}},
            {"source": {"component": "static-egress-gateway-node", "host": huge}},
            {"metadata": {**named, "annotations": {"a": huge}}},
            {"metadata": {**named, "labels": {"a": "b"}}},
            {"metadata": {**named, "finalizers": ["a.b/c"]}},
            {"metadata": {"generateName": huge, "namespace": "kube-system"}},
        ):
            await forbidden(a.create("events", event("x", **ballast)), "no other fields")
        theirs = event("theirs", reportingComponent="kubelet", source={"component": "kubelet"})
        await cluster.admin.create("events", theirs)
        for agent, name in ((a, "theirs"), (b, "mine")):
            change = agent.patch("events", name, {"count": 7}, namespace="kube-system")
            await forbidden(change, "Event")
        await a.patch("events", "mine", {"count": 2}, namespace="kube-system")


async def test_a_pods_name_that_is_squatted_with_its_true_uid_hinders_nobody(
    cluster: Cluster,
) -> None:
    """Its owner is there, so nobody collects it, and only its own node may change it. The pod's
    node has a name that nobody else can take."""
    async with two_agents(cluster) as (a, b):
        theirs = await owned(cluster, "web-0", "node-b")
        labels = {f"{names.GROUP}/node": "node-a"}
        owners = theirs["metadata"]["ownerReferences"]
        uid = theirs["spec"]["podUid"]
        squat = endpoint("web-0", "node-a", podUid=uid)
        await a.create("podendpoints", forged(squat, ownerReferences=owners, labels=labels))
        await forbidden(b.apply(theirs, resource="podendpoints"), 'of node "node-a"')
        for name in ("web-0.node-b", "web-0.node-a.node-b", "web-0.", "web-0.node-c"):
            document = forged(squat, name=name, ownerReferences=owners, labels=labels)
            with pytest.raises(KubeError, match=r"exactly one owner|[Ii]nvalid"):
                await a.create("podendpoints", document)
        own = forged(theirs, name="web-0.node-b")
        await b.apply(own, resource="podendpoints")
        await forbidden(a.delete("podendpoints", "web-0.node-b", namespace="default"), "node-b")


async def test_an_agent_goes_on_under_its_own_name(cluster: Cluster, tmp_path: Path) -> None:
    """The same with the shipped agent's code: published, changed, withdrawn."""
    async with two_agents(cluster) as (a, _):
        theirs = await owned(cluster, "p", "node-b")
        labels = {f"{names.GROUP}/node": "node-a"}
        squat = endpoint("p", "node-a", podUid=theirs["spec"]["podUid"])
        owners = theirs["metadata"]["ownerReferences"]
        await a.create("podendpoints", forged(squat, ownerReferences=owners, labels=labels))
        agent = "egress-gateway-node-node-b"
        running = await cluster.admin.get("pods", agent, namespace=SYSTEM)
        bound = {"kind": "Pod", "name": agent, "uid": running["metadata"]["uid"]}
        account = "egress-gateway-node"
        token = await account_token(cluster, account, SYSTEM, boundObjectRef=bound)
        document = yaml.safe_load(cluster.kubeconfig)
        document["users"][0]["user"] = {"token": token}
        (tmp_path / "agent").write_text(yaml.safe_dump(document))
        async with Client(config.load(str(tmp_path / "agent")), "agent") as client:
            cache = Cache(client, POD_ENDPOINTS, labels=Endpoints.selector("node-b"))
            watching = asyncio.create_task(cache.run())
            await cache.synced()
            endpoints = Endpoints(client, cache, "node-b")
            state = attachment(namespace="default", pod="p", uid=theirs["spec"]["podUid"])
            await endpoints.publish(state)
            found = await cluster.admin.get("podendpoints", "p.node-b", namespace="default")
            assert found["spec"]["podPublicKey"] == state.public_key
            async with asyncio.timeout(180):
                while not len(cache):
                    await asyncio.sleep(0.02)
            changed = msgspec.structs.replace(state, addresses=["10.244.9.9"])
            await endpoints.publish(changed)
            found = await cluster.admin.get("podendpoints", "p.node-b", namespace="default")
            assert found["spec"]["podIps"] == ["10.244.9.9"]
            await endpoints.withdraw(changed)
            assert await cluster.admin.find("podendpoints", "p.node-b", namespace="default") is None
            assert await cluster.admin.find("podendpoints", "p", namespace="default")
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
