"""``egress-gateway status``: what an on-call engineer needs at three in the morning, on one screen.

For each configuration: ready, degraded or not, and why; its addresses, gateways and pods. Below
that the components. The exit code is 1 when anything is less than healthy, so that a script can
wait on it. It needs no more rights than its caller has, and says what the caller may not read.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import click
import msgspec

from egress_gateway.api import names
from egress_gateway.cli import cluster, options, running, terminal
from egress_gateway.cli.diagnosis.overview import (
    NOT_REACHED,
    SERVES_WITH,
    ConfigurationView,
    Facts,
    Overview,
    summarize,
)
from egress_gateway.cli.diagnosis.workloads import agents, components, elsewhere
from egress_gateway.kube import resources
from egress_gateway.kube.errors import Forbidden, NotFound, Unauthorized
from egress_gateway.kube.resources import Resource

if TYPE_CHECKING:
    from egress_gateway.cli.once import Lists
    from egress_gateway.kube.client import Client

P = ParamSpec("P")
T = TypeVar("T")

_COLOURS: Final = {"Ready": "green", "Degraded": "yellow", "NotReady": "red"}
_SERVING: Final = {
    "Unknown": "Unknown",
    NOT_REACHED: "serving some nodes",
    SERVES_WITH: "serving, with a problem",
}
_NAMED: Final = 5
"""Attached pods that are named; of more only the number is told (``--output wide``: all)."""


_OF_NODES: Final = "involvedObject.kind=Node,type=Warning"


@click.command()
@options.kubeconfig
@click.option("-n", "--namespace", help="Show only configurations of this namespace.")
@click.option("-A", "--all-namespaces", is_flag=True, help="Show all namespaces (the default).")
@click.option("-w", "--watch", is_flag=True, help="Refresh every two seconds until Ctrl-C.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "wide", "json", "yaml"]),
    default="text",
    show_default=True,
    help="Text for people; wide names every pod; JSON and YAML for programs.",
)
@options.system_namespace
def status(
    kubeconfig: str | None,
    namespace: str | None,
    all_namespaces: bool,
    watch: bool,
    output: str,
    system_namespace: str,
) -> None:
    """Show configurations, gateways, pods and components. Exit 1 when anything is degraded."""
    if namespace and all_namespaces:
        raise click.UsageError("--namespace and --all-namespaces exclude each other")
    client = cluster.connect(kubeconfig, "egress-gateway-cli")
    while True:
        facts = running.run(_look(client, namespace, system_namespace))
        overview = summarize(facts)
        if watch and output in ("text", "wide"):
            click.clear()
        show(overview, output)
        if not watch:
            sys.exit(0 if overview.healthy else 1)
        time.sleep(2)


def show(overview: Overview, output: str) -> None:
    """Prints it as ``--output`` asks."""
    if output == "json":
        click.echo(msgspec.json.encode(overview).decode())
        return
    if output == "yaml":
        import yaml  # nobody else pays for it

        click.echo(yaml.safe_dump(msgspec.to_builtins(overview), sort_keys=False), nl=False)
        return
    width = shutil.get_terminal_size((80, 24)).columns
    terminal.echo(render(overview, width=width, wide=output == "wide"), nl=False)


async def _look(client: Client, namespace: str | None, system: str) -> Facts:
    async with client:
        return await read(client, namespace, system)


async def read(client: Lists, namespace: str | None, system: str) -> Facts:
    """What there is to see with these rights. Raises ``ApiError``."""
    unseen: list[str] = []
    absent: list[str] = []

    async def visible(
        what: str, reading: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T | None:
        try:
            return await reading(*args, **kwargs)
        except (Forbidden, Unauthorized):
            unseen.append(f"{what}: not yours to read")
        except NotFound:
            unseen.append(f"{what}: the cluster has no such kind; is the chart installed?")
            absent.append(f"{what.lower()}.{names.GROUP}")
        return None

    async def items(
        resource: Resource[T], where: str | None, fields: str | None = None
    ) -> Sequence[T]:
        return (await client.list(resource, namespace=where, fields=fields)).items

    # NB: what is reported on before what reports on it. A pod, a gateway or a node that comes
    # meanwhile would seem to lack its endpoint, its agent's report or its agent.
    pods = await visible("Pods", items, resources.PODS, namespace)
    configurations, endpoints, events = await asyncio.gather(
        items(resources.SGCS, namespace),
        visible("PodEndpoints", items, resources.POD_ENDPOINTS, namespace),
        visible("Events of Nodes", items, resources.EVENTS, "default", _OF_NODES),
    )
    nodes, gateways = await asyncio.gather(
        visible("Nodes", items, resources.NODES, None),
        visible("GatewayStatuses", items, resources.GATEWAY_STATUSES, system),
    )
    workloads, watching, leading = await asyncio.gather(
        visible(f"components in {system}", components, client, system, nodes),
        visible(f"Pods in {system}", agents, client, "node", system),
        visible(f"Pods in {system}", agents, client, "gateway", system),
    )
    if workloads == [] and not gateways:  # whatever is said of a wrong namespace's agents is false
        workloads = [await elsewhere(client, system)]
        gateways = watching = leading = None
    return Facts(
        at=client.now(),
        configurations=configurations,
        endpoints=endpoints,
        gateways=gateways,
        nodes=nodes,
        pods=pods,
        components=workloads or (),
        events=events or (),
        agents=None if watching is None else {pod.spec.node_name for pod in watching},
        gateway_agents=None if leading is None else {pod.spec.node_name for pod in leading},
        absent=sorted(absent),
        unseen=sorted(set(unseen)),
    )


def render(overview: Overview, *, width: int = 80, wide: bool = False) -> str:
    """``summarize``'s result for a terminal of ``width`` columns, with colours that ``click.echo``
    takes out where there is none."""
    lines: list[str] = []
    for one in overview.configurations:
        lines += _lines(one, width, wide=wide)
    if not overview.configurations:
        lines.append("no StaticGatewayConfiguration")
    strays = overview.strays if wide else overview.strays[:_NAMED]
    for stray in strays:
        lines += _wrapped(f"pod {stray.pod}: {stray.reason}: {stray.message}", width, "")
    if len(strays) < len(overview.strays):
        lines.append(f"… and {len(overview.strays) - len(strays)} more (--output wide)")
    if overview.components:
        lines.append("components:")
    for workload in overview.components:
        state = f"{workload.ready} of {workload.wanted} ready"
        if workload.ready < workload.wanted:
            state = click.style(state, fg="red")
        lines.append(f"  {workload.name}: {state}")
        for said in (workload.message, workload.mend and f"fix: {workload.mend}"):
            lines += _wrapped(said, width, "    ")
    if overview.unwatched:
        lines.append("nodes without an agent (egress-gateway check: EG303):")
    shown = overview.unwatched if wide else overview.unwatched[:_NAMED]
    lines += [
        f"  {one.node}: {click.style(f'no {one.agent} pod', fg='red')}, {one.pods} attached pods"
        for one in shown
    ]
    if len(shown) < len(overview.unwatched):
        lines.append(f"  … and {len(overview.unwatched) - len(shown)} more (--output wide)")
    if overview.attempts:
        lines.append("refused, and nobody honest asks for it:")
    for attempt in overview.attempts[: None if wide else _NAMED]:
        when = _ago(attempt.seconds_ago)
        said = f"{attempt.subject}: {attempt.reason}{when}: {attempt.message}"
        lines += _wrapped(said, width, "  ")
    if len(overview.attempts) > _NAMED and not wide:
        lines.append(f"  … and {len(overview.attempts) - _NAMED} more (--output wide)")
    lines += [f"not seen: {what}" for what in overview.unseen]
    return "\n".join(lines) + "\n"


def _lines(one: ConfigurationView, width: int, *, wide: bool) -> Iterator[str]:
    word = {"Ready": "ready", "Degraded": "DEGRADED", "NotReady": "NOT READY"}[one.state]
    state = click.style(word, fg=_COLOURS[one.state], bold=one.state != "Ready")
    reason = "" if one.state == "Ready" else f" ({one.reason})"
    yield f"{one.configuration}: {state}{reason}  {one.prefix or 'no address yet'}"
    if one.state != "Ready":
        yield from _wrapped(one.message, width, "  ")
    for gateway in one.gateways:
        address = ", ".join(filter(None, (gateway.public_ip, gateway.public_ip_v6)))
        serving = _SERVING.get(gateway.reason, "serving")
        if not gateway.serving:
            serving = click.style(f"NOT SERVING ({gateway.reason})", fg="red")
        yield f"  gateway {gateway.node}  {serving}  {address or 'no public address'}"
        said = ": ".join(filter(None, (gateway.message, gateway.mend)))
        yield from _wrapped(said, width, "    ")
    connected = sum(pod.state == "Connected" for pod in one.pods)
    named = [pod.pod for pod in one.pods] if len(one.pods) <= _NAMED and not wide else []
    counted = f"pods: {len(one.pods)} attached, {connected} with a working tunnel"
    yield from _wrapped(counted + _list(named), width, "  ")
    for pod in one.pods if wide else ():
        where = pod.gateway or "no gateway"
        stands = f"{pod.pod}  {pod.state or 'not told yet'}  {where}  {pod.egress_ip or '-'}"
        yield from _wrapped(stands, width, "    ")
    shown = one.troubled_pods if wide else one.troubled_pods[:_NAMED]
    for amiss in shown:
        yield from _wrapped(f"pod {amiss.pod}: {amiss.reason}: {amiss.message}", width, "  ")
    if len(shown) < len(one.troubled_pods):
        yield f"  … and {len(one.troubled_pods) - len(shown)} more (--output wide)"


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f" ({seconds / 60:.0f} min ago)" if seconds >= 60 else " (just now)"


def _list(pods: Sequence[str]) -> str:
    return f" ({', '.join(pods)})" if pods else ""


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    if text and len(indent + text) <= width and text.isprintable():
        return [indent + text]  # nearly all lines; textwrap would take as long as all the rest
    return textwrap.wrap(
        text,
        max(width, 40),
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
