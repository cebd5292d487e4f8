"""Where the API server is and how to prove who we are: in a pod, or from a kubeconfig.

In a pod the ServiceAccount token rotates (the kubelet renews it at 80 % of its life), so the file
is read again rather than remembered. So is the CA's (the kubelet writes a new one into running
pods) once the server shows a certificate that is not trusted. Secrets never appear in a ``repr`` or
a message.
"""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from egress_gateway.kube import proxy
from egress_gateway.kube.signin import Credential, SignIn, SignInError
from egress_gateway.service.errors import OperatorError, understood

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TOKEN_MAX_AGE: Final = 60.0
"""Seconds for which a token read from a file is used without looking again, as client-go does."""

Token = Callable[[bool], str | None]


class ClusterAccessError(OperatorError):
    """The access configuration is missing or wrong; names the file or variable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAccess:
    """How to reach and enter one cluster.

    ``token(fresh)`` answers the bearer token, or None where a client certificate is used;
    ``fresh`` asks for it to be read again although it was read a moment ago. ``proxy`` is the URL
    of an HTTP proxy. ``server_name`` is what the server's certificate must name; None: its host.
    ``headers`` go with each request. ``trust_again()`` looks for a new CA, after
    the server's certificate was not trusted.
    """

    server: str
    namespace: str = "default"
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)
    token: Token = field(default=lambda fresh: None, repr=False)
    proxy: str | None = field(default=None, repr=False)
    server_name: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    trust_again: Callable[[], None] = field(default=lambda: None, repr=False)


def load(kubeconfig: str | None = None, *, context: str | None = None) -> ClusterAccess:
    """Access from ``kubeconfig``, else from ``$KUBECONFIG``, else from the pod that we run in,
    else from ``~/.kube/config``. Raises ``ClusterAccessError``."""
    if paths := files(kubeconfig):
        if not kubeconfig and not paths[0].exists():
            raise ClusterAccessError(
                f"{paths[0]}: No such file or directory. KUBECONFIG names it: set it anew, or "
                "unset it"
            )
        return from_kubeconfig(*paths, context=context)
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return in_cluster()
    raise ClusterAccessError(
        "no Kubernetes cluster configured: not in a pod (KUBERNETES_SERVICE_HOST is unset), "
        f"KUBECONFIG is unset and {_home()} does not exist"
    )


def files(kubeconfig: str | None = None) -> list[Path]:
    """The kubeconfigs that ``load`` reads; none where it takes the pod that we run in."""
    if kubeconfig:
        return [Path(kubeconfig)]
    listed = [Path(p) for p in os.environ.get("KUBECONFIG", "").split(os.pathsep) if p]
    if listed:
        # As kubectl: of several files those that are there.
        return [path for path in listed if path.exists()] or listed[:1]
    in_pod = os.environ.get("KUBERNETES_SERVICE_HOST")
    return [_home()] if not in_pod and _home().exists() else []


def _home() -> Path:
    return Path.home() / ".kube" / "config"


def in_cluster(
    environ: Mapping[str, str] = os.environ, folder: Path = SERVICE_ACCOUNT
) -> ClusterAccess:
    """Access of the pod's own ServiceAccount."""
    try:
        host, port = environ["KUBERNETES_SERVICE_HOST"], environ["KUBERNETES_SERVICE_PORT"]
    except KeyError as error:
        raise ClusterAccessError(f"environment variable {error} is unset: not in a pod") from None
    token = file_token(folder / "token")
    token(True)  # fail now, with the file's name, rather than at the first request
    namespace, authority = folder / "namespace", folder / "ca.crt"
    context = _ssl(ca=_read(authority).decode("ascii"))

    def trust_again() -> None:
        with suppress(OSError):  # ssl.SSLError is one
            context.load_verify_locations(authority)

    return ClusterAccess(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        namespace=namespace.read_text().strip() if namespace.exists() else "default",
        ssl_context=context,
        token=token,
        trust_again=trust_again,
    )


@understood(ClusterAccessError, "the kubeconfig")
def from_kubeconfig(*paths: Path, context: str | None = None) -> ClusterAccess:
    """Access as user and cluster of ``context`` (default: the first current one). Of several files
    the first that has an entry counts, and paths in it are relative to it. Client certificates,
    tokens, token files, exec plugins (see ``signin``), proxies (see ``proxy``) and impersonation
    are understood. Raises ``ClusterAccessError``."""
    files = [(path, _document(path)) for path in paths]
    current = (d.get("current-context") for _, d in files)
    name = context or next(filter(None, current), "")
    chosen, _ = _named(files, "contexts", "context", name)
    cluster, of_cluster = _named(files, "clusters", "cluster", chosen.get("cluster", ""))
    user, of_user = _named(files, "users", "user", chosen.get("user", ""))
    server = _server(cluster, chosen.get("cluster"), of_cluster)
    if "auth-provider" in user:
        raise ClusterAccessError(
            f"{of_user}: the user signs in by auth-provider, which Kubernetes 1.26 took away: "
            "az aks get-credentials --overwrite-existing, or kubelogin convert-kubeconfig"
        )
    given = _signing_in(user["exec"], cluster, of_user) if "exec" in user else None
    if given is not None:
        user = _with_certificate(user, given(False))  # fail now rather than at the first request
    return ClusterAccess(
        server=server,
        namespace=chosen.get("namespace") or "default",
        ssl_context=_kubeconfig_ssl(cluster, of_cluster, user, of_user)
        if server.startswith("https:")
        else None,
        token=_kubeconfig_token(user, of_user, given),
        proxy=_proxy(server, cluster, of_cluster),
        server_name=str(cluster.get("tls-server-name") or "") or None,
        headers=tuple(_impersonated(user)),
    )


