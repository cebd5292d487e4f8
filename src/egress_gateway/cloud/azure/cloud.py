"""``Cloud`` on Azure: gateway pools (scale sets, or machines) behind one internal load balancer.

The load balancer is one document for all pools. Writes to it are read-modify-write under a lock
with its ETag, so that neither another pool nor another program loses an update. A scale set's
network profile, an instance's and a NIC are rewritten from the document that the action carries,
under its ETag: who wrote in between keeps what he wrote, and we plan anew.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final

from egress_gateway.api import names
from egress_gateway.api.validation import parse_prefix_id
from egress_gateway.cloud import errors
from egress_gateway.cloud.azure import documents, forms
from egress_gateway.cloud.azure.account.config import AzureConfig
from egress_gateway.cloud.azure.advice import AzureAdvice
from egress_gateway.cloud.azure.balancer import read_balancer, write_balancer
from egress_gateway.cloud.azure.machinepools import MachinePools
from egress_gateway.cloud.azure.machines import summary
from egress_gateway.cloud.azure.requests.client import ArmClient, limited
from egress_gateway.cloud.azure.requests.shapes import (
    Json,
    document_of,
    group_of,
    id_name,
    identified,
    named,
    properties_of,
    strings_of,
)
from egress_gateway.cloud.protocol import (
    Action,
    CreatePrefix,
    DeleteAddress,
    DeletePrefix,
    Instance,
    InterfaceSpec,
    LoadBalancer,
    MakeAddresses,
    PoolRef,
    PoolState,
    Prefix,
    PublicAddress,
    WriteBalancer,
    WriteInstance,
    WriteModel,
)

PREFIX_SECONDS: Final = 1800.0
"""How long a brought prefix is believed. Its size cannot change, and Azure does not delete it
under our addresses; a write that is refused forgets all of them."""


NAMED_SECONDS: Final = 15.0
"""How long a look at what a configuration names (a prefix, a group) may take: everybody else waits
for it."""


@dataclass(frozen=True, slots=True)
class _Machines:
    """The machines of a pool. ``base``: the scale set's document; ``busy``: it is being written."""

    ref: PoolRef
    model: InterfaceSpec
    instances: tuple[Instance, ...] = ()
    publics: tuple[PublicAddress, ...] = ()
    busy: bool = False
    base: object = None


