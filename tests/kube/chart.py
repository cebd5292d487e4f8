"""The chart on a real API server: what helm renders, applied document by document."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from egress_gateway.api import names
from egress_gateway_lab.apiserver.wire.client import KubeClient
from egress_gateway_lab.realcluster.control_plane import ControlPlane
from lab.tests.apiserver.conftest import Cluster, real
from lab.tests.apiserver.test_objects import add_node, node, pod
from tests.deploy.conftest import CHART

SYSTEM = names.SYSTEM_NAMESPACE
PROGRAMS = ("Deployment", "DaemonSet", "Job", "PodDisruptionBudget")
Object = dict[str, Any]


def rendered(clients: Path, *values: str) -> list[Object]:
    """The documents of the chart as helm would send them to this server."""
    command = [str(clients / "helm"), "template", "egress-gateway", str(CHART)]
    command += ["--namespace", SYSTEM, "--no-hooks", "--set", "namespace.create=true"]
    for value in values:
        command += ["--set", value]
    for kind in ("MutatingAdmissionPolicy", "ValidatingAdmissionPolicy"):
        command += ["--api-versions", f"admissionregistration.k8s.io/v1/{kind}"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [document for document in yaml.safe_load_all(text) if document]


def in_order(documents: list[Object]) -> list[Object]:
    """Namespaces and definitions before what is of them."""
    first = ("Namespace", "CustomResourceDefinition")
    return sorted(documents, key=lambda d: (*(d["kind"] != kind for kind in first),))


@asynccontextmanager
async def installed(plane: ControlPlane, clients: Path, *values: str) -> AsyncIterator[Cluster]:
    """A fresh server with everything of the chart but its programs, and nodes a and b."""
    async with real(plane) as cluster:
        for document in in_order(rendered(clients, *values)):
            if document["kind"] not in PROGRAMS:
                await cluster.admin.apply(document)
        kinds = ("staticgatewayconfigurations", "podendpoints", "gatewaystatuses")
        await cluster.served(*(f"{kind}.{names.GROUP}" for kind in kinds))
        await cluster.settled()
        for name in ("node-a", "node-b"):
            await add_node(cluster, node(name))
        yield cluster


@asynccontextmanager
async def component(
    cluster: Cluster, account: str, on: str = "node-a"
) -> AsyncIterator[KubeClient]:
    """The API as a component's pod on node ``on`` reaches it: with a token bound to that pod."""
    body = pod(f"{account}-{on}", serviceAccountName=account, nodeName=on)
    body["metadata"]["namespace"] = SYSTEM
    made = await cluster.admin.create("pods", body)
    meta = made["metadata"]
    bound = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
    request = {"spec": {"boundObjectRef": bound, "expirationSeconds": 3600}}
    token = await cluster.admin.create(
        "serviceaccounts", request, namespace=SYSTEM, name=account, sub="token"
    )
    async with cluster.as_token(token["status"]["token"]) as client:
        yield client
