"""A kubeconfig's proxy is used as kubectl uses it, and its other fields about the way are too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from egress_gateway.kube import errors, proxy
from egress_gateway.kube.client import Client
from egress_gateway.kube.config import ClusterAccessError, from_kubeconfig
from egress_gateway.kube.resources import CONFIG_MAPS
from tests.unit.kube.access.test_kube_config import kubeconfig
from tests.unit.kube.kube_scripted import Script, listed, serving

SERVER = "https://api.example.com:6443"


@pytest.fixture(autouse=True)
def nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's own proxies do not count."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def test_there_is_none_unless_somebody_names_it() -> None:
    assert proxy.chosen(SERVER, None) is None
    assert proxy.chosen(SERVER, "") is None


def test_the_clusters_comes_before_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "outer:3128")
    assert proxy.chosen(SERVER, None) == "http://outer:3128"
    assert proxy.chosen(SERVER, "https://own:8080") == "https://own:8080"
    monkeypatch.setenv("NO_PROXY", "*")
    assert proxy.chosen(SERVER, "http://own") == "http://own"
    assert proxy.chosen(SERVER, None) is None


@pytest.mark.parametrize("server", ["https://127.0.0.9:1", "https://[::1]:1", "https://localhost"])
def test_the_environments_leads_to_no_server_of_this_machine(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://outer")
    assert proxy.chosen(server, None) is None


@pytest.mark.parametrize(
    ("server", "listed", "direct"),
    [
        (SERVER, "example.com", True),
        (SERVER, "other.org, .example.com", True),
        (SERVER, "*.example.com", True),
        (SERVER, "API.example.com", True),
        (SERVER, "api.example.com:6443", True),
        (SERVER, "api.example.com:443", False),
        (SERVER, "ample.com", False),
        (SERVER, ".api.example.com", False),
        (SERVER, ",", False),
        ("https://10.1.2.3", "10.0.0.0/8", True),
        ("https://10.1.2.3", "10.1.2.3", True),
        ("https://10.1.2.3", "10.1.2.3:443", True),
        ("https://10.1.2.3", "10.1.2.30,nonsense/8,2001:db8::/32", False),
        ("https://[2001:db8::1]:443", "2001:db8::/32", True),
        ("https://[2001:db8::1]:443", "[2001:db8::1]:443", True),
        ("https://[2001:db8::1]:443", "2001:db8::2", False),
    ],
)
def test_no_proxy_is_read_as_kubectl_reads_it(
    server: str, listed: str, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://outer")
    monkeypatch.setenv("NO_PROXY", listed)
    assert (proxy.chosen(server, None) is None) is direct


@pytest.mark.parametrize(
    "given",
    [
        "socks5://secret@host:1080",
        "http://",
        "ftp://host",
        "http://u:secret@host:99999",
        "http://u:secret@host:port",
        "http://u:secret@host:0",
        "http://u:secret@[::1",
        "u:secret@host:port",
    ],
)
def test_what_cannot_be_used_is_said_without_its_password(given: str, tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, {}, {"server": SERVER, "proxy-url": given})
    with pytest.raises(ClusterAccessError, match=f"{path}: the proxy to {SERVER} ") as caught:
        from_kubeconfig(path)
    assert "secret" not in str(caught.value)


async def test_requests_go_by_the_proxy_as_who_the_user_wants_to_be(tmp_path: Path) -> None:
    script = Script()
    script.then(listed(1))
    async with serving(script) as there:
        user = {
            "token": "t",
            "as": "jane",
            "as-uid": "7",
            "as-groups": ["dev", "ops"],
            "as-user-extra": {"Scope/x": ["a", "b"]},
        }
        cluster = {"server": "http://api.invalid", "proxy-url": there.access.server}
        access = from_kubeconfig(kubeconfig(tmp_path, user, cluster))
        async with Client(access, "tester") as client:
            await client.list(CONFIG_MAPS, "default")
    (asked,) = script.requests
    assert asked.headers["Host"] == "api.invalid"
    assert asked.headers["Impersonate-User"] == "jane"
    assert asked.headers["Impersonate-Uid"] == "7"
    assert asked.headers.getall("Impersonate-Group") == ["dev", "ops"]
    assert asked.headers.getall("Impersonate-Extra-Scope%2Fx") == ["a", "b"]


def test_the_name_in_the_servers_certificate(tmp_path: Path) -> None:
    cluster = {"server": "https://10.0.0.1", "tls-server-name": "api.example.com"}
    assert from_kubeconfig(kubeconfig(tmp_path, {}, cluster)).server_name == "api.example.com"


@pytest.mark.parametrize(
    "server",
    ["ftp://x", "x:6443", "https://", "https://h:99999", "https://h:0", "https://[::1", ""],
)
def test_a_server_that_is_none_is_named(server: str, tmp_path: Path) -> None:
    with pytest.raises(ClusterAccessError, match="no https://HOST:PORT"):
        from_kubeconfig(kubeconfig(tmp_path, {}, {"server": server}))


def test_a_user_of_an_auth_provider_is_told_what_came_after(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, {"auth-provider": {"name": "azure"}})
    with pytest.raises(ClusterAccessError, match="kubelogin convert-kubeconfig"):
        from_kubeconfig(path)


@pytest.mark.parametrize("text", ["a: [\nsecret", "token: 's3cret", json.dumps({"a": 1}) + "}\x00"])
def test_a_file_that_is_no_yaml_is_one_line_that_quotes_nothing(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ClusterAccessError, match="not valid YAML") as caught:
        from_kubeconfig(path)
    assert "\n" not in str(caught.value)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("host", ["\u2025", "a" * 300, "a..b"])
@pytest.mark.parametrize("field", ["server", "proxy-url"])
async def test_a_host_that_can_be_none_is_not_reached(
    host: str, field: str, tmp_path: Path
) -> None:
    cluster = {"server": "http://127.0.0.1:9", field: f"http://{host}:9"}
    async with Client(from_kubeconfig(kubeconfig(tmp_path, {}, cluster)), "tester") as client:
        with pytest.raises(errors.Unavailable):
            await client.list(CONFIG_MAPS, "default")


@pytest.mark.parametrize("name", [7, True, "a b", ".", "\u2025"])
async def test_a_name_that_no_certificate_has_is_not_reached(name: object, tmp_path: Path) -> None:
    cluster = {"server": "https://127.0.0.1:9", "tls-server-name": name}
    async with Client(from_kubeconfig(kubeconfig(tmp_path, {}, cluster)), "tester") as client:
        with pytest.raises(errors.Unavailable):
            await client.list(CONFIG_MAPS, "default")
