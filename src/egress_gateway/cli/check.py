"""``egress-gateway check``: what is amiss, and what mends it. Exit 0 if nothing is."""

from __future__ import annotations

import asyncio
import datetime
import sys

import click
import msgspec

from egress_gateway.cli import options
from egress_gateway.cli.findings import TITLES, Finding, findings
from egress_gateway.cli.overview import summarize
from egress_gateway.cli.status import read
from egress_gateway.kube import config
from egress_gateway.kube.errors import ApiError


@click.command()
@options.kubeconfig
@click.option("-n", "--namespace", help="Check only this namespace's pods and configurations.")
@options.output
@options.system_namespace
def check(
    kubeconfig: str | None, namespace: str | None, output: str, system_namespace: str
) -> None:
    """Look for what is amiss. Exit 1 when something is."""
    try:
        facts = asyncio.run(read(kubeconfig, namespace, system_namespace))
    except config.ConfigError as error:
        raise click.ClickException(str(error)) from error
    except ApiError as error:
        raise click.ClickException(f"the Kubernetes API refused: {error}") from error
    found = findings(facts, summarize(facts, datetime.datetime.now(datetime.UTC)))
    if output == "json":
        click.echo(msgspec.json.encode({"findings": found, "unseen": facts.unseen}).decode())
    else:
        click.echo(text(found, list(facts.unseen)), nl=False)
    sys.exit(1 if found else 0)


def text(found: list[Finding], unseen: list[str]) -> str:
    """For people: grouped by code."""
    lines = []
    for code in sorted({f.code for f in found}):
        lines.append(click.style(f"✗ {code} {TITLES[code]}", fg="red", bold=True))
        for one in (f for f in found if f.code == code):
            lines += [f"  {one.object}", f"    {one.evidence}", f"    fix: {one.mend}"]
    if not found:
        lines.append(click.style("✓ nothing is amiss", fg="green"))
    lines += [f"not seen: {what}" for what in unseen]
    if found:
        lines.append("docs/checks.md has a paragraph on each code")
    return "\n".join(lines) + "\n"
