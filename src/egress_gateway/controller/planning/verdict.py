"""What one pass means for one configuration: its problem in words, or what it serves.

``judge`` says what stands in the way before anything is tried; ``verdict_of`` says how far the
cloud is. Neither looks at Kubernetes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from egress_gateway.api import names
from egress_gateway.api.conditions import Reason
from egress_gateway.cloud.protocol import (
    Advice,
    BalancingRule,
    Instance,
    InterfaceSpec,
    PoolState,
    Prefix,
)
from egress_gateway.controller.planning.exchange import Exchange, alive
from egress_gateway.controller.planning.ipv6 import addresses6, network6
from egress_gateway.controller.planning.prefixes import judge_prefix
from egress_gateway.controller.planning.problem import Note, Problem
from egress_gateway.controller.planning.spared import LEFT_ALONE
from egress_gateway.controller.planning.wanted import Wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingGateway:
    """An instance that has its addresses."""

    provider_id: str
    primary: IPv4Address
    secondary: IPv4Address
    public: IPv4Address | None = None
    secondary6: IPv6Address | None = None
    public6: IPv6Address | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """``prefix`` None: as reported before (the configuration holds on to an older state);
    ``prefix6`` likewise, and empty without IPv6."""

    server: IPv4Address
    port: int
    prefix: str | None
    gateways: tuple[ServingGateway, ...]
    prefix6: str | None = ""
    second_port: int = 0
    """Of the second rule, while there is one."""
    going: tuple[ServingGateway, ...] = ()
    """Those that still have an address of before, and are about to lose it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``gone``: this pool holds no trace of it; ``lingering``: what it holds is only on machines
    that cannot be written now. ``note`` is said beside good news. ``ipv6``: it
    is asked for, ``problem6`` what is in its way. ``cloud``: it serves, and the cloud has
    refused for a while to be looked at for it. ``unseen``: it has refused since this controller
    began, so nobody knows what is there. ``generation``: of the object that it is about; 0: any."""

    problem: Problem | None = None
    serving: Serving | None = None
    gone: bool = False
    lingering: bool = False
    settled: bool = False
    note: Note | None = None
    ipv6: bool = False
    problem6: Problem | None = None
    cloud: Problem | None = None
    unseen: bool = False
    generation: int = 0


def judge(wanted: Wanted, state: PoolState, advice: Advice) -> Problem | None:
    """What stands in the way, None if nothing does. A leaving configuration has no problem."""
    if wanted.leaving:
        return None
    if wanted.problem:
        return wanted.problem
    if state.balancer.unusable:
        return Problem(reason=Reason.AZURE_ERROR, message=state.balancer.unusable)
    if wanted.private:
        return None
    if wanted.prefix_id:
        return judge_prefix(
            wanted.prefix_id, state, size=wanted.prefix_size, ipv6=False, advice=advice
        )
    made = (state.managed[name] for name in managed_names(wanted, state))
    return next((Problem.of(prefix.unread) for prefix in made if prefix.unread), None)


def managed_names(wanted: Wanted, state: PoolState) -> list[str]:
    """The managed prefixes that were made for ``wanted``."""
    base = wanted.names.ip_config
    return [n for n in state.managed if n == base or n.startswith(f"{base}-")]


def managed_name(wanted: Wanted, state: PoolState) -> str:
    """The managed prefix to use. A prefix cannot change its size: if the one of the usual name
    has another (the configuration moved to a pool that asks for more), its size is added."""
    base = wanted.names.ip_config
    made = state.managed.get(base)
    sized = f"{base}-{wanted.prefix_size}"
    if made is None:
        return sized if sized in state.managed else base
    return base if made.size == wanted.prefix_size else sized


def verdict_of(
    wanted: Wanted,
    state: PoolState,
    problem: Problem | None,
    rule: BalancingRule | None,
    busy: bool,
    *,
    exchange: Exchange | None = None,
    problem6: Problem | None = None,
    held_back: bool = False,
) -> Verdict:
    """``rule`` is the desired rule; ``busy``: this pass acts for this configuration;
    ``held_back``: the pool's part of the load balancer waits for a machine to let go of it."""
    if wanted.leaving:
        gone = not busy and not held_back and not _traces(wanted, state)
        lingering = not gone and _lingers(wanted, state)
        return Verdict(gone=gone, lingering=lingering, generation=wanted.generation)
    kept, kept6 = problem is not None, problem6 is not None
    serving, note = _serving(wanted, state, rule, kept=kept, kept6=kept6)
    if exchange is not None and (serving is None or not serving.gateways):
        serving, note = _during(exchange, wanted, state, rule), _exchanging(exchange)
    if serving is not None:
        going = _going(exchange, wanted, serving) if exchange else ()
        serving = replace(serving, second_port=_second_port(wanted, state), going=going)
    if problem is None and rule is None:
        problem = Problem(
            reason=Reason.QUOTA,
            message=f"no port of {names.PORT_FIRST}-{names.PORT_LAST} is free on the load balancer",
        )
    settled = problem is None and not busy and serving is not None and not note
    return Verdict(
        problem=problem,
        serving=serving,
        settled=settled,
        note=note,
        ipv6=bool(wanted.prefix_id6),
        problem6=problem6,
        generation=wanted.generation,
    )


