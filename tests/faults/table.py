"""Faults, each one way in which a healthy cluster is broken, as its objects then look."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection
from typing import Any, Final

from msgspec.structs import replace

from egress_gateway.api import names
from egress_gateway.api.types import (
    Condition,
    Gateway,
    GatewayProblem,
    GatewayServerProfile,
    GatewayStatus,
    GatewayStatusSpec,
    GatewayVeto,
    ObjectMeta,
    PodCount,
    PodEndpoint,
    PodEndpointSpec,
    PodEndpointStatus,
    ReadyGatewayConfiguration,
    RefusedClaim,
    StaticGatewayConfiguration,
    StaticGatewayConfigurationSpec,
    StaticGatewayConfigurationStatus,
    UnreachedGateway,
    UnreachedReason,
)
from egress_gateway.cli.diagnosis.overview import ComponentView, Facts
from egress_gateway.kube.resources import (
    Event,
    Node,
    NodeCondition,
    NodeSpec,
    NodeStatus,
    Pod,
    PodSpec,
    PodStatus,
    Reference,
)

KEY: Final = names.POD_ANNOTATION
NOW: Final = datetime.datetime(2030, 1, 1, 3, 0, tzinfo=datetime.UTC)
HEARTBEAT: Final = "2030-01-01T02:59:45Z"


def condition(kind: str, status: Any, reason: str, message: str = "") -> Condition:
    return Condition(type=kind, status=status, reason=reason, message=message)


GOOD: Final = {
    "Ready": condition("Ready", "True", "Ready", "pods leave from 203.0.113.0/30"),
    "Accepted": condition("Accepted", "True", "Valid"),
    "Provisioned": condition("Provisioned", "True", "Provisioned", "addresses are in place"),
    "EgressVerified": condition("EgressVerified", "True", "AddressesVerified"),
    "Degraded": condition("Degraded", "False", "AsExpected"),
}


def healthy(gateways: int = 2, pods: int = 3, workers: int = 2, namespace: str = "shop") -> Facts:
    """A cluster with one configuration, whose pods and gateways are in order."""
    names_ = [f"gw{n}" for n in range(gateways)]
    full = f"{namespace}/partner"
    return Facts(
        at=NOW,
        configurations=[
            StaticGatewayConfiguration(
                metadata=ObjectMeta(name="partner", namespace=namespace),
                spec=StaticGatewayConfigurationSpec(gateway_nodepool_name="p"),
                status=StaticGatewayConfigurationStatus(
                    egress_ip_prefix="203.0.113.0/30",
                    gateway_server_profile=GatewayServerProfile(ip="10.0.0.9", port=6000),
                    gateways=[
                        Gateway(
                            node=name,
                            primary_ip=f"10.0.0.{n}",
                            secondary_ip=f"10.0.1.{n}",
                            public_ip=f"203.0.113.{n}",
                            seen_ip=f"203.0.113.{n}",
                        )
                        for n, name in enumerate(names_)
                    ],
                    pods=PodCount(attached=pods, connected=pods),
                    conditions=list(GOOD.values()),
                ),
            )
        ],
        endpoints=[
            endpoint(f"web-{n}", f"gw{n % gateways}", namespace, f"n{n % workers}")
            for n in range(pods)
        ],
        gateways=[
            GatewayStatus(
                metadata=ObjectMeta(name=name),
                spec=GatewayStatusSpec(
                    ready_gateway_configurations=[
                        ReadyGatewayConfiguration(static_gateway_configuration=full)
                    ],
                    heartbeat=HEARTBEAT,
                ),
            )
            for name in names_
        ],
        nodes=[
            *(node(name, {names.GATEWAY_NODE_LABEL: "true"}) for name in names_),
            *(node(f"n{n}", {names.NODE_READY_LABEL: "true"}) for n in range(workers)),
        ],
        pods=[
            *(pod(f"web-{n}", {KEY: "partner"}, namespace) for n in range(pods)),
            pod("plain", {"app": "x"}, namespace),
            pod("done", {KEY: "gone"}, namespace, phase="Succeeded"),
        ],
        components=[ComponentView(name="egress-gateway-node", ready=workers, wanted=workers)],
        agents={*names_, *(f"n{n}" for n in range(workers))},
        gateway_agents={*names_},
    )


def endpoint(name: str, gateway: str, namespace: str, on: str) -> PodEndpoint:
    return PodEndpoint(
        metadata=ObjectMeta(name=name, namespace=namespace),
        spec=PodEndpointSpec(static_gateway_configuration="partner", node_name=on),
        status=PodEndpointStatus(
            state="Connected", gateway=gateway, egress_ip="203.0.113.0", reason="Connected"
        ),
    )


def node(name: str, labels: dict[str, str], *, ready: str = "True", cordoned: bool = False) -> Node:
    state = NodeCondition(type="Ready", status=ready, message="Kubelet stopped posting")
    return Node(
        metadata=ObjectMeta(name=name, labels=labels),
        spec=NodeSpec(unschedulable=cordoned),
        status=NodeStatus(conditions=[state]),
    )


def pod(
    name: str,
    annotations: dict[str, str],
    namespace: str = "shop",
    *,
    phase: str = "Running",
    labels: dict[str, str] | None = None,
    **spec: Any,
) -> Pod:
    meta = ObjectMeta(name=name, namespace=namespace, annotations=annotations, labels=labels or {})
    return Pod(
        metadata=meta,
        spec=PodSpec(**({"node_name": "n0"} | spec)),
        status=PodStatus(phase=phase),
    )


def with_pod(name: str, annotations: dict[str, str], **more: Any) -> Callable[[Facts], Facts]:
    return lambda f: replace(f, pods=[*(f.pods or ()), pod(name, annotations, **more)])


def said(**conditions: tuple[str, str, str]) -> Callable[[Facts], Facts]:
    """The configuration's conditions say so: status, reason, message by type."""

    def change(facts: Facts) -> Facts:
        (sgc,) = facts.configurations
        told = GOOD | {kind: condition(kind, *value) for kind, value in conditions.items()}
        status = replace(sgc.status, conditions=list(told.values()))
        return replace(facts, configurations=[replace(sgc, status=status)])

    return change


