"""Admission policies: the shipped ones, held to what they promise, and the language they are in."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import yaml

from egress_gateway.api import names
from egress_gateway.api.manifests import deploy_dir
from egress_gateway_lab.apiserver.wire.client import KubeClient
from lab.tests.apiserver.conftest import Cluster
from lab.tests.apiserver.test_objects import add_node, config_map, is_bound, node, pod, refusal

SYSTEM = names.SYSTEM_NAMESPACE
READY = names.NODE_READY_LABEL
GROUP = "admissionregistration.k8s.io"
KEY = base64.b64encode(bytes(32)).decode()
Object = dict[str, Any]


async def installed(cluster: Cluster) -> None:
    """The shipped definitions, grants and policies; none of the programs."""
    folder = deploy_dir()
    files = [*(folder / "crds").glob("*.yaml")]
    files += [folder / "manifests" / name for name in ("namespace.yaml", "rbac.yaml")]
    files += (folder / "manifests" / "admission").glob("*.yaml")
    for file in files:
        for document in yaml.safe_load_all(file.read_text()):
            if document:
                await cluster.admin.apply(document)
    await cluster.served(
        *(f"{file.stem}.{names.GROUP}" for file in (folder / "crds").glob("*.yaml"))
    )
    await cluster.settled()


async def namespace(cluster: Cluster, name: str, configuration: str | None) -> None:
    meta: Object = {"name": name}
    if configuration is not None:
        meta["annotations"] = {names.POD_ANNOTATION: configuration}
    await cluster.admin.create(
        "namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}
    )
    account = {"apiVersion": "v1", "kind": "ServiceAccount"}
    await cluster.admin.apply({**account, "metadata": {"name": "default", "namespace": name}})


async def created(
    cluster: Cluster, name: str, inside: str, configuration: str | None = None, **spec: Any
) -> tuple[str | None, Object]:
    """A new pod's annotation and node selector, as the server left them."""
    body = pod(name, automountServiceAccountToken=False, **spec)
    body["metadata"]["namespace"] = inside
    if configuration is not None:
        body["metadata"]["annotations"] = {names.POD_ANNOTATION: configuration}
    made = await cluster.admin.create("pods", body)
    annotations = made["metadata"].get("annotations") or {}
    return annotations.get(names.POD_ANNOTATION), made["spec"].get("nodeSelector") or {}


# -- pods


async def test_a_namespaces_annotation_is_its_pods_default(cluster: Cluster) -> None:
    await installed(cluster)
    await namespace(cluster, "shop", "main")
    await namespace(cluster, "plain", None)
    await namespace(cluster, "emptied", "")
    ready = {READY: "true"}
    assert await created(cluster, "default", "shop") == ("main", ready)
    assert await created(cluster, "own", "shop", "other") == ("other", ready)
    assert await created(cluster, "none", "shop", "") == ("", {})
    assert await created(cluster, "own", "plain", "other") == ("other", ready)
    assert await created(cluster, "none", "plain") == (None, {})
    assert await created(cluster, "none", "emptied") == (None, {})


async def test_what_a_pod_has_already_stays(cluster: Cluster) -> None:
    await installed(cluster)
    await namespace(cluster, "shop", "main")
    body = pod("p", nodeSelector={"disk": "fast"})
    body["metadata"] |= {"namespace": "shop", "annotations": {"a/b": "c"}}
    made = await cluster.admin.create("pods", body)
    assert made["metadata"]["annotations"] == {"a/b": "c", names.POD_ANNOTATION: "main"}
    assert made["spec"]["nodeSelector"] == {"disk": "fast", READY: "true"}


async def test_pods_without_a_network_of_their_own_are_left_alone(cluster: Cluster) -> None:
    await installed(cluster)
    await namespace(cluster, "shop", "main")
    assert await created(cluster, "host", "shop", hostNetwork=True) == (None, {})
    mirror = pod("mirror", nodeName="n1")
    mirror["metadata"] |= {
        "namespace": "shop",
        "annotations": {"kubernetes.io/config.mirror": "x"},
    }
    made = await cluster.admin.create("pods", mirror)
    assert names.POD_ANNOTATION not in made["metadata"]["annotations"]


async def test_other_pods_are_byte_for_byte_as_without_policies(cluster: Cluster) -> None:
    def kept(made: Object) -> str:
        for name in ("uid", "creationTimestamp", "resourceVersion", "managedFields"):
            del made["metadata"][name]
        return json.dumps(made)

    bodies = [pod("plain"), pod("chosen", nodeSelector={"a": "b"})]
    bodies[1]["metadata"]["annotations"] = {"a/b": "c"}
    for body in bodies:
        body["spec"]["automountServiceAccountToken"] = False
    before = [kept(await cluster.admin.create("pods", body)) for body in bodies]
    for body in bodies:
        await cluster.admin.delete("pods", body["metadata"]["name"], namespace="default")
    await installed(cluster)
    after = [kept(await cluster.admin.create("pods", body)) for body in bodies]
    assert after == before


