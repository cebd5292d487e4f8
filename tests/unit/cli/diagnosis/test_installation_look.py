"""What `check` reads of an installation, and what it must not take for a fault."""

from __future__ import annotations

from typing import Any, cast

from egress_gateway.api.types import ObjectMeta
from egress_gateway.cli.diagnosis.checks.installation import judged, look
from egress_gateway.kube import resources, wire
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import ApiError, NotFound
from egress_gateway.kube.resources import ConfigMap, Resource, Untyped


class Installed:
    """Has workloads with the images of ``workloads`` and the ConfigMap of plain manifests. Lets
    nobody ask for others' rights."""

    def __init__(self, **workloads: str) -> None:
        self._workloads = [workload(name, image) for name, image in workloads.items()]

    async def list(self, resource: Resource[Any], *_: object, **__: object) -> Any:
        found = self._workloads if resource.plural == resources.DAEMON_SETS.plural else []
        return wire.ListPage(items=found, resource_version="1")

    async def get(self, resource: Resource[Any], name: str, *_: object) -> Any:
        if resource is resources.CONFIG_MAPS:
            return ConfigMap(
                metadata=ObjectMeta(name=name),
                data={"clusterCidrs": "10.0.0.0/8", "admission": "policy"},
            )
        raise NotFound(404, "NotFound", "no such thing")

    async def request(self, *_: object, **__: object) -> Any:
        raise ApiError(403, "Forbidden", "not yours")


def workload(component: str, image: str) -> Untyped:
    return {
        "metadata": {"name": f"egress-gateway-{component}"},
        "spec": {"template": {"spec": {"containers": [{"image": image}]}}},
    }


async def codes(**workloads: str) -> list[str]:
    installed, _ = await look(cast(Client, Installed(**workloads)), "system")
    return [finding.code for finding in judged(installed, None)]


async def test_hosts_of_tunnels_that_an_upgrade_leaves_alone_are_no_fault() -> None:
    assert await codes(node="r/i:2", webhook="r/i:2", wireguard="r/i:1") == []


async def test_an_agent_of_another_image_is_a_fault() -> None:
    assert await codes(node="r/i:1", webhook="r/i:2") == ["EG307"]


async def test_a_cluster_whose_webhook_does_the_policys_work_lacks_no_policy() -> None:
    """Before Kubernetes 1.36 plain manifests are applied with the webhook."""
    assert await codes(node="r/i:1", webhook="r/i:1") == []
    assert await codes(node="r/i:1") == ["EG305"]
