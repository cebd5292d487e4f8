"""The way of a pod's packets, hop by hop, as the cluster's objects tell it. Pure.

Each hop is good, bad or unknown; behind a bad one the others are what they would be, since a person
wants to see all of the way. What only the node itself could tell (routes, the kernel's counters) is
not here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from egress_gateway.api import names
from egress_gateway.api.conditions import DEGRADED, EGRESS_VERIFIED, READY, find
from egress_gateway.api.types import PodEndpoint, StaticGatewayConfiguration
from egress_gateway.cli.agents.answers import Asked
from egress_gateway.cli.diagnosis.overview import NOT_REACHED, ConfigurationView, Facts, Overview
from egress_gateway.kube.resources import Pod

Verdict = Literal["good", "bad", "unknown"]
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


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
    sgc = next(
        (
            s
            for s in facts.configurations
            if (s.metadata.namespace, s.metadata.name) == (key[0], asked)
        ),
        None,
    )
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
    endpoint = next(
        (e for e in facts.endpoints or () if (e.metadata.namespace, e.pod_name) == key), None
    )
    yield _tunnel(endpoint, pod)
    view = next(c for c in overview.configurations if c.configuration == f"{key[0]}/{asked}")
    gateway = endpoint.status.gateway if endpoint is not None else ""
    yield _gateway(view, gateway)
    yield from _address(sgc, gateway)
    yield from _others(view, gateway)
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
    listed = next((n for n in networks(sgc.spec.exclude_cidrs) if to in n), None)
    by_default = sgc.spec.default_route != "azureNetworking"
    if by_default and listed is None:
        return Hop(name="route", verdict="good", text=f"{to} is the gateway's (default route)")
    if not by_default and listed is not None:
        text = f"{to} is the gateway's: {listed} of excludeCidrs, with azureNetworking"
        return Hop(name="route", verdict="good", text=text)
    why = f"{listed} of excludeCidrs" if listed else "defaultRoute azureNetworking"
    text = f"{to} goes the pod's ordinary way, not the gateway's: {why}"
    return Hop(name="route", verdict="unknown", text=text)


def probed(found: Asked | str, public: Sequence[str]) -> list[Hop]:
    """The hops that only packets of the pod itself can show. ``found`` a text: nothing was sent,
    and why. ``public``: the configuration's addresses."""
    if isinstance(found, str):
        return [Hop(name="packets", verdict="unknown", text=f"none were sent: {found}")]
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


def of_gateway(
    sgc: StaticGatewayConfiguration, to: IPAddress, cluster: Sequence[IPNetwork]
) -> bool:
    """Whether packets to there are the gateway's."""
    return _way(sgc, to, cluster).verdict == "good"


def networks(texts: Sequence[str]) -> Iterator[IPNetwork]:
    """Those of ``texts`` that are networks."""
    for text in texts:
        try:
            yield ipaddress.ip_network(text, strict=False)
        except ValueError:
            continue


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


def _gateway(view: ConfigurationView, node: str) -> Hop:
    found = next((g for g in view.gateways if g.node == node), None)
    serving = [g.node for g in view.gateways if g.serving]
    if found is None:
        text = f"none is in use; serving: {', '.join(serving) or 'none'}"
        return Hop(name="gateway", verdict="unknown" if serving else "bad", text=text)
    if not found.serving:
        text = f"{node} does not serve it: {found.reason}: {found.message}"
        return Hop(name="gateway", verdict="bad", text=text)
    return Hop(name="gateway", verdict="good", text=f"{node} serves it")


def _others(view: ConfigurationView, used: str) -> Iterator[Hop]:
    """Gateways that the pod could not move to, if its own were lost."""
    for other in view.gateways:
        if other.node != used and (other.reason == NOT_REACHED or not other.serving):
            said = ": ".join(filter(None, (other.reason, other.message, other.mend)))
            text = f"{other.node}, which it could move to: {said}"
            yield Hop(name="redundancy", verdict="bad", text=text)


def _address(sgc: StaticGatewayConfiguration, node: str) -> Iterator[Hop]:
    gateway = next((g for g in sgc.status.gateways if g.node == node), None)
    if gateway is None:
        return
    sent = gateway.public_ip or gateway.secondary_ip
    said = find(sgc.status.conditions, EGRESS_VERIFIED)
    if not gateway.public_ip or said is None or said.status == "Unknown":
        yield Hop(name="address", verdict="unknown", text=f"{sent}, which nobody has verified")
    elif gateway.seen_ip == gateway.public_ip:
        text = f"{sent}, as servers on the Internet see it"
        yield Hop(name="address", verdict="good", text=text)
    else:
        seen = gateway.seen_ip or "nothing"
        text = f"{sent}, but servers on the Internet see {seen}"
        yield Hop(name="address", verdict="bad", text=text)


def _azure(sgc: StaticGatewayConfiguration) -> Hop:
    degraded = find(sgc.status.conditions, DEGRADED)
    if degraded is not None and degraded.reason == "AzureNotReachable":
        return Hop(name="azure", verdict="bad", text=degraded.message)
    provisioned = find(sgc.status.conditions, "Provisioned")
    if provisioned is None:
        return Hop(name="azure", verdict="unknown", text="nothing is known")
    good = provisioned.status == "True"
    return Hop(name="azure", verdict="good" if good else "bad", text=provisioned.message)