async def test_annotated_pods_wait_for_a_ready_node_and_others_do_not(cluster: Cluster) -> None:
    await installed(cluster)
    await add_node(cluster, node("fresh"))
    annotated = pod("annotated")
    annotated["metadata"]["annotations"] = {names.POD_ANNOTATION: "main"}
    await cluster.admin.create("pods", annotated)
    await cluster.admin.create("pods", pod("other"))
    await cluster.admin.wait_for("pods", "other", is_bound, namespace="default")
    waiting = await cluster.admin.get("pods", "annotated", namespace="default")
    assert not is_bound(waiting)
    await cluster.admin.patch("nodes", "fresh", {"metadata": {"labels": {READY: "true"}}})
    await cluster.admin.wait_for("pods", "annotated", is_bound, namespace="default")


# -- writers


def endpoint(name: str, on: str, **spec: Any) -> Object:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "PodEndpoint",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": on, "podIpAddress": "10.244.0.9", **spec},
    }


async def owned(cluster: Cluster, name: str, on: str, **spec: Any) -> Object:
    """The endpoint that the agent of node ``on`` writes for a pod, which is made."""
    made = await cluster.admin.create("pods", pod(name, nodeName=on))
    uid = made["metadata"]["uid"]
    written = endpoint(name, on, podUid=uid, **spec)
    written["metadata"] |= {
        "labels": {f"{names.GROUP}/node": on},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}],
    }
    return written


async def agent_token(cluster: Cluster, account: str, on: str) -> str:
    """A token as the kubelet of node ``on`` gets for an agent's pod."""
    name = f"{account}-{on}"
    body = pod(name, serviceAccountName=account, nodeName=on)
    body["metadata"]["namespace"] = SYSTEM
    made = await cluster.admin.create("pods", body)
    bound = {"kind": "Pod", "name": name, "uid": made["metadata"]["uid"]}
    return await account_token(cluster, account, SYSTEM, boundObjectRef=bound)


async def account_token(cluster: Cluster, account: str, inside: str, **spec: Any) -> str:
    made = await cluster.admin.create(
        "serviceaccounts", {"spec": spec}, namespace=inside, name=account, sub="token"
    )
    text: str = made["status"]["token"]
    return text


@asynccontextmanager
async def two_agents(cluster: Cluster) -> AsyncIterator[tuple[KubeClient, KubeClient]]:
    await installed(cluster)
    for name in ("node-a", "node-b"):
        await add_node(cluster, node(name))
    tokens = [await agent_token(cluster, "egress-gateway-node", n) for n in ("node-a", "node-b")]
    async with cluster.as_token(tokens[0]) as a, cluster.as_token(tokens[1]) as b:
        yield a, b


async def forbidden(call: Any, words: str) -> None:
    error = await refusal(call)
    assert (error.code, error.reason) == (403, "Forbidden"), str(error)
    assert words in str(error)


async def test_an_agent_writes_for_its_own_node(cluster: Cluster) -> None:
    async with two_agents(cluster) as (a, b):
        mine = await owned(cluster, "p", "node-a", podPublicKey=KEY)
        await a.apply(mine, resource="podendpoints")
        mine["spec"]["podIps"] = ["10.244.0.9"]
        await a.apply(mine, resource="podendpoints")
        await a.delete("podendpoints", "p", namespace="default")
        await b.apply(await owned(cluster, "q", "node-b"), resource="podendpoints")


async def test_an_agent_does_not_write_for_another_node(cluster: Cluster) -> None:
    async with two_agents(cluster) as (a, b):
        forged = a.apply(endpoint("p", "node-b"), resource="podendpoints")
        policy = "ValidatingAdmissionPolicy 'egress-gateway-podendpoints' with binding"
        await forbidden(forged, f'podendpoints.{names.GROUP} "p" is forbidden: {policy}')
        nameless = endpoint("p", "")
        await forbidden(a.create("podendpoints", nameless), 'of node ""')
        made = await b.create("podendpoints", await owned(cluster, "p", "node-b"))
        stolen = a.apply(endpoint("p", "node-a"), resource="podendpoints")
        await forbidden(stolen, 'may not change or delete a PodEndpoint of node "node-b"')
        given = a.patch(
            "podendpoints", "p", {"spec": {"podIps": ["10.0.0.1"]}}, namespace="default"
        )
        await forbidden(given, 'may not write a PodEndpoint of node "node-b"')
        await forbidden(a.delete("podendpoints", "p", namespace="default"), 'of node "node-b"')
        everything = a.call("DELETE", f"/apis/{names.API_VERSION}/namespaces/default/podendpoints")
        assert (await refusal(everything)).code == 403
        assert await cluster.admin.get("podendpoints", "p", namespace="default") == made


