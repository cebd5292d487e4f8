"""What a container runtime sees of the plugin, whatever state the node is in."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway.cni import protocol
from tests.cni.plugin_calls import PREV_RESULT, agent, call, config

VERSIONS = list(protocol.SUPPORTED_VERSIONS)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    # Socket paths are limited to 107 characters, which pytest's own folders may exceed.
    short = tmp_path / "r"
    short.mkdir()
    return short


def records(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "pods").glob("*")) if (run_dir / "pods").exists() else []


def mark_attached(run_dir: Path) -> None:
    (run_dir / "attached").mkdir()
    (run_dir / "attached" / "c0ffee-eth0.json").write_text("{}")


class TestPodWithoutAnnotation:
    @pytest.mark.parametrize("version", VERSIONS)
    def test_result_passes_through_byte_for_byte(self, run_dir: Path, version: str) -> None:
        odd = '{ "cniVersion" :"%s","ips":[ ],\t"x":1.50e3, "é\\u00e9\\n": "\\ud83d\\ude00" }'
        result = (odd % version).encode()
        raw = b'{"cniVersion":"%s","name":"n","type":"t","runDir":"%s", "prevResult": %s ,"y":[]}'
        stdin = raw % (version.encode(), os.fsencode(run_dir), result)
        done = call("ADD", stdin)
        assert (done.code, done.out) == (0, result)

    def test_nobody_is_asked(self, run_dir: Path) -> None:
        with agent(run_dir) as fake:
            assert call("ADD", config(run_dir)).code == 0
            assert call("CHECK", config(run_dir)).code == 0
            assert call("DEL", config(run_dir)).code == 0
        assert fake.requests == []

    @pytest.mark.parametrize(
        "runtime_config",
        [
            None,
            {},
            {names.CNI_CAPABILITY: None},
            {names.CNI_CAPABILITY: {}},
            {names.CNI_CAPABILITY: {"other/annotation": "x"}},
            {names.CNI_CAPABILITY: {names.POD_ANNOTATION: ""}},
            {names.CNI_CAPABILITY: {names.POD_ANNOTATION + "x": "a"}},
            {"other": {names.POD_ANNOTATION: "a"}},
            {names.POD_ANNOTATION: "a"},
        ],
    )
    def test_what_is_not_our_annotation_asks_for_nothing(
        self, run_dir: Path, runtime_config: Any
    ) -> None:
        done = call("ADD", config(run_dir, runtimeConfig=runtime_config))
        assert (done.code, json.loads(done.out)) == (0, PREV_RESULT)

    def test_annotation_in_an_earlier_result_asks_for_nothing(self, run_dir: Path) -> None:
        result = PREV_RESULT | {
            "runtimeConfig": {names.CNI_CAPABILITY: {names.POD_ANNOTATION: "a"}}
        }
        assert call("ADD", config(run_dir, prevResult=result)).code == 0

    def test_leaves_a_record_that_root_alone_can_read(self, run_dir: Path) -> None:
        call("ADD", config(run_dir))
        [path] = records(run_dir)
        assert path.name == "c0ffee-eth0.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        record = protocol.decode(path.read_bytes())
        assert record.pod == ("default", "web", "u-1")
        assert [str(a) for a in record.addresses] == ["10.244.0.7"]
        assert record.configuration == ""

    def test_unwritable_record_fails_nobody(self, tmp_path: Path) -> None:
        blocked = tmp_path / "file"
        blocked.write_text("not a folder")
        done = call("ADD", config(blocked / "run"))
        assert (done.code, json.loads(done.out)) == (0, PREV_RESULT)

    def test_delete_removes_the_record_and_may_be_repeated(self, run_dir: Path) -> None:
        call("ADD", config(run_dir))
        for _ in range(2):
            done = call("DEL", config(run_dir), CNI_NETNS="")
            assert (done.code, done.out) == (0, b"")
        assert records(run_dir) == []

    def test_first_in_the_chain_still_answers_a_result(self, run_dir: Path) -> None:
        done = call("ADD", config(run_dir, prevResult=None))
        assert (done.code, json.loads(done.out)) == (0, {"cniVersion": "1.0.0"})


class TestPodWithAnnotation:
    def test_agent_gets_the_call_and_the_result_passes_through(self, run_dir: Path) -> None:
        with agent(run_dir) as fake:
            done = call("ADD", config(run_dir, annotation="my-egress"))
        assert (done.code, json.loads(done.out)) == (0, PREV_RESULT)
        [request] = fake.requests
        told = protocol.decode(json.dumps(request).encode())
        assert (told.command, told.id, told.netns) == ("ADD", "c0ffee-eth0", "/run/netns/x")
        assert told.configuration == "my-egress"
        assert told.pod == ("default", "web", "u-1")

    def test_annotation_is_found_behind_escapes(self, run_dir: Path) -> None:
        key = names.POD_ANNOTATION.replace("/", "\\/").replace("k", "\\u006b")
        capability = names.CNI_CAPABILITY.replace(".", "\\u002e")
        annotations = f'{{"a":"]}}\\"","{key}":"e"}}'
        stdin = (
            f'{{"cniVersion":"1.0.0","runDir":"{run_dir}","prevResult":{{}},'
            f'"runtimeConfig":{{"{capability}":{annotations}}}}}'
        )
        assert call("ADD", stdin.encode()).error["code"] == protocol.TRY_AGAIN

    def test_without_agent_the_runtime_is_told_to_try_again(self, run_dir: Path) -> None:
        done = call("ADD", config(run_dir, annotation="e"))
        assert done.code == 1
        assert done.error["code"] == protocol.TRY_AGAIN
        assert done.error["cniVersion"] == "1.0.0"
        assert "node agent" in done.error["msg"]
        assert str(run_dir / "cni.sock") in done.error["details"]

    def test_socket_that_nobody_listens_on(self, run_dir: Path) -> None:
        with agent(run_dir):
            pass  # the file stays
        assert call("ADD", config(run_dir, annotation="e")).error["code"] == protocol.TRY_AGAIN

    def test_silent_agent_is_given_up_at_the_deadline(self, run_dir: Path) -> None:
        conf = config(run_dir, annotation="e", agentTimeoutMilliseconds=50)
        with agent(run_dir, reply=None):
            done = call("ADD", conf)
        assert done.error["code"] == protocol.TRY_AGAIN

    def test_refusal_is_printed_as_it_stands(self, run_dir: Path) -> None:
        refusal = protocol.refusal(11, 'no "gateway"', "try\nlater", version="0.4.0")
        with agent(run_dir, reply=refusal):
            done = call("ADD", config(run_dir, annotation="e"))
        assert (done.code, done.out) == (1, refusal.removeprefix(b"error\n"))

    @pytest.mark.parametrize(
        "reply",
        [b"", b"o", b"ok", b"ok\n\n", b"error\n", b'error\n{"code":11', b"error\n[]", b"{}"],
    )
    def test_half_an_answer_never_starts_a_pod(self, run_dir: Path, reply: bytes) -> None:
        with agent(run_dir, reply=reply):
            done = call("ADD", config(run_dir, annotation="e"))
        assert (done.code, done.error["code"]) == (1, protocol.TRY_AGAIN)

    def test_endless_answer_is_given_up(self, run_dir: Path) -> None:
        with agent(run_dir, reply=b"ok\n" * 100_000):
            done = call("ADD", config(run_dir, annotation="e"))
        assert (done.code, done.error["code"]) == (1, protocol.TRY_AGAIN)

    def test_without_a_record_the_pod_does_not_start(self, tmp_path: Path) -> None:
        blocked = tmp_path / "file"
        blocked.write_text("not a folder")
        done = call("ADD", config(blocked / "run", annotation="e"))
        assert done.error["code"] == protocol.TRY_AGAIN

    def test_must_be_chained(self, run_dir: Path) -> None:
        with agent(run_dir):
            done = call("ADD", config(run_dir, annotation="e", prevResult=None))
        assert done.error["code"] == protocol.INVALID_CONFIG


class TestAttachedPod:
    """Attached at its start or later: the agent's file says so, whatever the annotations say."""

    def test_delete_tells_the_agent(self, run_dir: Path) -> None:
        call("ADD", config(run_dir))
        mark_attached(run_dir)
        with agent(run_dir) as fake:
            assert call("DEL", config(run_dir)).code == 0
        assert [r["command"] for r in fake.requests] == ["DEL"]
        assert records(run_dir) == []

    def test_delete_succeeds_without_agent(self, run_dir: Path) -> None:
        mark_attached(run_dir)
        assert call("DEL", config(run_dir, annotation="e")).code == 0

    def test_check_asks_the_agent(self, run_dir: Path) -> None:
        mark_attached(run_dir)
        with agent(run_dir, reply=protocol.refusal(11, "no handshake")):
            assert call("CHECK", config(run_dir)).error["msg"] == "no handshake"
        assert call("CHECK", config(run_dir)).error["code"] == protocol.TRY_AGAIN


