"""A kubeconfig as `az aks get-credentials` writes it: one cluster, one user with a token."""

from __future__ import annotations

import base64

import yaml


def token_kubeconfig(server: str, ca: bytes, token: str, *, name: str, user: str) -> bytes:
    """``name``: of cluster and context; ``user``: what the file calls who holds the token."""
    cluster = {"server": server, "certificate-authority-data": base64.b64encode(ca).decode()}
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
        },
        sort_keys=False,
    ).encode()
