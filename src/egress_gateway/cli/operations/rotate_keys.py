"""``egress-gateway rotate-keys``: a new WireGuard key pair for configurations that are in use.

The command only asks, by an annotation, and follows what the controller makes of it: the right to
change the configuration is all that it needs, no key passes through it, and an end of the command
ends nothing.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

import click

from egress_gateway.api import names
from egress_gateway.api.conditions import KEYS_ROTATED, Reason, find
from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.cli import cluster, options, running, terminal
from egress_gateway.kube.errors import Conflict, NotFound, Unavailable
from egress_gateway.kube.resources import SGCS, Key
from egress_gateway.service.errors import ExpectedError

if TYPE_CHECKING:
    from egress_gateway.kube.client import Client

State = Literal["under way", "done", "abandoned", "refused", "timed out"]
_INTERVAL: Final = 0.5
_ENDED: Final = ("", "Done", "Abandoned")
_UNHEARD: Final = "no controller has taken it up yet"


class Unknown(ExpectedError):
    """There is nothing to rotate; the text says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationProgress:
    """How far one configuration is. ``seconds``: since it was asked for."""

    configuration: str
    state: State
    phase: str
    message: str
    public_key: str
    port: int
    seconds: float = 0.0


@click.command("rotate-keys")
@click.argument("configurations", nargs=-1, metavar="[NAMESPACE/]NAME...")
@click.option(
    "--all",
    "everyone",
    is_flag=True,
    help="Rotate every configuration, of --namespace if it is given.",
)
@click.option(
    "-n", "--namespace", help="Namespace of names that are given without one. Default: default."
)
@click.option("--follow", is_flag=True, help="Only follow a rotation that was requested before.")
@click.option(
    "--timeout",
    default=900.0,
    show_default=True,
    help="Stop following after this many seconds; the rotation goes on.",
)
@options.kubeconfig
@options.output
def rotate_keys(
    configurations: tuple[str, ...],
    everyone: bool,
    namespace: str | None,
    follow: bool,
    timeout: float,
    kubeconfig: str | None,
    output: str,
) -> None:
    """Change the WireGuard key pair of configurations, without loss.

    Pods move to the new pair one after the other, and keep their connections and addresses.
    """
    if bool(configurations) == everyone:
        raise click.UsageError("name configurations, or say --all")
    found = running.run(
        _rotate(kubeconfig, configurations, namespace, follow=follow, timeout=timeout)
    )
    if output == "json":
        click.echo(json.dumps([asdict(one) for one in found]))
    else:
        for one in found:
            terminal.echo(
                f"{one.configuration}: {one.state} after {one.seconds:.0f} s: {one.message}"
            )
    sys.exit(0 if all(one.state == "done" for one in found) else 1)


async def _rotate(
    kubeconfig: str | None,
    given: Sequence[str],
    namespace: str | None,
    *,
    follow: bool,
    timeout: float,
) -> list[RotationProgress]:
    async with cluster.connect(kubeconfig, "egress-gateway-cli") as client:
        keys = await _keys(client, given, namespace)
        tell = _Teller()
        work = (_one(client, key, follow=follow, timeout=timeout, tell=tell) for key in keys)
        return list(await asyncio.gather(*work))


async def _keys(client: Client, given: Sequence[str], namespace: str | None) -> list[Key]:
    if not given:
        page = await client.list(SGCS, namespace)
        if not page.items:
            raise Unknown("there is no StaticGatewayConfiguration" + _within(namespace))
        return [SGCS.key(sgc) for sgc in page.items]
    found = []
    for text in given:
        before, slash, name = text.rpartition("/")
        found.append(Key(before if slash else namespace or "default", name))
    return found


def _within(namespace: str | None) -> str:
    return f" in namespace {namespace}" if namespace else ""


