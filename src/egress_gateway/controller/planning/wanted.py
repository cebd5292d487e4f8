"""What planning works on: one configuration's wish, the names of its resources, one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from egress_gateway.api import names
from egress_gateway.cloud.protocol import Action, Instance
from egress_gateway.controller.planning.problem import Problem

BUSY: Final = frozenset({"Creating", "Updating", "Deleting", "Migrating"})
"""Provisioning states of an instance in which Azure answers a write with 409."""


SECOND: Final = "-second"


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Under which names a configuration's resources live. Ours are all the object's UID; a
    cluster that moved over from the Go project keeps the names that it has."""

    rule: str
    ip_config: str
    probe_path: str

    @property
    def ip_config6(self) -> str:
        """The ipConfig of IPv6; the Go project has none."""
        return self.ip_config + names.IPV6_CONFIG

    @property
    def ip_configs(self) -> tuple[str, str]:
        """Of both families."""
        return self.ip_config, self.ip_config6

    @property
    def second_rule(self) -> str:
        """There is one while the key pair is being changed."""
        return self.rule + SECOND

    @staticmethod
    def of(uid: str) -> Names:
        """Our own names, for a configuration that has no others."""
        return Names(rule=uid, ip_config=names.managed(uid), probe_path=f"{names.HEALTH_PATH}{uid}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One configuration as this pool should hold it.

    ``leaving``: nothing of it may stay here, but for what machines ``in_use`` have. ``problem``:
    it cannot be had at the moment (bad spec, refused before); what exists of it stays as it is.
    ``prefix_id`` empty: a managed one.
    ``elsewhere``: it leaves this pool for another one, which uses its managed prefix.
    ``prefix_id6`` empty: no IPv6; ``problem6``: IPv6 cannot be had at the moment, and IPv4 does
    not mind. ``in_use``: machines (provider ids in lower case) whose gateway serves it, or may.
    ``second``: it needs a second rule, on a port of its own; ``port``: the one that its rule must
    have from now on (0: any that it has).
    """

    uid: str
    names: Names
    generation: int = 0
    """Of the object that asks for it."""
    private: bool = False
    prefix_id: str = ""
    prefix_id6: str = ""
    prefix_size: int = 31
    leaving: bool = False
    elsewhere: bool = False
    problem: Problem | None = None
    problem6: Problem | None = None
    in_use: frozenset[str] = frozenset()
    second: bool = False
    port: int = 0
    gives_way: bool = False
    """The cloud refuses every document that carries what it has: it is left out of what is written
    for others."""
    left_out: bool = False
    """It is in no write of the model, to see whether the model is refused because of it; machines
    wait for the answer."""

    def used_by(self, instance: Instance) -> bool:
        """Whether its gateway serves this configuration, or may."""
        return instance.provider_id.lower() in self.in_use

    def carried_by(self, instance: Instance) -> bool:
        """Whether it is leaving, and that machine may still carry packets of it by an address that
        must become nobody else's yet."""
        there = any(name in instance.interface.configs for name in self.names.ip_configs)
        return self.leaving and there and self.used_by(instance)


@dataclass(frozen=True, slots=True)
class Step:
    """An action, and the configurations that it is for."""

    action: Action
    uids: frozenset[str]
