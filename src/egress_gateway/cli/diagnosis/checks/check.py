"""``egress-gateway check``: what is amiss, and what mends it. Exit 0 if nothing is."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from egress_gateway.cli import cluster, options, running, terminal
from egress_gateway.cli.diagnosis.checks import azure_now, templates
from egress_gateway.cli.diagnosis.checks.findings import TITLES, Finding, findings
from egress_gateway.cli.diagnosis.checks.installation import judged, look
from egress_gateway.cli.diagnosis.overview import Facts, summarize
from egress_gateway.cli.diagnosis.status import read

if TYPE_CHECKING:
    from egress_gateway.kube.client import Client


@click.command()
@options.kubeconfig
@click.option("-n", "--namespace", help="Check only this namespace's pods and configurations.")
@options.output
@options.system_namespace
@click.option("--pre", is_flag=True, help="Look for what would be in the way of an installation.")
@click.option("--here", is_flag=True, help="With --pre: look at this machine, a node, as root.")
@click.option(
    "--azure-config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --pre: ask Azure too, as this azure.json of the controller says. With --here: as "
    "its identity.",
)
@click.option("--as-me", is_flag=True, help="Ask Azure with your own sign-in of az instead.")
@click.option(
    "--prefix", "prefixes", multiple=True, help="Id of a public IP prefix that you will bring."
)
def check(
    kubeconfig: str | None,
    namespace: str | None,
    output: str,
    system_namespace: str,
    pre: bool,
    here: bool,
    **azure: Any,
) -> None:
    """Look for faults: codes, causes, fixes. Exit 1 if there is one."""
    if here and not pre:
        raise click.UsageError("--here goes with --pre")
    if any(azure.values()) and not (pre and azure["azure_config"]):
        raise click.UsageError("--azure-config goes with --pre, the others with --azure-config")
    found, unseen = running.run(
        _before(kubeconfig, system_namespace, here=here, **azure)
        if pre
        else _now(kubeconfig, namespace, system_namespace)
    )
    if output == "json":
        click.echo(msgspec.json.encode({"findings": found, "unseen": unseen}).decode())
    else:
        terminal.echo(text(found, unseen), nl=False)
    sys.exit(1 if found else 0)


async def _now(
    kubeconfig: str | None, namespace: str | None, system: str
) -> tuple[list[Finding], list[str]]:
    async with cluster.connect(kubeconfig, "egress-gateway-cli") as client:
        (facts, (more, untold)), (installed, hidden) = await asyncio.gather(
            _read(client, namespace, system), look(client, system)
        )
    found = [
        *findings(facts, summarize(facts)),
        *judged(installed, facts.nodes, facts.endpoints, system),
        *more,
    ]
    return found, [*facts.unseen, *hidden, *untold]


async def _read(
    client: Client, namespace: str | None, system: str
) -> tuple[Facts, tuple[list[Finding], list[str]]]:
    facts = await read(client, namespace, system)
    found, unseen = await azure_now.ask(client, facts.configurations, system)
    if namespace:
        misplaced, hidden = await templates.look(client, namespace)
        found, unseen = [*found, *misplaced], [*unseen, *hidden]
    return facts, (found, unseen)


async def _before(
    kubeconfig: str | None,
    system: str,
    *,
    here: bool,
    azure_config: Path | None,
    as_me: bool,
    prefixes: Sequence[str],
) -> tuple[list[Finding], list[str]]:
    if here and azure_config is not None:
        return await _in_azure(azure_config, prefixes, as_me=as_me, here=True)
    # The data path's libraries: nobody else needs them here.
    from egress_gateway.cli.diagnosis.checks import preflight, surroundings

    if here:
        return preflight.on_machine(await surroundings.machine()), []
    facts, unseen = await surroundings.read(kubeconfig, system)
    machines = "kernels, CNI folders and MTUs of nodes: run check --pre --here there"
    found = preflight.before(facts)
    if azure_config is None:
        return found, [*unseen, machines, "Azure: --azure-config names where it is"]
    seen, hidden = await _in_azure(azure_config, prefixes, as_me=as_me)
    return [*found, *seen], [*unseen, *hidden, machines]


async def _in_azure(
    file: Path, prefixes: Sequence[str], *, as_me: bool, here: bool = False
) -> tuple[list[Finding], list[str]]:
    from egress_gateway.cli.diagnosis.checks.azure import before_azure
    from egress_gateway.cli.diagnosis.checks.azure_look import look as look_at_azure

    seen, hidden = await look_at_azure(file, prefixes, as_me=as_me, here=here)
    return before_azure(seen), hidden


def text(found: list[Finding], unseen: list[str]) -> str:
    """For people: grouped by code."""
    lines = []
    for code in sorted({f.code for f in found}):
        lines.append(click.style(f"✗ {code} {TITLES[code]}", fg="red", bold=True))
        for one in (f for f in found if f.code == code):
            about, evidence, mend = map(terminal.one_line, (one.object, one.evidence, one.mend))
            lines += [f"  {about}", f"    {evidence}", f"    fix: {mend}"]
    if not found:
        lines.append(click.style("✓ no faults found", fg="green"))
    lines += [f"not seen: {what}" for what in unseen]
    if found:
        lines.append("docs/reference/checks.md has a paragraph on each code")
    return "\n".join(lines) + "\n"
