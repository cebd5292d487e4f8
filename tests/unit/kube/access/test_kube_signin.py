"""Users who sign in through a program (kubelogin and its like): real programs, called as kubectl
calls them."""

from __future__ import annotations

import datetime
import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from egress_gateway.kube.config import ClusterAccessError, from_kubeconfig
from egress_gateway.kube.signin import SignIn
from egress_gateway_lab.pki import issue
from tests.unit.kube.access.test_kube_config import kubeconfig

V1 = "client.authentication.k8s.io/v1"
V1BETA1 = "client.authentication.k8s.io/v1beta1"
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def program(folder: Path, body: str, name: str = "plugin") -> Path:
    """A program beside the kubeconfig, which also writes down each of its calls."""
    file = folder / name
    file.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        "info = json.loads(os.environ['KUBERNETES_EXEC_INFO'])\n"
        f"with open({str(folder / 'calls')!r}, 'a') as calls:\n"
        "    call = [sys.argv[1:], info, os.environ.get('ADDED'), sys.stdin.read()]\n"
        "    calls.write(json.dumps(call) + '\\n')\n"
        f"count = len(open({str(folder / 'calls')!r}).readlines())\n"
        f"{body}\n"
    )
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


def gives(version: str = V1, **status: Any) -> str:
    """A body that prints an ExecCredential."""
    document = {"apiVersion": version, "kind": "ExecCredential", "status": status}
    return f"print({json.dumps(document)!r})"


