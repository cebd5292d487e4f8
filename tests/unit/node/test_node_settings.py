"""What the node agent can be told, and how it refuses nonsense."""

from __future__ import annotations

import pytest

from egress_gateway.node.settings import Settings
from egress_gateway.service.settings import SettingsError, load


def test_exceptions_are_the_networks_that_were_named() -> None:
    environment = {
        "EGRESS_GATEWAY_NODE_NAME": "n",
        "EGRESS_GATEWAY_CLUSTER_CIDRS": "10.244.0.0/16, 10.0.0.0/16",
    }
    settings = load(Settings, environment=environment, flags={})
    texts = [str(network) for network in settings.exceptions]
    assert texts == ["10.244.0.0/16", "10.0.0.0/16"]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("CLUSTER_CIDRS", "10.244.0.0/16,x", "cluster_cidrs: 'x'"),
        ("LISTEN_PORT_LAST", "10000", "not a range of UDP ports"),
        ("ATTACH_TIMEOUT", "soon", "attach_timeout"),
    ],
)
def test_nonsense_is_one_clear_line(name: str, value: str, words: str) -> None:
    environment = {"EGRESS_GATEWAY_NODE_NAME": "n", f"EGRESS_GATEWAY_{name}": value}
    with pytest.raises(SettingsError, match=words):
        load(Settings, environment=environment, flags={})
