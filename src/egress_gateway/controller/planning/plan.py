"""What must change in the cloud for one pool: a pure function of wishes and observation.

Guarantees, each held by a property test:

- applied to any state, repeatedly, it converges, and then plans nothing;
- each document (load balancer, model, instance) is written at most once a pass, with
  what all configurations of the pool together want, except that a pass that both adds and
  removes a pool's frontend writes the load balancer twice;
- what belongs to others is neither changed nor removed: only names in ``owned`` are touched;
- a configuration in trouble (``problem``) keeps exactly what it has got, and holds up nobody
  else: what it never got is left out of the writes of its neighbours. If the cloud refuses every
  write that carries what it has (``gives_way``: a role was taken away), it keeps that on half of
  the machines (``spared``), and the other half goes on without it.

Order within a pass: prefixes and load balancer first because the model refers to both, the model
before the instances (an instance that is born meanwhile is then right), removals last because
Azure refuses to delete what is referred to: public addresses before the prefix that they are of.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from egress_gateway.cloud.protocol import (
    Advice,
    CreatePrefix,
    DeleteAddress,
    DeletePrefix,
    Instance,
    InterfaceSpec,
    MakeAddresses,
    PoolState,
    Prefix,
    PublicAddress,
    WriteInstance,
    WriteModel,
)
from egress_gateway.controller.planning.balancing import Balancing
from egress_gateway.controller.planning.exchange import alive, exchange
from egress_gateway.controller.planning.ipv6 import judge6
from egress_gateway.controller.planning.problem import Problem
from egress_gateway.controller.planning.spared import LEFT_ALONE, spared
from egress_gateway.controller.planning.verdict import (
    Verdict,
    judge,
    managed_name,
    managed_names,
    verdict_of,
)
from egress_gateway.controller.planning.wanted import Step, Wanted

MAX_CONFIGS: Final = 256
"""IP configurations of one NIC (Azure subscription and service limits, "Networking limits")."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Stages one after the other; the steps of a stage are independent of each other.
    ``waiting`` are the configurations that wait for gateways to let go of their old addresses."""

    stages: tuple[tuple[Step, ...], ...] = ()
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    waiting: frozenset[str] = frozenset()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write. Somebody may wait all the same (``waiting``)."""
        return not any(self.stages)

    @property
    def writes_model(self) -> bool:
        """Whether the pool's model is to be written."""
        return any(isinstance(s.action, WriteModel) for stage in self.stages for s in stage)

    @property
    def size(self) -> int:
        """How many steps it has."""
        return sum(len(stage) for stage in self.stages)


def plan(
    state: PoolState, wanted: Iterable[Wanted], *, advice: Advice, managed_ids: Mapping[str, str]
) -> Plan:
    """The pass that brings ``state`` to what ``wanted`` asks for. ``managed_ids`` gives the
    (future) id of the managed prefix of each ipConfig name."""
    everyone = sorted(wanted, key=lambda w: w.uid)
    state = spared(state, everyone)
    problems = {w.uid: p for w in everyone if (p := judge(w, state, advice))}
    problems |= _overfull(state, everyone, problems)
    problems6 = judge6(everyone, state, advice, problems)
    desired = _Desired(state, everyone, problems, problems6, managed_ids)
    stages = (
        desired.prefixes() + desired.balancing.grows(),
        desired.model() + desired.removed_addresses(),
        desired.instances() + desired.addresses(),
        desired.balancing.shrinks() + desired.removed_prefixes(),
    )
    busy = {uid for stage in stages for step in stage for uid in step.uids}
    held_back = desired.balancing.held_back
    verdicts = {
        w.uid: verdict_of(
            w,
            state,
            problems.get(w.uid),
            desired.balancing.rule_of(w),
            w.uid in busy,
            exchange=desired.exchanges.get(w.uid),
            problem6=problems6.get(w.uid),
            held_back=held_back,
        )
        for w in everyone
    }
    waiting = {uid for uid, e in desired.exchanges.items() if e.prepared and e.held}
    waiting |= desired.carried
    return Plan(tuple(stage for stage in stages if stage), verdicts, frozenset(waiting))


def _overfull(
    state: PoolState, everyone: Sequence[Wanted], problems: Mapping[str, Problem]
) -> dict[str, Problem]:
    """Configurations beyond the NIC's limit get a problem; existing ones stay."""
    room = MAX_CONFIGS - state.model.others - len(state.model.configs)
    full = Problem.pool_full(MAX_CONFIGS - state.model.others)
    newcomers = [
        w.uid
        for w in everyone
        if not w.leaving and w.uid not in problems and w.names.ip_config not in state.model.configs
    ]
    return dict.fromkeys(newcomers[max(room, 0) :], full)