def calls(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


def user(command: str = "./plugin", version: str = V1, **more: Any) -> dict[str, Any]:
    never = {"interactiveMode": "Never"}
    return {"exec": {"apiVersion": version, "command": command, **never, **more}}


@pytest.mark.parametrize("version", [V1, V1BETA1])
def test_a_token_of_a_program(tmp_path: Path, version: str) -> None:
    program(tmp_path, gives(version, token="secret-1"))
    asked = user(
        version=version, args=["get-token", "--server-id", 1], env=[{"name": "ADDED", "value": "x"}]
    )
    access = from_kubeconfig(kubeconfig(tmp_path, asked))
    assert access.token(False) == access.token(False) == "secret-1"
    info = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
    assert calls(tmp_path) == [[["get-token", "--server-id", "1"], info, "x", ""]], "asked once"
    assert "secret" not in repr(access)


def test_a_refused_token_is_asked_for_anew(tmp_path: Path) -> None:
    body = gives(token="N").replace('"N"', '"' + "'+str(count)+'" + '"')
    program(tmp_path, body)
    access = from_kubeconfig(kubeconfig(tmp_path, user()))
    assert [access.token(fresh) for fresh in (False, False, True, False)] == ["1", "1", "2", "2"]


@pytest.mark.parametrize(
    ("ends", "asked"),
    [
        ("2026-01-01T01:00:00Z", 1),
        ("2026-01-01T01:00:00+00:00", 1),
        ("2026-01-01T00:00:05Z", 2),
        ("2025-12-31T23:00:00Z", 2),
        ("2026-01-01T00:30:00+01:00", 2),
        ("2026-01-01T01:00:00", 1),
        ("2026-01-01T01:00:00.123456789Z", 1),
        ("2026-01-01T00:00:05.5+00:00", 2),
        (None, 1),
    ],
)
def test_a_token_lives_as_long_as_it_says(tmp_path: Path, ends: str | None, asked: int) -> None:
    program(tmp_path, gives(token="t", expirationTimestamp=ends))
    signing = SignIn(user()["exec"], {}, tmp_path, now=lambda: NOW)
    for _ in range(2):
        assert signing.credential(False).token == "t"
    assert len(calls(tmp_path)) == asked


def test_a_certificate_of_a_program(tmp_path: Path) -> None:
    made = issue(addresses=[], names=["test"])
    cert, key = made.certificate.decode(), made.key.decode()
    program(tmp_path, gives(clientCertificateData=cert, clientKeyData=key))
    access = from_kubeconfig(kubeconfig(tmp_path, user()))
    assert access.token(False) is None
    assert access.ssl_context is not None
    program(tmp_path, gives(clientCertificateData=cert, clientKeyData="no key"))
    with pytest.raises(ClusterAccessError, match="client certificate and key cannot be used"):
        from_kubeconfig(kubeconfig(tmp_path, user()))


def test_the_cluster_is_told_where_it_is_asked_for(tmp_path: Path) -> None:
    program(tmp_path, gives(token="t"))
    cluster = {"server": "https://127.0.0.1:6443", "tls-server-name": "api"}
    from_kubeconfig(kubeconfig(tmp_path, user(provideClusterInfo=True), cluster))
    (call,) = calls(tmp_path)
    assert call[1]["spec"]["cluster"] == cluster


def test_a_name_is_looked_for_in_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    program(folder, gives(token="t"), "kubelogin")
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    assert from_kubeconfig(kubeconfig(tmp_path, user("kubelogin"))).token(False) == "t"


@pytest.mark.parametrize("command", ["./plugin", "../bin/plugin", "{}/plugin"])
def test_a_path_is_beside_the_kubeconfig_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Also where the kubeconfig itself is named by a relative path."""
    folder, elsewhere = tmp_path / "bin", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    program(folder, gives(token="t"))
    kubeconfig(folder, user(command.format(folder)))
    for there, path in ((folder, "config"), (elsewhere, "../bin/config"), (tmp_path, "bin/config")):
        monkeypatch.chdir(there)
        assert from_kubeconfig(Path(path)).token(False) == "t"


@pytest.mark.parametrize(
    ("asked", "body", "words"),
    [
        (
            user("no-such-login", installHint="apt install it"),
            "",
            "cannot be started.*apt install it",
        ),
        (user("./absent"), "", "cannot be started: No such file"),
        # kubelogin's own hint has three lines.
        (user("./absent", installHint="needed.\n\nSee there.\n"), "", r"needed\. See there\.$"),
        (user(), "sys.exit(3)", "ended with status 3"),
        (user(), "os.kill(os.getpid(), 9)", "ended with status -9"),
        (user(), "print('Logged in!')", "printed no ExecCredential"),
        (user(), "pass", "printed no ExecCredential"),
        (user(), "print('null')", "makes no sense"),
        (user(), "print('[]')", "makes no sense"),
        (user(), gives(V1BETA1, token="t"), "asks for another version"),
        (user(), 'print(\'{"kind": "Status"}\')', "in place of .*ExecCredential"),
        (user(), gives(), "neither a token nor a client certificate"),
        (user(), gives(token=""), "neither a token nor a client certificate"),
        (user(), gives(token=7), "token of an ExecCredential is no text"),
        (user(), gives(clientKeyData="k"), "certificate without its key, or the key alone"),
        (user(), gives(token="t", expirationTimestamp="soon"), "makes no sense"),
        (user(version="client.authentication.k8s.io/v1alpha1"), "", "kubelogin convert-kubeconfig"),
        ({"exec": {"apiVersion": V1}}, "", "names no command"),
        ({"exec": {"command": "./plugin"}}, "", "apiVersion None"),
        (user(interactiveMode="Always"), "", "standard input is no terminal"),
        (user(env=[{"name": "X"}]), "", "makes no sense"),
    ],
)
def test_what_goes_wrong_is_one_line_that_names_the_program(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: dict[str, Any],
    body: str,
    words: str,
) -> None:
    program(tmp_path, body)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ClusterAccessError, match=words) as failed:
        from_kubeconfig(kubeconfig(tmp_path, asked))
    assert "\n" not in str(failed.value)


def test_no_message_holds_what_the_program_printed(tmp_path: Path) -> None:
    for body in ("print('secret-1')", 'print(\'{"token": "secret-1"}\')'):
        program(tmp_path, body)
        with pytest.raises(ClusterAccessError) as failed:
            from_kubeconfig(kubeconfig(tmp_path, user()))
        assert "secret-1" not in str(failed.value)
