"""What a person reads at three in the morning is true: ready, degraded or not, and why."""

from __future__ import annotations

import datetime
import re
import sys
from collections.abc import Callable
from typing import Any

import click
import msgspec
import pytest

from egress_gateway.api import names
from egress_gateway.api.types import (
    Condition,
    Gateway,
    GatewayProblem,
    GatewayStatus,
    GatewayStatusSpec,
    GatewayVeto,
    ObjectMeta,
    PodEndpoint,
    PodEndpointSpec,
    PodEndpointStatus,
    ReadyGatewayConfiguration,
    RefusedClaim,
    StaticGatewayConfiguration,
    StaticGatewayConfigurationStatus,
)
from egress_gateway.cli import terminal
from egress_gateway.cli.diagnosis.checks.findings import findings
from egress_gateway.cli.diagnosis.overview import ComponentView, Facts, Overview, summarize
from egress_gateway.cli.diagnosis.status import render
from egress_gateway.cli.diagnosis.workloads import component
from egress_gateway.kube.resources import (
    Event,
    Node,
    NodeCondition,
    NodeStatus,
    Pod,
    PodSpec,
    PodStatus,
    Reference,
)
from tests.faults import table as faults

NOW = datetime.datetime(2030, 1, 1, 3, 0, tzinfo=datetime.UTC)
SERVED = [ReadyGatewayConfiguration(static_gateway_configuration="default/a")]


def sgc(name: str = "a", *, ready: bool = True, gateways: int = 2) -> StaticGatewayConfiguration:
    condition = Condition(
        type="Ready",
        status="True" if ready else "False",
        reason="Ready" if ready else "PrefixNotFound",
        message="" if ready else "there is no prefix p; create it or correct spec.publicIpPrefixId",
    )
    return StaticGatewayConfiguration(
        metadata=ObjectMeta(name=name, namespace="default"),
        status=StaticGatewayConfigurationStatus(
            egress_ip_prefix="203.0.113.0/30",
            gateways=[
                Gateway(
                    node=f"gw{i}",
                    primary_ip=f"10.0.0.{i}",
                    secondary_ip=f"10.0.1.{i}",
                    public_ip=f"203.0.113.{i}",
                )
                for i in range(gateways)
            ],
            conditions=[condition],
        ),
    )


def agent(number: int, **spec: Any) -> GatewayStatus:
    given = {"ready_gateway_configurations": SERVED, "heartbeat": "2030-01-01T02:59:45Z"} | spec
    return GatewayStatus(metadata=ObjectMeta(name=f"gw{number}"), spec=GatewayStatusSpec(**given))


def node(number: int, *, ready: str = "True") -> Node:
    condition = NodeCondition(type="Ready", status=ready, message="Kubelet stopped posting")
    return Node(metadata=ObjectMeta(name=f"gw{number}"), status=NodeStatus(conditions=[condition]))


def pod(name: str, *, value: str = "a", phase: str = "Running", **spec: Any) -> Pod:
    return Pod(
        metadata=ObjectMeta(
            name=name, namespace="default", annotations={names.POD_ANNOTATION: value}
        ),
        spec=PodSpec(**({"node_name": "n0"} | spec)),
        status=PodStatus(phase=phase),
    )


CONNECTED = PodEndpointStatus(state="Connected", gateway="gw1", egress_ip="203.0.113.1")


def endpoint(
    name: str, *, namespace: str = "default", status: PodEndpointStatus = CONNECTED
) -> PodEndpoint:
    return PodEndpoint(
        metadata=ObjectMeta(name=name, namespace=namespace),
        spec=PodEndpointSpec(static_gateway_configuration="a"),
        status=status,
    )


HEALTHY = Facts(
    at=NOW,
    configurations=[sgc()],
    endpoints=[endpoint("web-1"), endpoint("web-2", namespace="other")],
    gateways=[agent(0), agent(1)],
    nodes=[node(0), node(1)],
    pods=[pod("web-1"), pod("done", phase="Succeeded")],
    components=[ComponentView(name="egress-gateway-node", ready=3, wanted=3)],
)


def overview(**changed: Any) -> Overview:
    return summarize(msgspec.structs.replace(HEALTHY, **changed))


def text(found: Overview, width: int = 80) -> str:
    return click.unstyle(render(found, width=width))


