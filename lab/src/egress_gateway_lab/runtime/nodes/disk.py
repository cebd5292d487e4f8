"""What a machine finds again after a restart: the folders that an AKS node has on its disk and that
the network of pods depends on. Everything else of a machine is memory and begins anew.

A reimage, as a new machine, finds none of it.
"""

from __future__ import annotations

import io
import tarfile
from typing import Final

from egress_gateway_lab.runtime.nodes.node import Node

FOLDERS: Final = ("/etc/cni", "/opt/cni", "/var/lib/cni")


def take(node: Node) -> bytes:
    """The folders as they are now; the machine may lose power right after."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for folder in FOLDERS:
            archive.add(node.path(folder), arcname=folder)
    return content.getvalue()


def give_back(node: Node, disk: bytes) -> None:
    """Into a machine that has just booted."""
    with tarfile.open(fileobj=io.BytesIO(disk)) as archive:
        # The argument of extractall came with 3.11.4; Debian 12 has 3.11.2 (PEP 706).
        archive.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
        archive.extractall(node.path("/"))  # noqa: S202 (ours)