async def test_a_namesake_on_another_node_is_published_once_its_forerunner_is_gone(
    cluster: Cluster,
) -> None:
    """As of a StatefulSet: the old pod's endpoint goes with the pod, then the name is free."""
    async with two_agents(cluster) as (a, b):
        await a.apply(await owned(cluster, "p", "node-a"), resource="podendpoints")
        await forbidden(b.apply(endpoint("p", "node-b"), resource="podendpoints"), '"node-a"')
        await cluster.admin.delete("pods", "p", namespace="default", grace_seconds=0)
        await cluster.admin.wait_for("podendpoints", "p", lambda e: e is None, namespace="default")
        await b.apply(await owned(cluster, "p", "node-b"), resource="podendpoints")


async def test_a_forged_node_name_gains_nothing(cluster: Cluster) -> None:
    async with two_agents(cluster) as (_, b):
        await b.create("podendpoints", await owned(cluster, "p", "node-b"))
        # Of a pod that nobody has scheduled, and of no pod at all.
        loose = await account_token(cluster, "egress-gateway-node", SYSTEM)
        async with cluster.as_token(loose) as client:
            await forbidden(
                client.create("podendpoints", endpoint("q", "node-b")), 'the agent of node ""'
            )
            await forbidden(client.create("podendpoints", endpoint("q", "")), "of node")
        genuine = await agent_token(cluster, "egress-gateway-node", "node-c")
        async with cluster.as_token(_renamed(genuine, "node-b")) as client:
            error = await refusal(client.create("podendpoints", endpoint("q", "node-b")))
            assert error.code == 401


def _renamed(token: str, to: str) -> str:
    """The token with another node in its claims, its signature as it was."""
    header, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    claims["kubernetes.io"]["node"] = {"name": to, "uid": "any"}
    raw = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"{header}.{raw}.{signature}"


async def _user(cluster: Cluster, name: str, *rules: Object) -> str:
    meta = {"name": name, "namespace": "default"}
    rbac = "rbac.authorization.k8s.io"
    for document in (
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": name},
            "rules": list(rules),
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", **meta}],
        },
    ):
        await cluster.admin.apply(document)
    await cluster.settled()
    return await account_token(cluster, name, "default")


async def test_nobody_else_writes_a_pod_endpoint(cluster: Cluster) -> None:
    async with two_agents(cluster) as (a, _):
        await a.create("podendpoints", await owned(cluster, "p", "node-a"))
        ours = {"apiGroups": [names.GROUP], "resources": ["*"], "verbs": ["*"]}
        granted = await _user(cluster, "granted", ours)
        words = "a PodEndpoint is written by the node agent of its pod's node, by nobody else"
        change = {"spec": {"podIps": ["10.244.0.10"]}}
        async with cluster.as_token(granted) as client:
            await forbidden(client.create("podendpoints", endpoint("q", "node-a")), words)
            forged = client.patch("podendpoints", "p", change, namespace="default")
            await forbidden(forged, words)
            # Finalizers and owners are the business of others, too.
            labels = {"metadata": {"labels": {"seen": "yes"}}}
            await client.patch("podendpoints", "p", labels, namespace="default")
        admin = cluster.admin.create("podendpoints", endpoint("q", "node-a"))
        await forbidden(admin, words)
        ordinary = await _user(cluster, "ordinary")
        async with cluster.as_token(ordinary) as client:
            refused = client.create("podendpoints", endpoint("q", "node-a"))
            await forbidden(refused, 'cannot create resource "podendpoints"')
            path = {"namespace": SYSTEM, "name": "egress-gateway-node", "sub": "token"}
            await forbidden(client.create("serviceaccounts", {}, **path), "cannot create")


