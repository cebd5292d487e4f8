"""The way of a pod's packets, hop by hop, as the cluster's objects tell it. Pure.

Each hop is good, bad or unknown; behind a bad one the others are what they would be, since a person
wants to see all of the way. What only the node itself can tell (the kernel's way, hold and tunnel,
answers to packets) comes from its agent as a ``Round``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

import msgspec

from egress_gateway.api import names
from egress_gateway.api.conditions import DEGRADED, EGRESS_VERIFIED, READY, find
from egress_gateway.api.types import PodEndpoint, StaticGatewayConfiguration
from egress_gateway.cli.agents.answers import Asked, Round, SeenTunnel
from egress_gateway.cli.diagnosis.overview import NOT_REACHED, ConfigurationView, Facts, Overview
from egress_gateway.cli.diagnosis.selection import selected
from egress_gateway.datapath.addresses import IPAddress, IPNetwork, parse_networks
from egress_gateway.kube.resources import Pod, Untyped

Verdict = Literal["good", "bad", "unknown"]
_SESSION: Final = 180.0
"""Seconds for which a WireGuard session carries packets after its handshake (its paper, 6.1:
Reject-After-Time). A pod that is idle needs none: its next packet begins another."""


class Hop(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the way."""

    name: str
    verdict: Verdict
    text: str


def hops(
    facts: Facts,
    overview: Overview,
    key: tuple[str, str],
    destination: IPAddress | None = None,
    cluster: Sequence[IPNetwork] = (),
) -> list[Hop]:
    """``key``: namespace and name of the pod. ``cluster``: what is never a gateway's."""
    return list(_hops(facts, overview, key, destination, cluster))


def asked_for(facts: Facts, pod: Pod) -> StaticGatewayConfiguration | None:
    """The configuration that the pod's annotation names, if it is there."""
    key = pod.metadata.namespace, names.asked_configuration(pod.metadata.annotations)
    found = (s for s in facts.configurations if (s.metadata.namespace, s.metadata.name) == key)
    return next(found, None)


def endpoint_of(facts: Facts, key: tuple[str, str]) -> PodEndpoint | None:
    """That of the pod of this namespace and name."""
    found = (e for e in facts.endpoints or () if (e.metadata.namespace, e.pod_name) == key)
    return next(found, None)


def _hops(
    facts: Facts,
    overview: Overview,
    key: tuple[str, str],
    destination: IPAddress | None,
    cluster: Sequence[IPNetwork],
) -> Iterator[Hop]:
    pod = next(
        (p for p in facts.pods or () if (p.metadata.namespace, p.metadata.name) == key), None
    )
    if pod is None:
        yield Hop(name="pod", verdict="bad", text=f"there is no pod {'/'.join(key)}")
        return
    asked = names.asked_configuration(pod.metadata.annotations)
    yield _pod(pod, asked)
    sgc = asked_for(facts, pod)
    if not asked:
        return
    if sgc is None:
        text = f"there is no StaticGatewayConfiguration {key[0]}/{asked}"
        yield Hop(name="configuration", verdict="bad", text=text)
        return
    if destination is not None:
        way = _way(sgc, destination, cluster)
        yield way
        if way.verdict == "unknown":
            return  # it does not go by the gateway
    yield _configuration(sgc)
    endpoint = endpoint_of(facts, key)
    yield _tunnel(endpoint, pod)
    view = next(c for c in overview.configurations if c.configuration == f"{key[0]}/{asked}")
    gateway = endpoint.status.gateway if endpoint is not None else ""
    yield _gateway(view, gateway, sgc)
    yield from _address(sgc, gateway, destination)
    yield from _others(view, gateway)
    yield from _balancer(sgc)
    yield _azure(sgc)


def _pod(pod: Pod, asked: str) -> Hop:
    where = f"{pod.metadata.namespace}/{pod.metadata.name} on {pod.spec.node_name or 'no node'}"
    if not asked:
        text = f"{where} has no annotation {names.POD_ANNOTATION}: it leaves as the cluster does"
        return Hop(name="pod", verdict="unknown", text=text)
    if pod.spec.host_network:
        text = f"{where} uses its node's network: it leaves with the node's address"
        return Hop(name="pod", verdict="bad", text=text)
    good = bool(pod.spec.node_name) and not pod.finished
    return Hop(name="pod", verdict="good" if good else "bad", text=f"{where} asks for {asked}")


def _way(sgc: StaticGatewayConfiguration, to: IPAddress, cluster: Sequence[IPNetwork]) -> Hop:
    """Good: the gateway carries it. Unknown: it takes the ordinary path, of which we know
    nothing."""
    own = next((n for n in cluster if to in n), None)
    if own is not None:
        text = f"{to} is in {own} of clusterCidrs: the pod's ordinary way, not the gateway's"
        return Hop(name="route", verdict="unknown", text=text)
    listed = next((n for n in parse_networks(sgc.spec.exclude_cidrs) if to in n), None)
    by_default = sgc.spec.default_route != "azureNetworking"
    if by_default and listed is None:
        return Hop(name="route", verdict="good", text=f"{to} is the gateway's (default route)")
    if not by_default and listed is not None:
        text = f"{to} is the gateway's: {listed} of excludeCidrs, with azureNetworking"
        return Hop(name="route", verdict="good", text=text)
    why = f"{listed} of excludeCidrs" if listed else "defaultRoute azureNetworking"
    text = f"{to} goes the pod's ordinary way, not the gateway's: {why}"
    return Hop(name="route", verdict="unknown", text=text)


