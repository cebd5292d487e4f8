"""What this node's kernel has of one pod, for ``trace``. It changes nothing and prints no key."""

from __future__ import annotations

import time

from egress_gateway.cli.agents.answers import SeenPod, SeenTunnel
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.linux.nft import Nftables
from egress_gateway.datapath.pod.ruleset import COUNTER, TABLE
from egress_gateway.datapath.wireguard import backends
from egress_gateway.datapath.wireguard.model import Interface
from egress_gateway.node.attachment.model import Attachment


def look(where: NetNS, attachment: Attachment) -> SeenPod:
    """``where``: the pod's namespace."""
    return SeenPod(
        held=Nftables(where).counter("inet", TABLE, COUNTER), tunnel=_tunnel(where, attachment)
    )


def _tunnel(where: NetNS, attachment: Attachment) -> SeenTunnel | None:
    if attachment.active is None:
        return None
    link = attachment.active.link
    try:
        handle = Interface(attachment.birth_name(link), where, link)
        device = backends.detect().status(handle)
    except DatapathError:
        device = None
    if device is None:
        return None
    peer = next(iter(device.peers.values()), None)
    return SeenTunnel(
        link=link,
        endpoint=str(peer.endpoint) if peer and peer.endpoint else "",
        handshake=time.time() - peer.last_handshake if peer and peer.last_handshake else None,
    )