def lost(reason: str, message: str, state: Any = "Lost") -> Callable[[Facts], Facts]:
    def change(facts: Facts) -> Facts:
        first, *others = facts.endpoints or ()
        told = PodEndpointStatus(state=state, reason=reason, message=message, since=HEARTBEAT)
        return replace(facts, endpoints=[replace(first, status=told), *others])

    return change


def untold(facts: Facts) -> Facts:
    """The definition of PodEndpoints knows no status, so none is kept."""
    first, *others = facts.endpoints or ()
    made = replace(first.metadata, creation_timestamp="2030-01-01T02:57:45Z")
    return replace(
        facts, endpoints=[replace(first, metadata=made, status=PodEndpointStatus()), *others]
    )


def not_reached(
    gateway: str, by: Collection[str], reason: UnreachedReason = "TunnelsUnanswered"
) -> Callable[[Facts], Facts]:
    """The first pod of each node tells that its node does not reach the gateway."""
    found = [UnreachedGateway(gateway=gateway, reason=reason)]

    def change(facts: Facts) -> Facts:
        speaking, told = set(by), []
        for one in facts.endpoints or ():
            status = replace(
                one.status, unreached_gateways=found if one.spec.node_name in speaking else []
            )
            speaking.discard(one.spec.node_name)
            told.append(replace(one, status=status) if status.unreached_gateways else one)
        assert not speaking
        return replace(facts, endpoints=told)

    return change


def first_agent(**spec: Any) -> Callable[[Facts], Facts]:
    def change(facts: Facts) -> Facts:
        first, *others = facts.gateways or ()
        return replace(facts, gateways=[replace(first, spec=replace(first.spec, **spec)), *others])

    return change


def first_node(changed: Node | None) -> Callable[[Facts], Facts]:
    def change(facts: Facts) -> Facts:
        _, *others = facts.nodes or ()
        return replace(facts, nodes=[*([changed] if changed else []), *others])

    return change


def last_node(changed: Node) -> Callable[[Facts], Facts]:
    def change(facts: Facts) -> Facts:
        *others, _ = facts.nodes or ()
        return replace(facts, nodes=[*others, changed])

    return change


def component(name: str, ready: int, wanted: int, message: str = "") -> Callable[[Facts], Facts]:
    one = ComponentView(name=name, ready=ready, wanted=wanted, message=message)
    return lambda f: replace(f, components=[*f.components, one])


