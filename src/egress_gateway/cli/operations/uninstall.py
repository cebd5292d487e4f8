"""``egress-gateway uninstall``: what must happen in a cluster before our objects may go.

The chart runs it as its pre-delete hook. If you installed the plain manifests, run it by hand.
Otherwise two things would stay behind: Azure resources of configurations, which nothing would
release any more, and the plugin in every node's CNI chain, which only the node's own agent can
remove.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from egress_gateway.cli import cluster, options, running
from egress_gateway.kube.errors import NotFound
from egress_gateway.kube.resources import DAEMON_SETS, PODS, SGCS
from egress_gateway.service.errors import ExpectedError

if TYPE_CHECKING:
    from egress_gateway.kube.client import Client

DAEMON_SET: Final = "egress-gateway-node"
CONTAINER: Final = "node"
_VARIABLE: Final = "EGRESS_GATEWAY_UNINSTALL"
_INTERVAL: Final = 1.0
_SHOWN: Final = 5


class NotUninstalled(ExpectedError):
    """Something is in the way; the text says what and what mends it."""


@click.command()
@options.kubeconfig
@options.system_namespace
@click.option(
    "--timeout",
    default=120.0,
    show_default=True,
    help="Give up after this many seconds, for all nodes together.",
)
@click.option("--force", is_flag=True, help="Go on although StaticGatewayConfigurations exist.")
def uninstall(kubeconfig: str | None, system_namespace: str, timeout: float, force: bool) -> None:
    """Take the plugin out of every node's CNI chain, before the components are deleted.

    Refuses while StaticGatewayConfigurations exist: their addresses and load balancer rules would
    stay in Azure.
    """
    running.run(_uninstall(kubeconfig, system_namespace, timeout=timeout, force=force))


async def _uninstall(
    kubeconfig: str | None, namespace: str, *, timeout: float, force: bool
) -> None:
    async with cluster.connect(kubeconfig, "egress-gateway-uninstall") as client:
        if not force:
            await refuse_while_configured(client)
        await retire_nodes(client, namespace, timeout=timeout)


async def refuse_while_configured(client: Client) -> None:
    """Raises ``NotUninstalled`` naming the configurations that exist."""
    try:
        found = (await client.list(SGCS)).items
    except NotFound:
        return
    if not found:
        return
    keys = [f"{sgc.metadata.namespace}/{sgc.metadata.name}" for sgc in found]
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    raise NotUninstalled(
        f"StaticGatewayConfigurations exist: {', '.join(keys[:_SHOWN])}{more}. Without a "
        "controller nothing would release their addresses and load balancer rules. Delete them "
        "first: kubectl delete staticgatewayconfigurations --all --all-namespaces"
    )


async def retire_nodes(client: Client, namespace: str, *, timeout: float) -> None:
    """Restarts every node's agent as one that takes the plugin out; returns when all have done so.
    Raises ``NotUninstalled`` naming nodes that have not after ``timeout`` seconds."""
    try:
        await client.get(DAEMON_SETS.untyped(), DAEMON_SET, namespace)
    except NotFound:
        click.echo(f"no DaemonSet {namespace}/{DAEMON_SET}: no node has the plugin by it")
        return
    await client.apply(DAEMON_SETS.untyped(), retiring(namespace))
    deadline = time.monotonic() + timeout
    while True:
        found = await client.get(DAEMON_SETS.untyped(), DAEMON_SET, namespace)
        done, wanted = progress(found)
        if done == wanted:
            click.echo(f"the plugin is out of the CNI chain of {done} nodes")
            return
        if time.monotonic() > deadline:
            late = ", ".join(await _late(client, namespace)) or "unknown ones"
            raise NotUninstalled(
                f"{wanted - done} of {wanted} nodes have not taken the plugin out of their CNI "
                f"chain in {timeout:.0f} s: {late}. Mend or delete these Nodes and try again, or "
                "go on without: helm uninstall --no-hooks"
            )
        await asyncio.sleep(_INTERVAL)


def retiring(namespace: str) -> dict[str, Any]:
    """What server-side apply changes of the DaemonSet: the agent's task, on all nodes at once."""
    variable = {"name": _VARIABLE, "value": "true"}
    template = {"spec": {"containers": [{"name": CONTAINER, "env": [variable]}]}}
    return {
        "apiVersion": DAEMON_SETS.api_version,
        "kind": DAEMON_SETS.kind,
        "metadata": {"name": DAEMON_SET, "namespace": namespace},
        "spec": {
            "updateStrategy": {"rollingUpdate": {"maxUnavailable": "100%"}},
            "template": template,
        },
    }


def progress(daemon_set: Mapping[str, Any]) -> tuple[int, int]:
    """On how many nodes the DaemonSet's present template runs and is ready, and on how many it
    should; none as long as its controller has not looked at the present template. Pure."""
    status = daemon_set.get("status") or {}
    wanted = status.get("desiredNumberScheduled", 0)
    if status.get("observedGeneration", 0) < daemon_set["metadata"]["generation"]:
        return 0, max(wanted, 1)
    # As `kubectl rollout status`: ready pods of the old template count until they are updated.
    return min(status.get("updatedNumberScheduled", 0), status.get("numberAvailable", 0)), wanted


async def _late(client: Client, namespace: str) -> Sequence[str]:
    pods = await client.list(PODS.untyped(), namespace, labels=f"app={DAEMON_SET}")
    return sorted(pod["spec"].get("nodeName", "") for pod in pods.items if not _retired(pod))


def _retired(pod: Mapping[str, Any]) -> bool:
    """Whether a pod runs the retiring template and is done."""
    env = pod["spec"]["containers"][0].get("env") or []
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(e["name"] == _VARIABLE for e in env) and any(
        c["type"] == "Ready" and c["status"] == "True" for c in conditions
    )
