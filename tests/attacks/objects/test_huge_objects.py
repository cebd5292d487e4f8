"""Objects that are made to cost: what a stolen token may write stays small."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway.kube import config
from egress_gateway.kube.client import Client
from egress_gateway.kube.resources import PODS, SGCS, Resource
from lab.tests.apiserver.conftest import Cluster
from lab.tests.apiserver.test_admission import (
    SYSTEM,
    account_token,
    agent_token,
    forbidden,
    installed,
    owned,
    two_agents,
)
from lab.tests.apiserver.test_objects import refusal

HUGE: list[tuple[dict[str, Any], str]] = [
    ({"podIps": [f"10.0.{i // 256}.{i % 256}" for i in range(40_000)]}, "podIps"),
    ({"podIps": ["10.0.0.1"] * 9}, "podIps"),
    ({"podIps": ["1" * 46]}, "podIps"),
    ({"podIpAddress": "x" * 1000}, "podIpAddress"),
    ({"podIpAddress": "10.0.0.1\r"}, "podIpAddress"),
    ({"podPublicKey": "A" * 500_000}, "podPublicKey"),
    ({"gatewayPublicKey": "A" * 45}, "gatewayPublicKey"),
    ({"staticGatewayConfiguration": "a" * 254}, "staticGatewayConfiguration"),
    ({"staticGatewayConfiguration": "../tenant-a/partner\n"}, "staticGatewayConfiguration"),
]


@pytest.mark.parametrize(("spec", "field"), HUGE, ids=[f"{f}-{i}" for i, (_, f) in enumerate(HUGE)])
async def test_an_endpoint_is_small(cluster: Cluster, spec: dict[str, Any], field: str) -> None:
    async with two_agents(cluster) as (a, _):
        document = await owned(cluster, "p", "node-a")
        document["spec"] |= spec
        error = await refusal(a.create("podendpoints", document))
        assert error.code in (413, 422), error
        if error.code == 422:
            assert f"spec.{field}" in str(error)


async def test_an_endpoint_carries_no_ballast(cluster: Cluster) -> None:
    async with two_agents(cluster) as (a, _):
        sound = await owned(cluster, "p", "node-a")
        labels = {f"l{i}": "x" * 60 for i in range(1000)}
        annotations = {f"a{i}": "x" for i in range(1000)}
        for ballast in (
            {"labels": labels | sound["metadata"]["labels"]},
            {"annotations": annotations},
            {"annotations": {"a": "x" * 200_000}},
        ):
            document = copy.deepcopy(sound)
            document["metadata"] |= ballast
            await forbidden(a.create("podendpoints", document), "labels or annotations")
        await a.create("podendpoints", sound)


async def test_a_report_is_small(cluster: Cluster) -> None:
    async with two_agents(cluster):
        token = await agent_token(cluster, "egress-gateway-gateway", "node-a")
        async with cluster.as_token(token) as gateway:
            meta = {"name": "node-a", "namespace": SYSTEM}
            kind = {"apiVersion": names.API_VERSION, "kind": "GatewayStatus", "metadata": meta}
            problem = {"staticGatewayConfiguration": "n/a", "message": "m"}
            for spec in (
                {"problems": [problem] * 1001},
                {"problems": [{**problem, "message": "m" * 1025}]},
                {"vetoes": [{"reason": "x" * 65}]},
                {"readyGatewayConfigurations": [{"staticGatewayConfiguration": "x" * 318}]},
            ):
                made = gateway.create("gatewaystatuses", {**kind, "spec": spec})
                assert (await refusal(made)).code == 422, spec
            labels = {"metadata": {"labels": {f"l{i}": "x" for i in range(100)}}}
            ballast = {**kind, "metadata": meta | labels["metadata"]}
            await forbidden(gateway.create("gatewaystatuses", ballast), "labels or annotations")
            owner = {"apiVersion": "v1", "kind": "Node", "name": "node-a", "uid": "u"}
            for lasting in (
                {"finalizers": ["example.com/stay"]},
                {"ownerReferences": [{**owner, "uid": f"u{n}"} for n in range(1000)]},
            ):
                stays = {**kind, "metadata": meta | lasting}
                await forbidden(gateway.create("gatewaystatuses", stays), "no finalizer")
            # What others have hung on it silences no gateway.
            await cluster.admin.create("gatewaystatuses", {**kind, "metadata": meta})
            stays = {"metadata": {"finalizers": ["example.com/stay"]}}
            await cluster.admin.patch("gatewaystatuses", "node-a", stays, namespace=SYSTEM)
            said = {"metadata": {"labels": {"l": "x"}}}
            await gateway.patch("gatewaystatuses", "node-a", said, namespace=SYSTEM)
            stays = {"metadata": {"finalizers": ["example.com/stay", "example.com/more"]}}
            more = gateway.patch("gatewaystatuses", "node-a", stays, namespace=SYSTEM)
            await forbidden(more, "no finalizer")
        unbound = await account_token(cluster, "egress-gateway-gateway", SYSTEM)
        async with cluster.as_token(unbound) as nobodys:
            nameless = {**kind, "metadata": {"generateName": "node-", "namespace": SYSTEM}}
            await forbidden(nobodys.create("gatewaystatuses", nameless), "its own node alone")


@contextmanager
def nesting() -> Iterator[None]:
    """The attacker's programs read and write what ours cannot."""
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        yield
    finally:
        sys.setrecursionlimit(usual)


async def test_fields_that_nest_without_end_blind_nobody(cluster: Cluster, tmp_path: Path) -> None:
    """Whoever creates a pod may say who wrote its fields, 10,000 levels deep."""
    await installed(cluster)
    fields: dict[str, Any] = {}
    for _ in range(2_000):
        fields = {"f:a": fields}
    wrote = {"manager": "m", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": fields}
    specs: dict[Resource[Any], dict[str, Any]] = {
        PODS: {"containers": [{"name": "c", "image": "i"}]},
        SGCS: {"gatewayNodepoolName": "gw", "provisionPublicIps": True},
    }
    path = tmp_path / "kubeconfig"
    path.write_bytes(cluster.kubeconfig)
    async with Client(config.load(str(path)), "test") as client:
        for resource, spec in specs.items():
            kind = {"apiVersion": resource.api_version, "kind": resource.kind, "spec": spec}
            written = {**wrote, "apiVersion": resource.api_version, "time": "2026-01-01T00:00:00Z"}
            meta = {"name": "deep", "namespace": "default", "managedFields": [written]}
            with nesting():
                await cluster.admin.create(resource.plural, {**kind, "metadata": meta})
            try:
                found = [one.metadata.name for one in (await client.list(resource)).items]
            finally:  # the next test's tools could not read the server either
                with nesting():
                    at = resource.path("default", "deep")
                    await cluster.admin.call("DELETE", at, body={"gracePeriodSeconds": 0})
            assert "deep" in found
            assert "deep" not in [o.metadata.name for o in (await client.list(resource)).items]
