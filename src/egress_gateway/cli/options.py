"""Options that several commands have, once: one name, one text, one default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from egress_gateway.api import names

_Command = TypeVar("_Command", bound=Callable[..., Any])
_CONTEXT: Final = f"{__name__}.context"


def kubeconfig(command: _Command) -> _Command:
    """``--kubeconfig``, an argument of the command, and ``--context`` (see ``context``)."""
    command = click.option(
        "--context",
        expose_value=False,
        callback=_remember,
        help="Context of the kubeconfig. Default: its current one.",
    )(command)
    return click.option(
        "--kubeconfig",
        metavar="FILE",
        help="Credentials for the cluster. Default: KUBECONFIG, then ~/.kube/config, then the "
        "pod's service account.",
    )(command)


def _remember(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    ctx.meta[_CONTEXT] = value


def context() -> str | None:
    """The kubeconfig's context that the running command was given."""
    running = click.get_current_context(silent=True)
    return running.meta.get(_CONTEXT) if running is not None else None


system_namespace: Final = click.option(
    "--system-namespace",
    envvar="EGRESS_GATEWAY_SYSTEM_NAMESPACE",
    default=names.SYSTEM_NAMESPACE,
    show_default=True,
    help="Namespace that the components run in.",
)
keys_namespace: Final = click.option(
    "--keys-namespace",
    envvar="EGRESS_GATEWAY_KEYS_NAMESPACE",
    default="",
    help="Namespace of the key Secrets (keys.namespace of the chart). Default: that of the "
    "components.",
)
output: Final = click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Text for people, JSON for programs.",
)
