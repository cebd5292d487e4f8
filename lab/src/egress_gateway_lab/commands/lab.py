"""``egress-gateway lab``: the whole system on this machine, in namespaces of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from egress_gateway_lab import host
from egress_gateway_lab.commands.running import (
    LAB_VARIABLE,
    call_lab,
    lab_handle,
    name_option,
    name_suffix,
    output_option,
)

if TYPE_CHECKING:
    from types import FrameType

    from egress_gateway_lab.demo.setup import Playground


class _Lab(click.Group):
    """Imports its larger subcommands when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "fault"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "fault":
            from egress_gateway_lab.commands.faults import fault

            return fault
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Lab)
def lab() -> None:
    """The whole system on this machine: Azure, network, Kubernetes and our components.

    Everything runs in namespaces of its own and ends with the lab's one process; the host's
    network is not touched.
    """


kubernetes_option = click.option(
    "--kubernetes",
    type=click.Choice(["embedded", "real"]),
    default="embedded",
    show_default=True,
    help="The embedded API server and kubelets, or the real programs (make kubernetes).",
)


def _choose_image(_: click.Context, __: click.Parameter, value: bool) -> None:
    if value:
        os.environ["LAB_IMAGE"] = "checkout"


checkout_option = click.option(
    "--from-checkout",
    is_flag=True,
    expose_value=False,
    callback=_choose_image,
    help="With --kubernetes real: run the components from this checkout, even if there is an image "
    "of this commit (make image).",
)


@lab.command()
@output_option
@kubernetes_option
@checkout_option
@click.option("--keep", is_flag=True, help="Leave the lab running in the end, to look around.")
def demo(output: str, keep: bool, kubernetes: str) -> None:
    """Play the story: a pod gets an address of its own, with real packets."""
    from egress_gateway_lab.demo.story import play

    _terminate_as_interrupt()
    sys.exit(_guarded(play(as_json=output == "json", keep=keep, kubernetes=kubernetes)))


@lab.command()
@name_option
@output_option
@kubernetes_option
@checkout_option
@click.option("--empty", is_flag=True, help="Only Azure: no resource group, no cluster.")
@click.option("--bare", is_flag=True, help="Only the cluster: no gateway pool, no app.")
@click.option(
    "--nodes",
    type=click.IntRange(1, 50),
    default=3,
    show_default=True,
    help="Nodes of the system pool.",
)
@click.option(
    "--state",
    type=click.Path(dir_okay=False, resolve_path=True, path_type=Path),
    help="Keep Azure's resources in this file, and begin with those that it holds.",
)
def up(
    name: str,
    output: str,
    kubernetes: str,
    empty: bool,
    bare: bool,
    nodes: int,
    state: Path | None,
) -> None:
    """Start a lab that runs until `lab down`: cluster, gateway pool, an app that uses it."""
    from egress_gateway_lab.demo.setup import bring_up

    if empty and bare:
        raise click.UsageError("--empty and --bare exclude each other")
    _terminate_as_interrupt()
    handle, playground = _guarded(
        bring_up(
            name,
            content="azure" if empty else "cluster" if bare else "app",
            nodes=nodes,
            state=state,
            kubernetes=kubernetes,
            say=lambda text: click.echo(text, err=True),
        )
    )
    if output == "json":
        click.echo(json.dumps(_describe(handle)))
    else:
        click.echo(f"lab {name!r} is up. Next:")
        for line in _next(name, playground):
            click.echo(f"  {line}")


def _next(name: str, playground: Playground | None) -> list[str]:
    """Three commands that need neither kubectl nor az, in the order in which a person wants them.
    The first names the lab for the others."""
    lines = [f'eval "$(egress-gateway lab env{name_suffix(name)})"']
    if playground is None:
        return lines
    return [
        *lines,
        f"egress-gateway trace {playground.pod}   # how its packets come to {playground.prefix}",
        f"egress-gateway lab cut {playground.gateway}   # and: egress-gateway status; lab mend",
    ]


@lab.command()
@name_option
@output_option
def env(name: str, output: str) -> None:
    """Print what points kubectl and az of a shell at the lab (for `eval`); az is logged in."""
    from egress_gateway_lab.azure.emulator import SUBSCRIPTION, TENANT
    from egress_gateway_lab.azure.identity import clientprofile

    handle = lab_handle(name)
    folder = handle.path / "azure"
    clientprofile.prepare(folder, base=handle.azure, subscription=SUBSCRIPTION, tenant=TENANT)
    variables = {
        "KUBECONFIG": str(handle.kubeconfig),
        LAB_VARIABLE: name,
        "ARM_ENDPOINT": handle.azure,
        **clientprofile.environment(folder, handle.ca),
    }
    if output == "json":
        click.echo(json.dumps(variables))
    else:
        for key, value in variables.items():
            click.echo(f"export {key}={shlex.quote(value)}")


