"""The commands of ``egress-gateway``.

Subcommands are imported only when they are called, so that ``--help`` stays quick and a component
loads nothing of the others. Every failure is one line on standard error and a non-zero exit.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import gc
import importlib
import os
import signal
import sys
from typing import Any, Final

import click

from egress_gateway import __version__

COMMANDS: Final = {
    "bundle": (
        "egress_gateway.cli.bundle.command:bundle",
        "Write one archive for a ticket, with nothing secret in it.",
    ),
    "check": (
        "egress_gateway.cli.diagnosis.checks.check:check",
        "Look for faults: codes, causes, fixes.",
    ),
    "capture": (
        "egress_gateway.cli.diagnosis.packets.capture:command",
        "Write packets of one hop as pcap; trace --pcap runs it.",
    ),
    "controller": (
        "egress_gateway.cli.components:controller",
        "Run the controller: reconcile configurations with Azure.",
    ),
    "crds": ("egress_gateway.cli.crds:crds", "Print the custom resource definitions."),
    "gateway": (
        "egress_gateway.cli.components:gateway",
        "Run a gateway node's agent: serve configurations to pods.",
    ),
    "inspect": (
        "egress_gateway.cli.bundle.inspect:inspect",
        "Print what this node's kernel has of ours; bundle runs it.",
    ),
    "migrate": (
        "egress_gateway.cli.operations.migrate:migrate",
        "Take a cluster over from the Go project.",
    ),
    "node": (
        "egress_gateway.cli.components:node",
        "Run a node's agent: attach annotated pods.",
    ),
    "probe": (
        "egress_gateway.cli.proof.probe:probe",
        "Ask what the network gives this pod; test runs it.",
    ),
    "rotate-keys": (
        "egress_gateway.cli.operations.rotate_keys:rotate_keys",
        "Change the WireGuard key pairs of configurations, without loss.",
    ),
    "status": (
        "egress_gateway.cli.diagnosis.status:status",
        "Show configurations, gateways, pods and components.",
    ),
    "stun": (
        "egress_gateway.cli.stun:stun",
        "Run a STUN server of your own, for gateways' verify_targets.",
    ),
    "test": (
        "egress_gateway.cli.proof.command:test",
        "Prove a live cluster with pods of its own; leaves nothing.",
    ),
    "trace": (
        "egress_gateway.cli.diagnosis.packets.trace:trace",
        "Follow a pod's packets hop by hop, to one destination.",
    ),
    "uninstall": (
        "egress_gateway.cli.operations.uninstall:uninstall",
        "Remove the plugin from every node's CNI chain.",
    ),
    "wait": (
        "egress_gateway.cli.wait:wait",
        "Wait until this pod has its tunnel; admission runs it.",
    ),
    "webhook": (
        "egress_gateway.cli.components:webhook",
        "Run the webhook for annotated pods (before Kubernetes 1.36).",
    ),
    "wireguard": (
        "egress_gateway.cli.components:wireguard",
        "Run userspace tunnels, for kernels without WireGuard.",
    ),
}


_UNWRITTEN: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Of a write without a file's name: standard output is on a full or broken disk."""
_EXTRAS: Final = ("controller", "gateway", "node", "webhook")
"""Commands that have an extra of their own name (pyproject.toml)."""

# Commands that another distribution brings, under the entry point group ``PLUGINS``: name, what it
# does, and what to install where it is missing.
PLUGINS: Final = "egress_gateway.commands"
_PLUGIN_TEXTS: Final = {"lab": "Run Azure, its network and a cluster on this machine."}
_PLUGIN_SOURCES: Final = {"lab": "static-egress-gateway-lab"}


class _LazyGroup(click.Group):
    """Knows its subcommands by name and imports one when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*COMMANDS, *_PLUGIN_TEXTS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        try:
            return _plugin(cmd_name) if cmd_name in _PLUGIN_TEXTS else _own(cmd_name)
        except click.ClickException:
            if ctx.resilient_parsing:
                return None  # whoever completes a line wants no message in it
            raise
        finally:
            if not gc.isenabled():  # see ``cli.main``
                gc.freeze()
                gc.enable()

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if (told := _told(error, ctx.invoked_subcommand)) is None:
                raise
            raise told from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            # click guesses among commands that are loaded, and none is.
            close = difflib.get_close_matches(args[0], self.list_commands(ctx), 1)
            guess = f" Did you mean {close[0]!r}?" if close else ""
            raise click.UsageError(f"No such command {args[0]!r}.{guess}", ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        texts = {name: text for name, (_, text) in COMMANDS.items()} | _PLUGIN_TEXTS
        with formatter.section("Commands"):
            formatter.write_dl(sorted(texts.items()))


def _own(name: str) -> click.Command | None:
    """The command ``name`` of this package. Raises ``click.ClickException`` where it lacks
    another package."""
    entry = COMMANDS.get(name)
    if entry is None:
        return None
    module, _, attribute = entry[0].partition(":")
    try:
        command: click.Command = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise _lacking(error, name) or error from error
    return command


def _told(error: Exception, command: str | None) -> click.ClickException | None:
    """One line about an expected error of ``command``; None: the error is unexpected."""
    if isinstance(error, ModuleNotFoundError):
        return _lacking(error, command)
    from egress_gateway.cli import terminal  # only who fails pays for these
    from egress_gateway.kube.errors import ApiError
    from egress_gateway.service.errors import expected

    line = expected(error)
    if isinstance(error, ApiError):
        line = f"the Kubernetes API {'refused' if error.status else 'was not reached'}: {error}"
    return None if line is None else click.ClickException(terminal.plain(line))


def _lacking(error: ModuleNotFoundError, command: str | None) -> click.ClickException | None:
    """What to install; a module of ours that is missing is a fault."""
    if (error.name or "").startswith("egress_gateway"):
        return None
    extra = command if command in _EXTRAS else "all"
    return click.ClickException(
        f"`egress-gateway {command}` needs the Python package {error.name}: "
        f"pip install 'static-egress-gateway[{extra}]' (the image has it)"
    )


def _plugin(name: str) -> click.Command:
    """The command ``name`` of another distribution. Raises ``click.ClickException``."""
    import importlib.metadata  # takes a quarter of the start, and nobody else needs it

    for found in importlib.metadata.entry_points(group=PLUGINS, name=name):
        command: click.Command = found.load()
        return command
    raise click.ClickException(
        f"`egress-gateway {name}` is in a package of its own: pip install {_PLUGIN_SOURCES[name]}"
    )


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="egress-gateway")
def cli() -> None:
    """Static egress gateway for Kubernetes: annotated pods leave from a fixed, known address."""


def _let_go() -> None:
    """Python writes at its end what is left in its buffers, and ends with 120 if it cannot."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())


def run() -> None:
    """Runs the command of this process's arguments, and ends the process. An interrupt is said in
    one line while the command works; before and after, ``cli.main`` has it end the process."""
    before = signal.getsignal(signal.SIGINT)
    try:
        if before != signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        cli.main(prog_name="egress-gateway", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except OSError as error:
        if error.filename is not None or error.errno not in _UNWRITTEN:
            raise
        with contextlib.suppress(OSError):  # it may be the same full disk
            click.echo(f"Error: what this command prints: {error.strerror}", err=True)
        _let_go()
        sys.exit(1)
    finally:
        signal.signal(signal.SIGINT, before)
