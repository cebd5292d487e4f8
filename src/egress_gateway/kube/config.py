"""Where the API server is and how to prove who we are: in a pod, or from a kubeconfig.

In a pod the ServiceAccount token rotates (the kubelet renews it at 80 % of its life), so the file
is read again rather than remembered. Secrets never appear in a ``repr``.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field


class ConfigError(Exception):
    """The access configuration is missing or wrong; names the file or variable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAccess:
    """How to reach and enter one cluster.

    ``token(fresh)`` answers the bearer token, or None where a client certificate is used;
    ``fresh`` asks for it to be read again although it was read a moment ago.
    """

    server: str
    namespace: str = "default"
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)
    token: Callable[[bool], str | None] = field(default=lambda fresh: None, repr=False)


def load(kubeconfig: str | None = None, *, context: str | None = None) -> ClusterAccess:
    """Access from ``kubeconfig``, else from ``$KUBECONFIG``, else from the pod that we run in,
    else from ``~/.kube/config``. Raises ``ConfigError``."""
    raise NotImplementedError