async def test_reports_and_labels_are_written_for_ones_own_node(cluster: Cluster) -> None:
    def report(name: str) -> Object:
        meta = {"name": name, "namespace": SYSTEM}
        return {"apiVersion": names.API_VERSION, "kind": "GatewayStatus", "metadata": meta}

    async with two_agents(cluster) as (a, _):
        label: Object = {"metadata": {"labels": {READY: "true"}}}
        await a.patch("nodes", "node-a", label)
        words = "a node agent may change its own Node alone"
        await forbidden(a.patch("nodes", "node-b", label), words)
        token = await agent_token(cluster, "egress-gateway-gateway", "node-a")
        async with cluster.as_token(token) as gateway:
            await gateway.apply(report("node-a"), resource="gatewaystatuses")
            await forbidden(
                gateway.apply(report("node-b"), resource="gatewaystatuses"),
                "a gateway agent may write the GatewayStatus of its own node alone",
            )


# -- the language


def policy(kind: str, **spec: Any) -> Object:
    rule = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"],
        "resources": ["configmaps"],
    }
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": f"{kind}AdmissionPolicy",
        "metadata": {"name": "test"},
        "spec": {"matchConstraints": {"resourceRules": [rule]}, **spec},
    }


def binding(kind: str, **spec: Any) -> Object:
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": f"{kind}AdmissionPolicyBinding",
        "metadata": {"name": "test-binding"},
        "spec": {"policyName": "test", **spec},
    }


async def validating(cluster: Cluster, actions: list[str], **spec: Any) -> None:
    await cluster.admin.apply(policy("Validating", **spec))
    await cluster.admin.apply(binding("Validating", validationActions=actions))
    await cluster.settled()


async def test_a_validation_speaks_in_kubernetes_words(cluster: Cluster) -> None:
    rule = {"expression": "object.data.a == '2'"}
    await validating(cluster, ["Deny"], validations=[rule])
    error = await refusal(cluster.admin.create("configmaps", config_map("a")))
    assert (error.code, error.reason) == (422, "Invalid")
    assert str(error) == (
        "configmaps \"a\" is forbidden: ValidatingAdmissionPolicy 'test' with binding "
        "'test-binding' denied request: failed expression: object.data.a == '2'"
    )
    described = {**rule, "message": "fixed", "messageExpression": "'it is ' + object.data.a"}
    await validating(cluster, ["Deny"], validations=[described])
    error = await refusal(cluster.admin.create("configmaps", config_map("a")))
    assert str(error).endswith("denied request: it is 1")
    failing = {**described, "messageExpression": "string(object.data.absent)"}
    await validating(cluster, ["Deny"], validations=[failing])
    error = await refusal(cluster.admin.create("configmaps", config_map("a")))
    assert str(error).endswith("denied request: fixed")
    await cluster.admin.create("configmaps", {**config_map("a"), "data": {"a": "2"}})


async def test_an_expression_that_fails_counts_by_the_failure_policy(cluster: Cluster) -> None:
    rules = [{"expression": "object.data.absent == '1'"}]
    await validating(cluster, ["Deny"], validations=rules)
    error = await refusal(cluster.admin.create("configmaps", config_map("a")))
    assert str(error).endswith("resulted in error: no such key: absent")
    await validating(cluster, ["Deny"], validations=rules, failurePolicy="Ignore")
    await cluster.admin.create("configmaps", config_map("a"))
    await validating(cluster, ["Warn"], validations=rules, failurePolicy="Fail")
    await cluster.admin.create("configmaps", config_map("b"))


async def test_a_policy_without_a_binding_or_for_others_is_not_asked(cluster: Cluster) -> None:
    rules = [{"expression": "false"}]
    await cluster.admin.apply(policy("Validating", validations=rules))
    await cluster.admin.create("configmaps", config_map("unbound"))
    narrowed = {"objectSelector": {"matchLabels": {"guarded": "yes"}}}
    await cluster.admin.apply(
        binding("Validating", validationActions=["Deny"], matchResources=narrowed)
    )
    await cluster.settled()
    await cluster.admin.create("configmaps", config_map("other"))
    assert await refusal(cluster.admin.create("configmaps", config_map("a", guarded="yes")))
    elsewhere = {"namespaceSelector": {"matchLabels": {"team": "x"}}}
    await cluster.admin.apply(
        binding("Validating", validationActions=["Deny"], matchResources=elsewhere)
    )
    await cluster.settled()
    await cluster.admin.create("configmaps", config_map("a", guarded="yes"))


