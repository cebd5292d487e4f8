"""Access comes from the pod or from a kubeconfig, and what is missing is named."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from egress_gateway.kube.client import Client
from egress_gateway.kube.config import (
    ClusterAccessError,
    file_token,
    from_kubeconfig,
    in_cluster,
    load,
)
from egress_gateway.kube.errors import Unavailable
from egress_gateway.kube.resources import PODS
from egress_gateway_lab import pki
from tests.unit.kube.kube_scripted import Script, listed


def service_account(folder: Path) -> Path:
    (folder / "token").write_text("secret-1\n")
    (folder / "namespace").write_text("system")
    (folder / "ca.crt").write_bytes(pki.issue(addresses=[], names=["test"]).ca)
    return folder


IN_POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}


def test_in_a_pod(tmp_path: Path) -> None:
    access = in_cluster(IN_POD, service_account(tmp_path))
    assert access.server == "https://10.0.0.1:443"
    assert access.namespace == "system"
    assert access.token(False) == "secret-1"
    assert access.ssl_context is not None
    assert "secret" not in repr(access)


def test_an_ipv6_service_address_is_bracketed(tmp_path: Path) -> None:
    environ = {**IN_POD, "KUBERNETES_SERVICE_HOST": "2001:db8::1"}
    assert in_cluster(environ, service_account(tmp_path)).server == "https://[2001:db8::1]:443"


def test_a_rotated_token_is_seen_within_a_minute_or_at_once_when_asked(tmp_path: Path) -> None:
    file, clock = tmp_path / "token", [0.0]
    file.write_text("one")
    token = file_token(file, clock=lambda: clock[0])
    assert token(False) == "one"
    file.write_text("two")
    clock[0] = 59
    assert token(False) == "one"
    clock[0] = 61
    assert token(False) == "two"
    file.write_text("three")
    assert token(True) == "three"


async def test_a_ca_that_is_exchanged_is_trusted_once_the_server_uses_it(tmp_path: Path) -> None:
    """The kubelet writes the new one into the running pod."""
    before, after = pki.Authority(), pki.Authority()
    identity = after.server(addresses=["127.0.0.1"], names=[])
    (tmp_path / "server.pem").write_bytes(identity.key + identity.certificate)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "server.pem")
    (service_account(tmp_path) / "ca.crt").write_bytes(before.ca)
    script = Script()
    script.then(*[listed(5)] * 10)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", script.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    port = str(runner.addresses[0][1])
    environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port}
    async with Client(in_cluster(environ, tmp_path), "tester") as client:
        for written in (before.ca, b"half a cert", after.ca):
            with pytest.raises(Unavailable, match="certificate verify failed"):
                await client.list(PODS)
            (tmp_path / "ca.crt").write_bytes(written)
        with pytest.raises(Unavailable, match="certificate verify failed"):
            await client.list(PODS)
        await client.list(PODS)
    await runner.cleanup()


@pytest.mark.parametrize("missing", ["token", "ca.crt"])
def test_a_missing_file_of_the_pod_is_named(tmp_path: Path, missing: str) -> None:
    (service_account(tmp_path) / missing).unlink()
    with pytest.raises(ClusterAccessError, match=missing):
        in_cluster(IN_POD, tmp_path)


def kubeconfig(
    folder: Path, user: Mapping[str, object], cluster: Mapping[str, object] | None = None
) -> Path:
    path = folder / "config"
    document = {
        "current-context": "c",
        "contexts": [
            {"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "ns"}},
            {"name": "other", "context": {"cluster": "k", "user": "u"}},
        ],
        "clusters": [{"name": "k", "cluster": cluster or {"server": "https://127.0.0.1:6443/"}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_token_user(tmp_path: Path) -> None:
    access = from_kubeconfig(kubeconfig(tmp_path, {"token": "t"}))
    assert (access.server, access.namespace) == ("https://127.0.0.1:6443", "ns")
    assert access.token(False) == "t"


def test_a_certificate_user_with_embedded_and_relative_material(tmp_path: Path) -> None:
    identity = pki.issue(addresses=[], names=["test"])
    (tmp_path / "ca.pem").write_bytes(identity.ca)
    user = {
        "client-certificate-data": base64.b64encode(identity.certificate).decode(),
        "client-key-data": base64.b64encode(identity.key).decode(),
    }
    cluster = {"server": "https://127.0.0.1:6443", "certificate-authority": "ca.pem"}
    access = from_kubeconfig(kubeconfig(tmp_path, user, cluster))
    assert access.token(False) is None
    assert access.ssl_context is not None
    assert len(access.ssl_context.get_ca_certs()) == 1


def test_another_context(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, {"token": "t"})
    assert from_kubeconfig(path, context="other").namespace == "default"
    with pytest.raises(ClusterAccessError, match="no context named 'absent'"):
        from_kubeconfig(path, context="absent")


def test_several_files_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that has an entry counts, and its paths are relative to it."""
    folders = [tmp_path / name for name in ("a", "b", "absent")]
    for folder in folders[:2]:
        folder.mkdir()
        (folder / "token").write_text(folder.name)
    kubeconfig(folders[1], {"tokenFile": "token"}, {"server": "http://b"})
    only_context = {"contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}]}
    (folders[0] / "config").write_text(yaml.safe_dump({**only_context, "current-context": ""}))
    listed = [str(folder / "config") for folder in reversed(folders)]
    monkeypatch.setenv("KUBECONFIG", ":".join(["", *listed]))
    access = load()
    assert (access.server, access.token(False)) == ("http://b", "b")
    assert access.namespace == "ns", "b's context comes first"
    monkeypatch.setenv("KUBECONFIG", ":".join(reversed(listed)))
    access = load()
    assert (access.server, access.token(False)) == ("http://b", "b")
    assert access.namespace == "default", "a's context comes first"
    with pytest.raises(
        ClusterAccessError, match=r"a/config, .*b/config: no context named 'nobody'"
    ):
        load(context="nobody")
    monkeypatch.setenv("KUBECONFIG", str(folders[2] / "config"))
    with pytest.raises(ClusterAccessError, match=r"absent/config: No such .* KUBECONFIG names it"):
        load()


def test_the_environment_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kubeconfig(tmp_path, {"token": "t"})
    monkeypatch.setenv("KUBECONFIG", str(path))
    assert load().server == "https://127.0.0.1:6443"
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ClusterAccessError, match="no Kubernetes cluster configured"):
        load()
