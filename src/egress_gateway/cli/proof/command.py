"""``egress-gateway test``: proves a live cluster with pods of its own, and leaves nothing.

Whatever ends it, its pods are deleted and a node that it cordoned is given back; where it cannot do
that itself (SIGKILL), its pods end by themselves after five minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.cli import cluster, options, running, terminal
from egress_gateway.cli.agents.answers import Round
from egress_gateway.cli.diagnosis.packets.trace import cluster_networks, verify_targets
from egress_gateway.cli.diagnosis.workloads import components
from egress_gateway.cli.proof.plan import (
    RUN_LABEL,
    Case,
    ProofResult,
    cases,
    judged,
    last_words,
    nothing_to_send,
    pod,
    table,
    working,
)
from egress_gateway.datapath.addresses import IPNetwork
from egress_gateway.kube import wire
from egress_gateway.kube.errors import ApiError, NotFound
from egress_gateway.kube.resources import (
    DAEMON_SETS,
    EVENTS,
    NODES,
    POD_ENDPOINTS,
    PODS,
    SGCS,
    Pod,
)

if TYPE_CHECKING:
    from egress_gateway.kube.client import Client

_LOOK: Final = 1.0
_GOING: Final = 60.0
"""Seconds for our pods to be gone."""

Tell = Callable[[str], None]


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    namespace: str | None
    configuration: str | None
    nodes: int
    pods: int
    servers: tuple[str, ...]
    image: str
    timeout: float
    failover: bool
    system_namespace: str


@click.command("test")
@options.kubeconfig
@click.option("-n", "--namespace", help="Only configurations of this namespace.")
@click.option("--configuration", help="Only this one, as namespace/name.")
@click.option(
    "--nodes",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Nodes that each configuration is tried on.",
)
@click.option(
    "--pods",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Pods that are made at most, one for each configuration and node.",
)
@click.option(
    "--server",
    "servers",
    multiple=True,
    help="STUN server that says which address it sees, as host:port. Default: the gateways' own.",
)
@click.option("--image", default="", help="Image of the pods. Default: that of the node agents.")
@click.option(
    "--timeout",
    default=90.0,
    show_default=True,
    help="Seconds for a pod to start and answer, and for components to be ready.",
)
@click.option(
    "--failover",
    is_flag=True,
    help="Cordon one gateway's Node of each configuration, see its pod move, and uncordon.",
)
@options.output
@options.system_namespace
def test(kubeconfig: str | None, output: str, **given: Any) -> None:
    """Prove a live cluster: pods that ask what the Internet sees of them. Exit 1 if it fails."""
    asked = _Options(**given)

    def tell(text: str) -> None:
        terminal.echo(text, err=output == "json")

    try:
        found = running.run(_test(kubeconfig, asked, tell))
    except asyncio.CancelledError:
        raise click.Abort from None
    if output == "json":
        click.echo(msgspec.json.encode(found).decode())
    else:
        terminal.echo("\n".join(table(found)))
    failed = sum(v.passed is False for v in found)
    tell(f"{sum(v.passed is True for v in found)} passed, {failed} failed")
    sys.exit(1 if failed or not found else 0)


async def _test(kubeconfig: str | None, asked: _Options, tell: Tell) -> list[ProofResult]:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    run = secrets.token_hex(3)
    async with cluster.connect(kubeconfig, "egress-gateway-test") as client:
        chosen = await _configurations(client, asked)
        if not chosen:
            return [*await _at_work(client, asked), nothing_to_send()]
        nodes = (await client.list(NODES)).items
        made, left = cases(chosen, nodes, run, per_configuration=asked.nodes, most=asked.pods)
        if not made:
            at_work = working(await components(client, asked.system_namespace))
            terminal.echo("\n".join(table(at_work)), err=True)
            raise click.ClickException(
                "there is nothing to test: no node is ready for annotated pods; "
                "egress-gateway check says why"
            )
        if left:
            tell(f"{left} more pairs of configuration and node are left out (--pods)")
        image, servers = await _components(client, asked)
        networks = await cluster_networks(client, asked.system_namespace)
        every = 1.0 if asked.failover else 0.0
        async with _pods(client, made, run, tell):
            for case in made:
                await client.create(PODS.untyped(), pod(case, image, run, servers, every=every))
            tried = [_prove(client, case, networks, asked, tell) for case in made]
            found = await asyncio.gather(_at_work(client, asked), *tried)
            verdicts = [v for some in found for v in some]
            if asked.failover:
                first = {case.name: case for case in reversed(made)}
                for case in first.values():
                    verdicts.append(await _fail_over(client, case, asked, tell))
        return verdicts


async def _at_work(client: Client, asked: _Options) -> list[ProofResult]:
    """The components' verdicts. One that is not ready has as long as a pod to become so: it may
    have been installed a moment ago."""
    until = time.monotonic() + asked.timeout
    while True:
        found = working(await components(client, asked.system_namespace))
        if all(one.passed for one in found) or time.monotonic() > until:
            return found
        await asyncio.sleep(1)


async def _configurations(client: Client, asked: _Options) -> list[StaticGatewayConfiguration]:
    if asked.configuration:
        namespace, slash, name = asked.configuration.partition("/")
        if not slash:
            raise click.UsageError("--configuration: write namespace/name")
        return [await client.get(SGCS, name, namespace)]
    return list((await client.list(SGCS, asked.namespace)).items)


async def _components(client: Client, asked: _Options) -> tuple[str, Sequence[str]]:
    """Image of the probes, and the servers that the gateways ask."""
    image = asked.image
    if not image:
        found = await client.get(
            DAEMON_SETS.untyped(), "egress-gateway-node", asked.system_namespace
        )
        image = found["spec"]["template"]["spec"]["containers"][0]["image"]
    return image, asked.servers or await verify_targets(client, asked.system_namespace)


@asynccontextmanager
async def _pods(client: Client, made: Sequence[Case], run: str, tell: Tell) -> AsyncIterator[None]:
    """In the end no pod of this run is left, whatever happened."""
    try:
        yield
    finally:
        await _without_interruption(_delete(client, {c.namespace for c in made}, run, tell))


async def _without_interruption(work: Any) -> None:
    """``work`` to its end, also if this task is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


