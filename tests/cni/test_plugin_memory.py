"""What a pod's owner writes costs the node next to nothing: memory of the plugin, size of records.

A pod's annotations hold up to 256 KiB (Kubernetes' limit), each byte up to six in JSON.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway.cni import binary, protocol
from tests.cni.plugin_calls import agent, call, config

MOST_KILOBYTES = 2048
LIMIT = 256 * 1024


def many() -> dict[str, str]:
    return {f"{n:x}": "" for n in range(77_825)}


def keys_with(character: str) -> Callable[[], dict[str, str]]:
    """Short keys that are longer in JSON."""
    return lambda: {character + f"{n:x}": "" for n in range(40_000)}


ANNOTATIONS: dict[str, Callable[[], dict[str, str]]] = {
    "many": many,
    "escaped keys": keys_with("<"),
    "control characters": keys_with("\x01"),
    "quotes and backslashes": keys_with('"\\'),
    "every letter beyond one plane": keys_with("\U0001f600"),
    "ours and an escape": lambda: {names.POD_ANNOTATION + f"<{n:x}": "a" for n in range(3_900)},
    "values like ours": lambda: {f"{n:x}": names.POD_ANNOTATION for n in range(4_500)},
    "one long key": lambda: {"k" * (LIMIT - 9): ""},
    "one long value": lambda: {"k": "<" * (LIMIT - 9)},
    "nearly ours": lambda: {names.POD_ANNOTATION[:-1] + f"{n:x}": "a" for n in range(3_900)},
}


def as_go(document: Any) -> bytes:
    """JSON as Go writes it, whose runtimes call us."""
    text = json.dumps(document, ensure_ascii=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


def waiting(run_dir: Path, stdin: bytes) -> subprocess.Popen[bytes]:
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c0ffee",
        "CNI_NETNS": "/run/netns/x",
        "CNI_IFNAME": "eth0",
    }
    given = run_dir / "stdin"
    given.write_bytes(stdin)
    with given.open("rb") as source:
        return subprocess.Popen(
            [binary.path()], stdin=source, stdout=subprocess.DEVNULL, env=environment
        )


@pytest.mark.parametrize("kind", ANNOTATIONS)
def test_memory_is_bounded_whatever_the_annotations(tmp_path: Path, kind: str) -> None:
    annotations = ANNOTATIONS[kind]() | {names.POD_ANNOTATION: "egress"}
    conf = config(tmp_path, runtimeConfig={names.CNI_CAPABILITY: annotations})
    # An agent that never answers keeps the plugin where it can be looked at.
    with agent(tmp_path, reply=None) as fake:
        plugin = waiting(tmp_path, as_go(conf))
        while not fake.requests and plugin.poll() is None:
            os.sched_yield()
        status = Path(f"/proc/{plugin.pid}/status").read_text()
        plugin.kill()
        plugin.wait()
    [peak] = re.findall(r"VmHWM:\s+(\d+) kB", status)
    assert int(peak) <= MOST_KILOBYTES
    [request] = fake.requests
    assert len(json.dumps(request)) < 1024
    [record] = (tmp_path / "pods").iterdir()
    assert record.stat().st_size < 1024
    assert protocol.decode(record.read_bytes()).configuration == "egress"


@pytest.mark.parametrize("kind", ANNOTATIONS)
def test_record_of_a_pod_that_asks_for_nothing_is_small(tmp_path: Path, kind: str) -> None:
    conf = config(tmp_path, runtimeConfig={names.CNI_CAPABILITY: ANNOTATIONS[kind]()})
    assert call("ADD", as_go(conf)).code == 0
    [record] = (tmp_path / "pods").iterdir()
    assert record.stat().st_size < 1024
    assert protocol.decode(record.read_bytes()).addresses


@pytest.mark.parametrize("length", [2_100, 250_000])
def test_a_name_longer_than_any_is_refused_and_says_so(tmp_path: Path, length: int) -> None:
    done = call("ADD", config(tmp_path, annotation="n" * length))
    assert done.error["code"] == protocol.INVALID_CONFIG
    assert names.POD_ANNOTATION in done.error["msg"]
    assert len(done.out) < 1024


def test_the_longest_name_there_is_goes_through(tmp_path: Path) -> None:
    with agent(tmp_path) as fake:
        assert call("ADD", config(tmp_path, annotation="n" * 253)).code == 0
    [request] = fake.requests
    assert protocol.decode(json.dumps(request).encode()).configuration == "n" * 253
