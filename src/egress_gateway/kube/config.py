"""Where the API server is and how to prove who we are: in a pod, or from a kubeconfig.

In a pod the ServiceAccount token rotates (the kubelet renews it at 80 % of its life), so the file
is read again rather than remembered. Secrets never appear in a ``repr`` or a message.
"""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from egress_gateway.service.errors import OperatorError, understood

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TOKEN_MAX_AGE: Final = 60.0
"""Seconds for which a token read from a file is used without looking again, as client-go does."""

Token = Callable[[bool], str | None]


class ConfigError(OperatorError):
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
    token: Token = field(default=lambda fresh: None, repr=False)


def load(kubeconfig: str | None = None, *, context: str | None = None) -> ClusterAccess:
    """Access from ``kubeconfig``, else from ``$KUBECONFIG``, else from the pod that we run in,
    else from ``~/.kube/config``. Raises ``ConfigError``."""
    # NB: only the first file of a KUBECONFIG list is read; kubectl merges all of them.
    path = kubeconfig or os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
    if path:
        return from_kubeconfig(Path(path), context=context)
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return in_cluster()
    home = Path.home() / ".kube" / "config"
    if home.exists():
        return from_kubeconfig(home, context=context)
    raise ConfigError(
        "no Kubernetes cluster configured: not in a pod (KUBERNETES_SERVICE_HOST is unset), "
        f"KUBECONFIG is unset and {home} does not exist"
    )


def in_cluster(
    environ: Mapping[str, str] = os.environ, folder: Path = SERVICE_ACCOUNT
) -> ClusterAccess:
    """Access of the pod's own ServiceAccount."""
    try:
        host, port = environ["KUBERNETES_SERVICE_HOST"], environ["KUBERNETES_SERVICE_PORT"]
    except KeyError as error:
        raise ConfigError(f"environment variable {error} is unset: not in a pod") from None
    token = file_token(folder / "token")
    token(True)  # fail now, with the file's name, rather than at the first request
    namespace = folder / "namespace"
    return ClusterAccess(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        namespace=namespace.read_text().strip() if namespace.exists() else "default",
        ssl_context=_ssl(ca=_read(folder / "ca.crt").decode("ascii")),
        token=token,
    )


@understood(ConfigError, "the kubeconfig")
def from_kubeconfig(path: Path, *, context: str | None = None) -> ClusterAccess:
    """Access as user and cluster of ``context`` (default: the current one). Client
    certificates, tokens and token files are understood; exec plugins are not."""
    import yaml  # 50 ms that a component in a pod never needs

    try:
        document = yaml.safe_load(_read(path))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: not a kubeconfig")
    name = context or document.get("current-context") or ""
    chosen = _named(document, "contexts", "context", name, path)
    cluster = _named(document, "clusters", "cluster", chosen.get("cluster", ""), path)
    user = _named(document, "users", "user", chosen.get("user", ""), path)
    if "server" not in cluster:
        raise ConfigError(f"{path}: cluster {chosen.get('cluster')!r} has no server")
    return ClusterAccess(
        server=str(cluster["server"]).rstrip("/"),
        namespace=chosen.get("namespace") or "default",
        ssl_context=_kubeconfig_ssl(cluster, user, path)
        if str(cluster["server"]).startswith("https:")
        else None,
        token=_kubeconfig_token(user, path),
    )


def file_token(path: Path, *, clock: Callable[[], float] = time.monotonic) -> Token:
    """Reads ``path`` at most once a minute, or at once when asked for a fresh one."""
    text = ""
    read_at = float("-inf")

    def token(fresh: bool) -> str:
        nonlocal text, read_at
        if fresh or clock() - read_at >= _TOKEN_MAX_AGE:
            text = _read(path).decode("ascii").strip()
            read_at = clock()
            if not text:
                raise ConfigError(f"{path}: empty")
        return text

    return token


def _named(
    document: Mapping[str, Any], section: str, field_name: str, name: str, path: Path
) -> dict[str, Any]:
    for entry in document.get(section) or ():
        if entry.get("name") == name:
            return dict(entry.get(field_name) or {})
    raise ConfigError(f"{path}: no {field_name} named {name!r}")


def _material(source: Mapping[str, Any], key: str, base: Path) -> bytes | None:
    """``<key>-data`` (base64) or the content of the file ``<key>``, relative to ``base``."""
    if data := source.get(f"{key}-data"):
        return base64.b64decode(data)
    if name := source.get(key):
        return _read(base / name)
    return None


def _kubeconfig_ssl(
    cluster: Mapping[str, Any], user: Mapping[str, Any], path: Path
) -> ssl.SSLContext:
    ca = _material(cluster, "certificate-authority", path.parent)
    context = _ssl(ca=ca.decode("ascii") if ca else None)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate = _material(user, "client-certificate", path.parent)
    key = _material(user, "client-key", path.parent)
    if certificate and key:
        # The ssl module loads key pairs from files only.
        with tempfile.NamedTemporaryFile(prefix="egress-gateway-") as pair:
            pair.write(certificate + b"\n" + key)
            pair.flush()
            try:
                context.load_cert_chain(pair.name)
            except ssl.SSLError as error:
                raise ConfigError(
                    f"{path}: client certificate and key cannot be used: {error.reason}"
                ) from None
    return context


def _kubeconfig_token(user: Mapping[str, Any], path: Path) -> Token:
    if name := user.get("tokenFile"):
        return file_token(path.parent / name)
    if "exec" in user:
        raise ConfigError(
            f"{path}: the user signs in through an exec plugin, which is not supported; "
            "use `az aks get-credentials --admin`, a token or a client certificate"
        )
    token = user.get("token")
    return lambda fresh: token


def _ssl(*, ca: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=ca)
    except ssl.SSLError as error:
        raise ConfigError(f"the cluster's CA certificate cannot be read: {error}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