def deleted(seconds: float, *finalizers: str) -> Callable[[Facts], Facts]:
    """The configuration has been deleted, so long ago; pods and gateways have gone."""

    def change(facts: Facts) -> Facts:
        (sgc,) = said(
            Ready=("False", "Deleting", "the controller is removing its Azure resources")
        )(without_gateways(facts)).configurations
        when = (NOW - datetime.timedelta(seconds=seconds)).isoformat()
        meta = replace(sgc.metadata, deletion_timestamp=when, finalizers=list(finalizers))
        return replace(facts, endpoints=[], pods=[], configurations=[replace(sgc, metadata=meta)])

    return change


def unanswered(seconds: float) -> Callable[[Facts], Facts]:
    """The configuration names a server of its own and has been ready for so long."""

    def change(facts: Facts) -> Facts:
        (sgc,) = said(EgressVerified=("Unknown", "NotAsked", ""))(facts).configurations
        since = (NOW - datetime.timedelta(seconds=seconds)).isoformat()
        aged = [replace(c, last_transition_time=since) for c in sgc.status.conditions]
        spec = replace(sgc.spec, verify_targets=["stun.nowhere.example:3478"])
        status = replace(sgc.status, conditions=aged)
        return replace(facts, configurations=[replace(sgc, spec=spec, status=status)])

    return change


def without_gateways(facts: Facts) -> Facts:
    (sgc,) = facts.configurations
    status = replace(sgc.status, gateways=[])
    return replace(facts, configurations=[replace(sgc, status=status)])


def without_agent(facts: Facts) -> Facts:
    return replace(facts, gateways=list(facts.gateways or ())[1:])


GATEWAY: Final = {names.GATEWAY_NODE_LABEL: "true"}


def unwatched(*nodes: str) -> Callable[[Facts], Facts]:
    """The node agents' DaemonSet has lost ``nodes``; its pods elsewhere are ready."""

    def change(facts: Facts) -> Facts:
        there = {n.metadata.name for n in facts.nodes or ()}
        return replace(facts, agents=there - {*nodes})

    return change


def unprepared(told: datetime.datetime, *, pods: int = 3) -> Callable[[Facts], Facts]:
    """The last node, which has no pods then, lacks its label; its agent told of a cause."""

    def change(facts: Facts) -> Facts:
        event = Event(
            metadata=ObjectMeta(name="e"),
            involved_object=Reference(kind="Node", name="n1"),
            reason=names.PLUGIN_NOT_IN_PLACE,
            message="/opt/cni/bin/egress-gateway-cni: Is a directory",
            last_timestamp=told.isoformat(),
        )
        calm = replace(facts, endpoints=[], pods=[]) if not pods else facts
        return replace(last_node(node("n1", {}))(calm), events=[event])

    return change


