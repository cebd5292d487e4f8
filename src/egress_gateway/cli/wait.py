"""``egress-gateway wait``: an init container that holds a pod until it has its tunnel.

Admission puts it first into annotated pods if ``admission.waitForTunnel`` is set. A node without
the plugin (somebody replaced its disk under pods that are bound to it) starts this container on the
ordinary network. It starts none of the pod's own containers until its agent has attached the pod.
The first step of an attachment is the hold, so a tunnel's link says that the hold is there.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from pathlib import Path
from typing import Final

import click

from egress_gateway.api import names
from egress_gateway.service.logging import configure

log = logging.getLogger(__name__)

DEVICES: Final = Path("/proc/self/net/dev")
"""The network devices of this process's namespace, a line each: proc(5)."""
_PAUSE: Final = 0.1


@click.command()
def wait() -> None:
    """Wait until this pod has a tunnel. Admission starts it in pods; it needs no right."""
    configure("info", "json")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    if attached(DEVICES.read_text()):
        return
    log.warning("waiting for this pod's tunnel: its node's agent has not attached it yet")
    while not attached(DEVICES.read_text()):
        time.sleep(_PAUSE)
    log.info("the pod has its tunnel")


def attached(devices: str) -> bool:
    """Whether ``devices`` (text of ``/proc/net/dev``) has a tunnel's link."""
    return any(
        line.partition(":")[0].strip() in names.TUNNEL_LINKS for line in devices.splitlines()
    )
