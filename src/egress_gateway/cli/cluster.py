"""The way to a cluster, for the commands of a person.

Its client loads an HTTP library, which takes longer than all the rest of a command's start: only
who connects pays for it, and neither ``--help`` nor the shell's completion does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_gateway.kube import config

if TYPE_CHECKING:
    from egress_gateway.kube.client import Client


def connect(kubeconfig: str | None, manager: str) -> Client:
    """A client that is yet to be entered. Raises ``config.ClusterAccessError``."""
    from egress_gateway.kube.client import Client

    return Client(config.load(kubeconfig), manager)
