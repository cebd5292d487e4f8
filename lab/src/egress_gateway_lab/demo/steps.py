"""The eight steps of the story. Each does what a person would, looks, and says what it saw.

A step raises ``StepFailed`` when what the README promises did not happen; the figures that
``--output json`` carries are set here.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from typing import Any, Final

from egress_gateway.api import names
from egress_gateway_lab.demo.report import Report, StepFailed
from egress_gateway_lab.demo.traffic import Traffic
from egress_gateway_lab.demo.world import (
    CLUSTER,
    GROUP,
    LOCATION,
    NETWORK_CONTRIBUTOR,
    PATIENCE,
    VM_SIZE,
    World,
    until,
)

POOL: Final = "npegress"
WHATSMYIP: Final = "http://ifconfig.me"
OBSERVED: Final = "probe0.lab.example"
"""A host that nobody else talks to: every packet that reaches it is accounted for."""
EXCLUDED: Final = "http://whoami.corp.example"
EXCLUDE_CIDRS: Final = ["10.0.0.0/8", "172.16.0.0/12", "169.254.169.254/32"]
_PIP = "az network public-ip prefix"


async def cluster(world: World, report: Report, *, version: str) -> None:
    """1. Resource group, cluster, kubeconfig."""
    report.command(f"az group create --name {GROUP} --location {LOCATION}")
    await world.create_group()
    report.command(
        f"az aks create -g {GROUP} -n {CLUSTER} --enable-static-egress-gateway"
        f" --network-plugin azure --network-plugin-mode overlay --node-vm-size {VM_SIZE}"
    )
    await world.create_cluster(nodes=3, version=version)
    report.command(f"az aks get-credentials -g {GROUP} -n {CLUSTER} --overwrite-existing")
    await world.get_credentials()
    report.command("kubectl get nodes")
    for node in await world.nodes():
        addresses = {a["type"]: a["address"] for a in node["status"]["addresses"]}
        report.see(f"{node['metadata']['name']}  Ready  {addresses.get('InternalIP')}")


async def problem(world: World, report: Report) -> None:
    """2. Every pod leaves from the cluster's one address."""
    report.command("kubectl run nginx --image=nginx; kubectl run other --image=nginx")
    await asyncio.gather(world.run("nginx"), world.run("other"))
    seen = set()
    for pod in ("nginx", "other"):
        report.command(f"kubectl exec {pod} -it -- curl ifconfig.me")
        address = await world.curl(pod, WHATSMYIP)
        report.see(address)
        seen.add(address)
    if len(seen) != 1:
        raise StepFailed(f"two plain pods left from different addresses: {sorted(seen)}")
    report.facts["default_address"] = seen.pop()
    report.see("The same for both: a partner's firewall cannot allow one application alone.")


async def gateway_pool(world: World, report: Report) -> None:
    """3. A pool of two gateway nodes."""
    report.command(
        f"az aks nodepool add -g {GROUP} --cluster-name {CLUSTER} --name {POOL} --mode gateway"
        f" --node-count 2 --gateway-prefix-size 30 --node-vm-size {VM_SIZE}"
    )
    await world.add_gateway_pool(POOL, nodes=2, prefix_size=30)
    report.command(f"kubectl get nodes -l {names.AKS_POOL_LABEL}={POOL}")
    nodes = await world.nodes(pool=POOL)
    if len(nodes) != 2:
        raise StepFailed(f"{len(nodes)} gateway nodes where 2 were asked for")
    for node in nodes:
        taints = ", ".join(f"{t['key']}={t.get('value')}" for t in node["spec"].get("taints", []))
        report.see(f"{node['metadata']['name']}  taint {taints}")


async def configuration(world: World, report: Report) -> None:
    """4. Prefix and configuration; refused, said so, granted, ready by itself."""
    name, prefix_name = "my-static-egress-gateway", "pip-prefix-egress"
    prefix = await _prefix(world, report, prefix_name)
    scope = world.prefix_id(prefix_name)
    report.command("kubectl apply -f static_gateway_config.yaml")
    await world.configure(
        name,
        {
            "gatewayNodepoolName": POOL,
            "publicIpPrefixId": scope,
            "excludeCidrs": EXCLUDE_CIDRS,
        },
    )
    report.command(f"kubectl describe staticgatewayconfiguration {name}")
    await world.configuration_condition(
        name, lambda c: c["reason"] == "AuthorizationFailed", timeout=PATIENCE
    )
    event = await world.event(name, "AuthorizationFailed")
    report.see(f"refused, and it says what mends it:\n{event}")
    report.command(f"PRINCIPAL=$(az aks show -g {GROUP} -n {CLUSTER} --query identity.principalId)")
    cluster = await world.arm.get(world.cluster_id, "2026-06-01")
    principal = cluster["identity"]["principalId"]
    report.command(
        'az role assignment create --role "Network Contributor" --assignee $PRINCIPAL'
        f" --scope $(az network public-ip prefix show -g {GROUP} -n {prefix_name} --query id)"
    )
    await world.grant(principal, NETWORK_CONTRIBUTOR, scope)
    await _ready(world, report, name, prefix)
    report.facts["prefixes"][name] = prefix
    report.command(f"az network lb show -g MC_… -n {names.LOAD_BALANCER}")
    group = await world.node_group_id()
    balancer = await world.arm.get(
        f"{group}/providers/Microsoft.Network/loadBalancers/{names.LOAD_BALANCER}", "2024-07-01"
    )
    frontend = balancer["properties"]["frontendIPConfigurations"][0]["properties"]
    rule = balancer["properties"]["loadBalancingRules"][0]["properties"]
    report.see(
        f"internal load balancer {frontend['privateIPAddress']}, UDP {rule['frontendPort']},"
        f" floating IP {rule['enableFloatingIP']}"
    )


