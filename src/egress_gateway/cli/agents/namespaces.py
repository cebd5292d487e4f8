"""The network namespaces that commands inside an agent's container look into."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from egress_gateway.cni import protocol
from egress_gateway.datapath.gateway.namespace import NAMESPACE
from egress_gateway.datapath.linux import netns

_PODS: Final = 50
"""Pods of a node that are looked into: a bundle is read by people."""


def namespaces() -> dict[str, Path]:
    """Network namespaces of this node that we have a part in: ``node``, ``gateway``, and ``pod
    NAMESPACE/NAME`` of attached pods."""
    return dict(_namespaces())


def _namespaces() -> Iterator[tuple[str, Path]]:
    yield "node", Path("/proc/thread-self/ns/net")
    if netns.exists(NAMESPACE):
        yield "gateway", netns.DIRECTORY / NAMESPACE
    records = Path(
        os.environ.get("EGRESS_GATEWAY_RUN_DIR", "/run/egress-gateway"), protocol.RECORDS
    )
    for file in sorted(records.glob("*.json"))[:_PODS] if records.is_dir() else ():
        try:
            record = protocol.decode(file.read_bytes())
        except (OSError, protocol.ProtocolError):
            continue
        yield "pod " + "/".join(record.pod[:2]), Path(record.netns)
