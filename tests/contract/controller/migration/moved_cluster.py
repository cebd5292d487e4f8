"""A cluster that the Go project has managed, as recorded, with our controller started on it.

Azure's and Kubernetes' side come from the same recording (``../azure/golden``). UIDs are the
recorded ones, because Azure's names carry them; key pairs are made here, the recording has none.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from egress_gateway.api import keys, names
from egress_gateway.cloud.azure.account.config import AzureConfig, parse
from egress_gateway_lab import pki
from egress_gateway_lab.apiserver.server import ApiServer
from egress_gateway_lab.apiserver.wire.client import KubeClient
from egress_gateway_lab.azure import snapshot
from egress_gateway_lab.azure.emulator import Emulator
from tests.contract.controller.azure_lab import NoMachines, azure_json
from tests.contract.controller.test_controller import api_server

GOLDEN = Path(__file__).parents[4] / "lab/tests/azure/golden/end-state.json"
SYSTEM = names.SYSTEM_NAMESPACE
SGCS = "staticgatewayconfigurations"
OLD = {
    "GatewayLBConfiguration": f"gatewaylbconfigurations.{names.API_VERSION}",
    "GatewayVMConfiguration": f"gatewayvmconfigurations.{names.API_VERSION}",
}
READING = ("GET", "HEAD")


def recording() -> dict[str, list[dict[str, Any]]]:
    """``arm`` and ``kubernetes``: the recorded documents, key pairs filled in."""
    found: dict[str, list[dict[str, Any]]] = json.loads(GOLDEN.read_text())
    pairs = {}
    for document in found["kubernetes"]:
        if document["kind"] == "Secret":
            pair = keys.generate()
            pairs[document["metadata"]["name"]] = pair
            document["data"] = {
                "PrivateKey": base64.b64encode(pair.private.encode()).decode(),
                "PublicKey": base64.b64encode(pair.public.encode()).decode(),
            }
    for document in found["kubernetes"]:
        if document["kind"] == "StaticGatewayConfiguration":
            profile = document["status"]["gatewayServerProfile"]
            profile["publicKey"] = pairs[profile["privateKeySecretRef"]["name"]].public
    return found


def old_definition(kind: str) -> dict[str, Any]:
    """The least definition of one of the Go project's own kinds."""
    plural = OLD[kind].partition(".")[0]
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "names": {"plural": plural, "kind": kind, "singular": kind.lower()},
            "scope": "Namespaced",
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": anything},
                }
            ],
        },
    }


@dataclass
class Moved:
    """What a test sees of it."""

    emulator: Emulator
    server: ApiServer
    kube: KubeClient
    kubeconfig: Path
    azure_json: Path
    config: AzureConfig
    recorded: dict[str, list[dict[str, Any]]]
    before: dict[str, Any] = field(default_factory=dict)

    def configurations(self) -> list[dict[str, Any]]:
        return [d for d in self.recorded["kubernetes"] if d["kind"] == "StaticGatewayConfiguration"]

    def recorded_of(self, kind: str, name: str) -> dict[str, Any]:
        return next(
            d
            for d in self.recorded["kubernetes"]
            if d["kind"] == kind and d["metadata"]["name"] == name
        )

    def azure(self) -> dict[str, Any]:
        """All resources by id, but for what only numbers versions, and who may do what."""
        found = {}
        for document in snapshot.dump(self.emulator.azure):
            document.pop("etag", None)
            if "/microsoft.authorization/" not in document["id"].lower():
                found[document["id"].lower()] = document
        return found

    def writes(self) -> list[str]:
        """Requests that could have changed something in Azure."""
        return [
            f"{seen.method} {seen.path}"
            for seen in self.emulator.requests
            if seen.method not in READING and "/oauth2/" not in seen.path
        ]

    async def old_objects(self) -> list[str]:
        listed = []
        for kind, resource in OLD.items():
            listed += [f"{kind}/{o['metadata']['name']}" for o in await self.kube.list(resource)]
        return listed

    def seed(self, document: dict[str, Any]) -> None:
        """Stores an object as it is, UID included; no client could."""
        plurals = {
            "StaticGatewayConfiguration": SGCS,
            "GatewayLBConfiguration": "gatewaylbconfigurations",
            "GatewayVMConfiguration": "gatewayvmconfigurations",
        }
        plural = plurals.get(document["kind"])
        storage = f"{plural}.{names.GROUP}" if plural else "secrets"
        meta = document["metadata"]
        key = (meta["namespace"], meta["name"])
        self.server.api.store.create(storage, key, copy.deepcopy(document))


@contextlib.asynccontextmanager
async def moved_cluster(
    directory: Path, *, definitions: bool = True, **options: Any
) -> AsyncIterator[Moved]:
    """Both APIs with the recorded end state; no controller runs yet. ``definitions`` False: the
    Go project's own kinds are gone, with their objects."""
    identity = pki.issue(addresses=["127.0.0.1"], names=["localhost"])
    (directory / "ca.crt").write_bytes(identity.ca)
    listening = socket.create_server(("127.0.0.1", 0))
    base = f"https://127.0.0.1:{listening.getsockname()[1]}"
    emulator = Emulator(backend=NoMachines(), **({"operation_seconds": 0.02} | options))
    recorded = recording()
    snapshot.load(emulator.azure, recorded["arm"])
    context: ssl.SSLContext = identity.context(directory)
    await emulator.serve([listening], context)
    content = azure_json(base, "MC_rg_aks_swedencentral", directory / "ca.crt") | {
        "aadClientId": "controller",
        "aadClientSecret": "any",
    }
    path = directory / "azure.json"
    path.write_text(json.dumps(content))
    try:
        async with api_server(directory) as (server, kube, kubeconfig):
            moved = Moved(emulator, server, kube, kubeconfig, path, parse(content), recorded)
            if definitions:
                for kind in OLD:
                    await kube.apply(old_definition(kind))
            for document in recorded["kubernetes"]:
                if definitions or document["kind"] not in OLD:
                    moved.seed(document)
            await _add_nodes(moved)
            moved.before = moved.azure()
            yield moved
    finally:
        await emulator.close()


async def _add_nodes(moved: Moved) -> None:
    """The gateway machines as they would have registered."""
    for document in moved.recorded["arm"]:
        if not document.get("type", "").lower().endswith("virtualmachines"):
            continue
        profile = document["properties"].get("osProfile") or {"computerName": document["name"]}
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": profile["computerName"],
                "labels": {names.GATEWAY_NODE_LABEL: "true"},
            },
            "spec": {"providerID": "azure://" + document["id"]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }
        await moved.kube.create("nodes", node)
