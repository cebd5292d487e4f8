"""The network namespaces that commands inside an agent's container look into."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from egress_gateway.cni import protocol
from egress_gateway.datapath.gateway.namespace import NAMESPACE
from egress_gateway.datapath.linux import netns
from egress_gateway.node.attachment.earlier import decode
from egress_gateway.node.attachment.files import Damaged, Folder
from egress_gateway.node.attachment.model import Attachment

_PODS: Final = 50
"""Pods of a node that a bundle looks into: people read it."""


def attachments() -> Iterator[Attachment]:
    """What the node's agent remembers of attached pods whose sandboxes are there. NB: with their
    private keys. A damaged file is passed over: the agent writes it again."""
    run = Path(os.environ.get("EGRESS_GATEWAY_RUN_DIR", "/run/egress-gateway"))
    folder = Folder(run / protocol.ATTACHMENTS)
    for stem in sorted(folder.stems()):
        with contextlib.suppress(Damaged, msgspec.MsgspecError, UnicodeDecodeError):
            content = folder.read(stem)
            if content and Path((found := decode(content)).netns).exists():
                yield found


def attachment(pod: str) -> Attachment | None:
    """Of the pod NAMESPACE/NAME; None: it is not attached on this node."""
    return next((a for a in attachments() if f"{a.namespace}/{a.pod}" == pod), None)


def namespaces() -> dict[str, tuple[Path, Attachment | None]]:
    """Network namespaces of this node that we have a part in: ``node``, ``gateway``, and ``pod
    NAMESPACE/NAME`` of attached pods, the first fifty."""
    return dict(_namespaces())


def _namespaces() -> Iterator[tuple[str, tuple[Path, Attachment | None]]]:
    yield "node", (Path("/proc/thread-self/ns/net"), None)
    if netns.exists(NAMESPACE):
        yield "gateway", (netns.DIRECTORY / NAMESPACE, None)
    for found in islice(attachments(), _PODS):
        yield f"pod {found.namespace}/{found.pod}", (Path(found.netns), found)
