"""What the runtime decides without touching a kernel."""

from __future__ import annotations

import asyncio
import os
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_gateway_lab.runtime.containers import cni
from egress_gateway_lab.runtime.containers.logs import LogFile
from egress_gateway_lab.runtime.kubelet import environment, images, podstatus, security
from egress_gateway_lab.runtime.kubelet.pod import resolv_conf
from egress_gateway_lab.runtime.machine import rootfs
from egress_gateway_lab.runtime.nodes import masquerade
from egress_gateway_lab.runtime.programs import nginx

POD: dict[str, Any] = {
    "metadata": {
        "name": "p",
        "namespace": "ns",
        "uid": "u1",
        "labels": {"app.kubernetes.io/name": "x"},
    },
    "spec": {"nodeName": "n1"},
}


def build(container: dict[str, Any], **found: dict[str, str]) -> dict[str, str]:
    sources = {("ConfigMap", name): values for name, values in found.items()}
    return environment.build(
        POD, container, base={"BASE": "1"}, found=sources, host_ip="10.224.0.4", pod_ips=["1.2.3.4"]
    )


# Environment


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("$(A)", "1"),
        ("$(A)$(B)", "12"),
        ("$(NONE)", "$(NONE)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("a$b", "a$b"),
        ("$(A", "$(A"),
    ],
)
def test_references_expand_as_kubernetes_says(text: str, result: str) -> None:
    assert environment.expand(text, {"A": "1", "B": "2"}) == result


@given(st.text(alphabet="ab(){}x ", max_size=30))
def test_text_without_a_dollar_is_left_alone(text: str) -> None:
    assert environment.expand(text, {"a": "no"}) == text


