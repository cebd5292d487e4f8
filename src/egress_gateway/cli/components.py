"""``controller``, ``gateway``, ``node``, ``webhook``, ``wireguard``: settings in, one process out.

Flags are made from the component's settings schema, so that flag, environment variable and
file key can never differ. SIGTERM and SIGINT stop a component cleanly.
"""

from __future__ import annotations

import asyncio
import contextlib
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

from egress_gateway.service.errors import expected
from egress_gateway.service.logging import configure
from egress_gateway.service.settings import PREFIX, Setting, SettingsError, describe, load

_AUTHORITIES: Final = "SSL_CERT_FILE"
"""OpenSSL's variable, SSL_CTX_set_default_verify_paths(3)."""
_ARENA_MAX: Final = -8
_MMAP_THRESHOLD: Final = -3
"""mallopt(3), malloc.h."""

log = logging.getLogger(__name__)
Run = Callable[[Any], Awaitable[None]]


class _ComponentCommand(click.Command):
    """Adds the flags of ``schema`` when they are first needed."""

    def __init__(
        self, name: str, *, settings: str, run: str, help: str, authorities: bool = True
    ) -> None:
        super().__init__(name, callback=self._call, help=help)
        self._authorities = authorities
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
        _return_memory()
        assert self._schema is not None
        try:
            settings = load(self._schema, file=config, environment=os.environ, flags=flags)
        except SettingsError as error:
            raise click.ClickException(str(error)) from error
        run: Run = imported(self._run, authorities=self._authorities)
        sys.exit(asyncio.run(_until_signal(run, settings)))


def _return_memory() -> None:
    """One heap for all threads, and none for what is large: glibc keeps megabytes for each of a
    dozen threads otherwise, and the room of lists that were read once."""
    import ctypes  # not for --help

    with contextlib.suppress(AttributeError):  # another C library has no such options
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_THRESHOLD, 128 << 10)


def _resolve(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def imported(path: str, *, authorities: bool = True) -> Any:
    """The component's modules, imported without garbage collection: a sixth of the time. Modules
    stay, so later collections skip them too.

    aiohttp reads the machine's certificate authorities, twice, as it is imported. Without
    ``authorities`` it finds none: for who speaks TLS to the API server alone, by a context of its
    own."""
    gc.disable()
    before = os.environ.get(_AUTHORITIES)
    if not authorities:
        os.environ[_AUTHORITIES] = os.devnull
    try:
        return _resolve(path)
    finally:
        os.environ.pop(_AUTHORITIES, None)
        if before is not None:
            os.environ[_AUTHORITIES] = before
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
            help="Least severe level that is logged.",
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
    """One option a setting, with all that its schema says of it."""
    return [
        click.Option([s.flag, s.name], metavar=_METAVARS.get(s.word, s.kind.upper()), help=_help(s))
        for s in describe(schema)
    ]


_METAVARS: Final = {
    "seconds": "SECONDS",
    "per second": "RATE",
    "percent": "PERCENT",
    "port": "PORT",
    "bytes": "BYTES",
    "path": "PATH",
    "name": "NAME",
    "CIDRs": "CIDR,...",
}


def _help(setting: Setting) -> str:
    default = "required" if setting.default is msgspec.NODEFAULT else setting.shown_default
    return f"{setting.text}  [default: {default or 'empty'}; env {setting.variable}]".replace(
        "default: required", "required"
    )


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
        lines = expected_lines(error)
        if not lines:
            raise
        for line in lines:
            log.error("%s", line)
        return 1
    return 0


def expected_lines(error: BaseException) -> list[str]:
    """One line for each expected error of ``error``, which may be a task group's. Empty if it holds
    an unexpected error; its traceback tells more."""
    if (line := expected(error)) is not None:
        return [line]
    if not isinstance(error, BaseExceptionGroup):
        return []
    parts = [expected_lines(part) for part in error.exceptions]
    return [line for part in parts for line in part] if all(parts) else []


controller: Final = _ComponentCommand(
    "controller",
    settings="egress_gateway.controller.settings:Settings",
    run="egress_gateway.controller.main:run",
    help="Run the controller: reconcile StaticGatewayConfigurations with the cloud.",
)
gateway: Final = _ComponentCommand(
    "gateway",
    settings="egress_gateway.gateway.settings:Settings",
    run="egress_gateway.gateway.main:run",
    authorities=False,
    help="Run the gateway agent: WireGuard, peers, SNAT and health on a gateway node.",
)
node: Final = _ComponentCommand(
    "node",
    settings="egress_gateway.node.settings:Settings",
    run="egress_gateway.node.main:run",
    authorities=False,
    help="Run the node agent: install the CNI plugin and attach the node's pods.",
)
webhook: Final = _ComponentCommand(
    "webhook",
    settings="egress_gateway.webhook.settings:Settings",
    run="egress_gateway.webhook.main:run",
    help="Run the webhook: keep annotated pods off nodes without the plugin.",
)
wireguard: Final = _ComponentCommand(
    "wireguard",
    settings="egress_gateway.datapath.wireguard.host:Settings",
    run="egress_gateway.datapath.wireguard.host:run",
    help="Run the tunnel host: wireguard-go processes that outlive the agents.",
)