async def _delete(client: Client, namespaces: set[str], run: str, tell: Tell) -> None:
    tell("deleting the pods of this test")
    clock = asyncio.get_running_loop().time
    until = clock() + _GOING
    left: list[Pod] = []
    while True:
        left = [
            found
            for namespace in namespaces
            for found in (await client.list(PODS, namespace, labels=f"{RUN_LABEL}={run}")).items
        ]
        if not left:
            return
        if clock() > until:
            listed = ", ".join(f"{p.metadata.namespace}/{p.metadata.name}" for p in left)
            tell(f"not deleted in {_GOING:.0f} s: {listed}; kubectl delete pods -l {RUN_LABEL}")
            return
        for one in left:
            with contextlib.suppress(NotFound):
                await client.delete(PODS, one.metadata.name, one.metadata.namespace)
        await asyncio.sleep(_LOOK)


async def _prove(
    client: Client, case: Case, networks: Sequence[IPNetwork], asked: _Options, tell: Tell
) -> list[ProofResult]:
    found = await _heard(client, case, asked.timeout)
    if isinstance(found, str):
        tell(f"{case.name} on {case.node}: {found}")
        return [_failed(case, "start", found)]
    tell(f"{case.name} on {case.node}: answered")
    sgc = await client.get(SGCS, case.configuration.metadata.name, case.namespace)
    return list(judged(case, found, sgc.status.gateways, networks))


def _failed(case: Case, check: str, text: str) -> ProofResult:
    return ProofResult(
        configuration=case.name, node=case.node, check=check, passed=False, text=text
    )


