"""``check`` and ``trace`` on a cluster that runs."""

from __future__ import annotations

import json

import pytest

from egress_gateway_lab.demo.world import World, until
from tests.lab.conftest import configured
from tests.lab.test_bad_input import annotated, remove
from tests.lab.test_running_pods import becomes, command, cut, gateways

pytestmark = pytest.mark.root


async def codes(world: World) -> set[str]:
    _, said = await command(world, "check", "--output", "json")
    found = json.loads(said)["findings"]
    print([f"{f['code']} {f['object']}: {f['evidence']}" for f in found])
    return {finding["code"] for finding in found}


async def narrowed(world: World, pod: str) -> bool:
    async with cut(world, "large", *await gateways(world)):
        code, text = await command(world, "trace", pod)
        print(text)
        return code == 1 and "✗ mtu" in text and "✓ internet" in text


async def test_a_healthy_cluster_has_no_finding_and_each_fault_its_own(world: World) -> None:
    await configured(world, "checked", exclude=["192.0.2.0/24"])
    (pod,) = await world.deploy("checked", configuration="checked", replicas=1)
    await becomes(world, pod, "Connected")

    async def nothing() -> bool:
        return not await codes(world)

    await until(nothing, timeout=60, what="a healthy cluster to have no finding")
    code, text = await command(world, "check", "--pre")
    assert code == 0, text
    assert "not seen: kernels" in text
    code, text = await command(world, "trace", pod, "198.51.100.10")
    assert code == 0, text
    assert "✗" not in text
    assert "✓ internet" in text
    assert "✓ mtu" in text
    assert await narrowed(world, pod), "large packets of the pod are lost, and trace says so"
    # Its gateways may have asked with a large packet meanwhile, and until they ask again.
    await until(nothing, timeout=60, what="large packets to pass again")
    code, text = await command(world, "trace", pod, "192.0.2.1")
    assert "192.0.2.0/24 of excludeCidrs" in text
    wrong = annotated("wrong", "checked")
    meta = wrong["metadata"]
    meta["annotations"] = {f"{key}s": value for key, value in meta["annotations"].items()}
    await world.kube.create("pods", wrong)
    assert await codes(world) == {"EG101"}
    await world.kube.delete("pods", "wrong", namespace="default", grace_seconds=0)
    async with cut(world, "tunnels", *await gateways(world)):
        await becomes(world, pod, "Lost")
        assert "EG108" in await codes(world)
        code, text = await command(world, "trace", pod)
        assert code == 1
        assert "✗ tunnel" in text
    await becomes(world, pod, "Connected")
    await world.kube.delete("deployments", "checked", namespace="default")
    await remove(world, "checked")