def _second_port(wanted: Wanted, state: PoolState) -> int:
    rule = state.balancer.rules.get(wanted.names.second_rule)
    return rule.port if rule is not None and rule.pool == state.ref.key else 0


def _traces(wanted: Wanted, state: PoolState) -> bool:
    rule = state.balancer.rules.get(wanted.names.rule)
    ours = set(wanted.names.ip_configs)
    there = (i.interface.configs for i in state.instances if i.state != "Deleting")
    return (
        (rule is not None and rule.pool == state.ref.key)
        or _second_port(wanted, state) != 0
        or not ours.isdisjoint(state.model.configs)
        or (bool(managed_names(wanted, state)) and not wanted.elsewhere)
        or any(not ours.isdisjoint(configs) for configs in there)
        or any(public.config in ours for public in state.publics)
    )


def _lingers(wanted: Wanted, state: PoolState) -> bool:
    """Whether all that is left of it waits for what cannot be written now (machines, their
    template, or the load balancer, to which everything refers), for gateways that may still carry
    its packets, or for the end of a deletion."""
    if state.balancer.busy or state.busy:
        return True
    busy = {i.id for i in state.instances if i.state in LEFT_ALONE or wanted.carried_by(i)}
    rolled = state.ref.rolling and any(map(wanted.carried_by, state.instances))
    held = busy or any(p.going for p in state.publics)
    free = replace(
        state,
        # Of a pool of machines it is no document, but the sum of what all its interfaces carry.
        model=state.model if state.ref.kind == "template" and not rolled else InterfaceSpec(),
        instances=tuple(i for i in state.instances if i.id not in busy),
        publics=tuple(p for p in state.publics if not (p.going or p.instance in busy)),
        managed={} if held else {n: p for n, p in state.managed.items() if not p.going},
    )
    return not _traces(wanted, free)


def _serving(
    wanted: Wanted, state: PoolState, rule: BalancingRule | None, *, kept: bool, kept6: bool
) -> tuple[Serving | None, Note | None]:
    """What pods can use now, and what is still amiss."""
    if rule is None or rule.name not in state.balancer.rules:
        return None, None
    server = state.balancer.frontends.get(rule.frontend)
    prefix = None if kept or wanted.private else _network_of(wanted, state)
    if server is None or (prefix is None and not kept and not wanted.private):
        return None, None
    there = alive(state)
    network = IPv4Network(prefix) if prefix and not wanted.private else None
    quiet = wanted.private and not kept
    six = None if kept or kept6 else network6(wanted, state)
    found = {i.id: _gateway(i, wanted, network, six, quiet=quiet) for i in there}
    gateways = tuple(g for g in found.values() if g)
    if wanted.private and not kept:
        prefix = ",".join(_privates(wanted, state)) or None
    lacking = [i for i in there if found[i.id] is None]
    note = _note(lacking, there)
    if not gateways:
        return None, note
    prefix6 = (str(six) if six else None) if any(g.secondary6 for g in gateways) else ""
    return Serving(
        server=server, port=rule.port, prefix=prefix, gateways=gateways, prefix6=prefix6
    ), note


