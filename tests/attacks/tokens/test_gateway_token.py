"""A compromised gateway node: what its agent's token reads of other pools' tenants.

Whoever has a configuration's private key poses as its gateway, and reads what its pods send. Here
the chart's grants are the ones of ``gateway.pools``, and the controller writes its Roles with its
own account's rights, on a real API server too.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import yaml

from egress_gateway.api import names
from egress_gateway.controller.observed import cluster as observed
from egress_gateway.kube import config
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import Forbidden
from egress_gateway.kube.events import Recorder
from egress_gateway_lab.apiserver.wire.client import KubeClient
from lab.tests.apiserver.conftest import Cluster
from lab.tests.apiserver.test_admission import SYSTEM, account_token, agent_token, forbidden
from lab.tests.apiserver.test_objects import add_node, node
from tests.deploy.conftest import CHART

POOLS = ("gw-a", "gw-b")
AGENT = "egress-gateway-gateway"
SGCS = "staticgatewayconfigurations"
_APPLIED = ("Namespace", "CustomResourceDefinition")
_LEFT_OUT = ("Deployment", "DaemonSet", "PodDisruptionBudget")


async def install(cluster: Cluster, clients: Path, *values: str) -> None:
    """The chart without its programs, with accounts for the pools."""
    command = [str(clients / "helm"), "template", "egress-gateway", str(CHART), "--no-hooks"]
    command += ["--namespace", SYSTEM, "--set", "namespace.create=true"]
    for value in (f"gateway.pools={{{','.join(POOLS)}}}", *values):
        command += ["--set", value]
    for kind in ("MutatingAdmissionPolicy", "ValidatingAdmissionPolicy"):
        command += ["--api-versions", f"admissionregistration.k8s.io/v1/{kind}"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    documents = [d for d in yaml.safe_load_all(text) if d and d["kind"] not in _LEFT_OUT]
    for document in sorted(documents, key=lambda d: d["kind"] not in _APPLIED):
        await cluster.admin.apply(document)
    kinds = (SGCS, "podendpoints", "gatewaystatuses")
    await cluster.served(*(f"{kind}.{names.GROUP}" for kind in kinds))
    await cluster.settled()


@contextlib.asynccontextmanager
async def controller(
    cluster: Cluster, folder: Path, pools: Sequence[str] = POOLS, *, keys_namespace: str = ""
) -> AsyncIterator[observed.Cluster]:
    """The controller's hands, with its account's token."""
    token = await account_token(cluster, "egress-gateway-controller", SYSTEM)
    document = yaml.safe_load(cluster.kubeconfig)
    document["users"][0]["user"] = {"token": token}
    path = folder / "controller"
    path.write_text(yaml.safe_dump(document))
    async with Client(config.load(str(path)), names.FIELD_MANAGER_CONTROLLER) as client:
        hands = observed.Cluster(
            client,
            Recorder(client, "test"),
            system_namespace=SYSTEM,
            agent_pools=pools,
            keys_namespace=keys_namespace,
        )
        watching = [asyncio.create_task(cache.run()) for cache in hands.caches]
        try:
            await hands.synced()
            yield hands
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)


@contextlib.asynccontextmanager
async def agent(cluster: Cluster, pool: str, on: str) -> AsyncIterator[KubeClient]:
    token = await agent_token(cluster, f"{AGENT}-{pool}" if pool else AGENT, on)
    async with cluster.as_token(token) as client:
        yield client


async def tenant(cluster: Cluster, hands: observed.Cluster, name: str, **spec: object) -> str:
    """A tenant's configuration with its key; the Secret's name."""
    body = {
        "apiVersion": names.API_VERSION,
        "kind": "StaticGatewayConfiguration",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }
    uid: str = (await cluster.admin.create(SGCS, body))["metadata"]["uid"]
    await seen(hands, uid)
    await hands.keypairs.ensure(hands.configurations()[uid])
    return names.key_secret(uid)


async def seen(hands: observed.Cluster, uid: str, pool: str | None = None) -> None:
    """Returns when the controller has heard of the configuration, in this pool."""
    async with asyncio.timeout(180):
        while True:
            sgc = hands.configurations().get(uid)
            if sgc and pool in (None, sgc.spec.gateway_nodepool_name):
                return
            await asyncio.sleep(0.02)


async def reads(client: KubeClient, name: str, namespace: str = SYSTEM) -> bool:
    path = f"/api/v1/namespaces/{namespace}/secrets/{name}"
    answer = await client.transport.request("GET", path)
    assert answer.status in (200, 403), answer
    return answer.status == 200


async def test_a_pools_agents_read_the_keys_of_that_pool_alone(
    cluster: Cluster, clients: Path, tmp_path: Path
) -> None:
    await install(cluster, clients)
    profile = {"vmssName": "gw-b", "vmssResourceGroup": "rg", "publicIpPrefixSize": 31}
    async with controller(cluster, tmp_path) as hands:
        keys = {
            "gw-a": await tenant(cluster, hands, "a", gatewayNodepoolName="gw-a"),
            "gw-b": await tenant(cluster, hands, "b", gatewayVmssProfile=profile),
            "": await tenant(cluster, hands, "c", gatewayNodepoolName="another"),
        }
        await hands.keypairs.grant(hands.configurations().values())
    await cluster.settled()
    for name in ("node-a", "node-b", "node-c"):
        await add_node(cluster, node(name))
    for pool, on in (("gw-a", "node-a"), ("gw-b", "node-b"), ("", "node-c")):
        async with agent(cluster, pool, on) as client:
            found = {other for other, secret in keys.items() if await reads(client, secret)}
            assert found == {pool}
            listing = f"/api/v1/namespaces/{SYSTEM}/secrets"
            assert (await client.transport.request("GET", listing)).status == 403
            assert not await reads(client, "egress-gateway-azure")


async def test_a_configuration_that_changes_its_pool_is_read_by_the_new_ones_agents_alone(
    cluster: Cluster, clients: Path, tmp_path: Path
) -> None:
    await install(cluster, clients)
    async with controller(cluster, tmp_path) as hands:
        secret = await tenant(cluster, hands, "a", gatewayNodepoolName="gw-a")
        await hands.keypairs.grant(hands.configurations().values())
        moved = {"spec": {"gatewayNodepoolName": "gw-b"}}
        await cluster.admin.patch(SGCS, "a", moved, namespace="default")
        await seen(hands, secret.removeprefix(names.key_secret("")), "gw-b")
        await hands.keypairs.grant(hands.configurations().values())
    await cluster.settled()
    for name in ("node-a", "node-b"):
        await add_node(cluster, node(name))
    async with agent(cluster, "gw-a", "node-a") as a, agent(cluster, "gw-b", "node-b") as b:
        assert not await reads(a, secret)
        assert await reads(b, secret)


async def test_the_controller_grants_to_no_pool_that_is_not_named(
    cluster: Cluster, clients: Path, tmp_path: Path
) -> None:
    await install(cluster, clients)
    async with controller(cluster, tmp_path, ["kube-system"]) as hands:
        with pytest.raises(Forbidden):
            await hands.keypairs.grant(hands.configurations().values())


async def test_an_agent_of_a_pool_is_held_as_every_gateways_is(
    cluster: Cluster, clients: Path
) -> None:
    await install(cluster, clients)
    for name in ("node-a", "node-b"):
        await add_node(cluster, node(name))
    async with agent(cluster, "gw-a", "node-a") as client:
        report = {"apiVersion": names.API_VERSION, "kind": "GatewayStatus"}
        own, other = (
            {**report, "metadata": {"name": name, "namespace": SYSTEM}}
            for name in ("node-a", "node-b")
        )
        await client.apply(own, resource="gatewaystatuses")
        await forbidden(client.apply(other, resource="gatewaystatuses"), "its own node alone")
        label = {"metadata": {"labels": {names.GATEWAY_NODE_LABEL: "true"}}}
        answer = await client.transport.request(
            "PATCH", "/api/v1/nodes/node-a", body=label, content_type="application/merge-patch+json"
        )
        assert answer.status == 403
        event = {
            "metadata": {"name": "e", "namespace": "default"},
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
            "reason": "Forged",
            "reportingComponent": "kubelet",
            "reportingInstance": "node-b",
        }
        await forbidden(client.create("events", event), "reportingComponent")


async def test_a_node_does_not_move_to_another_pool(cluster: Cluster, clients: Path) -> None:
    """Its kubelet would be sent that pool's agent, and its token with it."""
    await install(cluster, clients)
    label = "kubernetes.azure.com/agentpool"
    await add_node(cluster, node("node-a", **{label: "gw-a"}))
    async with cluster.as_node("node-a") as kubelet:
        for value in ("gw-b", None, ""):
            change = {"metadata": {"labels": {label: value}}}
            await forbidden(kubelet.patch("nodes", "node-a", change), "its own labels")
