"""Pods on a machine without a fabric: what a kubelet and a container runtime do for them."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from egress_gateway_lab.protocols import ContainerRef, LogOptions, MachineSpec
from egress_gateway_lab.runtime.containers.cni import CONFIGURATIONS, PLUGINS, base_configuration
from egress_gateway_lab.runtime.kubelet.kubelet import KubeletSettings
from egress_gateway_lab.runtime.kubelet.pod import Platform
from egress_gateway_lab.runtime.nodes.machines import Machines, MachinesSettings, Running
from egress_gateway_lab.runtime.nodes.netsocket import open_socket
from lab.tests.runtime.runtime_fakes import FakeApi

pytestmark = pytest.mark.root

Object = dict[str, Any]

# Below a link: `/var/run` is `/run`.
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
PODS = "/api/v1/namespaces/default/pods"

# A plugin that keeps what it was called with and answers what a file tells it to.
RECORDER = """#!/bin/sh
mkdir -p /run/calls
input=$(cat)
n=$(ls /run/calls | wc -l)
printf '%s\\n%s\\n%s\\n' "$CNI_COMMAND" "$CNI_ARGS" "$input" > /run/call
mv /run/call /run/calls/$n  # whole: the test may look at any time
if [ "$CNI_COMMAND" = ADD ]; then
  if [ -e /run/refuse ]; then cat /run/refuse; exit 1; fi
  printf '%s' "$input" | sed 's/.*"prevResult": *//; s/}$//'