class TestOtherVerbs:
    @pytest.mark.parametrize("stdin", [b"", b"garbage", b'{"cniVersion":"1.1.0"}'])
    def test_version(self, stdin: bytes) -> None:
        done = call("VERSION", stdin)
        assert (done.code, json.loads(done.out)) == (
            0,
            {"cniVersion": "1.1.0", "supportedVersions": VERSIONS},
        )

    def test_status_is_ready_without_agent(self, run_dir: Path) -> None:
        """An error would make the whole node NotReady, for pods that ask nothing of us."""
        done = call("STATUS", config(run_dir, cniVersion="1.1.0"))
        assert (done.code, done.out) == (0, b"")

    def test_gc_is_handed_on(self, run_dir: Path) -> None:
        valid = [{"containerID": "a", "ifname": "eth0"}]
        conf = config(run_dir, cniVersion="1.1.0") | {"cni.dev/valid-attachments": valid}
        with agent(run_dir) as fake:
            assert call("GC", conf, CNI_CONTAINERID="", CNI_IFNAME="", CNI_NETNS="").code == 0
        told = protocol.decode(json.dumps(fake.requests[0]).encode())
        assert [a.container_id for a in told.config.valid_attachments or []] == ["a"]

    def test_gc_succeeds_without_agent(self, run_dir: Path) -> None:
        assert call("GC", config(run_dir, cniVersion="1.1.0")).code == 0


