"""A lab that runs: found by its name, asked over its control socket. For all commands on labs."""

from __future__ import annotations

import asyncio
import shlex
from typing import Any, Final

import click

from egress_gateway_lab import host

LAB_VARIABLE: Final = "EGRESS_GATEWAY_LAB"
"""What `lab env` exports: the lab of that shell, for every command that names none."""


def _name(context: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        host.require_name(value)
    except host.LabError as error:
        raise click.BadParameter(str(error)) from None
    return value


name_option = click.option(
    "--name",
    default="default",
    callback=_name,
    envvar=LAB_VARIABLE,
    show_default=True,
    show_envvar=True,
    help="Which lab.",
)
output_option = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True
)


def name_suffix(name: str) -> str:
    """What a command line needs to mean the lab of that name."""
    return "" if name == "default" else f" --name {shlex.quote(name)}"


def lab_handle(name: str) -> host.LabHandle:
    """The running lab of that name; else an error for the person at the shell."""
    handle = host.find(name)
    if handle is None and name in host.closed():
        raise click.ClickException(f"lab {name!r} is another user's, mostly root's: use sudo")
    if handle is None:
        others = ", ".join(h.name for h in host.running()) or "none"
        raise click.ClickException(
            f"no lab {name!r} is running (running: {others}): "
            f"start it with `egress-gateway lab up{name_suffix(name)}`"
        )
    return handle


def call_lab(handle: host.LabHandle, operation: str, **arguments: Any) -> Any:
    """An operation over the lab's control socket."""
    from egress_gateway_lab.control import ControlClient, ControlError

    async def call() -> Any:
        async with ControlClient(handle.control) as client:
            return await client.call(operation, **arguments)

    try:
        return asyncio.run(call())
    except ControlError as error:
        raise click.ClickException(str(error)) from error