async def application(world: World, report: Report) -> None:
    """5. Annotated pods leave from the prefix; everything else stays as it was."""
    name = "my-static-egress-gateway"
    report.command("kubectl apply -f nginx-deployment.yaml")
    pods = await world.deploy("nginx-deployment", configuration=name, replicas=3)
    await _show_addresses(world, report, pods, report.facts["prefixes"][name])
    report.command(f"kubectl exec {pods[0]} -it -- curl whoami.corp.example    # in excludeCidrs")
    seen = await world.curl(pods[0], EXCLUDED)
    plain = await world.curl("nginx", EXCLUDED)
    report.see(f"{seen} (a plain pod: {plain}): the ordinary path")
    nodes = {a["address"] for n in await world.nodes() for a in n["status"]["addresses"]}
    if seen not in nodes:
        raise StepFailed(f"an excluded destination saw {seen}, which is no node's address")
    await _plain_unchanged(world, report)


async def second_application(world: World, report: Report) -> None:
    """6. Another application, another prefix, the same gateway nodes."""
    name, prefix_name = "partner-b", "pip-prefix-partner-b"
    prefix = await _prefix(world, report, prefix_name)
    cluster = await world.arm.get(world.cluster_id, "2026-06-01")
    scope = world.prefix_id(prefix_name)
    report.command(
        f'az role assignment create --role "Network Contributor" --scope …/{prefix_name}'
    )
    await world.grant(cluster["identity"]["principalId"], NETWORK_CONTRIBUTOR, scope)
    report.command("kubectl apply -f partner-b.yaml")
    await world.configure(name, {"gatewayNodepoolName": POOL, "publicIpPrefixId": scope})
    await _ready(world, report, name, prefix)
    report.facts["prefixes"][name] = prefix
    pods = await world.deploy("partner-b", configuration=name, replicas=2)
    await _show_addresses(world, report, pods, prefix)
    first = await world.kube.list("pods", namespace="default", labels="app=nginx-deployment")
    await _show_addresses(
        world,
        report,
        [first[0]["metadata"]["name"]],
        report.facts["prefixes"]["my-static-egress-gateway"],
    )
    await _plain_unchanged(world, report)


async def failover(world: World, report: Report) -> None:
    """7. One gateway node is cut off while requests run."""
    name = "my-static-egress-gateway"
    prefix = ipaddress.ip_network(report.facts["prefixes"][name])
    pods = await world.kube.list("pods", namespace="default", labels="app=nginx-deployment")
    pod = pods[0]["metadata"]["name"]
    address = await world.curl(pod, WHATSMYIP)
    node = await _gateway_of(world, name, address)
    report.see(f"{pod} leaves through {node} as {address}; 20 requests a second begin")
    traffic = Traffic(world, pod, f"http://{OBSERVED}")
    async with traffic:
        await asyncio.sleep(1.5)
        report.command(f"egress-gateway lab cut {node}    # both directions")
        cut_at = time.time()
        await world.control.call("cut", node=node, direction="both")
        await until(
            lambda: traffic.answered_after(cut_at + 0.05),
            timeout=PATIENCE,
            what="an answer through the other gateway",
        )
        await asyncio.sleep(1.0)
    outage = traffic.outage(cut_at)
    wrong = await _wrong_requests(world, pod, prefix)
    stray = await world.wrong_packets(OBSERVED, str(prefix))
    after = traffic.last_address
    report.see(f"answered again as {after} after {outage * 1000:.0f} ms without an answer")
    report.see(
        f"{traffic.sent} requests, {traffic.failed} failed, {wrong} from a wrong address;"
        f" packets from a wrong address: {stray}"
    )
    report.facts["failover_ms"] = round(outage * 1000)
    report.facts["wrong_address_requests"] = wrong
    report.facts["wrong_address_packets"] = stray
    if wrong or stray:
        raise StepFailed(f"{wrong} requests, {stray} packets arrived from outside {prefix}")
    if after == address:
        raise StepFailed(f"requests still arrive as {after}: the node was not cut off")
    report.command(f"egress-gateway lab mend {node}")
    await world.control.call("mend", node=node)


