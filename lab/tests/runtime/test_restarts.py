"""A machine's restart keeps its disk, a reimage does not; a pod's sandbox is made again."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from egress_gateway_lab.runtime.containers.cni import CONFIGURATIONS, PLUGINS
from lab.tests.runtime.test_pods import PODS, World, world

pytestmark = pytest.mark.root

CHAIN = f"{CONFIGURATIONS}/10-azure.conflist"


async def test_a_restart_keeps_the_chain_and_a_reimage_does_not() -> None:
    async with world() as w:
        w.chain_recorder()
        chained = w.node.path(CHAIN).read_text()
        (w.node.path("/run") / "volatile").write_text("x")
        spec = w.running.spec
        await w.machines.power_cut("n1")
        again = await w.machines.start(spec)
        assert again.node.path(CHAIN).read_text() == chained
        assert again.node.path(f"{PLUGINS}/recorder").stat().st_mode & 0o111
        assert again.node.path(f"{PLUGINS}/ptp").is_symlink()
        assert not again.node.path("/run/volatile").exists()
        await w.machines.power_cut("n1")
        w.machines.wipe_disk("n1")
        fresh = await w.machines.start(spec)
        assert "recorder" not in fresh.node.path(CHAIN).read_text()


async def test_a_pod_is_not_ready_until_its_sandbox_is_made_again_after_a_power_cut() -> None:
    async with world() as w:
        w.chain_recorder()
        await w.create("p", {"image": "busybox", "command": ["sleep", "1000"]})
        await w.ready("p")
        chain = w.node.path(CHAIN)
        chained = chain.read_text()
        chain.write_text(chained.replace('"recorder"', '"missing"'))
        await w.machines.power_cut("n1")
        again = await w.machines.start(w.running.spec)
        waiting = await w.until("p", lambda pod: not is_ready(pod) and pod)
        [container] = waiting["status"]["containerStatuses"]
        assert waiting["status"]["phase"] == "Running"
        assert (container["ready"], container["restartCount"]) == (False, 1)
        assert container["lastState"]["terminated"]["reason"] == "Unknown"
        again.node.path(CHAIN).write_text(chained)
        await w.ready("p")


def is_ready(pod: Any) -> bool:
    return all(c["status"] == "True" for c in pod["status"]["conditions"] if c["type"] == "Ready")


async def test_a_lost_sandbox_is_made_again_under_the_same_uid() -> None:
    async with world() as w:
        w.chain_recorder()
        await w.create("p", {"image": "busybox", "command": ["sleep", "1000"]})
        before = await w.ready("p")
        w.machines.lose_sandbox("default", "p")

        def is_back(pod: Any) -> Any:
            [status] = pod["status"]["containerStatuses"]
            return pod if status["restartCount"] == 1 and status["ready"] else None

        after = await w.until("p", is_back)
        assert after["status"]["podIP"] != before["status"]["podIP"]
        assert w.api.events("SandboxChanged")
        verbs = [(verb, args["K8S_POD_INFRA_CONTAINER_ID"]) for verb, args, _ in w.calls()]
        assert [verb for verb, _ in verbs] == ["ADD", "DEL", "ADD"]
        assert verbs[0][1] == verbs[1][1] != verbs[2][1]
        assert await running_once(w)
        with pytest.raises(LookupError, match="not running"):
            w.machines.lose_sandbox("default", "nobody")


async def test_a_sandbox_that_is_lost_while_a_containers_last_output_is_awaited() -> None:
    """Its log stayed open: Python tells of it when it collects garbage, which fails the test."""
    async with world() as w:
        # The shell ends, and what it leaves behind may still write.
        left = {"image": "busybox", "command": ["sh", "-c", "sleep 1000 &"]}
        await w.create("p", left, hostPID=True)
        await w.until("p", lambda pod: "terminated" in first(pod)["state"])
        w.machines.lose_sandbox("default", "p")
        await w.until(
            "p", lambda pod: first(pod)["restartCount"] and "waiting" not in first(pod)["state"]
        )
    del w
    gc.collect()


def first(pod: Any) -> Any:
    [status] = pod.get("status", {}).get("containerStatuses") or [{"state": {}, "restartCount": 0}]
    return status


async def running_once(w: World) -> bool:
    """Nothing of the first sandbox runs on."""
    listed = await w.node.run(["sh", "-c", "ls /run/netns; pgrep -fc 'sleep 100[0]'"])
    lines = listed.stdout.decode().split()
    return len([line for line in lines if line.startswith("cni-")]) == 1 and lines[-1] == "1"


@pytest.mark.parametrize("kind", ["Ready", "ContainersReady", "Initialized"])
async def test_a_kubelet_writes_its_own_over_what_others_say_of_its_pods(kind: str) -> None:
    """As the node controller does with the pods of a node that is silent for a moment."""
    async with world() as w:
        await w.create("p", {"image": "busybox", "command": ["sleep", "1000"]})
        pod = await w.ready("p")
        for condition in pod["status"]["conditions"]:
            if condition["type"] == kind:
                condition["status"] = "False"
        await w.api.put(f"{PODS}/p", pod)
        await w.until(
            "p",
            lambda found: all(
                c["status"] == "True" for c in found["status"]["conditions"] if c["type"] == kind
            ),
        )
