"""A command signs in once, and gives away nothing of what it signs in with."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from egress_gateway.cli.bundle.collect import credentials
from egress_gateway.cli.commands import cli
from tests.unit.kube.access.test_kube_config import kubeconfig
from tests.unit.kube.access.test_kube_signin import calls, gives, program, user


class Empty(BaseHTTPRequestHandler):
    """An API server with nothing in it."""

    def do_GET(self) -> None:
        body = json.dumps({"items": [], "metadata": {}, "gitVersion": "v1.36.0"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


@pytest.mark.parametrize("words", [["status"], ["check"], ["trace", "a"], ["bundle"]], ids=" ".join)
def test_a_command_signs_in_once(
    words: list[str], server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may ask for a code on a telephone."""
    monkeypatch.chdir(tmp_path)
    program(tmp_path, gives(token="t"))
    path = kubeconfig(tmp_path, user(), {"server": server})
    result = CliRunner().invoke(cli, [*words, "--kubeconfig", str(path)])
    assert result.exit_code in (0, 1), result.output
    assert "Traceback" not in result.output
    assert len(calls(tmp_path)) == 1


def test_secrets_of_every_kubeconfig_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users: list[dict[str, Any]] = [
        {"token": "token-of-a"},
        {"exec": {"env": [{"name": "AAD_CLIENT_SECRET", "value": "secret-of-b"}]}},
        {"password": "password-of-c"},
    ]
    files = []
    for number, one in enumerate(users):
        files.append(tmp_path / str(number))
        files[-1].write_text(yaml.safe_dump({"users": [{"name": "u", "user": one}]}))
    listed = ["", str(files[0]), str(tmp_path / "absent"), *map(str, files[1:])]
    monkeypatch.setenv("KUBECONFIG", ":".join(listed))
    known = credentials(None, "what-it-shows")
    assert {"token-of-a", "secret-of-b", "password-of-c", "what-it-shows"} <= set(known)
    assert "token-of-a" in credentials(str(files[0]), None)
    assert "password-of-c" not in credentials(str(files[0]), None)
