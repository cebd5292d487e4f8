"""Whoever gets hold of ``helm test``'s token, while a test runs: what can be made of its right to
create pods in every namespace. On a real API server too."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from egress_gateway.api import names
from egress_gateway.cli.proof.plan import Case, pod
from egress_gateway.webhook.review import wait_container
from egress_gateway_lab.apiserver.wire.client import KubeClient, KubeError
from lab.tests.apiserver.conftest import Cluster
from lab.tests.apiserver.test_admission import SYSTEM, account_token
from tests.deploy.conftest import CHART
from tests.faults.table import healthy

Object = dict[str, Any]
IMAGE = "registry.example.com/seg:1"
(_SGC,) = healthy().configurations


async def installed(cluster: Cluster, clients: Path, *values: str) -> str:
    """What the chart's test brings, but its pod; the account's token."""
    command = [str(clients / "helm"), "template", "egress-gateway", str(CHART)]
    command += ["--namespace", SYSTEM, "--show-only", "templates/hooks/test.yaml"]
    command += ["--set", "image.repository=registry.example.com/seg", "--set-string", "image.tag=1"]
    command += ["--api-versions", "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"]
    command += [word for value in values for word in ("--set", value)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    await cluster.admin.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}
    )
    for document in yaml.safe_load_all(text):
        if document["kind"] != "Pod":
            await cluster.admin.apply(document)
    await cluster.settled()
    return await account_token(cluster, "egress-gateway-test", SYSTEM)


def probing() -> Object:
    """The pod that ``egress-gateway test`` makes."""
    sgc = msgspec.structs.replace(
        _SGC, metadata=msgspec.structs.replace(_SGC.metadata, namespace="default")
    )
    case = Case(configuration=sgc, node="node-a", pod="egress-gateway-test-abc-0")
    return pod(case, IMAGE, "abc", ["stun.example.com:3478"], every=0)


def _main(made: Object) -> Object:
    container: Object = made["spec"]["containers"][0]
    return container


EDITS: dict[str, Callable[[Object], object]] = {
    "another image": lambda p: _main(p).update(image="registry.example.com/other:1"),
    "another command": lambda p: _main(p).update(command=["sh", "-c", "id"]),
    "another subcommand": lambda p: _main(p).update(command=["egress-gateway", "node"]),
    "no command": lambda p: _main(p).pop("command"),
    "arguments": lambda p: _main(p).update(args=["--help"]),
    "a secret as environment": lambda p: _main(p).update(
        env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]
    ),
    "a whole secret as environment": lambda p: _main(p).update(
        envFrom=[{"secretRef": {"name": "s"}}]
    ),
    "a hook": lambda p: _main(p).update(
        lifecycle={"postStart": {"exec": {"command": ["sh", "-c", "id"]}}}
    ),
    "a probe": lambda p: _main(p).update(livenessProbe={"exec": {"command": ["id"]}}),
    "a second container": lambda p: p["spec"]["containers"].append(
        {**_main(p), "name": "second", "image": "other"}
    ),
    "an init container": lambda p: p["spec"].update(
        initContainers=[{**_main(p), "name": "first", "image": "other"}]
    ),
    "a volume": lambda p: p["spec"].update(volumes=[{"name": "s", "secret": {"secretName": "s"}}]),
    "a folder of the node": lambda p: p["spec"].update(
        volumes=[{"name": "h", "hostPath": {"path": "/"}}]
    ),
    "a token": lambda p: p["spec"].update(automountServiceAccountToken=True),
    "another account": lambda p: p["spec"].update(serviceAccountName="admin"),
    "the node's network": lambda p: p["spec"].update(hostNetwork=True),
    "the node's processes": lambda p: p["spec"].update(hostPID=True),
    "the node's IPC": lambda p: p["spec"].update(hostIPC=True),
    "privileges": lambda p: _main(p).update(securityContext={"privileged": True}),
    "a capability": lambda p: _main(p)["securityContext"].update(
        capabilities={"add": ["NET_ADMIN"]}
    ),
    "root": lambda p: p["spec"]["securityContext"].pop("runAsNonRoot"),
    "root of the container": lambda p: _main(p)["securityContext"].update(
        runAsNonRoot=False, runAsUser=0
    ),
    "a port of the node": lambda p: _main(p).update(ports=[{"containerPort": 80, "hostPort": 80}]),
    "others' places": lambda p: p["spec"].update(priorityClassName="system-node-critical"),
    "no end": lambda p: p["spec"].pop("activeDeadlineSeconds"),
    "another name": lambda p: p["metadata"].update(name="web-0"),
    "no label": lambda p: p["metadata"].pop("labels"),
}


async def refused(client: KubeClient, made: Object) -> str:
    with pytest.raises(KubeError) as refusal:
        await client.create("pods", made)
    assert refusal.value.code == 403, refusal.value
    return str(refusal.value)


async def test_the_account_of_helm_test_makes_its_own_pods_and_no_others(
    cluster: Cluster, clients: Path
) -> None:
    token = await installed(cluster, clients)
    victim = {**probing(), "metadata": {"name": "victim", "namespace": "default"}}
    _main(victim).update(command=["sh"])
    await cluster.admin.apply(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "admin", "namespace": "default"},
        }
    )
    await cluster.admin.create("pods", victim)
    async with cluster.as_token(token) as client:
        for what, edit in EDITS.items():
            made = probing()
            edit(made)
            said = await refused(client, made)
            print(f"{what}: {said}")
            assert "test" in said, what
        with pytest.raises(KubeError):
            await client.delete("pods", "victim", namespace="default")
        name = probing()["metadata"]["name"]
        await client.create("pods", probing())
        await client.delete("pods", name, namespace="default", grace_seconds=0)
        for path in (
            "/api/v1/namespaces/default/pods/victim/log",
            "/api/v1/secrets",
            f"/api/v1/namespaces/{SYSTEM}/secrets",
            "/api/v1/configmaps",
            f"/apis/{names.GROUP}/v1alpha1/namespaces/default/other",
        ):
            answer = await client.transport.request("GET", path)
            assert answer.status in (403, 404), path


WAITS: dict[str, dict[str, Any]] = {
    "another image": {"image": "registry.example.com/other:1"},
    "another command": {"command": ["sh", "-c", "id"]},
    "another name": {"name": "first"},
    "arguments": {"args": ["--help"]},
    "a secret": {"envFrom": [{"secretRef": {"name": "s"}}]},
    "privileges": {"securityContext": {"privileged": True}},
    "root": {"securityContext": {"allowPrivilegeEscalation": False, "runAsNonRoot": False}},
}


async def test_its_pods_may_wait_for_their_tunnel_where_all_do(
    cluster: Cluster, clients: Path
) -> None:
    token = await installed(cluster, clients, "admission.waitForTunnel=true")
    async with cluster.as_token(token) as client:
        for what, edit in WAITS.items():
            made = probing()
            made["spec"]["initContainers"] = [wait_container(IMAGE) | edit]
            assert "test" in await refused(client, made), what
        for what, change in EDITS.items():
            made = probing()
            change(made)
            assert "test" in await refused(client, made), what
        made = probing()
        made["spec"]["initContainers"] = [wait_container(IMAGE)]
        await client.create("pods", made)
