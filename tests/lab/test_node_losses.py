"""What a node loses: a pod's sandbox, its power, its run directory. Nothing leaves by the side."""

from __future__ import annotations

import ipaddress
import uuid
from typing import Any

import pytest

from egress_gateway_lab.demo.world import World, until
from tests.lab.conftest import configured
from tests.lab.test_bad_input import annotated, remove
from tests.lab.test_promises import WHATSMYIP, sources

pytestmark = pytest.mark.root


def asking(name: str, configuration: str) -> dict[str, Any]:
    """A pod that asks for its address from its first moment on, and without end."""
    pod = annotated(name, configuration)
    loop = f"while true; do curl -s --max-time 1 {WHATSMYIP}/{name}/ >/dev/null; sleep 0.1; done"
    pod["spec"]["containers"] = [{"name": "main", "image": "curl", "command": ["sh", "-c", loop]}]
    return pod


async def running(world: World, name: str, *, other_than: str = "") -> dict[str, Any]:
    """The pod, ready; with ``other_than``, when its address is another one."""
    found = await world.kube.wait_for(
        "pods",
        name,
        lambda p: (
            any(
                c["type"] == "Ready" and c["status"] == "True"
                for c in (p or {}).get("status", {}).get("conditions") or []
            )
            and (p or {})["status"].get("podIP") not in ("", other_than)
        ),
        namespace="default",
        timeout=120,
    )
    assert found is not None
    return found


async def asked(world: World, name: str) -> int:
    requests = await world.control.call("requests", path_prefix=f"/{name}/")
    return len(requests)


async def goes_on(world: World, name: str, prefix: str) -> None:
    """It is answered again, and never was from another address."""
    before = await asked(world, name)

    async def more() -> bool:
        return await asked(world, name) > before + 3

    await until(more, timeout=120, what=f"requests of {name}")
    seen = await sources(world, f"/{name}/")
    assert all(ipaddress.ip_address(a) in ipaddress.ip_network(prefix) for a in seen), seen


async def started(world: World, kind: str) -> tuple[str, str, dict[str, Any]]:
    """Configuration and pod of one name, its prefix, and the pod."""
    name = f"{kind}-{uuid.uuid4().hex[:4]}"
    prefix = await configured(world, name)
    await world.kube.create("pods", asking(name, name))
    pod = await running(world, name)
    await goes_on(world, name, prefix)
    return name, prefix, pod


async def ended(world: World, name: str) -> None:
    await world.kube.delete("pods", name, namespace="default", grace_seconds=0)
    await remove(world, name)


async def test_a_sandbox_that_is_made_again_is_back_with_its_new_address(world: World) -> None:
    name, prefix, pod = await started(world, "sandbox")
    for _ in range(2):
        address = pod["status"]["podIP"]
        await world.control.call("lose_sandbox", namespace="default", pod=name)
        again = await running(world, name, other_than=address)
        assert again["metadata"]["uid"] == pod["metadata"]["uid"]
        await goes_on(world, name, prefix)
        endpoint = await world.kube.get("podendpoints", name, namespace="default")
        assert endpoint["spec"]["podIpAddress"] == again["status"]["podIP"]
        pod = again
    await ended(world, name)


async def test_a_worker_that_loses_power_holds_its_pods_from_their_first_packet_on(
    world: World,
) -> None:
    name, prefix, pod = await started(world, "power")
    node = pod["spec"]["nodeName"]
    for _ in range(2):
        await world.control.call("power_cut", node=node)
        await world.control.call("power_on", node=node)
        await goes_on(world, name, prefix)
    await ended(world, name)


@pytest.mark.parametrize("what", ["/run/egress-gateway", "/run/egress-gateway/*"])
async def test_a_worker_that_loses_its_run_directory_is_as_before(world: World, what: str) -> None:
    name, prefix, pod = await started(world, "run")
    node = pod["spec"]["nodeName"]
    removed = await world.control.call("run", node=node, command=["sh", "-c", f"rm -rf {what}"])
    assert removed["code"] == 0, removed
    await goes_on(world, name, prefix)
    later = asking(f"{name}-later", name)
    later["spec"]["nodeName"] = node
    await world.kube.create("pods", later)
    await running(world, f"{name}-later")
    await goes_on(world, f"{name}-later", prefix)
    await world.kube.delete("pods", f"{name}-later", namespace="default", grace_seconds=0)
    await ended(world, name)
