"""A wrong value of any setting of any component is one line at start that names the setting."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from egress_gateway.service.settings import PREFIX, Setting, SettingsError, describe, load

SCHEMAS: dict[str, Any] = {
    name: importlib.import_module(module).Settings
    for name, module in {
        "controller": "egress_gateway.controller.settings",
        "gateway": "egress_gateway.gateway.settings",
        "node": "egress_gateway.node.settings",
        "webhook": "egress_gateway.webhook.settings",
        "wireguard": "egress_gateway.datapath.wireguard.host",
    }.items()
}
EVERY = [
    pytest.param(schema, setting, id=f"{name}-{setting.name}")
    for name, schema in SCHEMAS.items()
    for setting in describe(schema)
]
NONSENSE = {
    "boolean": ["nonsense", "2", ""],
    "integer": ["nonsense", "", "1.5", "-1", "99999999999999999999", "0x10"],
    "number": ["nonsense", "", "-1", "nan", "inf", "1e300", "1,5"],
    "string": ["a\nb", "trailing\r", "a\x00b", "\x1b[31m", "a\u200bb"],
    "list": ["nonsense", "10.0.0.0/33,", "a\nb", "300.1.1.1/8", "fe80::/129"],
}
NAMES = {"agent_pools": ["Nonsense", "a,b_c", "a\nb", "-a", "a" * 64]}
"""Lists of names, where a word is no nonsense."""


def refusal(schema: Any, setting: Setting, value: str) -> str:
    needed = {
        PREFIX + s.name.upper(): "n" for s in describe(schema) if s.default is msgspec.NODEFAULT
    }
    with pytest.raises(SettingsError) as caught:
        load(schema, environment=needed | {setting.variable: value}, flags={})
    return str(caught.value)


@pytest.mark.parametrize(("schema", "setting"), EVERY)
def test_nonsense_is_one_line_that_names_the_setting(schema: Any, setting: Setting) -> None:
    for value in NAMES.get(setting.name, NONSENSE[setting.kind]):
        text = refusal(schema, setting, value)
        assert len(text.splitlines()) == 1, text
        assert setting.name in text, (value, text)


@pytest.mark.parametrize(("schema", "setting"), EVERY)
def test_every_setting_says_what_it_is(schema: Any, setting: Setting) -> None:
    assert len(setting.text) > 10, "a docstring below the field"
    if setting.kind in ("integer", "number"):
        assert setting.word, "a unit, by one of the types of service.settings"


@pytest.mark.parametrize(
    ("component", "name", "value"),
    [
        ("gateway", "primary_ip", "2001:db8::1"),
        ("gateway", "primary_ip", "node-1"),
        ("gateway", "primary_ip", "fe80::1"),
        ("gateway", "primary_ip", "10.0.0.1/24"),
        ("gateway", "node_name", ""),
        ("gateway", "node_mtu", "68"),
        ("gateway", "node_mtu", "100"),
        ("gateway", "health_port", "70000"),
        ("gateway", "refused_cidrs", "10.0.0.0/33"),
        ("gateway", "refused_cidrs", "10.0.0.0/8,2001:db8::/129"),
        ("gateway", "internet_targets", "example.com:443"),
        ("gateway", "internet_targets", "198.51.100.10:0"),
        ("gateway", "internet_targets", "198.51.100.10:https"),
        ("gateway", "internet_targets", "198.51.100.10:99999"),
        ("gateway", "internet_targets", "198.51.100.10:"),
        ("gateway", "internet_targets", "2001:db8::1"),
        ("gateway", "ports_warning", "101"),
        ("gateway", "ports_interval", "0"),
        ("gateway", "internet_interval", "0"),
        ("gateway", "internet_misses", "0"),
        ("gateway", "resync", "0"),
        ("gateway", "resync", "-5"),
        ("gateway", "connection_log_rate", "0"),
        ("node", "node_mtu", "1279"),
        ("node", "node_name", "Node_1"),
        ("node", "node_name", ""),
        ("node", "move_rate", "0"),
        ("node", "probe_interval", "0"),
        ("node", "probe_misses", "0"),
        ("node", "run_dir", "run/egress-gateway"),
        ("node", "listen_port_first", "40000"),
        ("controller", "system_namespace", "Kube_System"),
        ("controller", "health_address", "everywhere"),
        ("controller", "lease_duration", "0"),
        ("webhook", "url", "http://example.org"),
        ("webhook", "url", "https://example.org/path"),
        ("webhook", "certificate_validity", "60"),
        ("wireguard", "socket", "tunnels.sock"),
        ("wireguard", "wireguard_go", "no-such-program"),
    ],
)
def test_a_value_of_the_right_type_that_cannot_work_is_refused(
    component: str, name: str, value: str
) -> None:
    schema = SCHEMAS[component]
    setting = next(s for s in describe(schema) if s.name == name)
    text = refusal(schema, setting, value)
    assert name in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("component", SCHEMAS)
def test_help_has_type_default_and_text_of_each_setting(component: str) -> None:
    command = [sys.executable, "-m", "egress_gateway.cli.main", component, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = " ".join(done.stdout.split())
    for setting in describe(SCHEMAS[component]):
        assert setting.flag in said
        assert setting.text[:20] in said, setting.name
    assert "TEXT" not in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["gateway", "--node-name", "n", "--refused-cidrs", "nonsense"],
        ["gateway", "--node-name", "n", "--internet-targets", "nonsense"],
        ["node", "--node-name", "n", "--cluster-cidrs", "nonsense"],
        ["node", "--node-name", "n", "--kubeconfig", "/nowhere/kubeconfig"],
        ["webhook", "--kubeconfig", "/nowhere/kubeconfig"],
        ["controller", "--azure-config", "/nowhere/azure.json"],
    ],
)
def test_a_component_ends_with_one_line(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "egress_gateway.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_file_that_is_not_text_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError) as caught:
        load(SCHEMAS["node"], file=file, environment={}, flags={})
    assert len(str(caught.value).splitlines()) == 1
