"""Who is who, and who may do what."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from egress_gateway_lab.apiserver.wire.client import HttpTransport, KubeClient, KubeError
from lab.tests.apiserver.conftest import Cluster
from lab.tests.apiserver.test_objects import add_node, config_map, is_bound, node, pod, refusal

_RBAC = "rbac.authorization.k8s.io/v1"


async def account(cluster: Cluster, name: str, *rules: dict[str, Any]) -> None:
    admin = cluster.admin
    meta = {"name": name, "namespace": "default"}
    await admin.create(
        "serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}
    )
    role = {"apiVersion": _RBAC, "kind": "Role", "metadata": meta, "rules": list(rules)}
    await admin.create("roles", role)
    await admin.create(
        "rolebindings",
        {
            "apiVersion": _RBAC,
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}],
        },
    )
    await cluster.settled()


async def token(cluster: Cluster, name: str, **spec: Any) -> str:
    made = await cluster.admin.create(
        "serviceaccounts", {"spec": spec}, namespace="default", name=name, sub="token"
    )
    text: str = made["status"]["token"]
    return text


def rule(group: str, resource: str, *verbs: str, **more: Any) -> dict[str, Any]:
    return {"apiGroups": [group], "resources": [resource], "verbs": list(verbs), **more}


async def test_an_account_may_do_what_its_role_says_and_no_more(cluster: Cluster) -> None:
    await account(cluster, "reader", rule("", "configmaps", "get", "list"))
    await cluster.admin.create("configmaps", config_map("a"))
    async with cluster.as_token(await token(cluster, "reader")) as client:
        assert await client.get("configmaps", "a", namespace="default")
        error = await refusal(client.create("configmaps", config_map("b")))
        assert (error.code, error.reason) == (403, "Forbidden")
        assert str(error) == (
            'configmaps is forbidden: User "system:serviceaccount:default:reader" cannot '
            'create resource "configmaps" in API group "" in the namespace "default"'
        )
        error = await refusal(client.list("configmaps"))
        assert str(error).endswith("at the cluster scope")
        error = await refusal(client.list("secrets", namespace="default"))
        assert error.code == 403
        with pytest.raises(KubeError) as caught:
            await anext(client.watch("configmaps", namespace="default"))
        assert caught.value.code == 403


async def test_resource_names_open_single_objects(cluster: Cluster) -> None:
    await account(cluster, "one", rule("", "secrets", "get", resourceNames=["mine"]))
    for name in ("mine", "other"):
        secret = {"apiVersion": "v1", "kind": "Secret", "stringData": {"k": "v"}}
        meta = {"metadata": {"name": name, "namespace": "default"}}
        await cluster.admin.create("secrets", {**secret, **meta})
    async with cluster.as_token(await token(cluster, "one")) as client:
        mine = await client.get("secrets", "mine", namespace="default")
        assert mine["data"] == {"k": "dg=="}
        assert (await refusal(client.get("secrets", "other", namespace="default"))).code == 403
        assert (await refusal(client.list("secrets", namespace="default"))).code == 403


async def test_a_status_is_a_permission_of_its_own(cluster: Cluster) -> None:
    await account(cluster, "writer", rule("", "pods", "patch"))
    await cluster.admin.create("pods", pod("p"))
    async with cluster.as_token(await token(cluster, "writer")) as client:
        label = {"metadata": {"labels": {"a": "b"}}}
        await client.patch("pods", "p", label, namespace="default")
        error = await refusal(
            client.patch("pods", "p", {}, namespace="default", subresource="status")
        )
        assert 'cannot patch resource "pods/status"' in str(error)


async def test_nobody_grants_what_they_do_not_have(cluster: Cluster) -> None:
    roles = rule("rbac.authorization.k8s.io", "roles", "create", "update", "patch", "get")
    await account(cluster, "granter", roles, rule("", "configmaps", "get"))
    async with cluster.as_token(await token(cluster, "granter")) as client:
        role = {
            "apiVersion": _RBAC,
            "kind": "Role",
            "metadata": {"name": "new", "namespace": "default"},
            "rules": [rule("", "configmaps", "get", resourceNames=["a"])],
        }
        await client.apply(role, resource=f"roles.{_RBAC}")
        role["rules"] = [rule("", "secrets", "get")]
        error = await refusal(client.apply(role, resource=f"roles.{_RBAC}"))
        assert error.code == 403
        assert "attempting to grant RBAC permissions not currently held" in str(error)


async def test_a_token_ends_with_its_pod(cluster: Cluster) -> None:
    await account(cluster, "agent", rule("", "configmaps", "list"))
    await add_node(cluster, node("n1"))
    await cluster.admin.create("pods", pod("p", serviceAccountName="agent"))
    bound = await cluster.admin.wait_for("pods", "p", is_bound, namespace="default")
    assert bound is not None
    reference = {"kind": "Pod", "name": "p", "uid": bound["metadata"]["uid"]}
    text = await token(cluster, "agent", boundObjectRef=reference)
    review = {"spec": {"token": text}}
    asked = await cluster.admin.create("tokenreviews.authentication.k8s.io/v1", review)
    assert asked["status"]["authenticated"]
    extra = asked["status"]["user"]["extra"]
    assert extra["authentication.kubernetes.io/node-name"] == ["n1"]
    assert extra["authentication.kubernetes.io/pod-name"] == ["p"]
    async with cluster.as_token(text) as client:
        await client.list("configmaps", namespace="default")
        await cluster.admin.delete("pods", "p", namespace="default", grace_seconds=0)
        path = "/api/v1/namespaces/default/configmaps"
        async with asyncio.timeout(60):  # a real server believes a token for ten seconds more
            while (answer := await client.transport.request("GET", path)).status == 200:
                await asyncio.sleep(0.1)
        assert (answer.status, answer.body["reason"]) == (401, "Unauthorized")


async def test_a_token_is_good_for_its_audience_only(cluster: Cluster) -> None:
    await account(cluster, "agent", rule("", "configmaps", "list"))
    federated = await token(cluster, "agent", audiences=["api://AzureADTokenExchange"])
    async with cluster.as_token(federated) as client:
        assert (await refusal(client.list("configmaps", namespace="default"))).code == 401


@pytest.mark.embedded_only(
    "Azure's emulator asks it in process; elsewhere Azure reads the issuer's keys"
)
async def test_a_federated_token_is_verified_for_azure(cluster: Cluster) -> None:
    await account(cluster, "agent", rule("", "configmaps", "list"))
    federated = await token(cluster, "agent", audiences=["api://AzureADTokenExchange"])
    issuer, subject = cluster.server.verify(federated)
    assert subject == "system:serviceaccount:default:agent"
    assert issuer.startswith("https://")
    with pytest.raises(PermissionError):
        cluster.server.verify(await token(cluster, "agent"))
    head, _, _ = federated.rpartition(".")
    with pytest.raises(PermissionError):
        cluster.server.verify(f"{head}.{'A' * 86}")


async def test_a_wrong_token_is_401_and_none_is_anonymous(cluster: Cluster) -> None:
    async with cluster.as_token("nonsense") as client:
        assert (await refusal(client.list("nodes"))).code == 401
    async with HttpTransport(cluster.url, cluster.trusting) as transport:
        error = await refusal(KubeClient(transport).list("nodes"))
        assert error.code == 403
        assert 'User "system:anonymous" cannot list resource "nodes"' in str(error)
        assert (await transport.request("GET", "/version")).status == 200
        assert (await transport.request("GET", "/apis")).status == 403


async def test_every_pod_gets_its_accounts_token_volume(cluster: Cluster) -> None:
    made = await cluster.admin.create("pods", pod("p"))
    (volume,) = made["spec"]["volumes"]
    kinds = [next(iter(source)) for source in volume["projected"]["sources"]]
    assert kinds == ["serviceAccountToken", "configMap", "downwardAPI"]
    (mount,) = made["spec"]["containers"][0]["volumeMounts"]
    assert mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
    bundle = await cluster.admin.get("configmaps", "kube-root-ca.crt", namespace="default")
    assert bundle["data"]["ca.crt"] == cluster.ca
    bare = await cluster.admin.create("pods", pod("q", automountServiceAccountToken=False))
    assert "volumes" not in bare["spec"]
    error = await refusal(cluster.admin.create("pods", pod("r", serviceAccountName="none")))
    assert 'serviceaccount "none" not found' in str(error)


async def test_a_kubelet_is_a_node_and_not_an_administrator(cluster: Cluster) -> None:
    async with cluster.as_node("n1") as kubelet:
        await kubelet.create("nodes", node("n1"))
        status = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        await kubelet.patch("nodes", "n1", status, subresource="status")
        error = await refusal(kubelet.list("roles", namespace="default"))
    assert 'User "system:node:n1" cannot list resource "roles"' in str(error)
