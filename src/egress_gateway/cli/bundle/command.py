"""``egress-gateway bundle``: one archive with what a ticket needs, and nothing that is secret.

The archive appears when it is complete: until then it is a file without a name, which the kernel
takes back however this program ends.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Final

import click

from egress_gateway.cli import cluster, options, running, terminal
from egress_gateway.cli.bundle.collect import Collector, credentials
from egress_gateway.cli.diagnosis.status import read
from egress_gateway.cli.once import Once

_README: Final = """\
What `egress-gateway bundle` found, for a ticket. Nothing was changed.

versions.json      of the command, the API server and our images
status.*, check.*  what these two commands say
objects/           our kinds, Nodes, Events, and the named fields of pods that ask for a gateway
logs/              of our components, the newest lines; .previous: of a container that has ended
nodes/             links, routes, rules, nftables, tunnels and metrics, as our pods see them
not-read.txt       what your rights, or the cluster, did not give

Left out: Secrets, keys, tokens, environment and annotations of other people. What could be one is
<redacted-…>, the same tag for the same value. Look through it before you send it all the same.
"""


@click.command()
@options.kubeconfig
@click.option("-n", "--namespace", help="Only this namespace's configurations and pods.")
@options.system_namespace
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="File to write. Default: egress-gateway-TIME.tar.gz here.",
)
@click.option(
    "--lines",
    type=click.IntRange(1, 100_000),
    default=5000,
    show_default=True,
    help="Lines of each log, at most 2 MiB.",
)
@click.option(
    "--exec/--no-exec",
    "execute",
    default=True,
    help="Look at links, routes, rules and tunnels inside our pods too (the default).",
)
def bundle(
    kubeconfig: str | None,
    namespace: str | None,
    system_namespace: str,
    output: Path | None,
    lines: int,
    execute: bool,
) -> None:
    """Write one archive with all that a ticket needs, and nothing secret."""
    now = datetime.datetime.now(datetime.UTC)
    stem = f"egress-gateway-{now:%Y%m%dT%H%M%SZ}"
    target = output or Path(f"{stem}.tar.gz")
    if target.exists():
        raise click.ClickException(f"{target} exists; name another file with --output")
    try:
        with tempfile.TemporaryFile(dir=target.absolute().parent) as archive:
            unseen = running.run(
                _fill(
                    archive, stem, kubeconfig, namespace, system_namespace, lines, execute=execute
                )
            )
            _keep(archive, target)
    except OSError as error:
        raise click.ClickException(f"cannot write {target}: {error.strerror}") from error
    for what in unseen:
        terminal.echo(f"not read: {what}", err=True)
    click.echo(
        f"{target} ({target.stat().st_size // 1024} KiB); look through it before you send it"
    )


async def _fill(
    archive: IO[bytes],
    stem: str,
    kubeconfig: str | None,
    namespace: str | None,
    system: str,
    lines: int,
    *,
    execute: bool,
) -> list[str]:
    """Writes everything to ``archive``; what could not be read."""
    async with cluster.connect(kubeconfig, "egress-gateway-cli") as client:
        lists = Once(client)
        facts = await read(lists, namespace, system)
        collector = Collector(
            client,
            lists,
            facts,
            namespace=namespace,
            system=system,
            lines=lines,
            credentials=credentials(kubeconfig, client.access.token(False)),
        )
        async with contextlib.aclosing(collector.files(execute=execute)) as files:
            await _pack(archive, stem, files)
        return sorted(set(collector.unseen))


async def _pack(archive: IO[bytes], stem: str, files: AsyncIterator[tuple[str, str]]) -> None:
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        _add(tar, f"{stem}/README.txt", _README)
        async for name, text in files:
            _add(tar, f"{stem}/{name}", text)


def _add(tar: tarfile.TarFile, name: str, text: str) -> None:
    content = text.encode()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o600
    tar.addfile(entry, io.BytesIO(content))


def _keep(archive: IO[bytes], target: Path) -> None:
    """Gives the archive its name. Raises ``FileExistsError``."""
    archive.seek(0)
    with target.open("xb") as file:
        try:
            os.fchmod(file.fileno(), 0o600)
            shutil.copyfileobj(archive, file)
        except BaseException:
            target.unlink()
            raise