class TestBadInput:
    @pytest.mark.parametrize(
        ("stdin", "code"),
        [
            (b"", protocol.DECODE_FAILURE),
            (b"[]", protocol.DECODE_FAILURE),
            (b'{"cniVersion":"1.0.0"', protocol.DECODE_FAILURE),
            (b'{"cniVersion":"1.0.0"}}', protocol.DECODE_FAILURE),
            (b'{"a":' * 300 + b"1" + b"}" * 300, protocol.DECODE_FAILURE),
            (b"{}", 1),
            (b'{"cniVersion":"0.2.0"}', 1),
            (b'{"cniVersion":1}', 1),
            (b'{"cniVersion":"1.0.0\\u0000"}', 1),
        ],
    )
    def test_configuration(self, stdin: bytes, code: int) -> None:
        done = call("ADD", stdin)
        assert (done.code, done.error["code"]) == (1, code)

    @pytest.mark.parametrize(
        "env",
        [
            {"CNI_CONTAINERID": ""},
            {"CNI_CONTAINERID": "../../etc/passwd"},
            {"CNI_CONTAINERID": "a/b"},
            {"CNI_CONTAINERID": ".a"},
            {"CNI_IFNAME": ""},
            {"CNI_IFNAME": ".."},
            {"CNI_IFNAME": "a/b"},
            {"CNI_IFNAME": "sixteen-letters-"},
            {"CNI_NETNS": ""},
        ],
    )
    def test_environment(self, run_dir: Path, env: dict[str, Any]) -> None:
        done = call("ADD", config(run_dir), **env)
        assert (done.code, done.error["code"]) == (1, 4)
        assert records(run_dir) == []

    @pytest.mark.parametrize("command", [None, "EXPLODE", "add"])
    def test_command(self, run_dir: Path, command: str | None) -> None:
        done = call(command, config(run_dir))
        assert (done.code, done.error["code"]) == (1, 4)