def test_a_healthy_cluster_is_ready_and_shows_addresses_gateways_and_pods() -> None:
    found = overview()
    assert found.healthy
    assert text(found) == (
        "default/a: ready  203.0.113.0/30\n"
        "  gateway gw0  serving  203.0.113.0\n"
        "  gateway gw1  serving  203.0.113.1\n"
        "  pods: 1 attached, 1 with a working tunnel (web-1)\n"
        "components:\n"
        "  egress-gateway-node: 3 of 3 ready\n"
    )


def event(reason: str, *, last: str, kind: str = "Node", name: str = "gw0") -> Event:
    return Event(
        metadata=ObjectMeta(name="e", namespace="default"),
        involved_object=Reference(api_version="v1", kind=kind, name=name, uid=name),
        reason=reason,
        message="packets to this node's WireGuard ports came from no InternalIP of a Node",
        last_timestamp=last,
    )


def test_what_somebody_tries_is_shown_and_makes_nothing_unhealthy() -> None:
    claim = RefusedClaim(
        pod="default/evil",
        static_gateway_configuration="default/a",
        reason="WrongNode",
        message="the pod runs on 'n0', not on 'n1'",
    )
    found = overview(
        events=[
            event("EgressForeignTunnel", last="2030-01-01T02:48:00Z"),
            event("EgressPortFlood", last="2030-01-01T02:59:59Z", name="n0"),
            event("NodeNotReady", last="2030-01-01T02:59:59Z"),
            event("EgressForeignTunnel", last="2030-01-01T02:59:59Z", kind="Pod"),
        ],
        gateways=[agent(0, refused_claims=[claim]), agent(1, refused_claims=[claim])],
    )
    assert found.healthy
    shown = text(found).partition("refused, and nobody honest asks for it:\n")[2].splitlines()
    assert [line for line in shown if not line.startswith("    ")] == [
        "  node n0: EgressPortFlood (just now): packets to this node's WireGuard ports",
        "  node gw0: EgressForeignTunnel (12 min ago): packets to this node's WireGuard",
        "  claim of pod default/evil: WrongNode: the pod runs on 'n0', not on 'n1'",
    ]


def test_of_many_attempts_a_screen_shows_the_latest() -> None:
    many = [event("EgressForeignTunnel", last="", name=f"gw{i:02}") for i in range(40)]
    found = overview(events=many)
    assert text(found).count("EgressForeignTunnel") == 5
    assert "and 35 more (--output wide)" in text(found)
    assert click.unstyle(render(found, wide=True)).count("EgressForeignTunnel") == 40


@pytest.mark.parametrize(
    ("changed", "reason", "words"),
    [
        ({"nodes": [node(0), node(1, ready="Unknown")]}, "NodeNotReady", "stopped posting"),
        ({"nodes": [node(0), node(1, ready="False")]}, "NodeNotReady", "stopped posting"),
        ({"nodes": [node(0)]}, "NodeGone", "no Node"),
        ({"gateways": [agent(0)]}, "NoAgent", "no gateway agent"),
        (
            {"gateways": [agent(0), agent(1, heartbeat="2030-01-01T02:58:00Z")]},
            "AgentSilent",
            "120 s ago",
        ),
        (
            {"gateways": [agent(0), agent(1, vetoes=[GatewayVeto(reason="Draining")])]},
            "Draining",
            "",
        ),
        (
            {
                "gateways": [
                    agent(0),
                    agent(
                        1,
                        vetoes=[
                            GatewayVeto(
                                reason="InternetUnreachable",
                                message="1.2.3.4 does not answer",
                                static_gateway_configuration="default/a",
                            )
                        ],
                    ),
                ]
            },
            "InternetUnreachable",
            "does not answer",
        ),
        (
            {
                "gateways": [
                    agent(0),
                    agent(
                        1,
                        ready_gateway_configurations=[],
                        problems=[
                            GatewayProblem(
                                static_gateway_configuration="default/a", message="no key Secret"
                            )
                        ],
                    ),
                ]
            },
            "Problem",
            "no key Secret",
        ),
        ({"gateways": [agent(0), agent(1, ready_gateway_configurations=[])]}, "NotServing", ""),
    ],
)
def test_a_lost_gateway_degrades_the_configuration_and_says_why(
    changed: dict[str, Any], reason: str, words: str
) -> None:
    found = overview(**changed)
    assert not found.healthy
    assert found.configurations[0].state == "Degraded"
    shown = text(found)
    assert "default/a: DEGRADED (GatewayLost)  203.0.113.0/30" in shown
    assert f"gateway gw1  NOT SERVING ({reason})  203.0.113.1" in shown
    assert words in shown


