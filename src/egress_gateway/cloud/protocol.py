"""What the controller sees of a cloud and asks of it, in values that name no cloud.

``Cloud.observe`` answers what is there, ``Cloud.apply`` carries out one action. Both are
idempotent: an action whose effect exists already succeeds. What belongs to other people (rules,
ipConfigs, tags, fields that we do not know) is carried through untouched by the implementation.

A value that a write is computed from travels with it: ``base`` is what the cloud answered when it
was observed (document, version). The planner passes it from observation to action and never looks
inside; so ``apply`` needs no ``observe`` before it, and a lost race is a ``Conflict``.

Everything that names the cloud to a person (commands, kinds of resources) comes from ``Advice``.
docs/design/cluster/0013-cloud-border.md says what another cloud implements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal, Protocol

from egress_gateway.cloud.errors import CloudError

PoolKind = Literal["template", "machines", "vanished"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRef:
    """A gateway pool. ``key`` is its name on the load balancer.

    ``template``: machines are made from a model, which has addresses of its own; ``machines``:
    each stands alone; ``vanished``: only the load balancer still knows it.

    ``traces`` are the managed ipConfigs of its model; ``prefix_size`` is what its tag says (None:
    no tag); ``subnet`` is the id of the subnet of its primary ipConfig. ``rolling``: a changed
    model reaches the instances by itself. ``zones``: availability zones of its machines.
    ``unusable``: why no configuration can live here, and what mends that (empty: one can).
    ``machines``: what the provider ids of its machines begin with, in lower case (empty: they have
    nothing in common). ``managed``: the cloud's Kubernetes service has made it. ``unread``: why
    nothing but its names is known.
    """

    key: str
    name: str = ""
    resource_id: str = ""
    resource_group: str = ""
    resource_name: str = ""
    prefix_size: int | None = None
    subnet: str = ""
    kind: PoolKind = "template"
    traces: frozenset[str] = frozenset()
    rolling: bool = False
    unusable: str = ""
    zones: frozenset[str] = frozenset()
    machines: str = ""
    managed: bool = False
    unread: CloudError | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancingRule:
    """A load balancing rule and its probe (both named ``name``). Defaults are the shape that
    the Go project writes, so a rule that somebody edited compares unequal."""

    name: str
    pool: str
    port: int
    probe_path: str
    probe_port: int
    backend_port: int
    frontend: str
    protocol: str = "Udp"
    floating: bool = True
    probe_protocol: str = "Http"
    probe_interval: int = 5
    probe_threshold: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadBalancer:
    """The internal load balancer. ``frontends`` maps a frontend's name to its address (None
    until there is one); ``ports`` are all ports in use per backend pool, other people's too.
    ``failed``: the last write of it was accepted and then failed; ``busy``: one is under way.
    ``unusable``: why no gateway can stand behind it, and what mends that; empty: one can."""

    exists: bool = False
    failed: bool = False
    busy: bool = False
    rules: Mapping[str, BalancingRule] = field(default_factory=dict)
    frontends: Mapping[str, IPv4Address | None] = field(default_factory=dict)
    backends: frozenset[str] = frozenset()
    ports: Mapping[str, frozenset[int]] = field(default_factory=dict)
    unusable: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What an ipConfig got: the private address and, in public mode, the public one."""

    secondary: IPv4Address | IPv6Address | None = None
    public: IPv4Address | IPv6Address | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceSpec:
    """What the document of a model or an instance asks for on its network interface.

    ``configs`` are the managed ipConfigs (name → id of the public IP prefix in lower case, None in
    private mode). ``joined``: the primary ipConfig is in the pool's backend. ``others`` counts the
    ipConfigs that are not ours, ``others6`` those of IPv6 among them."""

    configs: Mapping[str, str | None] = field(default_factory=dict)
    joined: bool = False
    others: int = 1
    others6: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One gateway machine, by the document that carries its ipConfigs. ``provider_id`` is its
    Node's ``spec.providerID``; empty: the NIC belongs to no machine, so it can serve nobody.
    ``interface`` is what that document asks for, ``addresses`` what the network interface has.
    """

    id: str
    name: str
    provider_id: str
    state: str
    interface: InterfaceSpec
    primary: IPv4Address | None = None
    addresses: Mapping[str, Address] = field(default_factory=dict)
    base: object = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicAddress:
    """A public IP address that we made for one NIC of a pool of machines. ``prefix`` is the id
    of its prefix (lower case), ``instance`` the NIC's id (empty: it is gone), ``config`` the
    ipConfig for which it was made, as far as that can be told, ``attached`` whether an ipConfig
    holds it. No ipConfig may refer to one that is not ``ready``."""

    name: str
    prefix: str
    instance: str = ""
    config: str = ""
    attached: bool = False
    state: str = "Succeeded"

    @property
    def going(self) -> bool:
        """Whether the cloud is deleting it."""
        return self.state == "Deleting"

    @property
    def ready(self) -> bool:
        """Whether it can be given to a machine: it is made, and no write of it is under way."""
        return self.state == "Succeeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """A public IP prefix of either family: ``size`` is its length in bits, ``network`` its
    addresses, ``used`` whether the cloud knows of public addresses made from it. ``unusable``:
    why the gateway pools cannot take addresses from it, and what mends that."""

    id: str
    name: str
    size: int
    network: IPv4Network | IPv6Network | None = None
    state: str = "Succeeded"
    used: bool = False
    unusable: str = ""
    zones: frozenset[str] = frozenset()
    """Availability zones of its addresses; empty: of no zone."""
    unread: CloudError | None = field(default=None, compare=False)
    """Why nothing but its name is known."""

    @property
    def going(self) -> bool:
        """Whether the cloud is deleting it."""
        return self.state == "Deleting"

    @property
    def ipv6(self) -> bool:
        """No IPv4 prefix is so long, and nobody gives away IPv6 ones that are so short."""
        return self.size > 32


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """One pool as it is. ``model`` is its template's; of a pool of machines it sums up the NICs.
    ``prefixes`` is keyed by id in lower case; a prefix that cannot be read is the error that says
    why. ``managed`` are the prefixes that we made, by name; ``publics`` the public addresses that
    we made for this pool's NICs (a template makes its own). ``ipv6``: whether the pool's subnet has
    IPv6 addresses (None: not asked, or unknown). ``busy``: somebody is writing the template, and
    meanwhile its machines take no write either."""

    ref: PoolRef
    model: InterfaceSpec = InterfaceSpec()
    instances: tuple[Instance, ...] = ()
    balancer: LoadBalancer = LoadBalancer()
    prefixes: Mapping[str, Prefix | CloudError] = field(default_factory=dict)
    managed: Mapping[str, Prefix] = field(default_factory=dict)
    publics: tuple[PublicAddress, ...] = ()
    ipv6: bool | None = None
    busy: bool = False
    base: object = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatePrefix:
    """Makes a managed public IPv4 prefix; ``size`` is its prefix length in bits."""

    name: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletePrefix:
    """Deletes a managed public IP prefix."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeAddresses:
    """Makes the public addresses that ``configs`` (name → id of the prefix) will need on a
    machine, or makes them well, without giving them to it."""

    pool: PoolRef
    instance: str
    configs: tuple[tuple[str, str], ...]
    base: object = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteAddress:
    """Deletes a public address that we made."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteBalancer:
    """Our rules of one pool become exactly ``rules``; ``names`` are all rule names that we own.
    ``present`` False also removes the pool's frontend and backend, and the load balancer itself
    when nothing is left on it."""

    pool: PoolRef
    rules: tuple[BalancingRule, ...]
    names: frozenset[str]
    present: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteModel:
    """The managed ipConfigs in ``owned`` become exactly those in ``configs``."""

    pool: PoolRef
    configs: Mapping[str, str | None]
    owned: frozenset[str]
    joined: bool
    base: object = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteInstance:
    """The same for one machine; public addresses that its ipConfigs need are made first."""

    pool: PoolRef
    instance: str
    configs: Mapping[str, str | None]
    owned: frozenset[str]
    joined: bool
    base: object = field(repr=False, compare=False)


Action = (
    CreatePrefix
    | DeletePrefix
    | MakeAddresses
    | DeleteAddress
    | WriteBalancer
    | WriteModel
    | WriteInstance
)


class Advice(Protocol):
    """What a person does, in the cloud's own words and commands; each a part of a sentence."""

    def create_pool(self, name: str) -> str:
        """Makes a gateway pool of this name."""
        ...

    def no_gateway_pool(self) -> str:
        """Why a pool is none for gateways, and what mends it."""
        ...

    def no_such_pool(self, group: str, name: str) -> str:
        """The pool that ``spec.gatewayVmssProfile`` names does not exist."""
        ...

    def create_prefix(self, size: int, *, ipv6: bool) -> str:
        """Makes a public IP prefix of ``size`` bits."""
        ...

    def add_ipv6(self) -> str:
        """Gives a subnet IPv6 addresses."""
        ...

    def stop_predecessor(self) -> str:
        """Ends the cloud's own implementation of this feature in the cluster."""
        ...