@lab.command()
@name_option
@output_option
def status(name: str, output: str) -> None:
    """Show what runs in the lab."""
    handle = lab_handle(name)
    state = call_lab(handle, "status")
    if output == "json":
        click.echo(json.dumps(_describe(handle) | state))
        return
    click.echo(f"lab {name!r}: pid {handle.pid}, {handle.directory}")
    click.echo(f"  Kubernetes  {handle.kubernetes} ({state['kubernetes_kind']})")
    click.echo(f"  Azure       {handle.azure}")
    click.echo(f"  memory      {state['memory_bytes'] / 1e6:.0f} MB, all processes together")
    for machine in state["machines"]:
        shown = ", ".join(machine["addresses"])
        click.echo(f"  {machine['name']:40} {machine['state']:8} {shown}")


@lab.command()
@name_option
def down(name: str) -> None:
    """End the lab and everything in it."""
    host.stop(lab_handle(name))
    click.echo(f"lab {name!r} is down")


@lab.command()
@name_option
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8090,
    show_default=True,
    help="Of this machine's loopback; 0: any that is free.",
)
def ui(name: str, port: int) -> None:
    """Serve the live map of the lab's pods, gateways and addresses until Ctrl-C."""
    from egress_gateway_lab import livemap

    async def serve() -> None:
        click.echo("turning the controllers' live map on", err=True)
        await livemap.turn_on(handle)
        async with livemap.relay(handle, port) as chosen:
            click.echo(f"live map: http://127.0.0.1:{chosen} (Ctrl-C ends)")
            await asyncio.Event().wait()

    _terminate_as_interrupt()
    handle = lab_handle(name)
    _guarded(serve())


@lab.command("list")
def list_labs() -> None:
    """List the labs that run on this machine."""
    found = [(handle.name, str(handle.pid), str(handle.directory)) for handle in host.running()]
    if closed := host.closed():
        click.echo(f"not yours to read, mostly root's: {', '.join(closed)}; use sudo", err=True)
    elif not found:
        click.echo("no lab runs: start one with `egress-gateway lab up`", err=True)
    if not found:
        return
    rows = [("NAME", "PID", "DIRECTORY"), *found]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


@lab.command()
@name_option
@click.argument("node")
@click.option(
    "--direction",
    type=click.Choice(["both", "inbound", "outbound", "internet", "internet6", "tunnels", "large"]),
    default="both",
)
def cut(name: str, node: str, direction: str) -> None:
    """Pull the network cable of NODE."""
    call_lab(lab_handle(name), "cut", node=node, direction=direction)
    what = {"both": "is off the network", "large": "gets and sends no large packets"}
    said = what.get(direction, f"has lost its {direction} packets")
    click.echo(f"{node} {said}; `egress-gateway lab mend {node}{name_suffix(name)}` undoes it")


@lab.command()
@name_option
@click.argument("node")
def mend(name: str, node: str) -> None:
    """Plug the network cable of NODE in again."""
    call_lab(lab_handle(name), "mend", node=node)
    said = f"{node} is on the network again"
    if not _runs(name, node):
        said += f", and has no power: egress-gateway lab boot {node}{name_suffix(name)}"
    click.echo(said)


@lab.command()
@name_option
@click.argument("node")
def kill(name: str, node: str) -> None:
    """Take the power of NODE away: all of its processes end at once."""
    call_lab(lab_handle(name), "power_cut", node=node)
    click.echo(f"{node} is off; `egress-gateway lab boot {node}{name_suffix(name)}` undoes it")


@lab.command()
@name_option
@click.argument("node")
def boot(name: str, node: str) -> None:
    """Give NODE its power again after `lab kill`; returns when it is Ready."""
    if _runs(name, node):
        raise click.ClickException(f"{node} runs already")
    call_lab(lab_handle(name), "power_on", node=node)
    click.echo(f"{node} runs again")


def _runs(name: str, node: str) -> bool:
    machines = call_lab(lab_handle(name), "status")["machines"]
    return any(m["name"] == node and m["state"] == "running" for m in machines)


def _describe(handle: host.LabHandle) -> dict[str, Any]:
    return {
        "name": handle.name,
        "pid": handle.pid,
        "kubernetes": handle.kubernetes,
        "azure": handle.azure,
        "directory": handle.directory,
        "kubeconfig": str(handle.kubeconfig) if Path(handle.kubeconfig).exists() else None,
        "ca": str(handle.ca),
    }


def _guarded(work: Any) -> Any:
    from egress_gateway_lab.apiserver.wire.client import KubeError
    from egress_gateway_lab.azure.client import RequestFailed
    from egress_gateway_lab.demo.report import StepFailed

    try:
        return asyncio.run(work)
    except (host.LabError, RequestFailed, KubeError, StepFailed, OSError) as error:
        raise click.ClickException(str(error)) from error


def _terminate_as_interrupt() -> None:
    """SIGTERM cleans up as Ctrl-C does; SIGKILL is the kernel's business (see lab.host)."""

    def interrupt(_: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):
            raise KeyboardInterrupt
        # While a loop runs this one is asyncio's, which cancels the work in place of whatever the
        # loop was doing.
        handler(signal.SIGINT, frame)

    signal.signal(signal.SIGTERM, interrupt)
