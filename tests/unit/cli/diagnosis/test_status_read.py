"""What `status` and `check` read: no list may seem to contradict one that is older."""

from __future__ import annotations

import asyncio
import datetime
from collections import Counter
from typing import Any, cast

import msgspec
import pytest

from egress_gateway.api import names
from egress_gateway.cli.diagnosis.checks.findings import findings
from egress_gateway.cli.diagnosis.checks.installation import look
from egress_gateway.cli.diagnosis.overview import Overview, summarize
from egress_gateway.cli.diagnosis.status import read, render
from egress_gateway.kube import resources, wire
from egress_gateway.kube.client import Client
from egress_gateway.kube.resources import Resource

SYSTEM = "gateways"


def encode(page: wire.ListPage[Any]) -> bytes:
    return msgspec.json.encode({"items": page.items})


def workload(component: str, ready: bool = True) -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"egress-gateway-{component}",
            "namespace": SYSTEM,
            "labels": {names.COMPONENT: component},
        },
        "spec": {"selector": {"matchLabels": {"no": "pod"}}},
        "status": {"desiredNumberScheduled": 3, "numberReady": 3 if ready else 2},
    }


class Growing:
    """A cluster in which a gateway, a node, its agents, a configuration and its pod come between
    any two answers."""

    def __init__(self, *, grows: bool = True, ready: bool = True) -> None:
        self.asked: Counter[str] = Counter()
        self.components = ["controller", "gateway", "node"]
        self._size, self._grows, self._ready = 1, grows, ready

    def now(self) -> datetime.datetime:
        return datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)

    async def list(
        self, resource: Resource[Any], namespace: str | None = None, **_: str | None
    ) -> Any:
        self.asked[resource.plural] += 1
        answered = self._size
        self._size += self._grows
        found = [self._of(resource.plural, n) for n in range(answered)]
        if namespace == "elsewhere":
            found = []
        elif resource.plural == resources.DAEMON_SETS.plural:
            found = [workload(c, self._ready) for c in self.components]
        await asyncio.sleep(0)
        listed = [one for one in found if one]
        page: wire.ListPage[Any] = wire.ListPage(items=listed, resource_version="1")
        return page if resource.type is dict else wire.decode_list(resource, encode(page))

    def _of(self, plural: str, n: int) -> dict[str, Any] | None:
        name = {"name": f"x{n}", "namespace": "shop"}
        up = {"conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": ""}]}
        spec: dict[str, dict[str, Any]] = {
            "pods": {
                "metadata": name | {"annotations": {names.POD_ANNOTATION: f"x{n}"}},
                "spec": {"nodeName": f"x{n}"},
                "status": {"phase": "Running"},
            },
            "podendpoints": {
                "metadata": name,
                "spec": {"staticGatewayConfiguration": f"x{n}", "nodeName": f"x{n}"},
                "status": {"state": "Connected", "gateway": f"x{n}"},
            },
            "nodes": {
                "metadata": {"name": f"x{n}", "labels": {names.NODE_READY_LABEL: "true"}},
                "status": up,
            },
            "gatewaystatuses": {
                "metadata": name,
                "spec": {
                    "readyGatewayConfigurations": [{"staticGatewayConfiguration": f"shop/x{n}"}]
                },
            },
            "staticgatewayconfigurations": {
                "metadata": name,
                "spec": {"gatewayNodepoolName": "p"},
                "status": {
                    "gateways": [{"node": f"x{n}", "primaryIp": "", "secondaryIp": ""}],
                    **up,
                },
            },
        }
        return spec.get(plural)


async def seen(cluster: Growing, system: str = SYSTEM) -> tuple[Overview, list[str]]:
    facts = await read(cast(Any, cluster), None, system)
    overview = summarize(facts)
    return overview, [f"{f.code} {f.object}" for f in findings(facts, overview)]


async def test_what_comes_while_it_reads_is_no_fault() -> None:
    found, named = await seen(Growing())
    assert named == []
    assert found.healthy, render(found)


async def test_each_kind_is_asked_for_once_although_a_component_is_not_ready() -> None:
    cluster = Growing(grows=False, ready=False)
    _, named = await seen(cluster)
    assert len(named) == 3
    assert cluster.asked["nodes"] == 1


async def test_a_wrong_system_namespace_accuses_no_node_and_names_the_right_one() -> None:
    cluster = Growing(grows=False)
    found, named = await seen(cluster, "elsewhere")
    assert named == ["EG301 Workload egress-gateway"]
    assert not found.healthy
    assert f"fix: --system-namespace {SYSTEM}" in render(found)
    installed, unseen = await look(cast(Client, cluster), "elsewhere")
    assert (installed.rights, unseen) == ({}, [])


@pytest.mark.parametrize("state", ["Running", "Pending"])
async def test_a_pod_that_is_being_deleted_misses_no_tunnel(state: str) -> None:
    cluster = Growing(grows=False)
    facts = await read(cast(Any, cluster), None, SYSTEM)
    (pod,) = facts.pods or ()
    gone = msgspec.structs.replace(
        pod,
        metadata=msgspec.structs.replace(pod.metadata, deletion_timestamp="2030-01-01T00:00:00Z"),
        status=msgspec.structs.replace(pod.status, phase=state),
    )
    assert summarize(msgspec.structs.replace(facts, pods=[gone], endpoints=[])).healthy


@pytest.mark.parametrize("gone", ["controller", "gateway", "node"])
async def test_a_component_whose_workload_is_deleted_is_missed(gone: str) -> None:
    cluster = Growing(grows=False)
    cluster.components.remove(gone)
    found, named = await seen(cluster)
    assert f"EG301 Workload egress-gateway-{gone}" in named
    assert not found.healthy
    assert "helm upgrade" in render(found)
