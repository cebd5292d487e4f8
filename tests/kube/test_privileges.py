"""Least privilege on a real API server: what each component may do there, and nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway_lab.apiserver.wire.client import APPLY_PATCH, MERGE_PATCH, KubeClient
from egress_gateway_lab.realcluster.control_plane import ControlPlane
from lab.tests.apiserver.conftest import Cluster
from lab.tests.apiserver.test_admission import endpoint, forbidden, owned
from lab.tests.apiserver.test_objects import pod
from tests.kube.chart import SYSTEM, Object, component, installed

pytestmark = pytest.mark.kube
GROUP = names.GROUP
OURS = f"/apis/{names.API_VERSION}"
CONTROLLER, GATEWAY, NODE, WEBHOOK = (
    f"egress-gateway-{name}" for name in ("controller", "gateway", "node", "webhook")
)
READ = "get list watch"
WRITE = "create delete get list patch update watch"

# Verbs by group/resource: everything that a token of the component may do, in all namespaces …
EVERYWHERE: dict[str, dict[str, str]] = {
    CONTROLLER: {
        f"{GROUP}/staticgatewayconfigurations": "get list patch watch",
        f"{GROUP}/staticgatewayconfigurations/status": "get patch update",
        f"{GROUP}/staticgatewayconfigurations/finalizers": "update",
        f"{GROUP}/podendpoints": READ,
        f"{GROUP}/gatewaylbconfigurations": "delete get list patch",
        f"{GROUP}/gatewayvmconfigurations": "delete get list patch",
        "/nodes": READ,
        "/namespaces": READ,
        "/events": "create patch",
        "admissionregistration.k8s.io/validatingadmissionpolicybindings"
        "(egress-gateway-podendpoints,egress-gateway-gatewaystatuses,egress-gateway-nodes,"
        "egress-gateway-mode,egress-gateway-events,egress-gateway-configurations)": "get",
        "apps/deployments": "list",
        "apps/daemonsets": "list",
        "authorization.k8s.io/subjectaccessreviews": "create",
    },
    GATEWAY: {
        f"{GROUP}/staticgatewayconfigurations": READ,
        f"{GROUP}/podendpoints": READ,
        "/pods": READ,
        "/nodes": READ,
        "/events": "create patch",
    },
    NODE: {
        f"{GROUP}/staticgatewayconfigurations": READ,
        f"{GROUP}/podendpoints": WRITE,
        f"{GROUP}/podendpoints/status": "patch",
        "/pods": READ,
        "/nodes": "get patch",
        "networking.k8s.io/servicecidrs": "list",
        "/events": "create patch",
    },
    WEBHOOK: {
        "admissionregistration.k8s.io/mutatingwebhookconfigurations"
        "(egress-gateway-pods)": "get patch",
        "/namespaces": READ,
    },
}
# … and in the system namespace besides.
INSIDE: dict[str, dict[str, str]] = {
    CONTROLLER: {
        "/secrets": "create delete get list patch watch",
        f"{GROUP}/gatewaystatuses": READ,
        "coordination.k8s.io/leases": "create get patch update",
        "rbac.authorization.k8s.io/roles(egress-gateway-keys)": "get patch update",
    },
    GATEWAY: {f"{GROUP}/gatewaystatuses": WRITE},
    NODE: {f"{GROUP}/gatewaystatuses": READ},
    WEBHOOK: {"/secrets(egress-gateway-webhook)": "get patch"},
}
VALUES = {WEBHOOK: ("admission.mode=webhook",)}
# What every ServiceAccount of a cluster may: ask who it is and what it may; read certificates of
# authorities that the cluster publishes (from Kubernetes 1.37).
ANYBODY = {
    "authorization.k8s.io/selfsubjectaccessreviews": "create",
    "authorization.k8s.io/selfsubjectrulesreviews": "create",
    "authentication.k8s.io/selfsubjectreviews": "create",
    "certificates.k8s.io/clustertrustbundles": READ,
}


async def granted(client: KubeClient, namespace: str) -> dict[str, str]:
    """The server's own account of what this token may do in a namespace."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    answer = await client.create("selfsubjectrulesreviews.authorization.k8s.io/v1", review)
    assert not answer["status"]["incomplete"]
    verbs: dict[str, set[str]] = {}
    for rule in answer["status"]["resourceRules"]:
        named = f"({','.join(rule['resourceNames'])})" if rule.get("resourceNames") else ""
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                verbs.setdefault(f"{group}/{resource}{named}", set()).update(rule["verbs"])
    return {what: " ".join(sorted(v)) for what, v in verbs.items() if what not in ANYBODY}


