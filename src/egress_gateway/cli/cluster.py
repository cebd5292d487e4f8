"""The way to a cluster, for the commands of a person.

Its client loads an HTTP library and TLS, which takes longer than all the rest of a command's start:
only who connects pays for it, and neither ``--help`` nor the shell's completion does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from egress_gateway.cli import options

if TYPE_CHECKING:
    from egress_gateway.kube.client import Client

PAGE: Final = 10_000
"""Objects a page. kube-apiserver 1.37 answers the first page of a list from its cache and reads
each further one from etcd: 10,000 PodEndpoints in pages of 500 cost it six times the processor time
of one answer (2.6 s against 0.41 s)."""


def connect(kubeconfig: str | None, manager: str) -> Client:
    """A client that is yet to be entered, of the context that the running command was given.
    Raises ``config.ClusterAccessError``."""
    from egress_gateway.kube import config
    from egress_gateway.kube.client import Client

    return Client(config.load(kubeconfig, context=options.context()), manager, page=PAGE)