class _Teller:
    """One line on standard error for each thing that is new."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def __call__(self, progress: RotationProgress) -> None:
        line = f"{progress.configuration}: {progress.phase or 'asked'}: {progress.message}"
        if self._said.get(progress.configuration) != line:
            self._said[progress.configuration] = line
            terminal.echo(line, err=True)


async def _one(
    client: Client,
    key: Key,
    *,
    follow: bool,
    timeout: float,
    tell: Callable[[RotationProgress], None],
) -> RotationProgress:
    started = time.monotonic()
    sgc = await _get(client, key)
    request = requested(sgc)
    if not follow:
        why = refusal(sgc)
        if why:
            return _at(progress_of(sgc, request), "refused", why, started)
        request = datetime.now(UTC).isoformat()
        try:
            sgc = await _ask(client, sgc, request)
        except Conflict:
            why = "somebody changed it at this moment; look at it, and ask again"
            return _at(progress_of(sgc, request), "refused", why, started)
    elif not request:
        return _at(progress_of(sgc, request), "refused", "nobody asked for a new key pair", started)
    while True:
        progress = progress_of(sgc, request)
        if progress.state != "under way":
            return _at(progress, progress.state, progress.message, started)
        tell(progress)
        if time.monotonic() - started >= timeout:
            why = f"{progress.message}; it goes on without this command (--follow)"
            return _at(progress, "timed out", why, started)
        await asyncio.sleep(_INTERVAL)
        try:
            sgc = await _get(client, key)
        except Unavailable as error:
            terminal.echo(f"{progress.configuration}: {error}", err=True)


async def _get(client: Client, key: Key) -> StaticGatewayConfiguration:
    try:
        return await client.get(SGCS, key.name, key.namespace)
    except NotFound:
        raise Unknown(f"there is no StaticGatewayConfiguration {key}") from None


async def _ask(
    client: Client, sgc: StaticGatewayConfiguration, request: str
) -> StaticGatewayConfiguration:
    meta = sgc.metadata
    metadata = {
        "annotations": {names.ROTATE_KEYS_ANNOTATION: request},
        # Of two commands at the same time one is told so.
        "resourceVersion": meta.resource_version,
    }
    return await client.merge_patch(SGCS, meta.name, {"metadata": metadata}, meta.namespace)


def requested(sgc: StaticGatewayConfiguration) -> str:
    """The last request; empty: there was none."""
    return sgc.metadata.annotations.get(names.ROTATE_KEYS_ANNOTATION, "")[: names.LONGEST]


def refusal(sgc: StaticGatewayConfiguration) -> str:
    """Why nothing can be asked of ``sgc`` now; empty: it can. Pure."""
    rotation = sgc.status.key_rotation
    if rotation.phase not in _ENDED:
        return f"its key pair is being changed already ({rotation.phase}); see it through: --follow"
    if requested(sgc) not in ("", rotation.request):
        return f"a new key pair was {_waiting(sgc)}; see it through: --follow"
    return ""


def progress_of(sgc: StaticGatewayConfiguration, request: str) -> RotationProgress:
    """What the status says of ``request``. Pure."""
    rotation, profile = sgc.status.key_rotation, sgc.status.gateway_server_profile
    state: State = "under way"
    message = _message(sgc) if rotation.request == request else _waiting(sgc)
    if rotation.request == request and rotation.phase == "Done":
        state = "done"
    elif rotation.request == request and rotation.phase == "Abandoned":
        state = "abandoned"
    elif rotation.request == request and not rotation.phase:
        state, message = "abandoned", "its key Secret was made anew meanwhile, with a new pair"
    elif requested(sgc) != request and rotation.request != request:
        state, message = "refused", "somebody else asked for one after this, or took it back"
    return RotationProgress(
        configuration=f"{sgc.metadata.namespace}/{sgc.metadata.name}",
        state=state,
        phase=rotation.phase if rotation.request == request else "",
        message=message,
        public_key=profile.public_key,
        port=profile.port,
    )


def _waiting(sgc: StaticGatewayConfiguration) -> str:
    """Why the requested rotation has not begun; the condition may still describe the previous
    one."""
    found = find(sgc.status.conditions, KEYS_ROTATED)
    heard = found is not None and found.reason == Reason.ROTATION_WAITING
    return found.message if found and heard else _UNHEARD


def _message(sgc: StaticGatewayConfiguration) -> str:
    found = find(sgc.status.conditions, KEYS_ROTATED)
    return found.message if found else ""


def _at(progress: RotationProgress, state: State, message: str, started: float) -> RotationProgress:
    return RotationProgress(
        configuration=progress.configuration,
        state=state,
        phase=progress.phase,
        message=message,
        public_key=progress.public_key,
        port=progress.port,
        seconds=round(time.monotonic() - started, 1),
    )