def test_another_configurations_veto_is_none_of_this_one() -> None:
    veto = GatewayVeto(reason="InternetUnreachable", static_gateway_configuration="default/b")
    assert overview(gateways=[agent(0), agent(1, vetoes=[veto])]).healthy


@pytest.mark.parametrize("nodes", [["True", "True"], ["True", "False"], ["Unknown", "Unknown"]])
def test_a_terminal_gets_colours_and_no_escape_sequence_as_text(nodes: list[Any]) -> None:
    """What others wrote is shown as text; what ``click.style`` wrote must not be."""
    found = overview(nodes=[node(n, ready=state) for n, state in enumerate(nodes)])
    shown = terminal.plain(render(found))
    assert "\\x1b" not in shown
    assert shown == render(found)


def test_ready_without_any_gateway_that_serves_is_not_ready() -> None:
    found = overview(nodes=[node(0, ready="Unknown"), node(1, ready="Unknown")])
    assert found.configurations[0].state == "NotReady"
    assert "NOT READY (NoGatewayServes)" in text(found)


@pytest.mark.parametrize(
    ("troubled", "reason"),
    [
        (pod("web-3"), "NotAttached"),
        (pod("web-3", phase="Pending"), "Waiting"),
        (pod("web-3", phase="Pending", node_name=""), "NotScheduled"),
        (pod("web-3", host_network=True), "HostNetwork"),
    ],
)
def test_pods_that_do_not_use_their_gateways_are_named(troubled: Pod, reason: str) -> None:
    found = overview(pods=[pod("web-1"), troubled])
    assert not found.healthy
    assert f"pod web-3: {reason}: " in text(found)


def test_pods_whose_configuration_does_not_exist_are_named() -> None:
    """Else all is well while nothing leaves: no configuration has them."""
    phases = ["Running"] * 7 + ["Succeeded"]
    lost = [pod(f"web-{n}", value="gone", phase=phase) for n, phase in enumerate(phases)]
    found = overview(pods=lost)
    assert not found.healthy
    assert found.configurations[0].state == "Ready"
    assert "pod default/web-0: NoConfiguration: there is no StaticG" in text(found)
    assert "… and 2 more (--output wide)" in text(found)


def test_one_that_waits_says_why() -> None:
    found = overview(configurations=[sgc(ready=False)])
    assert not found.healthy
    assert "default/a: NOT READY (PrefixNotFound)" in text(found)
    assert "there is no prefix p" in text(found)


def test_one_that_no_controller_has_seen_says_so() -> None:
    new = StaticGatewayConfiguration(metadata=ObjectMeta(name="c", namespace="default"))
    assert "default/c: NOT READY (NotObserved)  no address yet" in text(
        overview(configurations=[new])
    )


def test_a_component_that_is_not_ready_is_not_healthy() -> None:
    broken = component(NODE_AGENTS)
    found = overview(components=[broken])
    assert not found.healthy
    assert "x: 2 of 3 ready\n    0 of 3 pods are there" in text(found)
    assert "fix: kubectl -n sys describe daemonset x" in text(found)


NODE_AGENTS: dict[str, Any] = {
    "metadata": {"name": "x", "namespace": "sys"},
    "spec": {"selector": {"matchLabels": {"app": "node"}}},
    "status": {"desiredNumberScheduled": 3, "numberReady": 2},
}


def container(**state: Any) -> dict[str, Any]:
    return {"name": "node", "image": "reg/img:1", "ready": False} | state


def of_agent(*containers: dict[str, Any], **more: Any) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "False"}
    return {
        "metadata": {"name": "x-1", "labels": {"app": "node"}} | more.pop("metadata", {}),
        "spec": {"nodeName": "n1"},
        "status": {"conditions": [ready], "containerStatuses": list(containers)} | more,
    }