class Cloud(Protocol):
    """All methods raise ``CloudError``."""

    @property
    def advice(self) -> Advice:
        """What mends things in this cloud, in words."""

    @property
    def resource_group(self) -> str:
        """Where pools named by tag, and managed prefixes, live."""
        ...

    def managed_prefix_id(self, name: str) -> str:
        """Id (lower case) that a managed prefix of this name has or will have."""
        ...

    async def pools(self) -> list[PoolRef]:
        """All pools of the resource group."""
        ...

    async def pools_of(self, group: str) -> list[PoolRef]:
        """The pools of another group; none if that does not exist."""
        ...

    async def balancer(self) -> LoadBalancer:
        """The load balancer of all pools. Raises ``CloudError``."""

    async def observe(self, pool: PoolRef, prefixes: Iterable[str]) -> PoolState:
        """The pool, the load balancer, the managed prefixes and those named by ``prefixes``; a
        prefix that lies where it cannot be used is an ``OutOfReach``."""
        ...

    async def has_ipv6(self, subnet: str) -> bool | None:
        """Whether a subnet (by its id) has IPv6 addresses; None if we may not read it."""
        ...

    async def apply(self, action: Action) -> None:
        """Carries out one action, and may be repeated. Raises ``CloudError``."""

    async def close(self) -> None:
        """Ends open connections."""
