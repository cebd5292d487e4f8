"""A controller's stolen token: which Secrets it opens where keys have a namespace of their own, and
what of tenants' configurations it changes.

Without one it opens all of the release's namespace: Azure's file, the webhook's private key, and,
by Secrets that the server fills with tokens, every account there. The chart grants, a real API
server judges too.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway_lab.apiserver.wire.client import MERGE_PATCH
from lab.tests.apiserver.conftest import Cluster
from lab.tests.apiserver.test_admission import SYSTEM, account_token, forbidden
from lab.tests.apiserver.test_objects import add_node, node
from tests.attacks.tokens.test_gateway_token import SGCS, agent, controller, install, reads, tenant

KEYS = "kube-egress-gateway-keys"
CONTROLLER = "egress-gateway-controller"
THEIRS = ("egress-gateway-azure", "egress-gateway-webhook", "sgw-left-behind")


def secret(name: str, namespace: str, **more: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", **more}


@pytest.fixture
async def installed(cluster: Cluster, clients: Path) -> Cluster:
    await install(cluster, clients, f"keys.namespace={KEYS}")
    for name in THEIRS:
        await cluster.admin.create("secrets", secret(name, SYSTEM))
    await cluster.admin.create("secrets", secret("theirs", "default"))
    return cluster


ATTEMPTS = {
    "reads Azure's file": ("GET", f"{SYSTEM}/secrets/{THEIRS[0]}", None),
    "reads the webhook's key": ("GET", f"{SYSTEM}/secrets/{THEIRS[1]}", None),
    "reads what was copied": ("GET", f"{SYSTEM}/secrets/{THEIRS[2]}", None),
    "lists": ("GET", f"{SYSTEM}/secrets", None),
    "watches": ("GET", f"{SYSTEM}/secrets?watch=true", None),
    "removes": ("DELETE", f"{SYSTEM}/secrets/{THEIRS[1]}", None),
    "changes": ("PATCH", f"{SYSTEM}/secrets/{THEIRS[0]}", {"stringData": {"azure.json": "{}"}}),
    "has the server make an agent's token": (
        "POST",
        f"{SYSTEM}/secrets",
        secret("t", SYSTEM, type="kubernetes.io/service-account-token")
        | {
            "metadata": {
                "name": "t",
                "namespace": SYSTEM,
                "annotations": {"kubernetes.io/service-account.name": "egress-gateway-node"},
            }
        },
    ),
    "reads elsewhere": ("GET", "default/secrets/theirs", None),
    "opens Secrets by a Role of its own": (
        "POST",
        f"{KEYS}/roles",
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "mine", "namespace": KEYS},
            "rules": [],
        },
    ),
}


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS.keys())
async def test_the_controllers_token_opens_no_secret_but_keys(
    installed: Cluster, attempt: tuple[str, str, Any]
) -> None:
    method, path, body = attempt
    api = "/apis/rbac.authorization.k8s.io/v1" if "/roles" in path else "/api/v1"
    path, _, query = path.partition("?")
    content = MERGE_PATCH if method == "PATCH" else "application/json"
    async with installed.as_token(await account_token(installed, CONTROLLER, SYSTEM)) as client:
        answer = await client.transport.request(
            method,
            f"{api}/namespaces/{path}",
            body=body,
            content_type=content,
            query=dict([query.split("=")]) if query else {},
        )
    assert answer.status == 403, answer


EDITS: dict[str, dict[str, Any]] = {
    "sends what a tenant's pods say around its gateway": {"spec": {"excludeCidrs": ["0.0.0.0/0"]}},
    "takes a tenant's prefix away": {"spec": {"publicIpPrefixId": None}},
    "has it deleted for want of its owner": {
        "metadata": {
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "gone"}]
        }
    },
    "writes a label": {"metadata": {"labels": {"mine": "yes"}}},
    "writes an annotation": {"metadata": {"annotations": {"mine": "yes"}}},
    "takes another's finalizer": {"metadata": {"finalizers": None}},
    "has it stay": {"metadata": {"finalizers": ["example.com/theirs", "example.com/mine"]}},
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
async def test_the_controllers_token_changes_no_configuration_but_its_own_finalizer(
    installed: Cluster, edit: dict[str, Any]
) -> None:
    theirs = ["example.com/theirs"]
    prefix = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/publicIPPrefixes/p"
    body = {
        "apiVersion": names.API_VERSION,
        "kind": "StaticGatewayConfiguration",
        "metadata": {"name": "a", "namespace": "default", "finalizers": theirs},
        "spec": {"gatewayNodepoolName": "gw-a", "publicIpPrefixId": prefix},
    }
    made = await installed.admin.create(SGCS, body)
    async with installed.as_token(await account_token(installed, CONTROLLER, SYSTEM)) as client:
        written = client.patch(SGCS, "a", edit, namespace="default")
        await forbidden(written, "the controller changes nothing of a configuration")
        for ours in ([names.FINALIZER], []):
            own = {"metadata": {"finalizers": [*theirs, *ours]}}
            found = await client.patch(SGCS, "a", own, namespace="default")
            assert found["spec"] == made["spec"]
            status = {"status": {"egressIpPrefix": "203.0.113.0/31"}}
            await client.patch(SGCS, "a", status, namespace="default", subresource="status")


async def test_keys_are_made_and_granted_where_they_live(
    installed: Cluster, tmp_path: Path
) -> None:
    cluster = installed
    async with controller(cluster, tmp_path, keys_namespace=KEYS) as hands:
        own = await tenant(cluster, hands, "a", gatewayNodepoolName="gw-a")
        other = await tenant(cluster, hands, "b", gatewayNodepoolName="gw-b")
        await hands.keypairs.grant(hands.configurations().values())
    await cluster.settled()
    made = await cluster.admin.get("secrets", own, namespace=KEYS)
    assert len(base64.b64decode(base64.b64decode(made["data"]["PrivateKey"]))) == 32
    assert await cluster.admin.find("secrets", own, namespace=SYSTEM) is None
    await add_node(cluster, node("node-a"))
    async with agent(cluster, "gw-a", "node-a") as client:
        assert await reads(client, own, KEYS)
        assert not await reads(client, other, KEYS)
        for name in (own, *THEIRS):
            assert not await reads(client, name, SYSTEM)