@dataclass(frozen=True, slots=True)
class _Change:
    """What a network interface is to have, and for whom (uids of configurations). ``configs``:
    prefix ids by ipConfig, None for a private address. ``joined``: it is a member of the gateways'
    backend pool."""

    configs: dict[str, str | None]
    joined: bool
    uids: frozenset[str]


class _Desired:
    """Intermediate results of one ``plan``; every method is a pure view of them."""

    def __init__(
        self,
        state: PoolState,
        everyone: Sequence[Wanted],
        problems: Mapping[str, Problem],
        problems6: Mapping[str, Problem],
        managed_ids: Mapping[str, str],
    ) -> None:
        self._state = state
        self._everyone = everyone
        self._kept = {w.uid for w in everyone if not w.leaving and w.uid in problems}
        self._clinging = [w for w in everyone if any(map(w.carried_by, state.instances))]
        self._active = [w for w in everyone if not w.leaving and w.uid not in problems]
        self._giving_way = {w.uid for w in everyone if w.gives_way}
        self._left_out = {name for w in everyone if w.left_out for name in w.names.ip_configs}
        self._problems6 = problems6
        self._managed_ids = managed_ids
        known = [*state.managed.values(), *state.prefixes.values()]
        self._networks = {p.id.lower(): p.network for p in known if isinstance(p, Prefix)}
        self._by_config = {name: w.uid for w in everyone for name in w.names.ip_configs}
        self.balancing = Balancing(state, everyone, self._kept)
        self.exchanges = {
            w.uid: found
            for w in self._active
            if (found := exchange(w, state, self._folded_configs(w)))
        }

    # --- model and instances -------------------------------------------------------------

    def _configs(
        self,
        observed: InterfaceSpec,
        *,
        got: Collection[str],
        serving: bool = True,
        held: Collection[str] = (),
        without: Collection[str] = (),
    ) -> dict[str, str | None]:
        """The managed ipConfigs that this document should have. ``got``: names of those whose
        addresses exist. ``serving`` False: a NIC without a machine holds public addresses that
        others need. ``held``: UIDs that stay as they are. ``without``: names that must wait."""
        lasting = {n for w in self._clinging if w.uid in held for n in w.names.ip_configs}
        result = {n: p for n, p in observed.configs.items() if n in lasting or self._stays(n, got)}
        for w in self._active:
            if not serving and not w.private:
                continue
            stays = [w.names.ip_config6] if w.uid in self._problems6 else []
            stays += w.names.ip_configs if w.uid in held else ()
            result |= self._configs_of(w)
            result |= {n: observed.configs[n] for n in stays if n in observed.configs}
        return {n: p for n, p in result.items() if n not in without}

    def _configs_of(self, wanted: Wanted) -> dict[str, str | None]:
        """The ipConfigs of one configuration, and the prefixes of their public addresses."""
        configs = {wanted.names.ip_config: self._prefix_of(wanted)}
        if wanted.prefix_id6 and not wanted.private and wanted.uid not in self._problems6:
            configs[wanted.names.ip_config6] = wanted.prefix_id6
        return configs

    def _folded_configs(self, wanted: Wanted) -> dict[str, str | None]:
        return {name: _folded(prefix) for name, prefix in self._configs_of(wanted).items()}

    def _prefix_of(self, wanted: Wanted) -> str | None:
        return None if wanted.private else self._prefix_id(wanted)

    def _held(self, instance: Instance) -> frozenset[str]:
        """UIDs for whose sake this machine may not be written yet."""
        return frozenset(uid for uid, e in self.exchanges.items() if instance.id in e.held)

    @property
    def carried(self) -> frozenset[str]:
        """UIDs of what is leaving whose packets machines may still carry."""
        return frozenset(w.uid for w in self._clinging)

    def _carried(self, instance: Instance) -> frozenset[str]:
        """UIDs of what is leaving whose packets this machine may still carry."""
        return frozenset(w.uid for w in self._clinging if w.carried_by(instance))

    def _held_model(self) -> frozenset[str]:
        """A model that rolls itself out waits for the last gateway."""
        if not self._state.ref.rolling:
            return frozenset()
        return self.carried.union(uid for uid, e in self.exchanges.items() if e.held)

    def _stays(self, name: str, got: Collection[str]) -> bool:
        """What is nobody's here stays, and what a configuration in trouble has got. What it asked
        for and never got would be asked for again in every write of its neighbours, and they
        would be refused with it."""
        uid = self._by_config.get(name)
        return uid is None or (uid in self._kept and name in got and uid not in self._giving_way)

    def _got(self, instance: Instance) -> frozenset[str]:
        """Names of the ipConfigs whose addresses the machine has."""
        return frozenset(
            name
            for name, prefix in instance.interface.configs.items()
            if (address := instance.addresses.get(name)) is not None
            and address.secondary
            # NB: a list of public addresses may lag behind; a failed write does not.
            and (address.public or not prefix or instance.state != "Failed")
        )

    def _got_somewhere(self) -> frozenset[str]:
        """The same of any machine; everything while there is no machine."""
        if not self._state.instances:
            return frozenset(self._state.model.configs)
        return frozenset[str]().union(*(self._got(i) for i in self._state.instances))

    def _prefix_id(self, wanted: Wanted) -> str:
        if wanted.prefix_id:
            return wanted.prefix_id
        base = wanted.names.ip_config
        name = managed_name(wanted, self._state)
        return self._managed_ids[base] + name.removeprefix(base)

    def _change(
        self,
        observed: InterfaceSpec,
        *,
        got: Collection[str],
        serving: bool = True,
        held: Collection[str] = (),
        without: Collection[str] = (),
    ) -> _Change | None:
        configs = self._configs(observed, got=got, serving=serving, held=held, without=without)
        # What goes only because its owner is in trouble goes along with the write of somebody
        # else; it is no reason for one.
        along = {
            name
            for name in observed.configs.keys() - configs.keys()
            if self._by_config.get(name) in self._kept
        }
        joined = bool(configs or along)
        differ = {
            name
            for name in (configs.keys() | observed.configs.keys()) - along
            if name not in configs
            or name not in observed.configs
            or _folded(configs[name]) != observed.configs[name]
        }
        if not differ and joined == observed.joined:
            return None
        uids = {self._by_config[n] for n in differ or configs if n in self._by_config}
        return _Change(configs, joined, frozenset(uids))

    def model(self) -> tuple[Step, ...]:
        """The write of the scale set's model, if it differs: future machines are made of it."""
        if self._state.ref.kind != "template":
            return ()
        change = self._change(
            self._state.model,
            got=self._got_somewhere(),
            held=self._held_model(),
            without=self._left_out,
        )
        if change is None:
            return ()
        action = WriteModel(
            pool=self._state.ref,
            configs=change.configs,
            owned=frozenset(self._by_config),
            joined=change.joined,
            base=self._state.base,
        )
        return (Step(action, change.uids),)

    def instances(self) -> tuple[Step, ...]:
        """Writes of machines that differ; none while ipConfigs are left out of the model."""
        if self._left_out:
            return ()
        steps = (self._instance(i) for i in self._state.instances if i.state not in LEFT_ALONE)
        return tuple(step for step in steps if step)

    def _instance(self, instance: Instance) -> Step | None:
        held = self._held(instance)
        change = self._change(
            instance.interface,
            got=self._got(instance),
            serving=bool(instance.provider_id),
            held=held | self._carried(instance),
            without=self._unready(instance),
        )
        if change is None and not held and instance.provider_id:
            change = self._retry(instance)
        if change is None:
            return None
        action = WriteInstance(
            pool=self._state.ref,
            instance=instance.id,
            configs=change.configs,
            owned=frozenset(self._by_config),
            joined=change.joined,
            base=instance.base,
        )
        return Step(action, change.uids)

    def _retry(self, instance: Instance) -> _Change | None:
        """An instance whose document is right and whose network interface lacks an address, or
        has one of the prefix before (a failed write, a rollout in place): the same write again is
        what mends it. One that has its addresses failed for reasons of its own."""
        without = self._unready(instance)
        lacking = [
            w
            for w in self._active
            if any(
                self._lacks(instance, name, prefix)
                for name, prefix in self._configs_of(w).items()
                if name not in without
            )
        ]
        if not lacking:
            return None
        carried, got = self._carried(instance), self._got(instance)
        configs = self._configs(instance.interface, got=got, held=carried, without=without)
        return _Change(configs, bool(configs), frozenset(w.uid for w in lacking))

    def _lacks(self, instance: Instance, name: str, prefix: str | None) -> bool:
        """Whether the network interface lacks the private or the public address of an ipConfig."""
        address = instance.addresses.get(name)
        if address is None or not address.secondary:
            return True
        if prefix is None:
            return False
        network = self._networks.get(prefix.lower())
        return address.public is None or (network is not None and address.public not in network)

    # --- prefixes ------------------------------------------------------------------------

    def _managing(self) -> dict[str, Wanted]:
        return {
            managed_name(w, self._state): w
            for w in self._active
            if not w.private and not w.prefix_id
        }

    def prefixes(self) -> tuple[Step, ...]:
        managed = self._state.managed
        return tuple(
            Step(CreatePrefix(name=name, size=w.prefix_size), frozenset({w.uid}))
            for name, w in self._managing().items()
            if name not in managed or managed[name].state == "Failed"
        )

    def addresses(self) -> tuple[Step, ...]:
        """Public addresses made ahead of the ipConfigs that will refer to them, each for itself:
        one that Azure does not finish keeps no other from its machine."""
        if self._state.ref.kind != "machines":
            return ()
        return tuple(
            Step(
                MakeAddresses(pool=self._state.ref, instance=i.id, configs=configs, base=i.base),
                frozenset({w.uid}),
            )
            for w in self._active
            for i in self._to_be_given(w)
            if (configs := self._unmade(i, w))
        )

    def _to_be_given(self, wanted: Wanted) -> list[Instance]:
        found = self.exchanges.get(wanted.uid)
        stale = found.stale if found else ()
        return [i for i in alive(self._state) if i in stale or i.state not in LEFT_ALONE]

    def _unmade(self, instance: Instance, wanted: Wanted) -> tuple[tuple[str, str], ...]:
        """ipConfigs, and the prefixes of the public addresses that they lack. What Azure is at
        work on is left to it."""
        held = instance.interface.configs
        return tuple(
            (name, prefix)
            for name, prefix in self._configs_of(wanted).items()
            if prefix
            and held.get(name) != prefix.lower()
            and ((made := self._made(instance, name, prefix)) is None or made.state == "Failed")
        )

    def _unready(self, instance: Instance) -> frozenset[str]:
        """ipConfigs that the machine lacks because their public addresses are not there yet."""
        if self._state.ref.kind != "machines":
            return frozenset()
        return frozenset(
            name
            for w in self._active
            for name, prefix in self._configs_of(w).items()
            if prefix
            and name not in instance.interface.configs
            and ((made := self._made(instance, name, prefix)) is None or not made.ready)
        )

    def _made(self, instance: Instance, name: str, prefix: str) -> PublicAddress | None:
        """The address made for an ipConfig, or one of which nobody can tell for which (the Go
        project's)."""
        fits = (
            p
            for p in self._state.publics
            if p.instance == instance.id and p.prefix == prefix.lower() and p.config in (name, "")
        )
        return min(fits, key=lambda p: p.config != name, default=None)

    def removed_addresses(self) -> tuple[Step, ...]:
        """Public addresses that no NIC holds any more and none is about to."""
        uids = ((p, self._by_config.get(p.config)) for p in self._state.publics)
        return tuple(
            Step(DeleteAddress(name=public.name), frozenset({uid} if uid else ()))
            for public, uid in uids
            if self._unused(public, uid)
        )

    def _unused(self, public: PublicAddress, uid: str | None) -> bool:
        if public.attached or uid in self._kept:
            return False
        users = {
            name
            for w in self._active
            for name, prefix in self._configs_of(w).items()
            if _folded(prefix) == public.prefix
        }
        if uid is None:  # left by the Go project, or for a configuration long gone
            return not public.config and not users
        if public.config not in users:
            return True
        owner = next((i for i in self._state.instances if i.id == public.instance), None)
        if owner is None or not owner.provider_id:
            return True
        return owner.interface.configs.get(public.config) == public.prefix

    def removed_prefixes(self) -> tuple[Step, ...]:
        """Deletions of managed prefixes that nobody asks for, once no address of them is used."""
        wanted = self._managing()
        removable = {
            name: w.uid
            for w in self._everyone
            if not w.elsewhere and w.uid not in self._kept and not self._exchanging(w)
            for name in managed_names(w, self._state)
        }
        going = {step.action for step in self.removed_addresses()}
        used = {p.prefix for p in self._state.publics if DeleteAddress(name=p.name) not in going}
        return tuple(
            Step(DeletePrefix(name=name), frozenset({uid}))
            for name, prefix in sorted(self._state.managed.items())
            if (uid := removable.get(name))
            and name not in wanted
            and (not prefix.used or self._freed(prefix.id.lower()))
            and prefix.id.lower() not in used
        )

    def _freed(self, prefix_id: str) -> bool:
        """Whether this very pass takes the prefix from all machines that have it: its removal
        comes last and is skipped if one of the writes before it fails or is not over."""
        holding = [i for i in self._state.instances if prefix_id in i.interface.configs.values()]
        return bool(holding) and not any(i.state in LEFT_ALONE or self._carried(i) for i in holding)

    def _exchanging(self, wanted: Wanted) -> bool:
        found = self.exchanges.get(wanted.uid)
        return found is not None and bool(found.held)


def _folded(prefix_id: str | None) -> str | None:
    return prefix_id.lower() if prefix_id else None
