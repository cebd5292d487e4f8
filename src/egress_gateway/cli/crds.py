"""``egress-gateway crds``: the definitions to apply, for clusters without the chart."""

from __future__ import annotations

import click
import yaml


@click.command()
def crds() -> None:
    """Print the CustomResourceDefinitions as YAML (pipe into `kubectl apply -f -`)."""
    from egress_gateway.api.crd import documents

    click.echo(yaml.safe_dump_all(documents(), sort_keys=False), nl=False)
