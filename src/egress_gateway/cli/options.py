"""Options that several commands have, once: one name, one text, one default."""

from __future__ import annotations

from typing import Final

import click

from egress_gateway.api import names

kubeconfig: Final = click.option(
    "--kubeconfig",
    metavar="FILE",
    help="Credentials for the cluster. Default: KUBECONFIG, then ~/.kube/config, then the pod's "
    "service account.",
)
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
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Text for people, JSON for programs.",
)
