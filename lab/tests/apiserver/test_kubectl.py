"""The real kubectl, as people type it."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import yaml

from egress_gateway.api import names
from lab.tests.apiserver.conftest import Cluster, Serving
from lab.tests.apiserver.fake_runtime import EchoRuntime
from lab.tests.apiserver.test_controllers import Kubelet, sized
from lab.tests.apiserver.test_custom_resources import install
from lab.tests.apiserver.test_objects import add_node, node

Kubectl = Callable[..., Coroutine[Any, Any, str]]

_CRDS = Path(__file__).parents[3] / "deploy" / "crds"
_CONFIGURATION = f"""
apiVersion: {names.API_VERSION}
kind: StaticGatewayConfiguration
metadata: {{name: my-static-egress-gateway, namespace: default}}
spec:
  gatewayNodepoolName: npegress
  excludeCidrs: [10.0.0.0/8, 172.16.0.0/12, 169.254.169.254/32]
"""


async def test_definitions_and_configurations(cluster: Cluster, kubectl: Kubectl) -> None:
    shown = await kubectl(cluster, "apply", "-f", str(_CRDS))
    assert shown.count(" created") == 3
    condition = "--for=condition=Established"
    await kubectl(cluster, "wait", condition, "crd", "--all", "--timeout=60s")
    assert "created" in await kubectl(cluster, "apply", "-f", "-", stdin=_CONFIGURATION)
    assert "unchanged" in await kubectl(cluster, "apply", "-f", "-", stdin=_CONFIGURATION)
    changed = _CONFIGURATION.replace("10.0.0.0/8, ", "")
    assert "configured" in await kubectl(cluster, "apply", "-f", "-", stdin=changed)
    name = "my-static-egress-gateway"
    found = json.loads(await kubectl(cluster, "get", "sgc", name, "-o", "json"))
    assert found["spec"]["excludeCidrs"] == ["172.16.0.0/12", "169.254.169.254/32"]
    table = (await kubectl(cluster, "get", "sgc")).splitlines()
    assert table[0].startswith("NAME ")
    assert "npegress" in table[1]
    wrong = _CONFIGURATION.replace("gatewayNodepoolName", "gatewayNodePool")
    error = await kubectl(cluster, "apply", "-f", "-", stdin=wrong, fails=True)
    assert 'unknown field "spec.gatewayNodePool"' in error
    await kubectl(cluster, "delete", "sgc", name, "--timeout=60s")


async def test_the_life_of_a_deployment(cluster: Cluster, kubectl: Kubectl) -> None:
    for name in ("n1", "n2"):
        await add_node(cluster, node(name))
    async with Kubelet(cluster):
        await kubectl(cluster, "apply", "-f", "-", stdin=yaml.safe_dump(sized(2)))
        wait = ("--for=condition=Available", "deploy/web", "--timeout=240s")
        await kubectl(cluster, "wait", *wait)
        rolled = await kubectl(cluster, "rollout", "status", "deploy/web", "--timeout=240s")
        assert "successfully rolled out" in rolled
        assert " 2/2 " in await kubectl(cluster, "get", "deploy")
        await kubectl(cluster, "set", "image", "deploy/web", "c=nginx:2")
        await kubectl(cluster, "rollout", "status", "deploy/web", "--timeout=240s")
        await kubectl(cluster, "scale", "deploy/web", "--replicas=3")
        await kubectl(cluster, "rollout", "status", "deploy/web", "--timeout=240s")
        await kubectl(cluster, "rollout", "undo", "deploy/web")
        await kubectl(cluster, "rollout", "status", "deploy/web", "--timeout=240s")
        # A rollout is over before the last pod of the template before has gone.
        pods = json.loads(await kubectl(cluster, "get", "pods", "-o", "json"))["items"]
        kept = [p["spec"] for p in pods if "deletionTimestamp" not in p["metadata"]]
        assert [spec["containers"][0]["image"] for spec in kept] == ["nginx"] * 3
        described = await kubectl(cluster, "describe", "deploy", "web")
        assert "ScalingReplicaSet" in described
        wide = await kubectl(cluster, "get", "pods", "-o", "wide")
        assert "10.244.0.9" in wide
        assert "Running" in wide
        await kubectl(cluster, "rollout", "restart", "deploy/web")
        await kubectl(cluster, "delete", "deploy", "web", "--timeout=240s")
        waited = ("--for=delete", "pods", "-l", "app=web", "--timeout=240s")
        await kubectl(cluster, "wait", *waited)
        async with asyncio.timeout(240):  # what was made while that began goes a moment later
            while await kubectl(cluster, "get", "rs,pods") != "":
                await asyncio.sleep(0.1)


@pytest.mark.embedded_only("a real server has no containers without a real node")
async def test_pods_by_hand(serving: Serving, kubectl: Kubectl) -> None:
    async with serving(runtime=EchoRuntime()) as cluster:
        await add_node(cluster, node("n1"))
        async with Kubelet(cluster):
            await kubectl(cluster, "run", "nginx", "--image=nginx")
            await kubectl(cluster, "wait", "--for=condition=Ready", "pod/nginx", "--timeout=240s")
            said = await kubectl(cluster, "exec", "nginx", "--", "echo", "hello")
            assert said == "hello\n"
            echoed = await kubectl(cluster, "exec", "-i", "nginx", "--", "cat", stdin="piped")
            assert echoed == "piped"
            failed = await kubectl(cluster, "exec", "nginx", "--", "exit", "7", fails=True)
            assert "exit code 7" in failed
            assert await kubectl(cluster, "logs", "nginx", "--tail=2") == "two\nthree\n"
            assert await kubectl(cluster, "logs", "-f", "nginx") == "one\ntwo\nthree\n"
            assert "attached" in await kubectl(cluster, "attach", "nginx")
            failed = await kubectl(cluster, "port-forward", "nginx", ":80", fails=True)
            assert "has no kubectl port-forward: `egress-gateway lab ui`" in failed
            await kubectl(cluster, "label", "pod", "nginx", "tier=front")
            await kubectl(cluster, "annotate", "pod", "nginx", f"{names.POD_ANNOTATION}=mine")
            await kubectl(cluster, "label", "pod", "nginx", "tier-")
            found = json.loads(await kubectl(cluster, "get", "pod", "nginx", "-o", "json"))
            assert found["metadata"]["annotations"] == {names.POD_ANNOTATION: "mine"}
            assert found["metadata"]["labels"] == {"run": "nginx"}
            described = await kubectl(cluster, "describe", "pod", "nginx")
            assert "Successfully assigned default/nginx to n1" in described
            await kubectl(cluster, "delete", "pod", "nginx", "--timeout=240s")


async def test_typed_creations_and_access(cluster: Cluster, kubectl: Kubectl) -> None:
    for command in (
        "create namespace team",
        "create configmap settings --from-literal=a=b -n team",
        "create secret generic keys --from-literal=k=v -n team",
        "create serviceaccount robot -n team",
        "create role reader --verb=get,list --resource=pods -n team",
        "create rolebinding reader --role=reader --serviceaccount=team:robot -n team",
        "create clusterrole nodes --verb=get --resource=nodes",
        "create clusterrolebinding nodes --clusterrole=nodes --serviceaccount=team:robot",
        "create deployment web --image=nginx --replicas=2 --port=80 -n team",
    ):
        await kubectl(cluster, *command.split())
    secret = json.loads(await kubectl(cluster, "get", "secret", "keys", "-n", "team", "-o", "json"))
    assert secret["data"] == {"k": "dg=="}
    robot = "--as=system:serviceaccount:team:robot"
    allowed = ("auth", "can-i", "list", "pods", "-n", "team", robot)
    assert (await kubectl(cluster, *allowed)).strip() == "yes"
    refused = ("auth", "can-i", "delete", "pods", "-n", "team", robot)
    await kubectl(cluster, *refused, fails=True)
    error = await kubectl(cluster, "get", "secrets", "-n", "team", robot, fails=True)
    assert 'cannot list resource "secrets" in API group ""' in error
    token = (await kubectl(cluster, "create", "token", "robot", "-n", "team")).strip()
    async with cluster.as_token(token) as client:
        await client.list("pods", namespace="team")
    await kubectl(cluster, "delete", "namespace", "team", "--timeout=240s")


async def test_server_side_apply_and_conflicts(cluster: Cluster, kubectl: Kubectl) -> None:
    text = yaml.safe_dump(sized(0))
    await kubectl(cluster, "apply", "--server-side", "-f", "-", stdin=text)
    await kubectl(cluster, "scale", "deploy/web", "--replicas=1")
    error = await kubectl(cluster, "apply", "--server-side", "-f", "-", stdin=text, fails=True)
    assert ".spec.replicas" in error
    forced = ("apply", "--server-side", "--force-conflicts", "-f", "-")
    await kubectl(cluster, *forced, stdin=text)
    replicas = await kubectl(cluster, "get", "deploy/web", "-o=jsonpath={.spec.replicas}")
    assert replicas == "0"


async def test_watching_sees_rows_come(cluster: Cluster, kubectl: Kubectl, tmp_path: Path) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "seen", "namespace": "default", "labels": {"watched": "1"}},
    }
    await cluster.admin.create("configmaps", body)
    command = ("get", "configmaps", "-w", "-l", "watched", "--request-timeout=10s")
    watching = asyncio.create_task(kubectl(cluster, *command))
    for change in itertools.count():
        patch = {"data": {"changes": str(change)}}
        await cluster.admin.patch("configmaps", "seen", patch, namespace="default")
        if (await asyncio.wait([watching], timeout=0.1))[0]:
            break
    header, *rows = (await watching).splitlines()
    assert header.split() == ["NAME", "DATA", "AGE"]
    assert {row.split()[0] for row in rows} == {"seen"}
    assert len(rows) > 1, "the first is of the list that a watch begins with"


async def test_discovery_names_everything(cluster: Cluster, kubectl: Kubectl) -> None:
    listed = await kubectl(cluster, "api-resources", "-o", "name")
    assert {"pods", "deployments.apps", "leases.coordination.k8s.io"} <= set(listed.split())
    version = json.loads(await kubectl(cluster, "version", "-o", "json"))
    assert version["serverVersion"]["gitVersion"].startswith("v1.")
    error = await kubectl(cluster, "get", "flyingmachines", fails=True)
    assert 'the server doesn\'t have a resource type "flyingmachines"' in error


async def test_schemas_are_explained(cluster: Cluster, kubectl: Kubectl) -> None:
    """By OpenAPI v3, in which a real server shows a definition a moment after it serves it."""
    await install(cluster)
    async with asyncio.timeout(60):
        while not await shows(cluster, f"apis/{names.API_VERSION}"):
            await asyncio.sleep(0.1)
    shown = await kubectl(cluster, "explain", "sgc.spec.excludeCidrs")
    assert "FIELD: excludeCidrs <[]string>" in shown
    assert "DESCRIPTION:" in shown


async def shows(cluster: Cluster, path: str) -> bool:
    return path in str(await cluster.admin.call("GET", "/openapi/v3"))
