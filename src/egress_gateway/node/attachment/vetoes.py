"""What gateways say of themselves: which of them ask to be left, and how. Pure.

A veto is a request. It counts only while another gateway will do (``choose``), and the silence of
an agent is none.
"""

from __future__ import annotations

from collections.abc import Iterable

from egress_gateway.api.types import DRAINING, GatewayStatus


def vetoes(statuses: Iterable[GatewayStatus], configuration: str) -> dict[str, bool]:
    """Names of gateway nodes that ask pods of ``configuration`` (``namespace/name``) to leave,
    and whether connections may finish there: yes before a drain, no where nothing works."""
    found: dict[str, bool] = {}
    for status in statuses:
        for veto in status.spec.vetoes:
            if veto.static_gateway_configuration in ("", configuration):
                node = status.metadata.name
                found[node] = found.get(node, True) and veto.reason == DRAINING
    return found