@pytest.mark.parametrize(
    ("made", "words", "fix"),
    [
        (
            of_agent(
                container(
                    state={"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}},
                    lastState={"terminated": {"message": "a line\nError: clusterCidrs: bad\n"}},
                )
            ),
            "x-1 on n1: CrashLoopBackOff: Error: clusterCidrs: bad",
            "kubectl -n sys logs x-1 -c node --previous",
        ),
        (
            of_agent(container(state={"waiting": {"reason": "ImagePullBackOff"}})),
            "ImagePullBackOff: reg/img:1",
            "image",
        ),
        (
            of_agent(
                container(state={"waiting": {"reason": "CreateContainerError", "message": "no"}})
            ),
            "CreateContainerError: no",
            "kubectl -n sys describe pod x-1",
        ),
        (
            of_agent(container(state={"running": {}})),
            "it runs, and does not say that it is ready",
            "probe",
        ),
        (
            of_agent(
                conditions=[
                    {"type": "PodScheduled", "status": "False", "message": "0/3 nodes: taint"}
                ]
            ),
            "no node takes it: 0/3 nodes: taint",
            "describe pod",
        ),
    ],
)
def test_a_component_says_why_its_pod_is_not_ready(
    made: dict[str, Any], words: str, fix: str
) -> None:
    other = of_agent(container(), metadata={"name": "y-1", "labels": {"app": "other"}})
    labels = {"labels": {"app": "node"}, "deletionTimestamp": "2030-01-01T00:00:00Z"}
    going = of_agent(container(), metadata={"name": "x-0"} | labels)
    found = component(NODE_AGENTS, [other, going, made])
    assert words in found.message
    assert fix in found.mend
    assert "y-1" not in found.message
    assert "x-0" not in found.message


ROLLED: dict[str, Any] = {
    "metadata": {"name": "x", "namespace": "sys"},
    "spec": {"selector": {"matchLabels": {"app": "node"}}, "replicas": 2},
    "status": {"replicas": 3, "readyReplicas": 2},
}


def test_a_rollout_that_cannot_go_on_is_not_healthy_although_the_former_pods_are_ready() -> None:
    failed = container(
        state={"waiting": {"reason": "CrashLoopBackOff"}},
        lastState={"terminated": {"message": "Error: uiPort: no number"}},
    )
    found = component(ROLLED, [of_agent(failed)])
    assert (found.ready, found.wanted) == (2, 3)
    assert "Error: uiPort: no number" in found.message
    going_on = component(ROLLED, [of_agent(container(state={"running": {}}))])
    assert (going_on.ready, going_on.wanted) == (2, 2), "time may mend it"


def test_a_pod_on_a_node_that_is_down_is_not_asked_for_its_probe() -> None:
    found = component(NODE_AGENTS, [of_agent(container(state={"running": {}}))], {"n1"})
    assert "x-1 on n1: its node is not ready" in found.message
    assert "kubelet" in found.mend


def test_pods_that_could_not_be_made_are_told_with_the_reason() -> None:
    """As by a quota, or by a webhook of others."""
    words = 'pods "x-" is forbidden: exceeded quota: few'
    quota, others = (
        Event(
            metadata=ObjectMeta(name=name),
            reason="FailedCreate",
            message=text,
            involved_object=Reference(name=name),
        )
        for name, text in (("x", words), ("y", "another"))
    )
    found = component(NODE_AGENTS, [], (), [others, quota])
    assert found.message == f"0 of 3 pods are there: {words}"
    assert found.mend == "kubectl -n sys describe daemonset x"


def test_many_pods_of_a_component_are_counted() -> None:
    made = [
        of_agent(container(), metadata={"name": f"x-{n}", "labels": {"app": "node"}})
        for n in range(9)
    ]
    found = component(NODE_AGENTS, made)
    assert "x-2 on n1" in found.message
    assert found.message.endswith("; and 6 more")


def test_a_controller_scaled_to_zero_is_not_healthy() -> None:
    gone = component({"metadata": {"name": "x"}, "spec": {"replicas": 0}, "status": {}})
    assert not overview(components=[gone]).healthy
    assert "scaled to zero" in text(overview(components=[gone]))


def test_what_may_not_be_read_is_said_and_never_called_broken_or_good() -> None:
    blind = overview(
        nodes=None, gateways=None, pods=None, endpoints=None, unseen=["Nodes: not yours to read"]
    )
    assert blind.configurations[0].state == "Ready"
    shown = text(blind)
    assert "gateway gw0  Unknown  203.0.113.0" in shown
    assert "not seen: Nodes: not yours to read" in shown


def test_five_hundred_pods_fit_a_screen_and_are_all_there_when_asked_for() -> None:
    many = [endpoint(f"web-{i}") for i in range(500)]
    shown = text(overview(endpoints=many, pods=[pod(f"late-{i}") for i in range(100)]))
    assert max(map(len, shown.splitlines())) <= 80
    assert len(shown.splitlines()) < 20
    assert "500 attached" in shown
    assert "… and 95 more" in shown
    wide = render(overview(endpoints=many), wide=True)
    assert len(set(re.findall(r"web-\d+", wide))) == 500


@pytest.mark.parametrize("heartbeat", ["", "nonsense", "2030-01-01T03:00:00"])
def test_a_heartbeat_that_is_no_time_accuses_nobody(heartbeat: str) -> None:
    assert overview(gateways=[agent(0), agent(1, heartbeat=heartbeat)]).healthy


def test_no_configuration_is_said() -> None:
    assert (
        text(overview(configurations=[], components=[], pods=[]))
        == "no StaticGatewayConfiguration\n"
    )


@pytest.mark.parametrize("state", ["Lost", "Waiting"])
def test_a_pod_that_has_no_tunnel_is_named_with_the_reason(state: Any) -> None:
    """Running pods that lost their egress: it used to say "ready" and exit with 0."""
    told = PodEndpointStatus(
        state=state,
        reason="TunnelsUnanswered",
        message="check that UDP 6000 reaches gw0",
        since="2030-01-01T02:58:00Z",
    )
    found = overview(endpoints=[endpoint("web-1", status=told), endpoint("web-3")])
    assert not found.healthy
    assert (found.configurations[0].state, found.configurations[0].reason) == (
        "Degraded",
        "PodsWithoutEgress",
    )
    shown = text(found)
    assert "pods: 2 attached, 1 with a working tunnel" in shown
    assert "pod web-1: TunnelsUnanswered: check that UDP 6000 reaches gw0" in shown
    assert "2030-01-01T02:58:00Z" in shown


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("Degraded", "AzureNotReachable"),
        ("Degraded", "AddressNotVerified"),
        ("Degraded", "RedundancyLost"),
        ("Accepted", "NothingSentToGateway"),
    ],
)
def test_what_the_controller_doubts_is_degraded(kind: str, reason: str) -> None:
    said = Condition(type=kind, status="True", reason=reason, message="the token expired")
    known = sgc()
    conditions = [*known.status.conditions, said]
    status = msgspec.structs.replace(known.status, conditions=conditions)
    found = overview(configurations=[msgspec.structs.replace(known, status=status)])
    assert not found.healthy
    assert f"DEGRADED ({reason})" in text(found)
    assert "the token expired" in text(found)