def probed(asked: Sequence[Asked], public: Sequence[str]) -> list[Hop]:
    """The hops that only packets of the pod itself can show, by what servers answered. ``public``:
    the configuration's addresses."""
    found = next((one for one in asked if one.seen), next(iter(asked), None))
    if found is None:
        return []
    if not found.seen:
        text = f"{found.server} does not answer the pod: {found.error or 'silence'}"
        return [Hop(name="internet", verdict="bad", text=text)]
    good = found.seen in public or not public
    text = f"{found.server} sees the pod as {found.seen}"
    internet = Hop(name="internet", verdict="good" if good else "bad", text=text)
    if found.full_seen:
        mtu = Hop(name="mtu", verdict="good", text=f"packets of {found.mtu} bytes pass")
    else:
        text = (
            f"a packet of {found.mtu} bytes gets no answer, small ones do: the way drops large "
            "packets, or the server answers none"
        )
        mtu = Hop(name="mtu", verdict="bad", text=text)
    return [internet, mtu]


def inside(found: Round, to: IPAddress | None, by_gateway: bool) -> Iterator[Hop]:
    """What the pod's node has of it in its kernel, and what its resolvers say. ``by_gateway``:
    packets to the destination ``to`` are the gateway's."""
    if found.pod is not None:
        yield _hold(found.pod.held)
        if by_gateway:
            yield _handshake(found.pod.tunnel)
    if to is not None:
        yield _kernels_way(to, found.ways.get(str(to), ""), by_gateway)
    for one in found.resolvers:
        if not one.error:
            text = f"{one.server} answers, by {one.device}"
        else:
            text = f"{one.server}, by {one.device}: {one.error}"
        if one.error and one.device in names.TUNNEL_LINKS:
            text += "; if the gateway cannot reach it, put its address into spec.excludeCidrs"
        yield Hop(name="resolver", verdict="bad" if one.error else "good", text=text)


def connected(
    found: Round, endpoint: PodEndpoint | None, sgc: StaticGatewayConfiguration
) -> Iterator[Hop]:
    """What connections of the pod to its destination came to. ``endpoint`` None: they do not go by
    the gateway. Only the other side knows its firewall; silence for one address is mostly that."""
    for peer, error in found.connected.items():
        text = f"{peer} accepts a connection of the pod"
        if error == "silence" and endpoint is not None:
            text = (
                f"{peer} does not answer the pod, which leaves from {endpoint.status.egress_ip}: "
                f"does its firewall allow all of {sgc.status.egress_ip_prefix}? kubectl get "
                "podendpoints shows which pods leave from which address"
            )
        elif error == "silence":
            text = f"{peer} does not answer the pod, which reaches it as other pods do"
        elif error:
            text = f"{peer}: {error}"
        yield Hop(name="destination", verdict="bad" if error else "good", text=text)


def _hold(held: int | None) -> Hop:
    if held is None:
        text = "the pod has no hold: packets could bypass the gateway; its node's agent makes it"
        return Hop(name="hold", verdict="bad", text=text)
    text = f"in place; it has dropped {held} packets that would have bypassed the gateway"
    return Hop(name="hold", verdict="good", text=text)


def _handshake(tunnel: SeenTunnel | None) -> Hop:
    if tunnel is None:
        text = "the kernel has no tunnel of the pod; its node's agent makes it"
        return Hop(name="handshake", verdict="bad", text=text)
    where = f"{tunnel.link} to {tunnel.endpoint or 'no gateway'}"
    if tunnel.handshake is None:
        return Hop(name="handshake", verdict="bad", text=f"{where}: none has succeeded")
    text = f"{where}, {tunnel.handshake:.0f} s ago"
    if tunnel.handshake < _SESSION:
        return Hop(name="handshake", verdict="good", text=text)
    text += ": too long for a pod that sends; right for one that is idle"
    return Hop(name="handshake", verdict="unknown", text=text)


def _kernels_way(to: IPAddress, link: str, by_gateway: bool) -> Hop:
    good = (link in names.TUNNEL_LINKS) == by_gateway and not link.startswith("none")
    text = f"the pod's kernel sends packets for {to} by {link or 'a link that is gone'}"
    if not good:
        text += ", which is not as the configuration says"
    return Hop(name="link", verdict="good" if good else "bad", text=text)


def policies(found: Sequence[Untyped], labels: Mapping[str, str], by_gateway: bool) -> list[Hop]:
    """NetworkPolicies for the egress of a pod with ``labels``, of all those of its namespace. The
    cluster's CNI applies them to ``eth0``, and what is in the tunnel passes it encrypted."""
    named = sorted(
        policy["metadata"]["name"]
        for policy in found
        if _of_egress(policy["spec"]) and selected(policy["spec"].get("podSelector"), labels)
    )
    if not named:
        return []
    what = "do not apply to what the gateway carries" if by_gateway else "apply to this way"
    text = f"{', '.join(named)} {what}"
    return [Hop(name="NetworkPolicy", verdict="good" if by_gateway else "unknown", text=text)]


