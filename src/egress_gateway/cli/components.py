"""``controller``, ``gateway``, ``node``, ``webhook``, ``wireguard``: settings in, one process out.

Flags are made from the component's settings schema, so that flag, environment variable and
file key can never differ. SIGTERM and SIGINT stop a component cleanly.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from egress_gateway.datapath.linux.door import FolderLost
from egress_gateway.service.errors import OperatorError
from egress_gateway.service.logging import configure
from egress_gateway.service.settings import PREFIX, SettingsError, load

log = logging.getLogger(__name__)
Run = Callable[[Any], Awaitable[None]]


class _ComponentCommand(click.Command):
    """Adds the flags of ``schema`` when they are first needed."""

    def __init__(self, name: str, *, settings: str, run: str, help: str) -> None:
        super().__init__(name, callback=self._call, help=help)
        self._settings = settings
        self._run = run
        self._schema: type[msgspec.Struct] | None = None

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if self._schema is None:
            self._schema = _resolve(self._settings)
            self.params = [*_common_options(), *_options(self._schema)]
        return super().get_params(ctx)

    def _call(self, config: Path | None, log_level: str, log_format: Any, **flags: Any) -> None:
        configure(log_level, log_format)
        assert self._schema is not None
        try:
            settings = load(self._schema, file=config, environment=os.environ, flags=flags)
        except SettingsError as error:
            raise click.ClickException(str(error)) from error
        run: Run = _imported(self._run)
        sys.exit(asyncio.run(_until_signal(run, settings)))


def _resolve(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _imported(path: str) -> Any:
    """What makes up the component, imported without looks for garbage: a sixth of the time. What
    is imported stays, so later looks need not go through it either."""
    gc.disable()
    try:
        return _resolve(path)
    finally:
        gc.freeze()
        gc.enable()


def _common_options() -> list[click.Option]:
    path = click.Path(exists=True, dir_okay=False, path_type=Path)
    return [
        click.Option(
            ["--config"], type=path, envvar=PREFIX + "CONFIG", help="YAML file of settings."
        ),
        click.Option(
            ["--log-level"],
            default="info",
            envvar=PREFIX + "LOG_LEVEL",
            show_default=True,
            type=click.Choice(["debug", "info", "warning", "error"]),
            help="What is worth a line.",
        ),
        click.Option(
            ["--log-format"],
            default="json",
            envvar=PREFIX + "LOG_FORMAT",
            show_default=True,
            type=click.Choice(["json", "text"]),
            help="JSON lines or text.",
        ),
    ]


def _options(schema: type[msgspec.Struct]) -> list[click.Option]:
    """One option a field; the default shown is the schema's."""
    info = msgspec.inspect.type_info(schema)
    assert isinstance(info, msgspec.inspect.StructType)
    options = []
    for field in info.fields:
        default = "required" if field.required else _shown(field)
        about = getattr(field.type, "extra_json_schema", None) or {}
        text = f"{about.get('description', '')} [{default}; env {PREFIX}{field.name.upper()}]"
        options.append(
            click.Option([f"--{field.name.replace('_', '-')}", field.name], help=text.strip())
        )
    return options


def _shown(field: msgspec.inspect.Field) -> str:
    if field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        value = ""
    if isinstance(value, list | tuple | set | frozenset):
        return ",".join(str(v) for v in value) or "none"
    return str(value) if value != "" else "empty"


async def _until_signal(run: Run, settings: Any) -> int:
    """Runs the component until it ends or a signal cancels it. 0 after a clean stop, 1 for what
    its operator must mend, which is one line of the log."""
    task = asyncio.ensure_future(run(settings))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return 0
    except Exception as error:
        cause = _of_operator(error)
        if cause is None:
            raise
        log.error("%s", cause)
        return 1
    return 0


def _of_operator(error: Exception) -> Exception | None:
    """What ended the component, if one line says it all: by itself, or out of a group of tasks."""
    if isinstance(error, ExceptionGroup):
        causes = [_of_operator(each) for each in error.exceptions]
        return causes[0] if all(causes) else None
    return error if isinstance(error, OperatorError | FolderLost) else None


controller: Final = _ComponentCommand(
    "controller",
    settings="egress_gateway.controller.settings:Settings",
    run="egress_gateway.controller.main:run",
    help="Turns StaticGatewayConfigurations into addresses and a load balancer in the cloud.",
)
gateway: Final = _ComponentCommand(
    "gateway",
    settings="egress_gateway.gateway.settings:Settings",
    run="egress_gateway.gateway.main:run",
    help="Serves configurations on a gateway node: WireGuard, peers, SNAT, health.",
)
node: Final = _ComponentCommand(
    "node",
    settings="egress_gateway.node.settings:Settings",
    run="egress_gateway.node.main:run",
    help="Installs the CNI plugin on a node and attaches its pods.",
)
webhook: Final = _ComponentCommand(
    "webhook",
    settings="egress_gateway.webhook.settings:Settings",
    run="egress_gateway.webhook.main:run",
    help="Keeps annotated pods off nodes without the plugin, where the API server cannot.",
)
wireguard: Final = _ComponentCommand(
    "wireguard",
    settings="egress_gateway.datapath.wireguard.host:Settings",
    run="egress_gateway.datapath.wireguard.host:run",
    help="Hosts wireguard-go processes, so that tunnels outlive the agents.",
)
