"""A wrong setting is one line that names it, before anything starts."""

from __future__ import annotations

import msgspec
import pytest

from egress_gateway.gateway.settings import Settings
from egress_gateway.service import settings
from egress_gateway.service.settings import SettingsError

NONSENSE = "nonsense"
FREE_TEXT = {"node_name", "keys_namespace", "kubeconfig", "system_namespace", "run_dir"}


def load(**flags: object) -> Settings:
    return settings.load(Settings, environment={}, flags={"node_name": "gw1", **flags})


@pytest.mark.parametrize(
    "name", [f.name for f in msgspec.structs.fields(Settings) if f.name not in FREE_TEXT]
)
def test_nonsense_in_any_field_is_one_line_that_names_it(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(**{name: NONSENSE})
    told = str(caught.value)
    assert "\n" not in told
    assert name in told.replace("$.", "").replace("-", "_") or NONSENSE in told


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("node_name", ""),
        ("refused_cidrs", "10.0.0.0/33"),
        ("refused_cidrs", "10.0.0.0/8,2001:db8::/129"),
        ("internet_targets", "example.com:443"),
        ("internet_targets", "198.51.100.10:0"),
        ("internet_targets", "198.51.100.10:https"),
        ("internet_targets", "2001:db8::1"),
        ("primary_ip", "fe80::1"),
        ("primary_ip", "10.0.0.1/24"),
        ("node_mtu", "-1"),
        ("node_mtu", "100"),
        ("health_port", "-1"),
        ("health_port", "70000"),
        ("resync", "0"),
        ("resync", "-5"),
        ("heartbeat", "nan"),
        ("internet_interval", "inf"),
        ("internet_misses", "0"),
        ("ports_interval", "0"),
        ("ports_warning", "101"),
        ("connection_log_rate", "0"),
    ],
)
def test_a_value_that_cannot_work_is_refused_with_its_name(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name) as caught:
        load(**{name: value})
    assert "\n" not in str(caught.value)


def test_defaults_and_ordinary_values_are_taken() -> None:
    assert load().resync == 30.0
    given = load(
        refused_cidrs="10.0.0.5/8,2001:db8::/32",
        internet_targets="198.51.100.10:443, 198.51.100.11",
        primary_ip="10.1.0.4",
        node_mtu="9000",
        ports_warning="1",
    )
    assert [str(n) for n in given.refused] == ["10.0.0.0/8", "2001:db8::/32"]
    assert [str(t) for t in given.targets] == ["198.51.100.10:443", "198.51.100.11"]