def _server(cluster: Mapping[str, Any], name: object, path: Path) -> str:
    """The URL without a last slash."""
    if "server" not in cluster:
        raise ClusterAccessError(f"{path}: cluster {name!r} has no server")
    server = str(cluster["server"]).rstrip("/")
    try:
        parts = urlsplit(server)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ClusterAccessError(
            f"{path}: cluster {name!r} has the server {server!r}, which is no https://HOST:PORT"
        )
    return server


def _proxy(server: str, cluster: Mapping[str, Any], path: Path) -> str | None:
    try:
        return proxy.chosen(server, cluster.get("proxy-url"))
    except proxy.ProxyError as error:
        raise ClusterAccessError(f"{path}: {error}") from None


def _impersonated(user: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Headers of whoever acts as somebody else (https://kubernetes.io/docs/reference/
    access-authn-authz/authentication/#user-impersonation)."""
    for key, header in (("as", "Impersonate-User"), ("as-uid", "Impersonate-Uid")):
        if user.get(key):
            yield header, str(user[key])
    for group in user.get("as-groups") or ():
        yield "Impersonate-Group", str(group)
    for key, values in (user.get("as-user-extra") or {}).items():
        for value in values:
            yield f"Impersonate-Extra-{quote(str(key), safe='')}", str(value)


def _document(path: Path) -> dict[str, Any]:
    import yaml  # 50 ms that a component in a pod never needs

    try:
        document = yaml.safe_load(_read(path))
    except yaml.YAMLError as error:
        # NB: the parser's text quotes the file, which may hold a secret.
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise ClusterAccessError(f"{path}: not valid YAML{where}") from None
    if not isinstance(document, dict):
        raise ClusterAccessError(f"{path}: not a kubeconfig")
    return document


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
                raise ClusterAccessError(f"{path}: empty")
        return text

    return token


def _named(
    files: Sequence[tuple[Path, Mapping[str, Any]]], section: str, field_name: str, name: str
) -> tuple[dict[str, Any], Path]:
    """The entry and the file that has it."""
    for path, document in files:
        for entry in document.get(section) or ():
            if entry.get("name") == name:
                return dict(entry.get(field_name) or {}), path
    where = ", ".join(str(path) for path, _ in files)
    raise ClusterAccessError(f"{where}: no {field_name} named {name!r}")


def _material(source: Mapping[str, Any], key: str, base: Path) -> bytes | None:
    """``<key>-data`` (base64) or the content of the file ``<key>``, relative to ``base``."""
    if data := source.get(f"{key}-data"):
        return base64.b64decode(data)
    if name := source.get(key):
        return _read(base / name)
    return None


def _kubeconfig_ssl(
    cluster: Mapping[str, Any], of_cluster: Path, user: Mapping[str, Any], path: Path
) -> ssl.SSLContext:
    ca = _material(cluster, "certificate-authority", of_cluster.parent)
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
                raise ClusterAccessError(
                    f"{path}: client certificate and key cannot be used: "
                    f"{error.reason or 'they are not PEM'}"
                ) from None
    return context


def _signing_in(
    program: Mapping[str, Any], cluster: Mapping[str, Any], path: Path
) -> Callable[[bool], Credential]:
    """What gives the credential; it asks anew where the argument says so."""
    try:
        signing = SignIn(program, cluster, path.parent)
    except SignInError as error:
        raise ClusterAccessError(f"{path}: {error}") from None

    def given(fresh: bool) -> Credential:
        try:
            return signing.credential(fresh)
        except SignInError as error:
            raise ClusterAccessError(f"{path}: {error}") from None

    return given


def _with_certificate(user: Mapping[str, Any], given: Credential) -> dict[str, Any]:
    """The user with the client certificate that a plugin gave, if it gave one."""
    if not (given.certificate and given.key):
        return dict(user)
    return {
        **user,
        "client-certificate-data": base64.b64encode(given.certificate.encode()),
        "client-key-data": base64.b64encode(given.key.encode()),
    }


def _kubeconfig_token(
    user: Mapping[str, Any], path: Path, given: Callable[[bool], Credential] | None
) -> Token:
    if given is not None:
        return lambda fresh: given(fresh).token
    if name := user.get("tokenFile"):
        return file_token(path.parent / name)
    token = user.get("token")
    return lambda fresh: token


def _ssl(*, ca: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=ca)
    except ssl.SSLError as error:
        raise ClusterAccessError(f"the cluster's CA certificate cannot be read: {error}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ClusterAccessError(f"{path}: {error.strerror}") from None