fi
"""


class World:
    """A machine ``n1``, its API, and short ways to use both."""

    def __init__(self, machines: Machines, api: FakeApi, running: Running) -> None:
        self.machines = machines
        self.api = api
        self.running = running
        self.node = running.node

    async def create(self, name: str, container: Object | None = None, **spec: Any) -> Object:
        meta = {"name": name, "namespace": "default", **spec.pop("metadata", {})}
        body: Object = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": meta,
            "spec": {
                "nodeName": "n1",
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "c", "image": "busybox", **(container or {})}],
                **spec,
            },
        }
        return await self.api.put(f"{PODS}/{name}", body)

    async def until(self, name: str, true: Callable[[Object], Any]) -> Any:
        return await self.api.until(f"{PODS}/{name}", lambda pod: pod is not None and true(pod))

    async def ready(self, name: str) -> Object:
        def check(pod: Object) -> Object | None:
            conditions = pod.get("status", {}).get("conditions") or []
            holds = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
            return pod if holds else None

        found: Object = await self.until(name, check)
        return found

    async def finished(self, name: str) -> Object:
        done = ("Succeeded", "Failed")
        found: Object = await self.until(
            name, lambda pod: pod if pod.get("status", {}).get("phase") in done else None
        )
        return found

    async def delete(self, name: str) -> None:
        pod = self.api.objects[f"{PODS}/{name}"]
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        pod["metadata"]["deletionGracePeriodSeconds"] = pod["spec"]["terminationGracePeriodSeconds"]
        await self.api.put(f"{PODS}/{name}", pod)
        await self.api.until(f"{PODS}/{name}", lambda pod: pod is None)

    async def exec(self, name: str, command: list[str], stdin: bytes = b"") -> tuple[int, bytes]:
        at = ContainerRef("default", name)
        session = await self.machines.exec(at, command, stdin=bool(stdin), tty=False)
        if stdin:
            await session.write(stdin)
            await session.close_stdin()
        output = b""
        while (chunk := await session.read()) is not None:
            output += chunk[1]
        return await session.wait(), output

    async def logs(self, name: str, **options: Any) -> bytes:
        chunks = self.machines.logs(ContainerRef("default", name), LogOptions(**options))
        return b"".join([chunk async for chunk in chunks])

    async def printed(self, name: str, text: bytes) -> None:
        async with asyncio.timeout(60):
            while text not in await self.logs(name):
                await asyncio.sleep(0.01)

    async def event(self, reason: str) -> str:
        async with asyncio.timeout(60):
            while not self.api.events(reason):
                await asyncio.sleep(0.01)
        return self.api.events(reason)[0]

    def chain_recorder(self) -> None:
        """Puts the recorder behind the base plugin, as a plugin that installs itself would."""
        plugin = self.node.path(f"{PLUGINS}/recorder")
        plugin.write_text(RECORDER)
        plugin.chmod(0o755)
        config = base_configuration(self.running.pod_cidr, 1500)
        capability = "io.kubernetes.cri.pod-annotations"
        config["plugins"] = [
            config["plugins"][0],
            {"type": "recorder", "capabilities": {capability: True}},
        ]
        path = self.node.path(f"{CONFIGURATIONS}/10-azure.conflist")
        path.write_text(json.dumps(config))

    def calls(self) -> list[tuple[str, dict[str, str], Object]]:
        found = []
        folder = self.node.path("/run/calls")
        for path in sorted(folder.iterdir(), key=lambda p: int(p.name)):
            command, args, config = path.read_text().split("\n", 2)
            pairs = dict(pair.split("=", 1) for pair in args.split(";"))
            found.append((command, pairs, json.loads(config)))
        return found


@asynccontextmanager
async def world(
    *, api_host: str = "10.225.0.4", kubelet: KubeletSettings | None = None
) -> AsyncIterator[World]:
    api = FakeApi()
    platform = Platform(api_host=api_host, api_port=443, ca="CA", nameserver="168.63.129.16")
    kubelet = kubelet or KubeletSettings(probe_control_plane=False)
    settings = MachinesSettings(platform=platform, kubelet=kubelet)
    machines = Machines(settings, lambda _: api, None)
    spec = MachineSpec(
        name="n1",
        vm_id="/vm/1",
        nic_id="/nic/1",
        address=IPv4Address("10.224.0.4"),
        provider_id="azure:///vm/1",
        pool="nodepool1",
        labels={"kubernetes.azure.com/agentpool": "nodepool1"},
        taints=(("key", "value", "NoSchedule"),),
    )
    try:
        yield World(machines, api, await machines.start(spec))
    finally:
        await machines.close()


@pytest.fixture
async def w() -> AsyncIterator[World]:
    """A machine with a kubelet."""
    async with world() as made:
        yield made


SLEEP: Object = {"command": ["sleep", "1000"]}


async def test_a_machine_becomes_a_ready_node(w: World) -> None:
    node = w.api.objects["/api/v1/nodes/n1"]
    assert node["spec"]["providerID"] == "azure:///vm/1"
    assert node["spec"]["podCIDR"] == "10.244.0.0/24"
    assert node["spec"]["taints"] == [{"key": "key", "value": "value", "effect": "NoSchedule"}]
    assert node["metadata"]["labels"]["kubernetes.azure.com/agentpool"] == "nodepool1"
    assert {"type": "InternalIP", "address": "10.224.0.4"} in node["status"]["addresses"]
    assert [c["status"] for c in node["status"]["conditions"] if c["type"] == "Ready"] == ["True"]
    lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1"
    assert w.api.objects[lease]["spec"]["holderIdentity"] == "n1"


async def test_two_pods_talk_and_show_their_addresses_only_after_add(w: World) -> None:
    listening = {"tcpSocket": {"port": 80}, "periodSeconds": 1, "timeoutSeconds": 30}
    image = "docker.io/library/nginx:1.27"
    await w.create("web", {"image": image, "readinessProbe": listening})
    web = await w.ready("web")
    await w.create("client", {"image": "curlimages/curl", **SLEEP})
    await w.ready("client")
    address = web["status"]["podIP"]
    assert IPv4Address(address) in IPv4Network("10.244.0.0/24")
    assert web["status"]["podIPs"] == [{"ip": address}]
    code, page = await w.exec("client", ["curl", "-s", f"http://{address}/"])
    assert code == 0
    assert b"Welcome to nginx!" in page
    # The log line names the pod that asked: nothing translated it.
    client = w.api.objects[f"{PODS}/client"]["status"]["podIP"]
    await w.printed("web", b"GET / ")  # the server says so after it has answered
    assert (await w.logs("web")).startswith(client.encode())
    seen = [e["object"] for _, e in w.api.history if e["object"]["metadata"]["name"] == "web"]
    assert "podIP" not in seen[0].get("status", {})


async def test_deletion_leaves_nothing_on_the_machine(w: World) -> None:
    links = "ip -o link; ls /run/netns; cat /var/lib/cni/networks/azure/10.* 2>&1"
    before = (await w.node.run(["sh", "-c", links])).stdout
    pod = await w.create("web", {"image": "nginx"})
    await w.ready("web")
    await w.delete("web")
    assert (await w.node.run(["sh", "-c", links])).stdout == before
    assert not w.node.path(f"/var/lib/kubelet/pods/{pod['metadata']['uid']}").exists()
    assert b"nginx" not in (await w.node.run(["ps", "-eo", "args="])).stdout


async def test_sigterm_comes_first_and_sigkill_after_the_grace_period(w: World) -> None:
    script = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done"
    container = {"command": ["sh", "-c", script]}
    await w.create("polite", container, terminationGracePeriodSeconds=1000)
    await w.ready("polite")
    await w.printed("polite", b"up")
    log = asyncio.create_task(w.logs("polite", follow=True))
    await asyncio.sleep(0)
    await w.delete("polite")
    assert await log == b"up\nbye\n"
    container = {"command": ["sh", "-c", "trap '' TERM; sleep 1000"]}
    await w.create("deaf", container, terminationGracePeriodSeconds=0.05)
    await w.ready("deaf")
    await w.delete("deaf")


async def test_a_forced_deletion_does_not_wait_for_the_grace_period(w: World) -> None:
    container = {"command": ["sh", "-c", "trap '' TERM; echo up; sleep 1000"]}
    pod = await w.create("deaf", container, terminationGracePeriodSeconds=1000)
    await w.ready("deaf")
    await w.printed("deaf", b"up")
    deletion = asyncio.create_task(w.delete("deaf"))
    assert "Stopping container c" in await w.event("Killing")
    await w.api.remove(f"{PODS}/deaf")
    await deletion
    async with asyncio.timeout(60):
        while w.running.kubelet.find("default", "deaf") is not None:
            await asyncio.sleep(0.01)
    assert list(w.node.path("/run/netns").iterdir()) == []
    assert not w.node.path(f"/var/lib/kubelet/pods/{pod['metadata']['uid']}").exists()


async def test_an_unknown_image_waits_and_names_those_that_work(w: World) -> None:
    await w.create("odd", {"image": "redis:7"})

    def waiting(pod: Object) -> str:
        states = [s["state"] for s in pod.get("status", {}).get("containerStatuses") or []]
        reasons = [s["waiting"] for s in states if "waiting" in s]
        return next((r["message"] for r in reasons if r["reason"] == "ErrImagePull"), "")

    message = await w.until("odd", waiting)
    assert 'failed to pull image "redis:7"' in message
    assert "busybox, curl, nginx, static-egress-gateway" in message
    assert await w.event("Failed") == message
    await w.delete("odd")


async def test_a_plugin_is_called_as_containerd_calls_it(w: World) -> None:
    w.chain_recorder()
    annotations = {"example.com/a": "b"}
    pod = await w.create("p", SLEEP, metadata={"annotations": annotations})
    await w.ready("p")
    command, args, config = w.calls()[0]
    assert command == "ADD"
    assert args["K8S_POD_NAME"] == "p"
    assert args["K8S_POD_NAMESPACE"] == "default"
    assert args["K8S_POD_UID"] == pod["metadata"]["uid"]
    assert args["IgnoreUnknown"] == "1"
    assert config["name"] == "azure"
    assert config["cniVersion"] == "1.0.0"
    assert config["runtimeConfig"] == {"io.kubernetes.cri.pod-annotations": annotations}
    assert config["prevResult"]["ips"][0]["address"].startswith("10.244.0.")
    cache = w.node.path(f"/var/lib/cni/results/azure-{args['K8S_POD_INFRA_CONTAINER_ID']}-eth0")
    assert json.loads(cache.read_text())["result"] == config["prevResult"]
    await w.delete("p")
    command, again, config_del = w.calls()[-1]
    assert command == "DEL"
    assert again == args
    assert config_del["prevResult"] == config["prevResult"]
    assert not cache.exists()


async def test_a_refused_add_is_undone_told_and_tried_again(w: World) -> None:
    w.chain_recorder()
    error = {
        "cniVersion": "1.0.0",
        "code": 11,
        "msg": "try again later",
        "details": "no gateway",
    }
    refuse = w.node.path("/run/refuse")
    refuse.write_text(json.dumps(error))
    await w.create("p", SLEEP)
    message = await w.event("FailedCreatePodSandBox")
    assert message.startswith("Failed to create pod sandbox: failed to setup network")
    assert message.endswith('plugin type="recorder" failed (add): try again later: no gateway')
    assert "podIP" not in w.api.objects[f"{PODS}/p"].get("status", {})
    assert [call[0] for call in w.calls()][:2] == ["ADD", "DEL"]
    refuse.unlink()
    await w.ready("p")
    adds = [call[1]["K8S_POD_INFRA_CONTAINER_ID"] for call in w.calls() if call[0] == "ADD"]
    assert len(set(adds)) == len(adds), "a sandbox of its own for every try"
    # Nothing of the failed tries is left: one sandbox, one address.
    assert len(list(w.node.path("/run/netns").iterdir())) == 1
    networks = w.node.path("/var/lib/cni/networks/azure")
    assert len([p for p in networks.iterdir() if p.name.startswith("10.")]) == 1


async def test_a_pod_deleted_while_add_fails_goes_away(w: World) -> None:
    w.node.path(f"{CONFIGURATIONS}/10-azure.conflist").unlink()
    await w.create("p", SLEEP)
    assert "cni plugin not initialized" in await w.event("FailedCreatePodSandBox")
    await w.delete("p")
    assert list(w.node.path("/run/netns").iterdir()) == []


async def test_a_pod_deleted_while_its_namespace_is_made_leaves_none(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, create = asyncio.Event(), w.node.create_netns

    async def slow(name: str) -> str:
        """The machine has made it, and its answer does not come."""
        await create(name)
        made.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(w.node, "create_netns", slow)
    await w.create("p", SLEEP)
    await made.wait()
    await w.delete("p")
    assert list(w.node.path("/run/netns").iterdir()) == []


async def test_a_killed_container_starts_again_with_its_old_log_at_hand(w: World) -> None:
    await w.create("p", {"command": ["sh", "-c", "echo run; exec sleep 1000"]})
    first = await w.ready("p")
    await w.printed("p", b"run")
    await w.machines.send_signal("default", "p", None, signal.SIGKILL)

    def again(p: Object) -> Object | None:
        status = p["status"]["containerStatuses"][0]
        return status if status["restartCount"] == 1 and status["ready"] else None

    status = await w.until("p", again)
    assert status["lastState"]["terminated"]["exitCode"] == 137
    assert status["containerID"] != first["status"]["containerStatuses"][0]["containerID"]
    assert await w.logs("p", previous=True) == b"run\n"
    assert w.api.objects[f"{PODS}/p"]["status"]["podIP"] == first["status"]["podIP"]


async def test_a_container_that_keeps_failing_backs_off(w: World) -> None:
    await w.create("p", {"command": ["false"]})

    def backing_off(pod: Object) -> bool:
        status = pod.get("status", {}).get("containerStatuses") or [{"state": {}}]
        waiting = status[0]["state"].get("waiting") or {}
        return waiting.get("reason") == "CrashLoopBackOff"

    await w.until("p", backing_off)
    assert "restarting failed container=c" in await w.event("BackOff")
    await w.delete("p")


@pytest.mark.parametrize(
    ("policy", "code", "script", "message"),
    [
        ("FallbackToLogsOnError", 3, "echo one; echo why", "one\nwhy\n"),
        ("FallbackToLogsOnError", 3, "echo log; echo own >/dev/termination-log", "own\n"),
        ("FallbackToLogsOnError", 0, "echo log", None),
        ("File", 3, "echo log", None),
    ],
)
async def test_last_words_are_the_containers_own_or_its_log_as_its_spec_says(
    policy: str, code: int, script: str, message: str | None, w: World
) -> None:
    container = {
        "command": ["sh", "-c", f"{script}; exit {code}"],
        "terminationMessagePolicy": policy,
    }
    await w.create("p", container, restartPolicy="Never")

    def spoken(pod: Object) -> Object | None:
        (status,) = pod.get("status", {}).get("containerStatuses") or [{"state": {}}]
        ended = status["state"].get("terminated")
        return ended if ended and (ended.get("message") or message is None) else None

    assert (await w.until("p", spoken)).get("message") == message
    await w.delete("p")


@pytest.mark.parametrize(("code", "phase"), [(0, "Succeeded"), (3, "Failed")])
async def test_a_pod_that_never_restarts_ends(code: int, phase: str, w: World) -> None:
    container = {"command": ["sh", "-c", f"echo done; exit {code}"]}
    await w.create("p", container, restartPolicy="Never")
    pod = await w.finished("p")
    assert pod["status"]["phase"] == phase
    state = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    assert state["exitCode"] == code
    # Its network is released at once, its log stays until it is deleted.
    async with asyncio.timeout(60):
        while list(w.node.path("/run/netns").iterdir()):
            await asyncio.sleep(0.01)
    assert await w.logs("p") == b"done\n"
    await w.delete("p")


async def test_init_containers_go_first_one_by_one(w: World) -> None:
    volume = {"name": "shared", "emptyDir": {}}
    mount = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}
    inits = [
        {"name": f"i{n}", "image": "busybox", "command": ["sh", "-c", f"echo {n} >> /shared/f"],
         **mount} for n in (1, 2)
    ]  # fmt: skip
    container = {"command": ["sh", "-c", "cat /shared/f; exec sleep 1000"], **mount}
    await w.create("p", container, initContainers=inits, volumes=[volume])
    await w.ready("p")
    assert await w.logs("p", follow=False) in (b"", b"1\n2\n")
    assert await w.exec("p", ["cat", "/shared/f"]) == (0, b"1\n2\n")


async def test_volumes_and_environment_come_from_the_api(w: World) -> None:
    base = "/api/v1/namespaces/default"
    await w.api.put(f"{base}/configmaps/cm", {"metadata": {}, "data": {"a": "1", "b": "2"}})
    secret = {"metadata": {}, "data": {"s": base64.b64encode(b"hush").decode()}}
    await w.api.put(f"{base}/secrets/sec", secret)
    w.node.path("/var/lib/thing").mkdir(parents=True)
    w.node.path("/var/lib/thing/file").write_text("from the machine")
    volumes = [
        {"name": "cm", "configMap": {"name": "cm", "items": [{"key": "b", "path": "x/y"}]}},
        {"name": "sec", "secret": {"secretName": "sec", "defaultMode": 0o400}},
        {"name": "host", "hostPath": {"path": "/var/lib/thing"}},
        {"name": "tok", "projected": {"sources": [
            {"serviceAccountToken": {"path": "t", "audience": "api://x"}},
            {"downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        ]}},
        {"name": "kube-api-access-x1", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt",
                           "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        ]}},
    ]  # fmt: skip
    container = {
        **SLEEP,
        "env": [
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "S", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "s"}}},
            {"name": "BOTH", "value": "$(NODE)-$(S)-$(NONE)"},
        ],
        "envFrom": [{"configMapRef": {"name": "cm"}, "prefix": "CM_"}],
        "volumeMounts": [
            {"name": "cm", "mountPath": "/cm", "readOnly": True},
            {"name": "sec", "mountPath": "/sec"},
            {"name": "host", "mountPath": "/host/thing"},
            {"name": "tok", "mountPath": "/tok"},
            {"name": "kube-api-access-x1", "mountPath": SERVICE_ACCOUNT, "readOnly": True},
        ],
    }
    await w.create("p", container, volumes=volumes, metadata={"labels": {"app": "x"}})
    pod = await w.ready("p")
    files = ["/cm/x/y", "/sec/s", "/host/thing/file", "/tok/t", "/tok/labels"]
    code, text = await w.exec("p", ["sh", "-c", f"cat {' '.join(files)}; touch /cm/z"])
    assert code != 0, "a read-only mount"
    assert text.startswith(b"2hushfrom the machinetoken-")
    assert b'app="x"' in text
    assert (await w.exec("p", ["stat", "-c", "%a", "/sec/s"]))[1] == b"400\n"
    assert (await w.exec("p", ["ls", SERVICE_ACCOUNT]))[1].split() == [b"ca.crt", b"token"]
    env = dict(line.split("=", 1) for line in (await w.exec("p", ["env"]))[1].decode().splitlines())
    assert env["NODE"] == "n1"
    assert env["IP"] == pod["status"]["podIP"]
    assert env["BOTH"] == "n1-hush-$(NONE)"
    assert (env["CM_a"], env["CM_b"]) == ("1", "2")
    assert env["KUBERNETES_SERVICE_HOST"] == "10.225.0.4"


async def test_what_is_in_the_way_of_a_machines_folder_is_told_until_it_is_gone(w: World) -> None:
    volume = {"name": "host", "hostPath": {"path": "/var/lib/thing", "type": "DirectoryOrCreate"}}
    mount = {"volumeMounts": [{"name": "host", "mountPath": "/host/thing"}]}
    await w.create("p", {"command": ["sh", "-c", "exit 1"], **mount}, volumes=[volume])
    await w.until("p", _ended)
    thing = w.node.path("/var/lib/thing")
    thing.rmdir()
    thing.symlink_to("/nowhere/at/all")
    async with asyncio.timeout(60):
        while "Error: /var/lib/thing: File exists" not in w.api.events("Failed"):
            await asyncio.sleep(0.01)
    thing.unlink()
    runs = await w.until("p", _ended)
    await w.until("p", lambda pod: _ended(pod) > runs)
    assert thing.is_dir()


def _ended(pod: Object) -> int:
    """How often its container has begun anew; 0 before its first end."""
    statuses = pod.get("status", {}).get("containerStatuses") or [{}]
    return int(statuses[0].get("restartCount", 0))


async def test_a_missing_config_map_is_told_and_waited_for(w: World) -> None:
    volume = {"name": "cm", "configMap": {"name": "late"}}
    await w.create("p", SLEEP, volumes=[volume])
    assert 'configmap "late" not found' in await w.event("FailedMount")
    path = "/api/v1/namespaces/default/configmaps/late"
    await w.api.put(path, {"metadata": {}, "data": {}})
    await w.ready("p")


async def test_a_pod_on_the_machines_network_has_its_address_and_no_sandbox(w: World) -> None:
    await w.create("p", SLEEP, hostNetwork=True)
    pod = await w.ready("p")
    assert pod["status"]["podIP"] == "10.224.0.4"
    same = ["readlink", "/proc/self/ns/net"]
    assert (await w.exec("p", same))[1] == (await w.node.run(same)).stdout
    assert (await w.exec("p", ["hostname"]))[1] == b"n1\n"
    assert list(w.node.path("/run/netns").iterdir()) == []


async def test_ready_follows_the_readiness_probe(w: World) -> None:
    probe = {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 0.05,
             "failureThreshold": 1}  # fmt: skip
    ports = [{"name": "http", "containerPort": 80}]
    script = "test -e /tmp/up || { echo not yet; exit 1; }"
    await w.create("web", {"image": "nginx", "ports": ports, "readinessProbe": probe})
    await w.ready("web")
    gate = {"exec": {"command": ["sh", "-c", script]}, "periodSeconds": 0.05,
            "failureThreshold": 1, "timeoutSeconds": 30}  # fmt: skip
    await w.create("gated", {**SLEEP, "readinessProbe": gate})
    async with asyncio.timeout(60):
        while "Readiness probe failed: not yet\n" not in w.api.events("Unhealthy"):
            await asyncio.sleep(0.01)
    status = await w.until("gated", lambda pod: pod.get("status"))
    assert status["containerStatuses"][0]["ready"] is False
    await w.exec("gated", ["touch", "/tmp/up"])
    await w.ready("gated")


async def test_a_failed_liveness_probe_restarts_the_container(w: World) -> None:
    probe = {"exec": {"command": ["false"]}, "periodSeconds": 0.01, "failureThreshold": 2,
             "timeoutSeconds": 30}  # fmt: skip
    container = {"command": ["sleep", "1000"], "livenessProbe": probe}
    await w.create("p", container)
    await w.until(
        "p",
        lambda pod: any(
            s["restartCount"] for s in pod.get("status", {}).get("containerStatuses") or []
        ),
    )
    assert "Liveness probe failed" in await w.event("Unhealthy")
    await w.delete("p")


async def test_attach_sees_output_and_gives_input(w: World) -> None:
    container = {"command": ["sh"], "stdin": True, "stdinOnce": True}
    await w.create("p", container, restartPolicy="Never")
    await w.ready("p")
    session = await w.machines.attach(ContainerRef("default", "p"), stdin=True, tty=False)
    await session.write(b"echo hello; exit 4\n")
    assert await session.read() == (1, b"hello\n")
    assert await session.read() is None
    assert await session.wait() == 4
    assert (await w.finished("p"))["status"]["phase"] == "Failed"


async def test_exec_of_nothing_and_logs_of_nothing_say_so(w: World) -> None:
    with pytest.raises(LookupError, match='pod "default/none" is not running'):
        await w.exec("none", ["true"])
    await w.create("p", SLEEP)
    await w.ready("p")
    with pytest.raises(LookupError, match='container "x" not found'):
        await w.machines.exec(ContainerRef("default", "p", "x"), ["true"], stdin=False, tty=False)
    with pytest.raises(LookupError, match="previous terminated container c"):
        await w.logs("p", previous=True)
    code, text = await w.exec("p", ["nosuch"])
    assert code == 126
    assert b'exec: "nosuch": executable file not found in $PATH' in text
    assert await w.exec("p", ["sh", "-c", "cat; exit 6"], b"in") == (6, b"in")


async def test_a_power_cut_tells_the_api_nothing_and_the_machine_can_come_back(w: World) -> None:
    await w.create("p", {"image": "nginx"})
    pod = await w.ready("p")
    before = pod["metadata"]["resourceVersion"]
    await w.machines.power_cut("n1")
    assert w.machines.names() == []
    assert w.api.objects[f"{PODS}/p"]["metadata"]["resourceVersion"] == before
    with pytest.raises(LookupError, match='no machine "n1" is running'):
        await w.machines.power_cut("n1")


async def test_a_kubelet_hears_nothing_while_its_machine_cannot_reach_the_control_plane() -> None:
    kubelet = KubeletSettings(heartbeat=0.01)
    async with world(api_host="127.0.0.1", kubelet=kubelet) as w:
        lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1"
        # Nobody listens on the machine's loopback: it is cut off from the first beat on.
        reachable = w.running.kubelet.api.reachable
        async with asyncio.timeout(60):
            while reachable.is_set():
                await asyncio.sleep(0.01)
        silent = w.api.objects[lease]["spec"]["renewTime"]
        await w.create("p", SLEEP)
        await asyncio.sleep(0.05)
        assert w.api.objects[lease]["spec"]["renewTime"] == silent
        assert "status" not in w.api.objects[f"{PODS}/p"]
        listener = open_socket(w.node.pid, socket.AF_INET, socket.SOCK_STREAM)
        listener.bind(("127.0.0.1", 443))
        listener.listen(128)
        await w.ready("p")
        await w.api.until(lease, lambda o: o and o["spec"]["renewTime"] != silent)
        listener.close()


async def test_a_slow_reader_of_an_exec_loses_nothing(w: World) -> None:
    await w.create("p", SLEEP)
    await w.ready("p")
    command = ["head", "-c", "40000000", "/dev/zero"]
    session = await w.machines.exec(ContainerRef("default", "p"), command, stdin=False, tty=False)
    await asyncio.sleep(1.5)  # long after a quick reader would have had everything
    count = 0
    while (chunk := await session.read()) is not None:
        count += len(chunk[1])
    assert count == 40_000_000
    assert await session.wait() == 0
