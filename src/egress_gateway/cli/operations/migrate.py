"""``egress-gateway migrate``: a cluster of the Go project becomes one of ours, step by step.

The controller takes over by itself when it starts; this command is for the person who wants to see
first (``--dry-run``), and does the parts that need a person's rights: stopping the old controller
(``--stop``) and copying key pairs from another namespace. It changes nothing in Azure. With
``--azure-config`` it also reads Azure and says what the controller's first pass would write there:
nothing, on a healthy cluster.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from egress_gateway.api import names
from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.cli import cluster, options, running, terminal
from egress_gateway.cli.operations.migrate_report import Report, render, report
from egress_gateway.cloud.azure.advice import AzureAdvice
from egress_gateway.controller.migration.adopt import Leftovers, misplaced, plan_adoption
from egress_gateway.controller.migration.takeover import Takeover
from egress_gateway.controller.observed.record import names_of
from egress_gateway.controller.planning.wanted import Names
from egress_gateway.kube import resources
from egress_gateway.kube.errors import NotFound
from egress_gateway.kube.resources import Resource, Untyped, v1

if TYPE_CHECKING:
    from egress_gateway.kube.client import Client

_INTERVAL: Final = 1.0
_FIELD_MANAGER: Final = "egress-gateway-cli"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    kubeconfig: str | None
    system_namespace: str
    keys_namespace: str
    azure_config: Path | None
    dry_run: bool
    stop: bool
    timeout: float


@click.command()
@click.option(
    "--dry-run", is_flag=True, help="Show what would be done, object by object. Change nothing."
)
@options.output
@options.kubeconfig
@options.system_namespace
@options.keys_namespace
@click.option(
    "--azure-config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The controller's azure.json: also show what it would write to Azure.",
)
@click.option("--stop", is_flag=True, help="First scale the Go project's controller to zero.")
@click.option(
    "--timeout", default=60.0, show_default=True, help="Wait this many seconds for it to stop."
)
def migrate(output: str, **given: Any) -> None:
    """Take a cluster over from the Go project: same names, addresses, ports and keys.

    Exit code 1 when something stands in the way; the output says what mends it.
    """
    found = running.run(_migrate(_Options(**given)))
    terminal.echo(json.dumps(found) if output == "json" else render(found), nl=output == "json")
    sys.exit(1 if found["blockers"] else 0)


@dataclass(slots=True)
class _Seen:
    """What one look at the cluster found."""

    leftovers: Leftovers
    blockers: list[dict[str, str]] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    copies: list[resources.Secret] = field(default_factory=list)


async def _migrate(options: _Options) -> Report:
    async with cluster.connect(options.kubeconfig, _FIELD_MANAGER) as client:
        takeover = Takeover(
            client,
            system_namespace=options.system_namespace,
            keys_namespace=options.keys_namespace,
            advice=AzureAdvice(),
        )
        if options.stop and not options.dry_run:
            await _stop(takeover, (await client.list(resources.SGCS)).items, options.timeout)
        seen = await _look(client, takeover)
        acted = not options.dry_run and not seen.blockers
        adoptions = plan_adoption(seen.leftovers)
        if acted:
            await takeover.copy_keys(seen.copies)
            for adoption in adoptions:
                if not adoption.dispute:
                    await takeover.adopt(adoption)
        azure = await _azure(options, seen.leftovers, takeover.keys_namespace)
        return report(
            seen.leftovers,
            adoptions,
            seen.lost,
            blockers=seen.blockers,
            remains=await _remains(client, seen.blockers),
            azure=azure,
            acted=acted,
            keys_namespace=takeover.keys_namespace,
        )


async def _look(client: Client, takeover: Takeover) -> _Seen:
    configurations = (await client.list(resources.SGCS)).items
    seen = _Seen(await takeover.look(configurations, secrets=True))
    rival = await takeover.rival(configurations)
    if rival is not None:
        seen.blockers.append({"what": rival.who, "mend": rival.mend})
    seen.blockers += await _webhooks(client)
    seen.lost = misplaced(seen.leftovers, takeover.keys_namespace)
    seen.copies = await takeover.lost_keys(seen.lost)
    known = [*seen.leftovers.secrets, *seen.copies]
    seen.leftovers = replace(seen.leftovers, secrets=known)
    return seen


async def _webhooks(client: Client) -> list[dict[str, str]]:
    """Webhooks of a stopped controller refuse every change of a configuration."""
    found = []
    for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        resource: Resource[Untyped] = v1(
            f"{kind.lower()}s", kind, dict, group="admissionregistration.k8s.io", namespaced=False
        )
        try:
            listed = (await client.list(resource)).items
        except NotFound:
            continue
        for item in listed:
            name = item["metadata"]["name"]
            if name.startswith(names.GO_DAEMON_PREFIX) and _judges_configurations(item):
                what = f"{kind} {name} sends every change of a configuration to the old controller"
                mend = f"when it is stopped: kubectl delete {kind.lower()} {name}"
                found.append({"what": what, "mend": mend})
    return found


def _judges_configurations(item: Mapping[str, Any]) -> bool:
    rules = [rule for hook in item.get("webhooks") or [] for rule in hook.get("rules") or []]
    return any(resources.SGCS.plural in (rule.get("resources") or []) for rule in rules)


async def _stop(
    takeover: Takeover, configurations: Sequence[StaticGatewayConfiguration], timeout: float
) -> None:
    """Scales the old Deployments to zero and waits until nobody holds the Lease."""
    await takeover.stop_rivals(configurations)
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if await takeover.rival(configurations) is None:
            return
        await asyncio.sleep(_INTERVAL)


async def _azure(
    options: _Options, found: Leftovers, keys_namespace: str
) -> Mapping[str, Any] | None:
    if options.azure_config is None:
        return None
    from egress_gateway.controller.migration.rehearse import rehearse
    from egress_gateway.controller.providers import open_cloud

    cloud = open_cloud(options.azure_config)
    try:
        said = await rehearse(
            cloud,
            found.configurations,
            _in_force(found),
            keys_namespace=keys_namespace,
        )
    finally:
        await cloud.close()
    return {
        "writes": list(said.writes),
        "problems": {str(key): text for key, text in said.problems.items()},
    }


def _in_force(found: Leftovers) -> dict[str, Names]:
    """Names as they are after the take-over: recorded ones, and those about to be."""
    beginning = names.key_secret("")
    recorded = {s.metadata.name.removeprefix(beginning): s.metadata for s in found.secrets}
    return {uid: names_of(uid, meta.annotations) for uid, meta in recorded.items()} | {
        adoption.uid: adoption.names for adoption in plan_adoption(found)
    }


async def _remains(client: Client, blockers: Sequence[Mapping[str, str]]) -> list[str]:
    """Commands with which the person later removes what is left of the Go project."""
    commands = []
    for found in (await client.list(resources.DAEMON_SETS)).items:
        meta = found.metadata
        if meta.name.startswith(names.GO_DAEMON_PREFIX):
            commands.append(f"kubectl delete daemonset -n {meta.namespace} {meta.name}")
    if blockers:
        return commands
    for plural in ("gatewaylbconfigurations", "gatewayvmconfigurations"):
        commands.append(f"kubectl delete crd {plural}.{names.GROUP} --ignore-not-found")
    return commands
