"""``egress-gateway uninstall``: refuses what would strand resources, and waits for every node."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from egress_gateway.cli.operations import uninstall
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import NotFound


def daemon_set(generation: int, **status: int) -> dict[str, Any]:
    return {"metadata": {"generation": generation}, "status": status}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (daemon_set(2), (0, 1)),
        (
            daemon_set(2, observedGeneration=1, desiredNumberScheduled=3, updatedNumberScheduled=3),
            (0, 3),
        ),
        (
            daemon_set(
                2,
                observedGeneration=2,
                desiredNumberScheduled=3,
                updatedNumberScheduled=3,
                numberAvailable=2,
            ),
            (2, 3),
        ),
        (
            daemon_set(
                2,
                observedGeneration=2,
                desiredNumberScheduled=3,
                updatedNumberScheduled=1,
                numberAvailable=3,
            ),
            (1, 3),
        ),
        (daemon_set(2, observedGeneration=2, desiredNumberScheduled=0), (0, 0)),
    ],
)
def test_progress_counts_updated_and_ready_pods(
    found: dict[str, Any], expected: tuple[int, int]
) -> None:
    assert uninstall.progress(found) == expected


class Api:
    """A cluster with configurations by name, and a DaemonSet that never gets on."""

    def __init__(self, *configurations: str, pods: list[dict[str, Any]] | None = None) -> None:
        self.configurations = configurations
        self.pods = pods
        self.applied: list[dict[str, Any]] = []

    async def list(self, resource: Any, *_: Any, **__: Any) -> Any:
        if resource.plural == "pods":
            return SimpleNamespace(items=self.pods)
        metadata = (SimpleNamespace(namespace="default", name=n) for n in self.configurations)
        return SimpleNamespace(items=[SimpleNamespace(metadata=m) for m in metadata])

    async def get(self, *_: Any) -> dict[str, Any]:
        if self.pods is None:
            raise NotFound(404, "NotFound", "daemonsets.apps not found")
        return daemon_set(2, observedGeneration=2, desiredNumberScheduled=2)

    async def apply(self, _: Any, obj: dict[str, Any]) -> None:
        self.applied.append(obj)


def client(api: Api) -> Client:
    return cast(Client, api)


async def test_configurations_are_named_and_hinder() -> None:
    names = [f"c{number}" for number in range(7)]
    with pytest.raises(uninstall.NotUninstalled) as refused:
        await uninstall.refuse_while_configured(client(Api(*names)))
    assert "default/c0, default/c1" in str(refused.value)
    assert "and 2 more" in str(refused.value)
    assert "kubectl delete staticgatewayconfigurations" in str(refused.value)
    await uninstall.refuse_while_configured(client(Api()))


async def test_late_nodes_are_named() -> None:
    retired = uninstall.retiring("ns")["spec"]["template"]["spec"]["containers"]
    ready = [{"type": "Ready", "status": "True"}]
    pods: list[dict[str, Any]] = [
        {"spec": {"nodeName": "a", "containers": retired}, "status": {"conditions": ready}},
        {"spec": {"nodeName": "b", "containers": [{}]}, "status": {"conditions": ready}},
        {"spec": {"nodeName": "c", "containers": retired}},
    ]
    api = Api(pods=pods)
    with pytest.raises(uninstall.NotUninstalled, match=r"in 0 s: b, c.*--no-hooks"):
        await uninstall.retire_nodes(client(api), "ns", timeout=0)
    assert api.applied == [uninstall.retiring("ns")]


async def test_without_a_daemon_set_there_is_nothing_to_do() -> None:
    await uninstall.retire_nodes(client(Api()), "ns", timeout=0)
