"""Credentials from a program: ``exec`` of a kubeconfig's user, as for ``kubelogin``.

The program is called with ``KUBERNETES_EXEC_INFO`` and answers with an ExecCredential on standard
output; what it says to the person goes to standard error, as it is
(https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins).
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from egress_gateway.service.errors import OperatorError, understood

_GROUP: Final = "client.authentication.k8s.io"
_VERSIONS: Final = (f"{_GROUP}/v1", f"{_GROUP}/v1beta1")
_EARLY: Final = datetime.timedelta(seconds=10)
"""A credential that ends so soon is asked for anew: the request has still to arrive."""


class SignInError(OperatorError):
    """The program gave no credential; names it, and what to do."""


@dataclass(frozen=True, slots=True)
class Credential:
    """``token``, or ``certificate`` and ``key`` (PEM), or all three; None: not given. ``until``:
    when it ends; None: never that we know."""

    token: str | None = field(default=None, repr=False)
    certificate: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)
    until: datetime.datetime | None = None


class SignIn:
    """The program of one user. ``credential`` calls it when there is none that is still good."""

    def __init__(
        self,
        program: Mapping[str, Any],
        cluster: Mapping[str, Any],
        folder: Path,
        *,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        """``program`` and ``cluster`` as in the kubeconfig, which lies in ``folder``. Raises
        ``SignInError``."""
        self._program, self._cluster, self._folder, self._now = program, cluster, folder, now
        self._known: Credential | None = None
        self._version = program.get("apiVersion")
        self._command = program.get("command")
        if not isinstance(self._command, str) or not self._command:
            raise SignInError("the user's exec names no command")
        if self._version not in _VERSIONS:
            raise SignInError(
                f"the user's exec of {self._command} has apiVersion {self._version}; "
                f"understood are {' and '.join(_VERSIONS)}: kubelogin convert-kubeconfig, or az "
                "aks get-credentials --overwrite-existing, write one of these"
            )

    def credential(self, fresh: bool) -> Credential:
        """``fresh``: the server refused the one that is known. Raises ``SignInError``."""
        known = self._known
        ended = known and known.until and known.until - _EARLY <= self._now()
        if known is None or fresh or ended:
            known = self._known = self._called()
        return known

    def _called(self) -> Credential:
        command = str(self._command)
        try:
            done = subprocess.run(
                [self._executable(command), *map(str, self._program.get("args") or [])],
                env=self._environment(),
                stdin=None if self._interactive() else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                check=False,
            )
        except OSError as error:
            hint = " ".join(str(self._program.get("installHint") or "").split())
            raise SignInError(
                f"{command}, through which the user signs in, cannot be started: "
                f"{error.strerror}{f'. {hint}' if hint else ''}"
            ) from None
        if done.returncode:
            raise SignInError(
                f"{command}, through which the user signs in, ended with status "
                f"{done.returncode}; it says why above"
            )
        return _read(done.stdout, command, str(self._version))

    def _executable(self, command: str) -> str:
        """A name with a slash is a path beside the kubeconfig; any other is looked for in PATH."""
        return str(self._folder.absolute() / command) if os.sep in command else command

    def _environment(self) -> dict[str, str]:
        spec: dict[str, Any] = {"interactive": self._interactive()}
        if self._program.get("provideClusterInfo"):
            spec["cluster"] = {k: v for k, v in self._cluster.items() if k != "extensions"}
        info = {"apiVersion": self._version, "kind": "ExecCredential", "spec": spec}
        added = {str(e["name"]): str(e["value"]) for e in self._program.get("env") or []}
        return {**os.environ, **added, "KUBERNETES_EXEC_INFO": json.dumps(info)}

    def _interactive(self) -> bool:
        mode = self._program.get("interactiveMode") or "IfAvailable"
        there = sys.stdin is not None and sys.stdin.isatty()
        if mode == "Always" and not there:
            raise SignInError(
                f"{self._command}, through which the user signs in, wants to ask "
                "somebody, and standard input is no terminal; sign in in a terminal first"
            )
        return there and mode != "Never"


@understood(SignInError, "what the program gave")
def _read(answer: bytes, command: str, version: str) -> Credential:
    """NB: no message quotes the answer: it holds secrets."""
    try:
        document = json.loads(answer)
    except ValueError:
        raise SignInError(f"{command} printed no ExecCredential, but something else") from None
    if document.get("kind") != "ExecCredential" or document.get("apiVersion") != version:
        raise SignInError(
            f"{command} printed {document.get('apiVersion')} {document.get('kind')} in place of "
            f"{version} ExecCredential: the user's exec asks for another version"
        )
    status = document.get("status") or {}
    found = Credential(
        token=_text(status, "token"),
        certificate=_text(status, "clientCertificateData"),
        key=_text(status, "clientKeyData"),
        until=_time(status.get("expirationTimestamp")),
    )
    if (found.certificate is None) != (found.key is None):
        raise SignInError(f"{command} gave a certificate without its key, or the key alone")
    if found.token is None and found.certificate is None:
        raise SignInError(f"{command} gave neither a token nor a client certificate")
    return found


def _text(status: Mapping[str, Any], key: str) -> str | None:
    value = status.get(key)
    if value is not None and not isinstance(value, str):
        raise SignInError(f"{key} of an ExecCredential is no text")
    return value or None


def _time(text: Any) -> datetime.datetime | None:
    if not text:
        return None
    found = datetime.datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)