FAULTS: Final[list[tuple[str, Callable[[Facts], Facts], str, str, str]]] = [
    # what is broken, how, the code, the object, a word of the evidence or the fix
    (
        "key without its prefix",
        with_pod("p", {"static-gateway-configuration": "partner"}),
        "EG101",
        "Pod shop/p",
        KEY,
    ),
    ("key in the plural", with_pod("p", {KEY + "s": "partner"}), "EG101", "Pod shop/p", KEY),
    (
        "key of another domain",
        with_pod("p", {"azure.com/static-gateway-configuration": "x"}),
        "EG101",
        "Pod shop/p",
        KEY,
    ),
    (
        "two letters changed places",
        with_pod("p", {"kubernetes.azure.com/static-gatewya-configuration": "partner"}),
        "EG101",
        "Pod shop/p",
        KEY,
    ),
    (
        "key in capitals",
        with_pod("p", {"kubernetes.azure.com/Static-Gateway-Configuration": "partner"}),
        "EG101",
        "Pod shop/p",
        KEY,
    ),
    ("key as a label", with_pod("p", {}, labels={KEY: "partner"}), "EG102", "Pod shop/p", "label"),
    (
        "namespace/name as the value",
        with_pod("p", {KEY: "shop/partner"}, phase="Pending"),
        "EG103",
        "Pod shop/p",
        "the name alone",
    ),
    (
        "another namespace's configuration",
        with_pod("p", {KEY: "other/partner"}, phase="Pending"),
        "EG103",
        "Pod shop/p",
        "own namespace",
    ),
    (
        "a name that does not exist",
        with_pod("p", {KEY: "nowhere"}, phase="Pending"),
        "EG104",
        "Pod shop/p",
        "partner",
    ),
    (
        "a misspelt name",
        with_pod("p", {KEY: "partnr"}, phase="Pending"),
        "EG104",
        "Pod shop/p",
        "did you mean partner?",
    ),
    (
        "a pod in the wrong namespace",
        with_pod("p", {KEY: "partner"}, namespace="bar", phase="Pending"),
        "EG104",
        "Pod bar/p",
        "bar has none",
    ),
    (
        "hostNetwork",
        with_pod("p", {KEY: "partner"}, host_network=True),
        "EG105",
        "Pod shop/p",
        "hostNetwork",
    ),
    (
        "a node falls out of the agents' DaemonSet",
        unwatched("n0"),
        "EG303",
        "Node n0",
        "2 attached pods are not moved",
    ),
    (
        "a gateway falls out of the agents' DaemonSet",
        lambda f: replace(f, gateway_agents={"gw1"}),
        "EG303",
        "Node gw0",
        "2 pods that use it",
    ),
    (
        "no node has room",
        with_pod("p", {KEY: "partner"}, node_name="", phase="Pending"),
        "EG106",
        "Pod shop/p",
        names.NODE_READY_LABEL,
    ),
    (
        "a pod from before the plugin",
        with_pod("p", {KEY: "partner"}),
        "EG107",
        "Pod shop/p",
        "without a tunnel",
    ),
    (
        "a pod that waits",
        with_pod("p", {KEY: "partner"}, phase="Pending"),
        "EG107",
        "Pod shop/p",
        "no tunnel yet",
    ),
    (
        "an old definition of PodEndpoints",
        untold,
        "EG108",
        "Pod shop/web-0",
        "for 135 s: does egress-gateway-node run on n0?",
    ),
    (
        "UDP filtered",
        lost("TunnelsUnanswered", "check that UDP 6000 reaches gw0"),
        "EG108",
        "Pod shop/web-0",
        "UDP 6000",
    ),
    (
        "gateways out of reach",
        lost("GatewaysUnreachable", "no gateway answers"),
        "EG108",
        "Pod shop/web-0",
        "GatewaysUnreachable",
    ),
    (
        "no gateway listed",
        lost("NoGateway", "its configuration has no gateway now"),
        "EG108",
        "Pod shop/web-0",
        "NoGateway",
    ),
    (
        "a pod that started held back",
        lost("TunnelsUnanswered", "check UDP", "Waiting"),
        "EG108",
        "Pod shop/web-0",
        "check UDP",
    ),
    (
        "the prefix is gone",
        said(Ready=("False", "PublicIPPrefixNotFound", "there is no prefix x; create it")),
        "EG201",
        "StaticGatewayConfiguration shop/partner",
        "create it",
    ),
    (
        "the pool has no instance",
        lambda f: said(Ready=("False", "Provisioning", "the gateway pool has no instance"))(
            without_gateways(lost("GatewaysUnreachable", "no gateway answers")(f))
        ),
        "EG201",
        "StaticGatewayConfiguration shop/partner",
        "no instance",
    ),
    (
        "another's finalizer keeps a deleted configuration",
        deleted(600, "example.com/other"),
        "EG201",
        "StaticGatewayConfiguration shop/partner",
        "finalizers example.com/other keep it",
    ),
    (
        "a deletion that does not end",
        deleted(600, names.FINALIZER, "example.com/other"),
        "EG201",
        "StaticGatewayConfiguration shop/partner",
        "removing its Azure resources",
    ),
    (
        "a role is missing",
        said(Ready=("False", "AuthorizationFailed", "az role assignment create …")),
        "EG201",
        "StaticGatewayConfiguration shop/partner",
        "az role",
    ),
    (
        "quota",
        said(Ready=("False", "QuotaExceeded", "the quota of public addresses is used up")),
        "EG201",
        "StaticGatewayConfiguration shop/partner",
        "quota",
    ),
    (
        "the pool does not exist",
        said(Ready=("False", "GatewayPoolNotFound", "there is no pool p")),
        "EG201",
        "StaticGatewayConfiguration shop/partner",
        "no pool",
    ),
    (
        "the Go project's controller runs",
        said(Ready=("False", "OtherControllerRunning", "scale it down")),
        "EG201",
        "StaticGatewayConfiguration shop/partner",
        "scale it down",
    ),
    (
        "the credential has expired",
        said(Degraded=("True", "AzureNotReachable", "the token expired")),
        "EG202",
        "StaticGatewayConfiguration shop/partner",
        "the token expired",
    ),
    (
        "another address is seen",
        said(Degraded=("True", "AddressNotVerified", "gw0: the Internet sees 192.0.2.1")),
        "EG202",
        "StaticGatewayConfiguration shop/partner",
        "192.0.2.1",
    ),
    (
        "excludeCidrs takes everything",
        said(
            Accepted=("True", "NothingSentToGateway", "spec.excludeCidrs covers every IPv4 address")
        ),
        "EG203",
        "StaticGatewayConfiguration shop/partner",
        "excludeCidrs",
    ),
    (
        "excludeCidrs takes all of IPv6",
        said(
            IPv6Ready=(
                "True",
                "NothingSentToGateway",
                "spec.excludeCidrs covers every IPv6 address",
            )
        ),
        "EG203",
        "StaticGatewayConfiguration shop/partner",
        "IPv6",
    ),
    (
        "azureNetworking without a list",
        said(Accepted=("True", "NothingSentToGateway", "spec.defaultRoute is azureNetworking")),
        "EG203",
        "StaticGatewayConfiguration shop/partner",
        "azureNetworking",
    ),
    (
        "a gateway's cable is cut",
        first_node(node("gw0", GATEWAY, ready="Unknown")),
        "EG204",
        "Node gw0",
        "Kubelet stopped posting",
    ),
    ("a gateway was deleted", first_node(None), "EG204", "Node gw0", "NodeGone"),
    (
        "UDP dropped at one gateway",
        not_reached("gw1", ("n0", "n1")),
        "EG207",
        "Node gw1",
        "2 of 2 nodes",
    ),
    (
        "UDP between one node and one gateway dropped",
        not_reached("gw1", ("n1",)),
        "EG207",
        "Node gw1",
        "UDP 6000 passes both ways",
    ),
    (
        "large packets to one gateway dropped",
        not_reached("gw1", ("n0", "n1"), "LargePacketsLost"),
        "EG207",
        "Node gw1",
        "MTU",
    ),
    (
        "small and large packets to one gateway dropped, by nodes",
        lambda f: not_reached("gw1", ("n0",), "LargePacketsLost")(not_reached("gw1", ("n1",))(f)),
        "EG207",
        "Node gw1",
        "or lose large packets",
    ),
    ("a gateway's agent does not run", without_agent, "EG204", "Node gw0", "NoAgent"),
    (
        "a gateway's agent hangs",
        first_agent(heartbeat="2030-01-01T02:50:00Z"),
        "EG204",
        "Node gw0",
        "AgentSilent",
    ),
    (
        "a gateway is cordoned",
        first_agent(vetoes=[GatewayVeto(reason="Draining", message="the node is cordoned")]),
        "EG204",
        "Node gw0",
        "uncordon",
    ),
    (
        "a gateway's Internet side is dead",
        first_agent(vetoes=[GatewayVeto(reason="InternetUnreachable", message="none answers")]),
        "EG204",
        "Node gw0",
        "way to the Internet",
    ),
    (
        "a gateway sends from another address",
        first_agent(vetoes=[GatewayVeto(reason="AddressNotVerified", message="sees 192.0.2.1")]),
        "EG204",
        "Node gw0",
        "public address",
    ),
    (
        "a gateway loses large packets",
        first_agent(vetoes=[GatewayVeto(reason="LargePacketsLost", message="small ones pass")]),
        "EG204",
        "Node gw0",
        "MTU",
    ),
    (
        "all gateways lose large packets",
        said(Degraded=("True", "LargePacketsLost", "gw0, gw1: large packets are lost")),
        "EG202",
        "StaticGatewayConfiguration shop/partner",
        "large packets",
    ),
    (
        "verifyTargets that do not exist",
        unanswered(120),
        "EG208",
        "StaticGatewayConfiguration shop/partner",
        "stun.nowhere.example:3478",
    ),
    (
        "the subnet has no IPv6",
        said(IPv6Ready=("False", "SubnetWithoutIPv6", "the subnet has no IPv6 prefix")),
        "EG205",
        "StaticGatewayConfiguration shop/partner",
        "IPv4 goes on",
    ),
    (
        "the interface's IPv6 is another's",
        said(IPv6Ready=("False", "IPv6ConfigurationTaken", "it belongs to shop/other")),
        "EG205",
        "StaticGatewayConfiguration shop/partner",
        "shop/other",
    ),
    (
        "a gateway that carries no IPv6",
        lambda f: said(IPv6Ready=("False", "GatewayWithoutIPv6", "gw0: MTU of 1,300"))(
            first_agent(
                problems=[
                    GatewayProblem(
                        static_gateway_configuration="shop/partner",
                        message="MTU of 1,300",
                        reason="GatewayWithoutIPv6",
                    )
                ]
            )(f)
        ),
        "EG205",
        "StaticGatewayConfiguration shop/partner",
        "gw0",
    ),
    (
        "pods that stay with the former key",
        said(KeysRotated=("False", "RotationLagging", "web-1 still uses it")),
        "EG206",
        "StaticGatewayConfiguration shop/partner",
        "web-1",
    ),
    (
        "a change of keys that was given up",
        said(KeysRotated=("False", "RotationAbandoned", "the key pair is unchanged")),
        "EG206",
        "StaticGatewayConfiguration shop/partner",
        "unchanged",
    ),
    (
        "a node that claims another's pod",
        first_agent(
            refused_claims=[
                RefusedClaim(
                    pod="shop/web-9",
                    static_gateway_configuration="shop/partner",
                    reason="OtherNode",
                    message="the pod runs on n1",
                )
            ]
        ),
        "EG109",
        "Pod shop/web-9",
        "suspect its node",
    ),
    (
        "a gateway's ports run out",
        first_agent(
            problems=[
                GatewayProblem(static_gateway_configuration="shop/partner", message="900 ports")
            ]
        ),
        "EG204",
        "Node gw0",
        "it serves shop/partner: ServesWithProblem: 900 ports",
    ),
    (
        "a gateway has no key",
        first_agent(
            ready_gateway_configurations=[],
            problems=[
                GatewayProblem(static_gateway_configuration="shop/partner", message="no Secret")
            ],
        ),
        "EG204",
        "Node gw0",
        "no Secret",
    ),
    (
        "a gateway does not list it",
        first_agent(ready_gateway_configurations=[]),
        "EG204",
        "Node gw0",
        "does not list",
    ),
    (
        "the definition of PodEndpoints is deleted",
        lambda f: replace(
            f,
            endpoints=None,
            absent=["podendpoints.egressgateway.kubernetes.azure.com"],
            unseen=["PodEndpoints: the cluster has no such kind; is the chart installed?"],
        ),
        "EG308",
        "CustomResourceDefinition podendpoints.egressgateway.kubernetes.azure.com",
        "kubectl apply --server-side",
    ),
    (
        "the controller is scaled to zero",
        component("egress-gateway-controller", 0, 1, "scaled to zero"),
        "EG301",
        "Workload egress-gateway-controller",
        "scaled to zero",
    ),
    (
        "a node agent crashes",
        component("egress-gateway-node", 1, 2),
        "EG301",
        "Workload egress-gateway-node",
        "1 of 2",
    ),
    (
        "the webhook has no pod",
        component("egress-gateway-webhook", 0, 2),
        "EG301",
        "Workload egress-gateway-webhook",
        "0 of 2",
    ),
    (
        "something is in the plugin's place",
        unprepared(NOW - datetime.timedelta(minutes=5)),
        "EG302",
        "Node n1",
        "/opt/cni/bin/egress-gateway-cni: Is a directory",
    ),
    (
        "the label is taken away long after something was in the plugin's place",
        unprepared(NOW - datetime.timedelta(minutes=50)),
        "EG302",
        "Node n1",
        "come there the log of its egress-gateway-node pod says why",
    ),
    (
        "a node that lost its agent after something was in the plugin's place",
        lambda f: unwatched("n1")(unprepared(NOW, pods=0)(f)),
        "EG302",
        "Node n1",
        "(no egress-gateway-node pod is there)",
    ),
    (
        "a node is not prepared",
        last_node(node("n1", {})),
        "EG302",
        "Node n1",
        names.NODE_READY_LABEL,
    ),
]