def _of_egress(spec: Untyped) -> bool:
    return "Egress" in spec.get("policyTypes", ()) or "egress" in spec


def of_gateway(
    sgc: StaticGatewayConfiguration, to: IPAddress, cluster: Sequence[IPNetwork]
) -> bool:
    """Whether packets to there are the gateway's."""
    return _way(sgc, to, cluster).verdict == "good"


def _configuration(sgc: StaticGatewayConfiguration) -> Hop:
    ready = find(sgc.status.conditions, READY)
    if ready is None:
        text = "no controller has looked at it yet; check that the controller runs"
        return Hop(name="configuration", verdict="bad", text=text)
    good = ready.status == "True"
    words = ready.message if good else f"{ready.reason}: {ready.message}"
    return Hop(name="configuration", verdict="good" if good else "bad", text=words)


def _tunnel(endpoint: PodEndpoint | None, pod: Pod) -> Hop:
    if endpoint is None:
        text = "the pod is not attached: kubectl describe pod says what it waits for"
        return Hop(name="tunnel", verdict="bad", text=text)
    told = endpoint.status
    if not told.state:
        return Hop(name="tunnel", verdict="unknown", text="its node's agent has told nothing yet")
    since = f" since {told.since}" if told.since else ""
    if told.state != "Connected":
        text = f"{told.state}{since}: {told.reason}: {told.message}"
        return Hop(name="tunnel", verdict="bad", text=text)
    text = f"works{since}, from {pod.spec.node_name} to {told.gateway}"
    return Hop(name="tunnel", verdict="good", text=text)


def _gateway(view: ConfigurationView, node: str, sgc: StaticGatewayConfiguration) -> Hop:
    found = next((g for g in view.gateways if g.node == node), None)
    serving = [g.node for g in view.gateways if g.serving]
    if found is None:
        text = f"none is in use; serving: {', '.join(serving) or 'none'}"
        return Hop(name="gateway", verdict="unknown" if serving else "bad", text=text)
    if not found.serving:
        text = f"{node} does not serve it: {found.reason}: {found.message}"
        return Hop(name="gateway", verdict="bad", text=text)
    at = next((g.primary_ip for g in sgc.status.gateways if g.node == node), "")
    text = f"{node} serves it, at {at} UDP {sgc.status.gateway_server_profile.port}"
    return Hop(name="gateway", verdict="good", text=text)


def _others(view: ConfigurationView, used: str) -> Iterator[Hop]:
    """Gateways that the pod could not move to, if its own were lost."""
    for other in view.gateways:
        if other.node != used and (other.reason == NOT_REACHED or not other.serving):
            said = ": ".join(filter(None, (other.reason, other.message, other.mend)))
            text = f"{other.node}, which it could move to: {said}"
            yield Hop(name="redundancy", verdict="bad", text=text)


def _address(sgc: StaticGatewayConfiguration, node: str, to: IPAddress | None) -> Iterator[Hop]:
    gateway = next((g for g in sgc.status.gateways if g.node == node), None)
    if gateway is None:
        return
    sent = gateway.secondary_ip
    if gateway.public_ip:
        sent = f"translated to {sent}, in Azure to {gateway.public_ip}"
    said = find(sgc.status.conditions, EGRESS_VERIFIED)
    if not gateway.public_ip or said is None or said.status == "Unknown":
        yield Hop(name="address", verdict="unknown", text=f"{sent}, which nobody has verified")
    elif gateway.seen_ip == gateway.public_ip:
        text = f"{sent}, as servers on the Internet see it"
        if to is not None:  # nothing of ours tells what a firewall there refuses
            text += f"; {to} must allow all of {sgc.status.egress_ip_prefix}"
        yield Hop(name="address", verdict="good", text=text)
    else:
        seen = gateway.seen_ip or "nothing"
        text = f"{sent}, but servers on the Internet see {seen}"
        yield Hop(name="address", verdict="bad", text=text)


def _balancer(sgc: StaticGatewayConfiguration) -> Iterator[Hop]:
    """Not on the way of a pod whose node's agent knows a gateway."""
    if address := sgc.status.gateway_server_profile.ip:
        text = f"{address} is there for pods whose node knows no gateway of its own"
        yield Hop(name="balancer", verdict="good", text=text)


def _azure(sgc: StaticGatewayConfiguration) -> Hop:
    degraded = find(sgc.status.conditions, DEGRADED)
    if degraded is not None and degraded.reason == "AzureNotReachable":
        return Hop(name="azure", verdict="bad", text=degraded.message)
    provisioned = find(sgc.status.conditions, "Provisioned")
    if provisioned is None:
        return Hop(name="azure", verdict="unknown", text="nothing is known")
    good = provisioned.status == "True"
    return Hop(name="azure", verdict="good" if good else "bad", text=provisioned.message)
