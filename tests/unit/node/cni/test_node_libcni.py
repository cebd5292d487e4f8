"""libcni's cache of results, read as records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from egress_gateway.api.types import ObjectMeta
from egress_gateway.kube.resources import Pod
from egress_gateway.node.cni.libcni import Results, parse

POD = Pod(metadata=ObjectMeta(name="web", namespace="default", uid="u-1"))
NETNS = "/proc/self/ns/net"


def cached(**changes: Any) -> dict[str, Any]:
    """As containerd leaves it (libcni 1.1): configuration in base64, sandbox in the result."""
    args = {"K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": "web", "K8S_POD_UID": "u-1"}
    return {
        "kind": "cniCacheV1",
        "containerId": "c1",
        "config": "e30=",
        "ifName": "eth0",
        "networkName": "azure",
        "cniArgs": [["IgnoreUnknown", "1"], *(list(pair) for pair in args.items())],
        "capabilityArgs": {"portMappings": []},
        "result": {
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": "veth1", "mac": "aa:bb:cc:dd:ee:ff"},
                {"name": "eth0", "mac": "aa:bb:cc:dd:ee:00", "sandbox": NETNS},
            ],
            "ips": [{"interface": 1, "address": "10.244.1.9/24", "gateway": "10.244.1.1"}],
            "dns": {},
        },
        **changes,
    }


def results(folder: Path, *files: object) -> Results:
    (folder / "results").mkdir()
    for number, file in enumerate(files):
        text = file if isinstance(file, str) else json.dumps(file)
        (folder / "results" / f"azure-c{number}-eth0").write_text(text)
    return Results(folder)


def test_a_cached_result_says_what_our_record_would() -> None:
    call = parse(json.dumps(cached()).encode())
    assert call.pod == ("default", "web", "u-1")
    assert (call.id, call.netns, call.configuration) == ("c1-eth0", NETNS, "")
    assert [str(a) for a in call.addresses] == ["10.244.1.9"]


def test_newer_libcni_says_the_namespace_itself() -> None:
    assert parse(json.dumps(cached(netns="/run/netns/x")).encode()).netns == "/run/netns/x"


def test_the_living_sandbox_is_found_among_others_and_rubbish(tmp_path: Path) -> None:
    dead = cached(containerId="c0", netns="/run/netns/gone")
    second = cached(ifName="net1", netns=NETNS)
    namesake = cached(cniArgs=[["K8S_POD_NAMESPACE", "other"], ["K8S_POD_NAME", "web"]])
    found = results(tmp_path, "{", dead, namesake, second, cached()).find(POD)
    assert found is not None
    assert found.id == "c1-eth0"


@pytest.mark.parametrize(
    "file",
    [
        cached(
            cniArgs=[
                ["K8S_POD_NAMESPACE", "default"],
                ["K8S_POD_NAME", "web"],
                ["K8S_POD_UID", "u-0"],
            ]
        ),
        cached(result={}),
        "not json",
    ],
)
def test_what_is_not_the_pods_is_not_taken(tmp_path: Path, file: object) -> None:
    assert results(tmp_path, file).find(POD) is None


def test_no_cache_is_no_error(tmp_path: Path) -> None:
    assert Results(tmp_path / "nowhere").find(POD) is None


def test_a_record_survives_being_written() -> None:
    call = parse(json.dumps(cached()).encode())
    from egress_gateway.cni.protocol import decode

    assert decode(msgspec.json.encode(call)).pod == call.pod
