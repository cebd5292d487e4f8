"""The controller process as shipped: its own identity, its RBAC, real SDKs, both APIs emulated."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml

from egress_gateway.api import names
from egress_gateway.api.manifests import crd_files, deploy_dir
from egress_gateway.controller.main import run
from egress_gateway.controller.settings import Settings
from egress_gateway.kube.leader.lease import LeadershipLost
from egress_gateway_lab import pki
from egress_gateway_lab.apiserver.server import ApiServer
from egress_gateway_lab.apiserver.wire.client import KubeClient
from egress_gateway_lab.azure.emulator import COMPUTE_SHARE
from egress_gateway_lab.protocols import MachineSpec
from tests.contract.controller.azure_lab import AzureLab, add_node, azure_lab, report_ready

log = logging.getLogger(__name__)

SGCS = "staticgatewayconfigurations"
SYSTEM = names.SYSTEM_NAMESPACE


@dataclass
class World:
    azure: AzureLab
    kube: KubeClient

    async def write(self, name: str, **spec: Any) -> None:
        document = {
            "apiVersion": names.API_VERSION,
            "kind": "StaticGatewayConfiguration",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"gatewayNodepoolName": "npegress"} | spec,
        }
        await self.kube.apply(document, resource=SGCS)

    async def until(
        self, name: str, accept: Callable[[dict[str, Any]], bool], timeout: float = 180
    ) -> dict[str, Any]:
        def good(found: Any) -> bool:
            return found is not None and accept(found)

        try:
            found = await self.kube.wait_for(SGCS, name, good, namespace="default", timeout=timeout)
        except TimeoutError as error:
            for each in await self.kube.list(SGCS, namespace="default"):
                error.add_note(f"{each['metadata']['name']}: {each.get('status')}")
            raise
        assert found is not None
        return found

    async def until_gone(self, name: str) -> None:
        await self.kube.wait_for(
            SGCS, name, lambda found: found is None, namespace="default", timeout=180
        )

    async def add_gateway_nodes(self) -> None:
        """Nodes as the pool's machines would register them."""
        for machine in self.azure.machines.machines.values():
            if machine.pool == "npegress":
                await self.add_node(machine)

    async def add_node(self, machine: MachineSpec) -> None:
        await add_node(self.kube, machine)

    async def event(self, reason: str) -> None:
        """Waits for a Warning of that reason in ``default``."""
        async with asyncio.timeout(60):
            while not any(
                e["reason"] == reason and e["type"] == "Warning"
                for e in await self.kube.list("events", namespace="default")
            ):
                await asyncio.sleep(0.05)

    async def agents_are_ready(self, sgc: dict[str, Any]) -> None:
        """What gateway agents report for the nodes that the status lists."""
        await report_ready(self.kube, sgc)


def condition(sgc: dict[str, Any], kind: str) -> dict[str, Any]:
    listed = sgc.get("status", {}).get("conditions", [])
    return next((c for c in listed if c["type"] == kind), {})


def reason(sgc: dict[str, Any], kind: str = "Ready") -> str:
    return str(condition(sgc, kind).get("reason", ""))


@contextlib.asynccontextmanager
async def api_server(directory: Path) -> AsyncIterator[tuple[ApiServer, KubeClient, Path]]:
    """An embedded API server with our manifests; a kubeconfig of the controller's account."""
    identity = pki.issue(addresses=["127.0.0.1"], names=["localhost"])
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"https://127.0.0.1:{listening.getsockname()[1]}"
    server = ApiServer(
        sockets=[listening],
        tls=identity.context(directory),
        ca_pem=identity.ca.decode(),
        services=IPv4Network("10.0.0.0/16"),
    )
    await server.start()
    try:
        kube = KubeClient(server.transport())
        for file in [
            *crd_files(),
            deploy_dir() / "manifests/namespace.yaml",
            deploy_dir() / "manifests/rbac.yaml",
        ]:
            for document in yaml.safe_load_all(file.read_text()):
                await kube.apply(document)
        token = await kube.create(
            "serviceaccounts",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
            namespace=SYSTEM,
            name="egress-gateway-controller",
            sub="token",
        )
        kubeconfig = yaml.safe_load(server.kubeconfig(url))
        kubeconfig["users"][0]["user"] = {"token": token["status"]["token"]}
        path = directory / "kubeconfig"
        path.write_text(yaml.safe_dump(kubeconfig))
        yield server, kube, path
    finally:
        await server.stop()


async def _started_again(settings: Settings) -> None:
    """As a Deployment keeps it: on a machine that is busy enough, a leader loses its Lease."""
    while True:
        try:
            return await run(settings)
        except LeadershipLost:
            log.warning("the controller starts again", exc_info=True)


@contextlib.asynccontextmanager
async def controller(
    directory: Path, kubeconfig: Path, **changes: Any
) -> AsyncIterator[asyncio.Task[None]]:
    given: dict[str, Any] = {"retry_limit": 2.0} | changes
    settings = Settings(
        azure_config=str(directory / "azure.json"),
        kubeconfig=str(kubeconfig),
        identity="test",
        health_address="127.0.0.1",
        health_port=0,
        **given,
    )
    task = asyncio.create_task(_started_again(settings))
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def running(
    directory: Path, *, share: float | None = COMPUTE_SHARE, **changes: Any
) -> AsyncIterator[World]:
    """A controller between the emulated Azure, with a gateway pool, and an API server. ``share``:
    what others leave of Compute's token buckets (None: nobody counts)."""
    async with (
        azure_lab(directory, compute_share=share) as azure,
        api_server(directory) as (_, kube, path),
    ):
        (directory / "azure.json").write_text(json.dumps(azure.config))
        await azure.add_pool("npegress")
        made = World(azure, kube)
        await made.add_gateway_nodes()
        async with controller(directory, path, **changes):
            yield made