def test_later_variables_see_and_replace_earlier_ones() -> None:
    env = build(
        {
            "envFrom": [{"configMapRef": {"name": "cm"}}],
            "env": [{"name": "A", "value": "$(BASE)$(K)"}, {"name": "K", "value": "new"}],
        },
        cm={"K": "old"},
    )
    assert env == {"BASE": "1", "A": "1old", "K": "new"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "p"),
        ("metadata.namespace", "ns"),
        ("metadata.uid", "u1"),
        ("metadata.labels['app.kubernetes.io/name']", "x"),
        ("metadata.annotations['none']", ""),
        ("spec.nodeName", "n1"),
        ("status.hostIP", "10.224.0.4"),
        ("status.podIP", "1.2.3.4"),
    ],
)
def test_fields_of_the_downward_api(path: str, value: str) -> None:
    env = build({"env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}}]})
    assert env["X"] == value


def test_what_is_missing_is_named_unless_it_is_optional() -> None:
    reference = {"name": "cm", "key": "k"}
    container = {"env": [{"name": "X", "valueFrom": {"configMapKeyRef": reference}}]}
    with pytest.raises(environment.MissingSource, match='configmap "cm" not found'):
        build(container)
    with pytest.raises(environment.MissingSource, match="couldn't find key k in ConfigMap ns/cm"):
        build(container, cm={})
    reference["optional"] = True  # type: ignore[assignment]
    assert build(container) == {"BASE": "1"}
    assert environment.sources(container) == {("ConfigMap", "cm")}


# Images


@pytest.mark.parametrize(
    "reference",
    ["nginx", "nginx:1.27", "docker.io/library/nginx@sha256:0", "mcr.microsoft.com/x/nginx:v1"],
)
def test_registries_and_tags_mean_nothing(reference: str) -> None:
    assert images.find(reference).name == "nginx"


def test_other_images_are_refused_with_the_list() -> None:
    with pytest.raises(images.UnknownImage, match="busybox, curl, nginx, static-egress-gateway"):
        images.find("redis")


def test_command_and_args_replace_what_the_image_says() -> None:
    curl, ours = images.find("curlimages/curl"), images.find("static-egress-gateway")
    assert images.argv(curl, [], []) == ["curl"]
    assert images.argv(curl, [], ["-s", "ifconfig.me"]) == ["curl", "-s", "ifconfig.me"]
    assert images.argv(curl, [], ["sleep", "1"]) == ["sleep", "1"]
    assert images.argv(curl, ["sh", "-c"], ["x"]) == ["sh", "-c", "x"]
    assert images.argv(ours, [], ["node"])[1:] == ["-m", "egress_gateway.cli.main", "node"]
    assert images.argv(ours, ["egress-gateway", "node"], []) == images.argv(ours, [], ["node"])


# CNI


SANDBOX = cni.Sandbox(
    container_id="c1",
    netns="/run/netns/cni-1",
    namespace="ns",
    name="p",
    uid="u1",
    annotations={"a": "b"},
)
NETWORK = {"cniVersion": "1.0.0", "name": "azure", "plugins": []}


def test_a_plugin_gets_what_it_declares_and_nothing_else() -> None:
    plain = cni.plugin_config(NETWORK, {"type": "x", "mtu": 1}, SANDBOX, None)
    assert plain == {"type": "x", "mtu": 1, "cniVersion": "1.0.0", "name": "azure"}
    capability = "io.kubernetes.cri.pod-annotations"
    plugin = {"type": "x", "capabilities": {capability: True, "portMappings": True}}
    config = cni.plugin_config(NETWORK, plugin, SANDBOX, {"ips": []})
    assert "capabilities" not in config
    assert config["runtimeConfig"] == {capability: {"a": "b"}}
    assert config["prevResult"] == {"ips": []}


def test_only_the_addresses_inside_the_sandbox_are_the_pods() -> None:
    result = {
        "interfaces": [{"name": "veth0"}, {"name": "eth0", "sandbox": "/run/netns/cni-1"}],
        "ips": [
            {"address": "10.0.0.1/24", "interface": 0},
            {"address": "10.0.0.2/24", "interface": 1},
            {"address": "2001:db8::2/64"},
        ],
    }
    assert [str(a) for a in cni.result_addresses(result)] == ["10.0.0.2", "2001:db8::2"]
    assert cni.result_addresses({}) == []


def test_masquerading_spares_the_inside() -> None:
    inside = (IPv4Network("10.244.0.0/16"), IPv4Network("10.224.0.0/12"))
    text = masquerade.ruleset(IPv4Network("10.244.0.0/16"), inside)
    rule = "ip saddr 10.244.0.0/16 ip daddr != { 10.244.0.0/16, 10.224.0.0/12 } counter masquerade"
    assert rule in text


# Rights


def test_capabilities_are_added_to_and_dropped_from_the_default_set() -> None:
    def kept(**capabilities: list[str]) -> set[str]:
        context = {"securityContext": {"capabilities": capabilities}}
        return set(security.rights({}, context).capabilities)

    assert kept() == security.DEFAULT_CAPABILITIES
    assert "NET_ADMIN" not in kept()
    assert kept(drop=["ALL"], add=["NET_ADMIN"]) == {"NET_ADMIN"}
    assert kept(drop=["CAP_NET_RAW"]) == security.DEFAULT_CAPABILITIES - {"NET_RAW"}


def test_a_container_overrides_its_pod() -> None:
    pod = {"securityContext": {"runAsUser": 1000, "runAsGroup": 1000}}
    rights = security.rights(pod, {"securityContext": {"runAsUser": 0}})
    assert (rights.user, rights.group) == (0, 1000)
    assert security.rights({}, {}).user is None


# Root file systems


def test_only_disks_below_the_root_are_shown_again() -> None:
    mountinfo = (
        "1 0 8:1 / / rw - ext4 /dev/vda rw\n"
        "2 1 0:5 / /proc rw - proc proc rw\n"
        "3 1 8:2 / /home/a\\040b rw shared:1 - xfs /dev/vdb rw\n"
        "4 1 8:2 / /data rw master:3 propagate_from:2 - ext4 /dev/vdb rw\n"
    )
    assert rootfs.disk_mounts(mountinfo) == ["/data", "/home/a b"]


def test_links_are_followed_inside_the_root(tmp_path: Path) -> None:
    root = str(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "var").mkdir()
    os.symlink("/run", tmp_path / "var" / "run")
    os.symlink("../../../../etc", tmp_path / "var" / "up")
    os.symlink("loop", tmp_path / "loop")
    assert rootfs.resolve(root, "/var/run/secrets/x") == f"{root}/run/secrets/x"
    assert rootfs.resolve(root, "/var/up/passwd") == f"{root}/etc/passwd"
    assert rootfs.resolve(root, "/../../x") == f"{root}/x"
    with pytest.raises(OSError, match="too many symbolic links"):
        rootfs.resolve(root, "/loop/x")


@given(st.lists(st.sampled_from(["a", "..", ".", "", "b"]), max_size=12))
def test_no_path_leads_out_of_the_root(parts: list[str]) -> None:
    resolved = rootfs.resolve("/nowhere/root", "/".join(parts))
    assert (resolved + "/").startswith("/nowhere/root/")
    assert ".." not in resolved.split("/")


# Status


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    others = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": "t0"}]
    first = podstatus.conditions(others, {"Ready": (False, "ContainersNotReady")}, "t1")
    assert first[0] == others[0]
    assert first[1]["reason"] == "ContainersNotReady"
    again = podstatus.conditions(first, {"Ready": (False, "ContainersNotReady")}, "t2")
    assert again[1]["lastTransitionTime"] == "t1"
    ready = podstatus.conditions(again, {"Ready": (True, "")}, "t3")
    assert ready[1]["lastTransitionTime"] == "t3"
    assert "reason" not in ready[1]


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({}, "nameserver 168.63.129.16\n"),
        (
            {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"], "searches": ["a"]}},
            "nameserver 192.0.2.1\nsearch a\n",
        ),
        (
            {"dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}},
            "nameserver 168.63.129.16\noptions ndots:2\n",
        ),
    ],
)
def test_resolver_configuration(spec: dict[str, Any], text: str) -> None:
    assert resolv_conf(spec, str(IPv4Address("168.63.129.16"))) == text


# Logs


async def read(log: LogFile, **options: Any) -> bytes:
    options = {"follow": False, "tail_lines": None, "timestamps": False, **options}
    return b"".join([chunk async for chunk in log.read(**options)])


async def test_a_log_is_what_was_written(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "0.log")
    log.append(1, b"one\ntw")
    log.append(2, b"err\n")
    log.append(1, b"o\nthree")
    assert await read(log) == b"one\nerr\ntwo\n"
    assert await read(log, tail_lines=1) == b"two\n"
    assert await read(log, tail_lines=0) == b""
    follower = asyncio.create_task(read(log, follow=True, tail_lines=1))
    await asyncio.sleep(0)
    log.end()
    assert await follower == b"two\nthree"
    assert (await read(log, timestamps=True)).count(b"Z ") == 4


async def test_a_long_log_keeps_its_end_and_a_follower_misses_nothing(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "0.log", limit=4096)
    follower = asyncio.create_task(read(log, follow=True))
    await asyncio.sleep(0)
    lines = [b"line %d\n" % n for n in range(1000)]
    for line in lines:
        log.append(1, line)
    log.end()
    assert await follower == b"".join(lines)
    kept = await read(log)
    assert kept.endswith(b"line 998\nline 999\n")
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 2 * 4096


# nginx


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET / HTTP/1.1", b"200 OK"),
        (b"HEAD /index.html HTTP/1.0", b"200 OK"),
        (b"GET /none HTTP/1.1", b"404 Not Found"),
        (b"POST / HTTP/1.1", b"405 Not Allowed"),
        (b"nonsense", b"400 Bad Request"),
    ],
)
def test_the_web_server_answers(request_line: bytes, status: bytes) -> None:
    answer, line = nginx.respond(request_line + b"\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert request_line.decode() in line
    assert (body == b"") is request_line.startswith(b"HEAD")