async def test_conditions_and_lazy_variables(cluster: Cluster) -> None:
    conditions = [{"name": "named", "expression": "request.name.startsWith('g')"}]
    variables = [
        {"name": "broken", "expression": "object.data.absent"},
        {"name": "one", "expression": "object.data.a"},
        {"name": "two", "expression": "variables.one + '!'"},
    ]
    rules = [{"expression": "variables.two == '2!'", "message": "not two"}]
    await validating(
        cluster,
        ["Deny"],
        matchConditions=conditions,
        variables=variables,
        validations=rules,
    )
    await cluster.admin.create("configmaps", config_map("other"))
    error = await refusal(cluster.admin.create("configmaps", config_map("g1")))
    assert str(error).endswith("not two")
    await cluster.admin.create("configmaps", {**config_map("g2"), "data": {"a": "2"}})
    # kube-apiserver has no namespace there either.
    conditions[0]["expression"] = "namespaceObject.metadata.name == 'default'"
    await validating(
        cluster,
        ["Deny"],
        matchConditions=conditions,
        validations=[{"expression": "true"}],
    )
    error = await refusal(cluster.admin.create("configmaps", config_map("g3")))
    assert str(error).endswith("no such key: metadata")


async def test_mutations_see_those_before_them(cluster: Cluster) -> None:
    def patch(text: str) -> Object:
        return {"patchType": "JSONPatch", "jsonPatch": {"expression": text}}

    first = "[JSONPatch{op: 'add', path: '/data/' + jsonpatch.escapeKey('b'), value: 'x'}]"
    second = "object.data.b == 'x' ? [JSONPatch{op: 'remove', path: '/data/a'}] : []"
    changing = policy(
        "Mutating", reinvocationPolicy="Never", mutations=[patch(first), patch(second)]
    )
    await cluster.admin.apply(changing)
    await cluster.admin.apply(binding("Mutating"))
    await cluster.settled()
    made = await cluster.admin.create("configmaps", config_map("a"))
    assert made["data"] == {"b": "x"}
    await cluster.admin.delete(f"mutatingadmissionpolicies.{GROUP}/v1", "test", missing_ok=False)
    await cluster.settled()
    made = await cluster.admin.create("configmaps", config_map("c"))
    assert made["data"] == {"a": "1"}


@pytest.mark.embedded_only("kube-apiserver lets a mutation rename; nothing of ours does")
async def test_a_mutation_may_not_rename(cluster: Cluster) -> None:
    renaming = "[JSONPatch{op: 'replace', path: '/metadata/name', value: 'b'}]"
    patch = {"patchType": "JSONPatch", "jsonPatch": {"expression": renaming}}
    changing = policy("Mutating", reinvocationPolicy="Never", mutations=[patch])
    await cluster.admin.apply(changing)
    await cluster.admin.apply(binding("Mutating"))
    error = await refusal(cluster.admin.create("configmaps", config_map("c")))
    assert "may not change kind, name" in str(error)


_SOUND = {"validations": [{"expression": "true"}]}


@pytest.mark.parametrize(
    ("kind", "spec", "words"),
    [
        ("Validating", {"validations": [{"expression": "object.("}]}, "compilation failed"),
        (
            "Validating",
            {
                "variables": [{"name": "y", "expression": "true"}],
                "validations": [{"expression": "variables.x"}],
            },
            "undefined field 'x'",
        ),
        ("Validating", {"validations": [{"expression": "object.x.quantity()"}]}, "'quantity'"),
        ("Validating", {}, "spec.validations: Required"),
        ("Validating", {**_SOUND, "failurePolicy": "No"}, "spec.failurePolicy: Unsupported"),
        ("Validating", {**_SOUND, "matchConstraints": {}}, "resourceRules: Required value"),
        (
            "Mutating",
            {
                "reinvocationPolicy": "Never",
                "mutations": [
                    {"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{at: 'x'}]"}}
                ],
            },
            "field 'at'",
        ),
    ],
)
async def test_what_cannot_be_evaluated_is_refused_at_once(
    cluster: Cluster, kind: str, spec: Object, words: str
) -> None:
    error = await refusal(cluster.admin.apply(policy(kind, **spec)))
    assert error.code == 422
    assert words in str(error)


@pytest.mark.embedded_only("Kubernetes has more of the language than the embedded server")
@pytest.mark.parametrize(
    ("kind", "spec", "words"),
    [
        ("Validating", {"validations": [{"expression": "authorizer != null"}]}, "'authorizer'"),
        ("Validating", {**_SOUND, "paramKind": {"kind": "X"}}, "spec.paramKind: Forbidden"),
        (
            "Mutating",
            {
                "reinvocationPolicy": "Never",
                "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {}}],
            },
            'evaluates "JSONPatch" only',
        ),
    ],
)
async def test_what_only_a_real_server_evaluates_is_refused_too(
    cluster: Cluster, kind: str, spec: Object, words: str
) -> None:
    error = await refusal(cluster.admin.apply(policy(kind, **spec)))
    assert error.code == 422
    assert words in str(error)