def test_wide_says_where_each_pod_leaves() -> None:
    wide = click.unstyle(render(overview(), wide=True))
    assert "    web-1  Connected  gw1  203.0.113.1\n" in wide


def calls(work: Callable[[], object]) -> int:
    """How many functions, Python's and C's, ``work`` calls."""
    count = 0

    def note(frame: object, event: str, of: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def fleet(size: int) -> Facts:
    """As many configurations, nodes and pods, of which some have lost their tunnels or wait."""
    many = [faults.healthy(namespace=f"ns{n}") for n in range(size)]
    return msgspec.structs.replace(
        many[0],
        configurations=[f.configurations[0] for f in many],
        endpoints=[e for f in many for e in f.endpoints or ()],
        pods=[p for f in many for p in f.pods or ()]
        + [pod(f"waiting-{n}", phase="Pending") for n in range(size)],
        nodes=[*(many[0].nodes or ()), *(node(100 + n) for n in range(size))],
        gateways=[*(many[0].gateways or ()), *(agent(100 + n) for n in range(size))],
    )


@pytest.mark.parametrize(
    "shown",
    [
        summarize,
        lambda facts: render(summarize(facts)),
        lambda facts: findings(facts, summarize(facts)),
    ],
    ids=["status", "text", "check"],
)
def test_work_grows_with_what_there_is_and_not_with_its_square(
    shown: Callable[[Facts], object],
) -> None:
    """A thousand configurations with ten thousand pods took 16 s; with as many nodes, a second."""
    small, large = fleet(60), fleet(240)
    shown(small)  # what is kept from one call to the next
    assert calls(lambda: shown(large)) < 5 * calls(lambda: shown(small))