async def _heard(client: Client, case: Case, timeout: float) -> Round | str:
    """What the pod's last whole round found, or why there is none. A pod that has ended said it
    in its termination message; only one that goes on is asked for its log."""
    clock = asyncio.get_running_loop().time
    until = clock() + timeout
    path = PODS.path(case.namespace, case.pod, "log")
    while clock() < until:
        with contextlib.suppress(ApiError):  # no log until it runs, or half of one
            said = last_words(await client.get(PODS.untyped(), case.pod, case.namespace))
            said = said or await client.request("GET", path, params={"tailLines": "1"})
            return wire.decode_answer(Round, said, "the round")
        await asyncio.sleep(_LOOK)
    return await _why(client, case, timeout)


async def _why(client: Client, case: Case, timeout: float) -> str:
    words = f"no answer in {timeout:.0f} s"
    with contextlib.suppress(ApiError):
        path = PODS.path(case.namespace, case.pod, "log")
        log = await client.request("GET", path, params={"tailLines": "1"})
        words += f"; its log ends in: {log.decode(errors='replace').strip()[:200]}" if log else ""
    with contextlib.suppress(ApiError):
        told = (
            await client.list(EVENTS, case.namespace, fields=f"involvedObject.name={case.pod}")
        ).items
        if told:
            words += "; " + "; ".join(f"{e.reason}: {e.message}" for e in told[-2:])
    return words


async def _fail_over(client: Client, case: Case, asked: _Options, tell: Tell) -> ProofResult:
    """Cordons the gateway that the pod uses, as long as another one serves."""
    name = case.configuration.metadata.name
    sgc = await client.get(SGCS, name, case.namespace)
    gateways = {g.node for g in sgc.status.gateways}
    gateway = await _gateway(client, case, gateways, asked.timeout) if len(gateways) > 1 else None
    if gateway is None:
        text = "needs two gateways and a pod that uses one of them"
        return ProofResult(
            configuration=case.name, node=case.node, check="failover", passed=None, text=text
        )
    before = {g.public_ip for g in sgc.status.gateways if g.node == gateway}
    public = {g.public_ip for g in sgc.status.gateways if g.public_ip} - before
    tell(f"{case.name}: cordoning its gateway {gateway} for a while")
    clock = asyncio.get_running_loop().time
    begun = clock()
    async with _cordoned(client, gateway):
        while clock() < begun + asked.timeout:
            found = await _heard(client, case, asked.timeout)
            seen = set() if isinstance(found, str) else {a.seen for a in found.asked if a.seen}
            if seen & public and not seen & before:
                text = f"moved from {gateway} in {clock() - begun:.1f} s, to {min(seen & public)}"
                return ProofResult(
                    configuration=case.name,
                    node=case.node,
                    check="failover",
                    passed=True,
                    text=text,
                )
            await asyncio.sleep(_LOOK)
    return _failed(case, "failover", f"still leaves by {gateway} after {asked.timeout:.0f} s")


async def _gateway(
    client: Client, case: Case, gateways: Collection[str], timeout: float
) -> str | None:
    """Which of ``gateways`` the pod uses. Its node's agent says so soon after the pod's first
    packets, not before them."""
    clock = asyncio.get_running_loop().time
    until = clock() + timeout
    while True:
        for endpoint in (await client.list(POD_ENDPOINTS, case.namespace)).items:
            if endpoint.pod_name == case.pod and endpoint.status.gateway in gateways:
                return endpoint.status.gateway
        if clock() >= until:
            return None
        await asyncio.sleep(_LOOK)


@asynccontextmanager
async def _cordoned(client: Client, node: str) -> AsyncIterator[None]:
    """Only a Node that is not cordoned already is cordoned, and given back."""
    if (await client.get(NODES, node)).spec.unschedulable:
        raise click.ClickException(f"the gateway's Node {node} is cordoned already; test without")
    try:
        await client.merge_patch(NODES, node, {"spec": {"unschedulable": True}})
        yield
    finally:
        await _without_interruption(
            client.merge_patch(NODES, node, {"spec": {"unschedulable": None}})
        )
