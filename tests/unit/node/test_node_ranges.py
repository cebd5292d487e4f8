"""A range of the cluster that the setting lacks is noticed, added and told."""

from __future__ import annotations

import asyncio
import json
from ipaddress import ip_network
from pathlib import Path
from typing import Any, cast

import pytest

from egress_gateway.api.types import ObjectMeta
from egress_gateway.kube import errors
from egress_gateway.kube.client import Client
from egress_gateway.kube.resources import Node, NodeAddress, NodeSpec, NodeStatus
from egress_gateway.node.cluster import ranges
from egress_gateway.node.settings import Settings

SERVICES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


class Api:
    """Answers as a cluster of two families does."""

    def __init__(self, *, version: str = "v1", down: bool = False) -> None:
        self.version = version
        self.down = down

    async def get(self, _: Any, name: str) -> Node:
        if self.down:
            raise errors.Unavailable(0, "Unreachable", "down")
        return Node(
            metadata=ObjectMeta(name=name),
            spec=NodeSpec(pod_cidrs=["10.244.1.0/24", "fd00:1::/64"]),
            status=NodeStatus(addresses=[NodeAddress(type="InternalIP", address="10.224.0.4")]),
        )

    async def request(self, method: str, path: str) -> bytes:
        if self.version not in path.split("/"):
            raise errors.NotFound(404, "NotFound", path)
        items = [{"spec": {"cidrs": ["10.0.0.0/16", "fd00:2::/108"]}}]
        return json.dumps({"items": items}).encode()


def missing(settings: Settings, known: list[ranges.Known]) -> set[str]:
    return {str(k.network) for k in ranges.missing(settings.exceptions, known)}


async def known(memory: Path, **options: Any) -> list[ranges.Known]:
    client = cast(Client, Api(**options))
    return await ranges.discover(client, "node-1", SERVICES, memory)


@pytest.mark.parametrize("version", ["v1", "v1beta1", "none"])
async def test_what_the_cluster_says_is_asked_for(tmp_path: Path, version: str) -> None:
    found = await known(tmp_path / "ranges.json", version=version)
    bare = Settings(node_name="node-1")
    services = set() if version == "none" else {"10.0.0.0/16", "fd00:2::/108"}
    others = {"10.0.0.1/32", "10.244.1.0/24", "fd00:1::/64", "10.224.0.4/32"}
    assert missing(bare, found) == services | others
    whole = Settings(
        node_name="node-1",
        cluster_cidrs=["10.244.0.0/16", "10.0.0.0/16", "10.224.0.0/12", "fd00::/16"],
    )
    assert missing(whole, found) == set()
    without = Settings(
        node_name="node-1", cluster_cidrs=["10.244.0.0/16", "10.224.0.0/12", "fd00::/16"]
    )
    said = ranges.message(ranges.missing(without.exceptions, found))
    assert "10.0.0.1/32 (KUBERNETES_SERVICE_HOST)" in said
    assert "cluster.cidrs" in said


async def test_an_agent_that_restarts_without_the_api_decides_the_same(tmp_path: Path) -> None:
    memory = tmp_path / "run" / "ranges.json"
    before = await known(memory)
    after = await known(memory, down=True)
    assert {k.network for k in after} == {k.network for k in before}
    for broken in (b"[[1", b'[["10.0.0.0/8", "\xff"]]'):
        memory.write_bytes(broken)
        assert [str(k.network) for k in await known(memory, down=True)] == ["10.0.0.1/32"]


@pytest.mark.virtual_time
async def test_a_range_that_services_get_later_is_added_and_told_once(tmp_path: Path) -> None:
    def network(text: str) -> ranges.Known:
        return ranges.Known(ip_network(text), "ServiceCIDR")

    says = [network("10.0.0.0/16")]
    told: list[str] = []
    followed: list[set[str]] = []

    async def discover() -> list[ranges.Known]:
        return list(says)

    looked = ranges.Ranges([ip_network("10.244.0.0/16")], discover, told.append)
    assert {str(n) for n in await looked.look()} == {"10.244.0.0/16", "10.0.0.0/16"}
    task = asyncio.create_task(looked.run(lambda now: followed.append({str(n) for n in now})))
    late = network("172.30.0.0/20")
    await asyncio.sleep(3 * ranges.LOOK_SECONDS)
    says.append(late)
    await asyncio.sleep(3 * ranges.LOOK_SECONDS)
    cluster = {"10.244.0.0/16", "10.0.0.0/16"}
    assert followed == [{*cluster, "172.30.0.0/20"}]
    # API servers of two versions answer by turns, and the older one knows of no such objects.
    for answer in ([], [network("10.0.0.0/16"), late]):
        says[:] = answer
        await asyncio.sleep(ranges.FORGOTTEN_AFTER // 2 * ranges.LOOK_SECONDS)
    assert followed == [{*cluster, "172.30.0.0/20"}], "no pod's routes change"
    says.pop()
    await asyncio.sleep(2 * ranges.FORGOTTEN_AFTER * ranges.LOOK_SECONDS)
    task.cancel()
    assert followed == [{*cluster, "172.30.0.0/20"}, cluster]
    assert ["172.30.0.0/20" in text for text in told] == [False, True]


@pytest.mark.parametrize("host", ["", "api.example.org", "9.9.9.9", "2620:fe::fe", "10.0.0."])
def test_a_name_or_a_public_address_takes_nothing_from_the_gateway(host: str) -> None:
    assert ranges.of_environment({"KUBERNETES_SERVICE_HOST": host}) == []