def _privates(wanted: Wanted, state: PoolState) -> list[str]:
    """The private addresses that it has, also on network interfaces that wait for a machine: pods
    may leave from each of them one day."""
    found = (i.addresses.get(wanted.names.ip_config) for i in state.instances)
    return [str(a.secondary) for a in found if a and isinstance(a.secondary, IPv4Address)]


def _during(
    exchange: Exchange, wanted: Wanted, state: PoolState, rule: BalancingRule | None
) -> Serving | None:
    """While no new address is there: the gateways that still have their old one."""
    server = state.balancer.frontends.get(rule.frontend) if rule else None
    if rule is None or rule.name not in state.balancer.rules or server is None:
        return None
    found = (_gateway(i, wanted, None, None) for i in exchange.serving)
    gateways = tuple(g for g in found if g)
    return Serving(server=server, port=rule.port, prefix=None, gateways=gateways, prefix6=None)


def _going(exchange: Exchange, wanted: Wanted, serving: Serving) -> tuple[ServingGateway, ...]:
    staying = {gateway.provider_id for gateway in serving.gateways}
    found = (_gateway(i, wanted, None, None) for i in exchange.stale)
    return tuple(g for g in found if g and g.provider_id not in staying)


def _exchanging(exchange: Exchange) -> Note:
    held = sorted(i.name for i in exchange.stale if i.id in exchange.held)
    if not exchange.prepared or not held:
        return Note(Reason.PROVISIONING, "addresses are being exchanged")
    left = ", ".join(held)
    return Note(
        Reason.PROVISIONING,
        f"the controller is exchanging addresses; gateways that still use the old ones: {left}",
    )


def _note(lacking: list[Instance], there: list[Instance]) -> Note | None:
    if not there:
        return Note(Reason.PROVISIONING, "the gateway pool has no instance; scale it up")
    if not lacking:
        return None
    listed = ", ".join(f"{i.name} ({i.state})" for i in lacking)
    failed = any(i.state == "Failed" for i in lacking)
    return Note(
        Reason.INSTANCE_FAILED if failed else Reason.PROVISIONING,
        f"{len(lacking)} of {len(there)} gateway instances have no address yet: {listed}",
    )


def _gateway(
    instance: Instance,
    wanted: Wanted,
    network: IPv4Network | None,
    six: IPv6Network | None,
    *,
    quiet: bool = False,
) -> ServingGateway | None:
    """``network`` and ``six``: where its public addresses must lie (an instance that still has
    one of the prefix before is not there yet); None: anywhere. ``quiet``: it must have none.
    One that has no IPv6 yet serves without."""
    address = instance.addresses.get(wanted.names.ip_config)
    if address is None or instance.primary is None:
        return None
    if not isinstance(address.secondary, IPv4Address):
        return None
    if quiet and (address.public or instance.interface.configs.get(wanted.names.ip_config)):
        return None
    if network and (address.public is None or address.public not in network):
        return None
    secondary6, public6 = addresses6(instance, wanted)
    if six and public6 and public6 not in six:
        return None
    if six and not public6:
        secondary6 = None
    return ServingGateway(
        provider_id=instance.provider_id,
        primary=instance.primary,
        secondary=address.secondary,
        public=address.public if isinstance(address.public, IPv4Address) else None,
        secondary6=secondary6,
        public6=public6,
    )


def _network_of(wanted: Wanted, state: PoolState) -> str | None:
    if wanted.prefix_id:
        found = state.prefixes.get(wanted.prefix_id.lower())
    else:
        found = state.managed.get(managed_name(wanted, state))
    if isinstance(found, Prefix) and found.network:
        return str(found.network)
    return None
