"""What `check` reads of an installation, and what it must not take for a fault."""

from __future__ import annotations

from typing import Any, cast

from egress_gateway.cli.diagnosis.checks.installation import judged, look
from egress_gateway.kube import resources, wire
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import ApiError
from egress_gateway.kube.resources import Resource, Untyped


class Installed:
    """Has workloads with the images of ``daemon_sets`` and a controller of ``r/i:2``, and lets
    nobody read anything else."""

    def __init__(self, **daemon_sets: str) -> None:
        self._found = {
            resources.DEPLOYMENTS.plural: [workload("controller", "r/i:2")],
            resources.DAEMON_SETS.plural: [workload(n, i) for n, i in daemon_sets.items()],
        }

    async def list(self, resource: Resource[Any], *_: object, **__: object) -> Any:
        return wire.ListPage(items=self._found[resource.plural], resource_version="1")

    async def get(self, *_: object, **__: object) -> Any:
        raise ApiError(403, "Forbidden", "not yours")

    request = get


def workload(component: str, image: str) -> Untyped:
    return {
        "metadata": {"name": f"egress-gateway-{component}"},
        "spec": {"template": {"spec": {"containers": [{"image": image}]}}},
    }


async def codes(**daemon_sets: str) -> list[str]:
    installed, _ = await look(cast(Client, Installed(**daemon_sets)), "system")
    return [finding.code for finding in judged(installed, None)]


async def test_hosts_of_tunnels_that_an_upgrade_leaves_alone_are_no_fault() -> None:
    assert await codes(node="r/i:2", wireguard="r/i:1") == []


async def test_an_agent_of_another_image_is_a_fault() -> None:
    assert await codes(node="r/i:1", wireguard="r/i:1") == ["EG307"]