async def clean_up(
    world: World, report: Report, azure: dict[str, Any], nodes: dict[str, Any]
) -> None:
    """8. Everything goes; nothing is left in Azure (``azure``: what it held before) or on any
    node (``nodes``: the same for links, namespaces, rules and tables)."""
    report.command("kubectl delete deployment nginx-deployment partner-b; kubectl delete sgc --all")
    for deployment in ("nginx-deployment", "partner-b"):
        await world.kube.delete("deployments", deployment, namespace="default")
    for name in report.facts["prefixes"]:
        await world.kube.delete("staticgatewayconfigurations", name, namespace="default")

    async def configurations_gone() -> bool:
        kinds = ("staticgatewayconfigurations", "podendpoints")
        return not any([await world.kube.list(kind) for kind in kinds])

    await until(configurations_gone, timeout=PATIENCE, what="configurations and endpoints to go")

    async def azure_back() -> bool:
        return await world.fingerprint() == azure

    await until(azure_back, timeout=PATIENCE, what="Azure resources to be what they were")
    report.see("Azure: load balancer, addresses and rules are what they were")

    async def nodes_back() -> bool:
        return await world.inventory() == nodes

    try:
        await until(nodes_back, timeout=PATIENCE, what="nodes to be what they were")
    except StepFailed:
        raise StepFailed(_leftovers(nodes, await world.inventory())) from None
    report.see(f"{len(nodes)} nodes: links, namespaces, rules and tables are what they were")
    for prefix_name in ("pip-prefix-egress", "pip-prefix-partner-b"):
        report.command(f"{_PIP} delete -g {GROUP} -n {prefix_name}")
        await world.arm.delete(world.prefix_id(prefix_name), "2025-09-01")
    report.command(f"az aks nodepool delete -g {GROUP} --cluster-name {CLUSTER} -n {POOL}")
    await world.arm.delete(f"{world.cluster_id}/agentPools/{POOL}", "2026-06-01")
    report.command(f"az group delete -n {GROUP} --yes")
    await world.arm.delete(world.group_id, "2024-11-01")


async def _prefix(world: World, report: Report, name: str) -> str:
    report.command(f"{_PIP} create -g {GROUP} -n {name} --length 30")
    await world.create_prefix(name, length=30)
    report.command(f"{_PIP} show -g {GROUP} -n {name} --query ipPrefix -o tsv")
    shown = await world.arm.get(world.prefix_id(name), "2025-09-01")
    prefix: str = shown["properties"]["ipPrefix"]
    report.see(prefix)
    return prefix


async def _ready(world: World, report: Report, name: str, prefix: str) -> None:
    report.command(f"kubectl wait sgc {name} --for=condition=Ready")
    found = await world.configuration_condition(
        name, lambda c: c["type"] == "Ready" and c["status"] == "True", timeout=60
    )
    status = found["status"]
    for gateway in status["gateways"]:
        report.see(
            f"{gateway['node']}  {gateway['primaryIp']}  secondary {gateway['secondaryIp']}"
            f"  public {gateway.get('publicIp', '-')}"
        )
    if status["egressIpPrefix"] != prefix:
        raise StepFailed(f"status says {status['egressIpPrefix']}, the prefix is {prefix}")


async def _show_addresses(world: World, report: Report, pods: list[str], prefix: str) -> None:
    for pod in pods:
        report.command(f"kubectl exec {pod} -it -- curl ifconfig.me")
        address = await world.curl(pod, WHATSMYIP)
        report.see(address)
        report.facts["pod_addresses"][pod] = address
        if ipaddress.ip_address(address) not in ipaddress.ip_network(prefix):
            raise StepFailed(f"pod {pod} left from {address}, which is not in {prefix}")


async def _plain_unchanged(world: World, report: Report) -> None:
    report.command("kubectl exec nginx -it -- curl ifconfig.me    # a plain pod")
    address = await world.curl("nginx", WHATSMYIP)
    report.see(address)
    if address != report.facts["default_address"]:
        raise StepFailed(f"a plain pod now leaves from {address}")


async def _gateway_of(world: World, name: str, public_address: str) -> str:
    found = await world.kube.get("staticgatewayconfigurations", name, namespace="default")
    for gateway in found["status"]["gateways"]:
        if gateway.get("publicIp") == public_address:
            node: str = gateway["node"]
            return node
    raise StepFailed(f"no gateway in the status of {name} has the address {public_address}")


async def _wrong_requests(world: World, pod: str, prefix: Any) -> int:
    """Requests that the Internet saw with the traffic's mark from outside ``prefix``."""
    requests = await world.control.call("requests", path_prefix=f"/traffic/{pod}/")
    return sum(ipaddress.ip_address(r["source"]) not in prefix for r in requests)


def _leftovers(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What nodes hold that they did not hold before, or miss."""
    found = []
    for node, kinds in after.items():
        for kind, now in kinds.items():
            then = before.get(node, {}).get(kind, [])
            left, lost = sorted(set(now) - set(then)), sorted(set(then) - set(now))
            if left or lost:
                found.append(f"{node}: {kind}: left {left}, lost {lost}")
    return "nodes are not what they were: " + "; ".join(found)
