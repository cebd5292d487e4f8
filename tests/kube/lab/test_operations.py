"""What operators do and suffer, on real nodes: outages, upgrades, bare nodes, removal."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import statistics
from typing import Any

import aiohttp
import pytest

from egress_gateway.api import names
from egress_gateway_lab.apiserver.wire.client import KubeError
from egress_gateway_lab.demo.traffic import Traffic
from egress_gateway_lab.demo.world import World, until
from egress_gateway_lab.realcluster import release
from egress_gateway_lab.runtime.containers.cni import base_configuration
from tests.deploy.conftest import CHART
from tests.kube.lab.conftest import SYSTEM, Operator, all_ready
from tests.lab.conftest import configured
from tests.lab.steady import Echoes, answered, going_on
from tests.lab.test_bad_input import annotated, remove
from tests.lab.test_promises import sources

pytestmark = [pytest.mark.root, pytest.mark.kube]
OBSERVED = "probe1.lab.example"
"""A host that only one test talks to: every packet that reaches it is accounted for."""
UPGRADED = "probe2.lab.example"
CHAIN = "/etc/cni/net.d/10-azure.conflist"
SAMPLES = 4


async def agents(world: World, component: str) -> list[dict[str, Any]]:
    return await world.kube.list("pods", namespace=SYSTEM, labels=f"app=egress-gateway-{component}")


async def test_nothing_from_a_wrong_address_while_agents_and_gateways_are_killed(
    lab: Operator,
) -> None:
    """Every packet that one Internet host sees over attach, agents' deaths and a gateway's."""
    world = lab.world
    prefix = await configured(world, "watched")
    pods = await world.deploy("watched", configuration="watched", replicas=3)
    async with contextlib.AsyncExitStack() as stack:
        url = f"http://{OBSERVED}"
        traffic = [await stack.enter_async_context(Traffic(world, p, url)) for p in pods]
        await answered(traffic)
        for node in [n["metadata"]["name"] for n in await world.nodes()]:
            # SIGKILL, of every process of ours but the tunnels' host and the tunnels.
            await lab.on(node, _kill("egress-gateway (node|gateway)"))
        await answered(traffic)
        later = await world.deploy("watched-later", configuration="watched", replicas=2)
        gateway = (await world.nodes(pool="npegress"))[0]["metadata"]["name"]
        await world.control.call("cut", node=gateway, direction="both")
        await answered(traffic)
        await world.control.call("mend", node=gateway)
        await answered(traffic)
        await world.control.call("power_cut", node=gateway)
        await answered(traffic)
        await world.control.call("power_on", node=gateway)
        await answered(traffic)
    for pod in later:
        await world.curl(pod, f"http://{OBSERVED}/traffic/{pod}/0")
    assert await world.wrong_packets(OBSERVED, prefix) == 0
    assert {s for p in pods + later for s in await sources(world, f"/traffic/{p}/")}
    for name in ("watched", "watched-later"):
        await world.kube.delete("deployments", name, namespace="default")
    await remove(world, "watched")
    await all_ready(world)
    for agent in await agents(world, "node"):
        (status,) = agent["status"]["containerStatuses"]
        assert status["restartCount"] > 0, f"{agent['metadata']['name']} was not killed"


def _kill(pattern: str) -> str:
    """A script that kills the processes whose command line fits, and never itself."""
    return (
        "for d in /proc/[0-9]*; do "
        f"tr '\\0' ' ' < $d/cmdline 2>/dev/null | grep -Eq '^/opt/[^ ]*python[^ ]* .*{pattern}' "
        "&& kill -9 ${d#/proc/}; done; true"
    )


async def test_plain_pods_start_as_fast_with_everything_of_ours_down(lab: Operator) -> None:
    """Node agent, controller, gateways gone, API server dead: containerd starts pods through our
    plugin as it does without it. The figures are printed, not judged: the machine is shared."""
    world = lab.world
    node = (await world.nodes(pool="nodepool1"))[0]["metadata"]["name"]
    assert names.CNI_PLUGIN in await lab.on(node, f"cat {CHAIN}")
    for kind in ("daemonsets", "deployments"):
        for item in await world.kube.list(kind, namespace=SYSTEM):
            await world.kube.delete(kind, item["metadata"]["name"], namespace=SYSTEM)

    async def gone() -> bool:
        return not await world.kube.list("pods", namespace=SYSTEM)

    try:
        await until(gone, timeout=180, what="our pods to be gone")
        await world.control.call("control_plane", program="kube-apiserver", action="kill")
        await static_pod(lab, node, "first")  # what only the first one pays for
        ours = [await static_pod(lab, node, f"ours-{n}") for n in range(SAMPLES)]
        chain = await lab.on(node, f"cat {CHAIN}")
        plain = json.loads(chain)
        plain["plugins"] = [p for p in plain["plugins"] if p["type"] != names.CNI_PLUGIN]
        await lab.on(node, f"cat > {CHAIN}.new; mv {CHAIN}.new {CHAIN}",
                     stdin=json.dumps(plain))  # fmt: skip
        bare = [await static_pod(lab, node, f"bare-{n}") for n in range(SAMPLES)]
        await lab.on(node, f"cat > {CHAIN}.new; mv {CHAIN}.new {CHAIN}", stdin=chain)
    finally:
        await lab.on(node, "rm -f /etc/kubernetes/manifests/*")
        await world.control.call("control_plane", program="kube-apiserver", action="start")
        await _answers(world)
        await lab.upgrade()  # makes anew what is missing
    print(f"\na plain pod's start: {_figures(ours)} with our plugin and nothing of ours "
          f"running, {_figures(bare)} without the plugin")  # fmt: skip


async def _answers(world: World) -> None:
    async def answers() -> bool:
        with contextlib.suppress(aiohttp.ClientError, KubeError):
            return bool(await world.nodes())
        return False

    await until(answers, timeout=180, what="the API server to answer again")


def _figures(samples: list[float]) -> str:
    return f"median {statistics.median(samples) * 1000:.0f} ms (of {len(samples)})"


async def static_pod(lab: Operator, node: str, name: str) -> float:
    """Seconds from a static pod's file to its container's first command."""
    folder, manifest = f"/tmp/{name}", f"/etc/kubernetes/manifests/{name}.json"
    command = ["sh", "-c", "date +%s.%N > /out/started; exec sleep 1000"]
    mounted = [{"name": "out", "mountPath": "/out"}]
    image = {"image": "busybox", "imagePullPolicy": "IfNotPresent"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "command": command, "volumeMounts": mounted, **image}],
            "volumes": [{"name": "out", "hostPath": {"path": folder}}],
        },
    }
    began = await lab.on(
        node,
        f"mkdir -p {folder}; cat > /tmp/{name}.json; date +%s.%N; mv /tmp/{name}.json {manifest}",
        stdin=json.dumps(pod),
    )
    wait = f"until test -s {folder}/started; do sleep 0.02; done; cat {folder}/started"
    started = await lab.on(node, wait, limit=60)
    return float(started) - float(began)


async def test_an_annotated_pod_never_starts_on_a_node_without_the_plugin(lab: Operator) -> None:
    """Neither the scheduler nor ``spec.nodeName`` brings one there."""
    world = lab.world
    await configured(world, "placed")
    nodes = [n["metadata"]["name"] for n in await world.nodes(pool="nodepool1")]
    bare = nodes[0]
    for node in [n["metadata"]["name"] for n in await world.nodes()]:
        label = None if node == bare else "yes"
        await world.kube.patch("nodes", node, {"metadata": {"labels": {"agent": label}}})
    await lab.upgrade("node.nodeSelector.agent=yes")

    async def without() -> bool:
        return not any(p["spec"]["nodeName"] == bare for p in await agents(world, "node"))

    await until(without, timeout=180, what=f"the agent of {bare} to be gone")
    # A node that never had one.
    plain = json.loads(await lab.on(bare, f"cat {CHAIN}"))
    plain["plugins"] = [p for p in plain["plugins"] if p["type"] != names.CNI_PLUGIN]
    await lab.on(bare, f"cat > {CHAIN}; rm -f /opt/cni/bin/{names.CNI_PLUGIN}",
                 stdin=json.dumps(plain, indent=2))  # fmt: skip
    await world.kube.patch("nodes", bare, {"metadata": {"labels": {names.NODE_READY_LABEL: None}}})
    forced = annotated("forced", "placed", nodeName=bare)
    asked = annotated("asked", "placed", nodeSelector={"kubernetes.io/hostname": bare})
    for pod in (forced, asked):
        await world.kube.create("pods", pod)

    async def refused() -> bool:
        found = await world.kube.get("pods", "forced", namespace="default")
        reason: str = found["status"].get("reason", "")
        return reason == "NodeAffinity"

    async def waiting() -> bool:
        found = await world.kube.get("pods", "asked", namespace="default")
        conditions = found["status"].get("conditions", [])
        return any(c.get("reason") == "Unschedulable" for c in conditions)

    await until(refused, timeout=180, what="the kubelet to refuse the pod")
    await until(waiting, timeout=180, what="the scheduler to find no node")
    plain_pod = annotated("unannotated", "placed", nodeName=bare)
    del plain_pod["metadata"]["annotations"]
    await world.kube.create("pods", plain_pod)
    await world.pod_ready("unannotated")
    # It starts as soon as the node is ready for it.
    await world.kube.patch("nodes", bare, {"metadata": {"labels": {"agent": "yes"}}})
    await world.pod_ready("asked", timeout=180)
    for name in ("forced", "asked", "unannotated"):
        await world.kube.delete("pods", name, namespace="default", grace_seconds=0)
    await remove(world, "placed")


async def test_an_upgrade_of_all_agents_drops_no_connection(lab: Operator) -> None:
    """Every agent is rolled under established connections and steady new ones."""
    world = lab.world
    # A busy machine answers late, which is no reason to leave a gateway, here at least.
    await lab.upgrade("node.settings.probeMisses=80", "node.settings.pathMisses=80")
    prefix = await configured(world, "rolled")
    pods = await world.deploy("rolled", configuration="rolled", replicas=3)
    before = {p["metadata"]["uid"] for c in ("node", "gateway") for p in await agents(world, c)}
    async with contextlib.AsyncExitStack() as stack:
        traffic = await stack.enter_async_context(Traffic(world, pods[0], f"http://{UPGRADED}"))
        streams = [await stack.enter_async_context(Echoes(world, pod, UPGRADED)) for pod in pods]
        await answered([traffic])
        await lab.upgrade("logging.level=debug", "gateway.maxUnavailable=1")
        after = {p["metadata"]["uid"] for c in ("node", "gateway") for p in await agents(world, c)}
        assert not before & after, "agents that were not rolled"
        await going_on(streams)
    assert await world.wrong_packets(UPGRADED, prefix) == 0
    lost = [r for r in traffic.requests if r.address is None]
    print(f"\n{len(traffic.requests)} requests while all agents were rolled, {len(lost)} "
          f"unanswered; {len(streams)} connections went on")  # fmt: skip
    await lab.upgrade("node.settings=null")
    await world.kube.delete("deployments", "rolled", namespace="default")
    await remove(world, "rolled")


async def test_helm_test_tells_whether_all_is_at_work(lab: Operator) -> None:
    world = lab.world
    await configured(world, "healthy")
    said = await lab.call("test", release.RELEASE, "--timeout", "600s")
    assert "Succeeded" in said
    assert "leaves from" in said
    await world.configure("sick", {"gatewayNodepoolName": "nowhere"})
    await world.configuration_condition(
        "sick", lambda c: c["reason"] == "GatewayPoolNotFound", timeout=180
    )
    with pytest.raises(AssertionError, match="egress-gateway-test"):
        await lab.call("test", release.RELEASE, "--timeout", "600s")
    assert await world.kube.find("pods", "egress-gateway-test", namespace=SYSTEM) is None
    await remove(world, "sick", "healthy")


async def test_removing_the_chart_gives_every_node_its_chain_back(lab: Operator) -> None:
    """``helm uninstall`` restores the base CNI configuration byte for byte; it can come again."""
    world = lab.world
    nodes = [n["metadata"]["name"] for n in await world.nodes()]
    status = await world.control.call("status")
    ranges = {m["name"]: m["pods"] for m in status["machines"]}
    for node in nodes:
        assert names.CNI_PLUGIN in await lab.on(node, f"cat {CHAIN}")
    values = await lab.call("get", "values", release.RELEASE, "--output=json")
    await lab.call("uninstall", release.RELEASE, "--wait", "--timeout", "600s")
    for node in nodes:
        files = (await lab.on(node, "ls -A /etc/cni/net.d")).split()
        assert files == ["10-azure.conflist"], node
        base = base_configuration(ipaddress.IPv4Network(ranges[node]), 1500)
        assert await lab.on(node, f"cat {CHAIN}") == json.dumps(base, indent=2), node
    for node in await world.nodes():
        assert names.NODE_READY_LABEL not in node["metadata"]["labels"]
    await world.run("afterwards")
    address = ipaddress.ip_address(await world.curl("afterwards", "http://ifconfig.me"))
    assert address in ipaddress.ip_network("192.0.2.0/24")
    await world.kube.delete("pods", "afterwards", namespace="default", grace_seconds=0)
    # Over the definitions that stayed.
    await lab.call("install", release.RELEASE, str(CHART), "--values=-", stdin=values)
    await all_ready(world)
