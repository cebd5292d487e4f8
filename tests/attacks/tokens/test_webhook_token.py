"""Whoever gets hold of the webhook's token: it may rewrite the webhook, which the API server asks
before it writes. On a real API server, since the embedded one knows no webhooks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from egress_gateway.webhook import registration
from egress_gateway.webhook.keeper import REGISTRATIONS
from egress_gateway_lab.apiserver.wire.client import KubeError
from egress_gateway_lab.realcluster.control_plane import ControlPlane
from tests.kube.chart import SYSTEM, component, installed

Object = dict[str, Any]
NAME = "egress-gateway-pods"
OUTSIDE = "https://webhook.example.com"


pytestmark = pytest.mark.kube


def its_own() -> Object:
    """What the webhook applies."""
    where = registration.client(
        service="egress-gateway-webhook", namespace=SYSTEM, url="", trust=b"its own"
    )
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": REGISTRATIONS.kind,
        "metadata": {"name": NAME},
        "webhooks": registration.webhooks(where, system=SYSTEM, defaulted=["team-a"]),
    }


def _rule(made: Object) -> Object:
    rule: Object = made["webhooks"][1]["rules"][0]
    return rule


EDITS: dict[str, Callable[[Object], object]] = {
    "a server outside": lambda m: m["webhooks"][0].update(clientConfig={"url": OUTSIDE + "/x"}),
    "another service": lambda m: m["webhooks"][1]["clientConfig"]["service"].update(name="mine"),
    "another namespace": lambda m: m["webhooks"][0]["clientConfig"]["service"].update(
        namespace="default"
    ),
    "a third webhook": lambda m: m["webhooks"].append(
        m["webhooks"][0] | {"name": "third.example.com", "clientConfig": {"url": OUTSIDE}}
    ),
    "secrets": lambda m: _rule(m).update(resources=["secrets"]),
    "pods and secrets": lambda m: _rule(m).update(resources=["pods", "secrets"]),
    "everything": lambda m: _rule(m).update(
        apiGroups=["*"], resources=["*/*"], operations=["*"], scope="*"
    ),
    "rights": lambda m: _rule(m).update(
        apiGroups=["rbac.authorization.k8s.io"], resources=["clusterrolebindings"], scope="*"
    ),
    "tokens of pods' accounts": lambda m: _rule(m).update(resources=["serviceaccounts/token"]),
    "pods that run": lambda m: _rule(m).update(operations=["CREATE", "UPDATE"]),
    "containers of pods that run": lambda m: _rule(m).update(
        resources=["pods/ephemeralcontainers"]
    ),
    "all of pods": lambda m: _rule(m).update(resources=["pods/*"]),
    "pods of another group": lambda m: _rule(m).update(apiGroups=["", "metrics.k8s.io"]),
    "a second rule": lambda m: m["webhooks"][0]["rules"].append(
        _rule(m) | {"resources": ["configmaps"]}
    ),
    "a finalizer": lambda m: m["metadata"].update(finalizers=["example.com/stays"]),
    "an owner": lambda m: m["metadata"].update(
        ownerReferences=[{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}]
    ),
}


async def test_it_enters_its_own_address_and_is_asked_about_new_pods_alone(
    real_plane: ControlPlane, clients: Path
) -> None:
    async with (
        installed(real_plane, clients, "admission.mode=webhook") as cluster,
        component(cluster, "egress-gateway-webhook") as client,
    ):
        await client.apply(its_own())
        for what, edit in EDITS.items():
            made = its_own()
            edit(made)
            with pytest.raises(KubeError) as refusal:
                await client.apply(made)
            assert refusal.value.code in (403, 422), (what, refusal.value)
            assert "the webhook" in str(refusal.value), (what, refusal.value)
        for verb, path in (
            ("DELETE", f"/apis/admissionregistration.k8s.io/v1/{REGISTRATIONS.plural}/{NAME}"),
            ("GET", f"/api/v1/namespaces/{SYSTEM}/secrets"),
            ("GET", "/api/v1/pods"),
        ):
            answer = await client.transport.request(verb, path)
            assert answer.status == 403, path
        await client.apply(its_own())