@pytest.mark.parametrize("account", [CONTROLLER, GATEWAY, NODE, WEBHOOK])
async def test_what_a_component_may_do_is_this_and_nothing_else(
    real_plane: ControlPlane, clients: Path, account: str
) -> None:
    async with (
        installed(real_plane, clients, *VALUES.get(account, ())) as cluster,
        component(cluster, account) as client,
    ):
        everywhere = await granted(client, "default")
        assert everywhere == EVERYWHERE[account]
        assert await granted(client, "kube-system") == everywhere
        assert await granted(client, SYSTEM) == everywhere | INSIDE[account]


async def status(
    client: KubeClient, method: str, path: str, body: Any = None, content: str = "application/json"
) -> int:
    query = {"fieldManager": "test"} if method == "PATCH" else {}
    answer = await client.transport.request(
        method, path, body=body, content_type=content, query=query
    )
    return answer.status


def secret(name: str, namespace: str) -> Object:
    meta = {"name": name, "namespace": namespace}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": meta,
        "stringData": {"PrivateKey": "k"},
    }


def configuration(name: str, **spec: Any) -> Object:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "StaticGatewayConfiguration",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"gatewayNodepoolName": "np", **spec},
    }


async def test_a_controller_does_its_work_and_touches_no_pod_and_no_other_secret(
    real_plane: ControlPlane, clients: Path
) -> None:
    async with (
        installed(real_plane, clients) as cluster,
        component(cluster, CONTROLLER) as client,
    ):
        admin = cluster.admin
        await admin.create("staticgatewayconfigurations", configuration("a"))
        await admin.create("secrets", secret("theirs", "default"))
        await admin.create("pods", pod("p"))
        one = f"{OURS}/namespaces/default/staticgatewayconfigurations/a"
        for finalizer, answer in ((names.FINALIZER, 200), ("example.com/f", 403)):
            written = {"metadata": {"finalizers": [finalizer]}}
            assert await status(client, "PATCH", one, written, MERGE_PATCH) == answer
        report = {"status": {"egressIpPrefix": "203.0.113.0/30"}}
        assert await status(client, "PATCH", f"{one}/status", report, MERGE_PATCH) == 200
        await client.create("secrets", secret("sgw-1", SYSTEM))
        keys = {"resourceNames": ["sgw-1"], "resources": ["secrets"], "verbs": ["get"]}
        role = {"rules": [{"apiGroups": [""], **keys}]}
        path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{SYSTEM}/roles/{GATEWAY[:-8]}"
        assert await status(client, "PATCH", f"{path}-keys", role, MERGE_PATCH) == 200
        # Nobody grants what they have not: it may not open a Secret elsewhere by a Role.
        pods = {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["delete"]}]}
        assert await status(client, "PATCH", f"{path}-keys", pods, MERGE_PATCH) == 403
        for method, path, body in (
            ("GET", "/api/v1/namespaces/default/secrets/theirs", None),
            ("GET", "/api/v1/secrets", None),
            ("GET", "/api/v1/pods", None),
            ("POST", "/api/v1/namespaces/default/pods", pod("q")),
            ("DELETE", "/api/v1/namespaces/default/pods/p", None),
            ("DELETE", one, None),
            ("POST", f"{OURS}/namespaces/default/podendpoints", endpoint("p", "node-a")),
            ("POST", f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/{NODE}/token", {}),
        ):
            assert await status(client, method, path, body) == 403, (method, path)


async def test_a_gateway_reads_the_keys_it_is_given_and_no_other_secret(
    real_plane: ControlPlane, clients: Path
) -> None:
    async with (
        installed(real_plane, clients) as cluster,
        component(cluster, GATEWAY) as client,
    ):
        admin = cluster.admin
        for name, namespace in (("sgw-1", SYSTEM), ("sgw-2", SYSTEM), ("sgw-1", "default")):
            await admin.create("secrets", secret(name, namespace))
        one = f"/api/v1/namespaces/{SYSTEM}/secrets/sgw-1"
        assert await status(client, "GET", one) == 403
        rule = {
            "apiGroups": [""],
            "resources": ["secrets"],
            "resourceNames": ["sgw-1"],
            "verbs": ["get"],
        }
        await admin.patch("roles", "egress-gateway-keys", {"rules": [rule]}, namespace=SYSTEM)
        await cluster.settled()
        assert await status(client, "GET", one) == 200
        await admin.create("pods", pod("p"))
        for method, path, body in (
            ("GET", f"/api/v1/namespaces/{SYSTEM}/secrets/sgw-2", None),
            ("GET", f"/api/v1/namespaces/{SYSTEM}/secrets", None),
            ("GET", "/api/v1/namespaces/default/secrets/sgw-1", None),
            ("DELETE", one, None),
            ("POST", "/api/v1/namespaces/default/pods", pod("q")),
            ("DELETE", "/api/v1/namespaces/default/pods/p", None),
            ("POST", f"{OURS}/namespaces/default/podendpoints", endpoint("p", "node-a")),
            (
                "POST",
                f"{OURS}/namespaces/default/staticgatewayconfigurations",
                configuration("a"),
            ),
            ("DELETE", "/api/v1/nodes/node-a", None),
        ):
            assert await status(client, method, path, body) == 403, (method, path)


def report(name: str) -> Object:
    meta = {"name": name, "namespace": SYSTEM}
    return {"apiVersion": names.API_VERSION, "kind": "GatewayStatus", "metadata": meta}


async def test_a_gateway_reports_for_its_own_node(real_plane: ControlPlane, clients: Path) -> None:
    async with (
        installed(real_plane, clients) as cluster,
        component(cluster, GATEWAY) as client,
    ):
        await client.apply(report("node-a"), resource="gatewaystatuses")
        words = "a gateway agent may write the GatewayStatus of its own node alone"
        await forbidden(client.apply(report("node-b"), resource="gatewaystatuses"), words)


async def test_a_node_agent_speaks_for_its_own_node_alone(
    real_plane: ControlPlane, clients: Path
) -> None:
    async with (
        installed(real_plane, clients) as cluster,
        component(cluster, NODE, "node-a") as a,
        component(cluster, NODE, "node-b") as b,
    ):
        await a.apply(await owned(cluster, "p", "node-a"), resource="podendpoints")
        await refused_elsewhere(cluster, a, b)
        label = {"metadata": {"labels": {names.NODE_READY_LABEL: "true"}}}
        await a.patch("nodes", "node-a", label)
        await forbidden(a.patch("nodes", "node-b", label), "its own Node alone")
        await cluster.admin.create("secrets", secret("sgw-1", SYSTEM))
        for method, path, body in (
            ("GET", f"/api/v1/namespaces/{SYSTEM}/secrets/sgw-1", None),
            ("GET", "/api/v1/secrets", None),
            ("POST", "/api/v1/namespaces/default/pods", pod("q")),
            ("DELETE", "/api/v1/namespaces/default/pods/p", None),
            ("DELETE", "/api/v1/nodes/node-a", None),
            ("POST", f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/{NODE}/token", {}),
            ("DELETE", f"{OURS}/namespaces/default/podendpoints", None),
        ):
            assert await status(a, method, path, body) == 403, (method, path)


async def refused_elsewhere(cluster: Cluster, a: KubeClient, b: KubeClient) -> None:
    """Forged endpoints gain nothing: not made, not changed, not taken, not deleted."""
    made = await b.create("podendpoints", await owned(cluster, "theirs", "node-b"))
    written = 'may not write a PodEndpoint of node "node-b"'
    await forbidden(a.create("podendpoints", endpoint("new", "node-b")), written)
    own = 'may not change or delete a PodEndpoint of node "node-b"'
    await forbidden(a.apply(endpoint("theirs", "node-a"), resource="podendpoints"), own)
    await forbidden(a.delete("podendpoints", "theirs", namespace="default"), own)
    await forbidden(a.apply(endpoint("p", "node-b"), resource="podendpoints"), written)
    assert await cluster.admin.get("podendpoints", "theirs", namespace="default") == made
    nobody = "by nobody else"
    await forbidden(cluster.admin.create("podendpoints", endpoint("x", "node-a")), nobody)
    # A token of the account that is bound to no pod knows no node.
    loose = await cluster.admin.create(
        "serviceaccounts", {"spec": {}}, namespace=SYSTEM, name=NODE, sub="token"
    )
    async with cluster.as_token(loose["status"]["token"]) as client:
        await forbidden(client.create("podendpoints", endpoint("x", "node-a")), 'node ""')


async def test_who_wrote_which_fields_is_no_ballast(
    real_plane: ControlPlane, clients: Path
) -> None:
    """The server takes a client's word for it, and no schema bounds it."""
    fields: Object = {f"f:{n:050}": {} for n in range(9000)}
    about: Object = {"manager": "m", "operation": "Update", "fieldsType": "FieldsV1"}
    events = "/api/v1/namespaces/default/events"
    event: Object = {
        "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reportingComponent": "static-egress-gateway-node",
        "reportingInstance": "node-a",
    }
    async with (
        installed(real_plane, clients) as cluster,
        component(cluster, NODE) as a,
        component(cluster, GATEWAY) as gateway,
    ):
        sound = await owned(cluster, "p", "node-a")
        written: list[tuple[KubeClient, str, str, Object]] = [
            (a, "POST", f"{OURS}/namespaces/default/podendpoints", sound),
            (gateway, "POST", f"{OURS}/namespaces/{SYSTEM}/gatewaystatuses", report("node-a")),
            (a, "POST", events, event),
            (a, "PATCH", "/api/v1/nodes/node-a", {"metadata": {}}),
        ]
        for client, method, path, body in written:
            entry = about | {"apiVersion": body.get("apiVersion", "v1"), "fieldsV1": fields}
            huge: Object = body | {"metadata": body["metadata"] | {"managedFields": [entry]}}
            content = MERGE_PATCH if method == "PATCH" else "application/json"
            assert await status(client, method, path, huge, content) == 403, path
            assert await status(client, method, path, body, content) < 300, path
            if method == "POST" and path != events:
                path += f"/{body['metadata']['name']}"
                assert await status(client, "PATCH", path, huge, MERGE_PATCH) == 403, path


async def test_a_token_of_a_component_ends_with_its_pod(
    real_plane: ControlPlane, clients: Path
) -> None:
    async with installed(real_plane, clients) as cluster, component(cluster, NODE) as client:
        path = f"{OURS}/namespaces/default/podendpoints/p"
        body = await owned(cluster, "p", "node-a")
        assert await status(client, "PATCH", path, body, APPLY_PATCH) == 201
        await cluster.admin.delete("pods", f"{NODE}-node-a", namespace=SYSTEM, grace_seconds=0)
        async with asyncio.timeout(180):  # the server believes a token for ten seconds more
            while await status(client, "PATCH", path, body, APPLY_PATCH) != 401:
                await asyncio.sleep(0.2)
