"""Who may read metrics where a token is asked for: as RBAC says, and nobody else."""

from __future__ import annotations

from pathlib import Path

from egress_gateway.kube import config
from egress_gateway.kube.client import Client
from egress_gateway.kube.review import MetricsReader
from lab.tests.apiserver.conftest import Cluster
from lab.tests.apiserver.test_admission import account_token

RBAC = "rbac.authorization.k8s.io"


async def account(cluster: Cluster, name: str) -> str:
    meta = {"name": name, "namespace": "default"}
    await cluster.admin.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
    return await account_token(cluster, name, "default")


async def test_a_token_counts_if_its_bearer_may_get_metrics(
    cluster: Cluster, tmp_path: Path
) -> None:
    collector, tenant = await account(cluster, "collector"), await account(cluster, "tenant")
    rules = [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]
    meta = {"name": "metrics-reader"}
    await cluster.admin.apply(
        {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": meta, "rules": rules}
    )
    await cluster.admin.apply(
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", **meta},
            "subjects": [{"kind": "ServiceAccount", "name": "collector", "namespace": "default"}],
        }
    )
    await cluster.settled()
    path = tmp_path / "kubeconfig"
    path.write_bytes(cluster.kubeconfig)
    async with Client(config.load(str(path)), "test") as client:
        reader = MetricsReader(client)
        assert await reader(collector) is True
        assert await reader(tenant) is False
        assert await reader("forged") is None
        assert await reader(collector[:-4] + "AAAA") is None