async def test_the_walk_through_from_refusal_to_ready_to_nothing_left(world: World) -> None:
    before = await world.azure.resources()
    prefix = await world.azure.add_prefix("pip-prefix-egress")
    await world.write("my-static-egress-gateway", publicIpPrefixId=prefix)
    sgc = await world.until(
        "my-static-egress-gateway", lambda s: reason(s) == "AuthorizationFailed"
    )
    assert "az role assignment create" in condition(sgc, "Ready")["message"]
    await world.azure.grant(prefix)
    sgc = await world.until(
        "my-static-egress-gateway",
        lambda s: condition(s, "Provisioned").get("status") == "True",
    )
    status = sgc["status"]
    assert status["egressIpPrefix"].endswith("/30")
    assert status["gatewayServerProfile"]["port"] == 6000
    assert len(status["gateways"]) == 2
    assert reason(sgc) == "NoGatewayReady"
    await world.agents_are_ready(sgc)
    await world.until("my-static-egress-gateway", lambda s: reason(s) == "Ready")

    uid = sgc["metadata"]["uid"]
    secret = await world.kube.get("secrets", f"sgw-{uid}", namespace=SYSTEM)
    private = base64.b64decode(secret["data"]["PrivateKey"]).decode()
    assert len(base64.b64decode(private)) == 32
    role = await world.kube.get("roles", "egress-gateway-keys", namespace=SYSTEM)
    assert role["rules"][0]["resourceNames"] == [f"sgw-{uid}"]

    await world.kube.delete(SGCS, "my-static-egress-gateway", namespace="default")
    await world.until_gone("my-static-egress-gateway")
    assert await world.azure.resources() == before
    assert await world.kube.find("secrets", f"sgw-{uid}", namespace=SYSTEM) is None


async def test_events_tell_the_refusal_and_the_good_news(world: World) -> None:
    await world.write("typo", gatewayNodepoolName="nowhere")
    await world.until("typo", lambda s: reason(s) == "GatewayPoolNotFound")
    await world.write("good")
    await world.until("good", lambda s: condition(s, "Provisioned").get("status") == "True")
    async with asyncio.timeout(60):
        while True:
            events = await world.kube.list("events", namespace="default")
            told = {(e["involvedObject"]["name"], e["type"], e["reason"]) for e in events}
            if {
                ("typo", "Warning", "GatewayPoolNotFound"),
                ("good", "Normal", "Provisioned"),
            } <= told:
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("status", "code", "told", "mend"),
    [
        (409, "ScopeLocked", "AzureError", "az lock delete"),
        (403, "RequestDisallowedByPolicy", "AzureError", "exempt"),
        (400, "PublicIPPrefixCountLimitReached", "QuotaExceeded", "raise the quota"),
    ],
)
async def test_what_azure_refuses_is_told_with_what_mends_it(
    world: World, status: int, code: str, told: str, mend: str
) -> None:
    fault = {"status": status, "code": code, "times": None}
    faults = world.azure.emulator.faults
    faults.add("error", method="PUT", path="publicIPPrefixes", **fault)
    await world.write("refused")
    found = await world.until("refused", lambda s: reason(s, "Provisioned") == told)
    message = condition(found, "Provisioned")["message"]
    assert code in message
    assert mend in message
    async with asyncio.timeout(60):
        while not any(
            e["reason"] == told and mend in e["message"]
            for e in await world.kube.list("events", namespace="default")
        ):
            await asyncio.sleep(0.05)
    faults.clear()
    await world.until("refused", lambda s: condition(s, "Provisioned").get("status") == "True")


@pytest.mark.parametrize("spoilt", [None, {"PublicKey": "", "PrivateKey": ""}])
async def test_a_lost_key_pair_is_made_again_and_told_long_before_the_next_look(
    tmp_path: Path, spoilt: dict[str, str] | None
) -> None:
    async with running(tmp_path, drift_interval=3600.0) as world:
        await world.write("a")
        sgc = await world.until("a", lambda s: condition(s, "Provisioned").get("status") == "True")
        before = sgc["status"]["gatewayServerProfile"]["publicKey"]
        secret = f"sgw-{sgc['metadata']['uid']}"
        if spoilt is None:
            await world.kube.delete("secrets", secret, namespace=SYSTEM)
        else:
            await world.kube.patch("secrets", secret, {"data": spoilt}, namespace=SYSTEM)
        # Always listed: without one, agents would take the configuration for unserved.
        await world.until("a", lambda s: s["status"]["gatewayServerProfile"]["publicKey"] != before)
        await world.event("KeyPairReplaced")


async def test_what_somebody_breaks_in_azure_is_mended(world: World) -> None:
    await world.write("a")
    sgc = await world.until("a", lambda s: condition(s, "Provisioned").get("status") == "True")
    balancer = (
        f"{world.azure.cluster['id'].split('/resourceGroups/')[0]}/resourceGroups/"
        f"{world.azure.node_group}/providers/Microsoft.Network"
        f"/loadBalancers/{names.LOAD_BALANCER}"
    )
    document = await world.azure.person.get(balancer, "2024-05-01")
    document["properties"]["loadBalancingRules"] = []
    await world.azure.person.put(balancer, document, "2024-05-01")
    # Any change of the pool's configurations has it looked at again; so does time.
    await world.write("b")
    await world.until("b", lambda s: condition(s, "Provisioned").get("status") == "True")
    document = await world.azure.person.get(balancer, "2024-05-01")
    rules = {rule["name"] for rule in document["properties"]["loadBalancingRules"]}
    assert sgc["metadata"]["uid"] in rules