class AzureCloud:
    """Implements ``egress_gateway.cloud.protocol.Cloud``."""

    def __init__(
        self,
        config: AzureConfig,
        client: ArmClient | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._arm = client or ArmClient(config)
        self._machine_pools = MachinePools(
            self._arm,
            group=config.resource_group,
            location=config.location,
            address_path=f"{self._network_path}/publicIPAddresses",
        )
        self._balancer_lock = asyncio.Lock()
        self._clock = clock
        self._prefixes: dict[str, tuple[float, Prefix]] = {}

    @property
    def advice(self) -> AzureAdvice:
        """The same for every cluster: it depends on no setting."""
        return AzureAdvice()

    @property
    def resource_group(self) -> str:
        """``resourceGroup`` of the Azure file: on AKS the group of the nodes."""
        return self._config.resource_group

    @property
    def _balancer_id(self) -> str:
        return (
            f"/subscriptions/{self._config.subscription_id}"
            f"/resourceGroups/{self._config.balancer_group}"
            f"/providers/Microsoft.Network/loadBalancers/{self._config.load_balancer}"
        )

    def _backend_id(self, pool: PoolRef) -> str:
        return f"{self._balancer_id}/backendAddressPools/{pool.key}"

    @property
    def _network_path(self) -> str:
        return (
            f"/subscriptions/{self._config.subscription_id}/resourceGroups/{self.resource_group}"
            "/providers/Microsoft.Network"
        )

    def managed_prefix_id(self, name: str) -> str:
        """Needs no request: managed prefixes live in ``resource_group`` under their own names."""
        return f"{self._network_path}/publicIPPrefixes/{name}"

    async def close(self) -> None:
        """Closes connections. Writes that Azure has accepted go on there."""
        await self._arm.close()

    # --- observe -------------------------------------------------------------------------

    async def pools(self) -> list[PoolRef]:
        """Scale sets of ``resource_group`` with a pool's tag, and pools that its NICs tell of."""
        found = await self.pools_of(self.resource_group) + await self._machine_pools.pools()
        return [pool for pool in found if pool.key]

    async def pools_of(self, group: str) -> list[PoolRef]:
        """Scale sets of another group: ``gatewayVmssProfile`` may name any. A group that does not
        exist has none; reading it ends after ``NAMED_SECONDS``, so that others need not wait."""
        look = self._arm.scale_sets(group)
        try:
            if group != self.resource_group:
                look = limited("read", group, look, NAMED_SECONDS)
            listed = await look
        except errors.NotFound:
            return []  # a group that does not exist holds no pool
        found = [documents.known_pool(scale_set) for scale_set in identified(listed)]
        return [pool for pool in found if pool.key]

    async def balancer(self) -> LoadBalancer:
        """Read each time: others write the same load balancer."""
        document = await self._read_balancer()
        return read_balancer(document, location=self._config.location)

    async def _read_balancer(self) -> Json | None:
        return await self._arm.balancer(self._config.balancer_group, self._config.load_balancer)

    async def observe(self, pool: PoolRef, prefixes: Iterable[str]) -> PoolState:
        """All requests are sent side by side, and all have ended when one of them raises."""
        async with asyncio.TaskGroup() as group:
            balancer = group.create_task(_caught(self.balancer()))
            machines = group.create_task(_caught(self._machines(pool)))
            managed = group.create_task(_caught(self._arm.prefixes(self.resource_group)))
            brought = {
                prefix.lower(): group.create_task(_caught(self._prefix(prefix)))
                for prefix in prefixes
            }
        found: _Machines = _value(machines.result())
        prefixes_here = identified(_value(managed.result()))
        listed = [documents.managed_prefix(p) for p in prefixes_here if _managed(p)]
        return PoolState(
            ref=found.ref,
            model=found.model,
            instances=found.instances,
            balancer=_value(balancer.result()),
            prefixes={key: task.result() for key, task in brought.items()},
            managed={prefix.name: prefix for prefix in listed},
            publics=found.publics,
            busy=found.busy,
            base=found.base,
        )

    async def has_ipv6(self, subnet: str) -> bool | None:
        """None also where this identity may not read subnets."""
        parts = subnet.split("/")
        if len(parts) < 11:
            return None
        try:
            found = await self._arm.subnet(group_of(subnet), parts[8], parts[10])
            forms.read(found, forms.SUBNET)
        except errors.CloudError:
            # Not every identity may read subnets; what Azure then refuses, it names.
            return None
        properties = properties_of(found)
        listed = strings_of(properties.get("addressPrefixes")) or strings_of(
            [properties.get("addressPrefix")]
        )
        return any(":" in prefix for prefix in listed)

    async def _prefix(self, prefix_id: str) -> Prefix:
        read, known = self._prefixes.get(prefix_id.lower(), (-inf, None))
        if known is not None and self._clock() < read + PREFIX_SECONDS:
            return known
        found = await self._read_prefix(prefix_id)
        if found.network is not None:
            self._prefixes[prefix_id.lower()] = (self._clock(), found)
        return found

    async def _read_prefix(self, prefix_id: str) -> Prefix:
        parsed = parse_prefix_id(prefix_id)
        ours = self._config.subscription_id
        if parsed is None or parsed.subscription.lower() != ours.lower():
            raise errors.OutOfReach(
                f"public IP prefix {prefix_id} is not in the cluster's subscription {ours}",
                resource=prefix_id,
                hint="use a prefix of that subscription",
            )
        look = self._arm.prefix(parsed.resource_group, parsed.name, prefix_id)
        document = await limited("read", prefix_id, look, NAMED_SECONDS)
        return documents.read_prefix(named(document, prefix_id), location=self._config.location)

    async def _machines(self, pool: PoolRef) -> _Machines:
        if pool.kind == "template":
            return await self._scale_set(pool)
        ref, found, publics = await self._machine_pools.observe(pool, self._backend_id(pool))
        return _Machines(ref, summary(found), found, publics)

    async def _scale_set(self, pool: PoolRef) -> _Machines:
        group, name = pool.resource_group, pool.resource_name
        scale_set = await self._arm.scale_set(group, name)
        if scale_set is None:
            return _Machines(replace(pool, kind="vanished"), InterfaceSpec(others=0))
        async with asyncio.TaskGroup() as tasks:
            listed = tasks.create_task(_caught(self._arm.instances(group, name)))
            interfaces = tasks.create_task(_caught(self._arm.interfaces(group, name)))
            publics = tasks.create_task(_caught(self._arm.public_addresses(group, name)))
        scale_set = named(scale_set, pool.resource_id)
        ref = replace(documents.read_pool(scale_set), name=pool.name)
        nics = documents.model_nics(scale_set)
        backend = self._backend_id(pool)
        instances = _instances(
            _value(listed.result()),
            _value(interfaces.result()),
            _value(publics.result()),
            backend,
        )
        model = documents.read_interface(nics, backend)
        busy = properties_of(scale_set).get("provisioningState") in ("Updating", "Migrating")
        return _Machines(ref, model, instances, busy=busy, base=scale_set)

    # --- apply ---------------------------------------------------------------------------

    async def apply(self, action: Action) -> None:
        """One action is one write of one document, and for a machine its public addresses before
        that. What was remembered of prefixes is read again after an error."""
        try:
            await self._apply(action)
        except errors.CloudError:
            self._prefixes.clear()  # what we know of one of them may be why
            raise

    async def _apply(self, action: Action) -> None:
        match action:
            case CreatePrefix():
                body = documents.new_prefix(
                    action.name, action.size, self._config.location, self._config.zones
                )
                await self._arm.put_prefix(self.resource_group, action.name, body)
            case DeletePrefix():
                await self._delete_prefix(action.name)
            case MakeAddresses():
                await self._machine_pools.make_addresses(action)
            case DeleteAddress():
                await self._machine_pools.delete_address(action.name)
            case WriteBalancer():
                await self._write_balancer(action)
            case WriteModel():
                await self._write_model(action)
            case WriteInstance() if action.pool.kind == "machines":
                await self._machine_pools.write(action, self._backend_id(action.pool))
            case WriteInstance():
                await self._write_instance(action)

    async def _delete_prefix(self, name: str) -> None:
        try:
            await self._arm.delete_prefix(self.resource_group, name)
        except errors.NotFound:
            return

    async def _write_balancer(self, action: WriteBalancer) -> None:
        group, name = self._config.balancer_group, self._config.load_balancer
        async with self._balancer_lock:
            before = await self._read_balancer()
            _check_ports(read_balancer(before), action)
            after = write_balancer(
                before,
                action,
                balancer_id=self._balancer_id,
                location=self._config.location,
                subnet=self._config.subnet or action.pool.subnet,
                zones=self._config.zones,
            )
            if after is not None:
                etag = before.get("etag") if before else None
                await self._arm.put_balancer(group, name, after, etag)
            elif before is not None:
                await self._arm.delete_balancer(group, name)

    async def _write_model(self, action: WriteModel) -> None:
        before = document_of(action.base)
        nics = self._rewritten(documents.model_nics(before), action)
        profile = {"networkProfile": {"networkInterfaceConfigurations": nics}}
        body: Json = {
            "location": self._config.location,
            "properties": {"virtualMachineProfile": profile},
        }
        pool = action.pool
        try:
            await self._arm.put_scale_set(
                pool.resource_group, pool.resource_name, body, before.get("etag")
            )
        except errors.Failed as error:
            if _asks_for_sku(error):
                raise errors.Conflict(
                    f"scale set {pool.resource_name} has gone in the meantime", code=error.code
                ) from error
            raise

    async def _write_instance(self, action: WriteInstance) -> None:
        pool = action.pool
        before = document_of(action.base)
        nics = self._rewritten(documents.instance_nics(before), action)
        body: Json = {
            "location": before.get("location") or self._config.location,
            "properties": {"networkProfileConfiguration": {"networkInterfaceConfigurations": nics}},
        }
        number = before.get("instanceId") or id_name(before["id"])
        await self._arm.put_instance(
            pool.resource_group, pool.resource_name, number, body, before.get("etag")
        )

    def _rewritten(self, nics: list[Json], action: WriteModel | WriteInstance) -> list[Json]:
        return documents.write_interface(
            nics,
            configs=action.configs,
            owned=action.owned,
            joined=action.joined,
            backend_id=self._backend_id(action.pool),
            owner=id_name(action.instance)
            if isinstance(action, WriteInstance)
            else action.pool.resource_name,
        )


def _asks_for_sku(error: errors.CloudError) -> bool:
    """A write of a part is one of a whole new scale set if there is none: Azure then misses what
    only a whole one has."""
    return error.code == "InvalidParameter" and "'sku'" in error.message


def _managed(prefix: Json) -> bool:
    return id_name(prefix["id"]).startswith(names.MANAGED_PREFIX)


def _instances(
    listed: list[Json], interfaces: list[Json], publics: list[Json], backend: str
) -> tuple[Instance, ...]:
    by_machine: dict[str, list[Json]] = {}
    for nic in (forms.read(each, forms.NIC) for each in interfaces):
        machine = ((nic.get("properties") or {}).get("virtualMachine") or {}).get("id") or ""
        by_machine.setdefault(machine.lower(), []).append(nic)
    addresses = {
        item["id"].lower(): (item.get("properties") or {}).get("ipAddress") or ""
        for item in forms.listed(publics, forms.ADDRESS)
    }
    return tuple(
        documents.read_instance(
            instance,
            documents.primary(by_machine.get(instance["id"].lower(), [])),
            addresses,
            backend,
        )
        for instance in identified(listed)
    )


def _check_ports(now: LoadBalancer, action: WriteBalancer) -> None:
    """Ports were chosen from an earlier reading; somebody may have taken one meanwhile."""
    wanted = {rule.port: rule.name for rule in action.rules}
    for rule in now.rules.values():
        if rule.pool != action.pool.key or rule.name in action.names:
            continue
        if rule.port in wanted:
            raise errors.Conflict(
                f"port {rule.port} of the load balancer was taken in the meantime"
            )


async def _caught(call: Any) -> Any:
    """The result, or the cloud's refusal as a value: siblings go on."""
    try:
        return await call
    except errors.CloudError as error:
        return error


def _value(result: Any) -> Any:
    if isinstance(result, errors.CloudError):
        raise result
    return result
