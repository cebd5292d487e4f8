"""Reading and writing pools made of machines: thin calls around ``azure.machines``.

A NIC is rewritten from what was read in the same pass, under its ETag. Public addresses exist
before the NIC refers to them; those that it leaves behind are found again by the next look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from egress_gateway.cloud import errors
from egress_gateway.cloud.azure import forms, machines
from egress_gateway.cloud.azure.requests.client import ArmClient
from egress_gateway.cloud.azure.requests.shapes import Json, identified, properties_of
from egress_gateway.cloud.protocol import (
    Instance,
    MakeAddresses,
    PoolRef,
    PublicAddress,
    WriteInstance,
)

AT_ONCE: Final = 8
"""Public addresses made at the same time for one NIC."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What a write of a machine is computed from: its NIC and the public addresses (by id in
    lower case), as one ``observe`` read them."""

    nic: Json
    publics: Mapping[str, Json]


def observed(base: object) -> Observed:
    """Raises ``TypeError`` for what no ``observe`` of ours made."""
    if not isinstance(base, Observed):
        raise TypeError(f"an action without the NIC that it was computed from: {base!r}")
    return base


class MachinePools:
    """``location`` and ``address_id`` are those of what is made."""

    def __init__(self, client: ArmClient, *, group: str, location: str, address_path: str) -> None:
        self._arm = client
        self._group = group
        self._location = location
        self._address_path = address_path

    async def pools(self) -> list[PoolRef]:
        """As the NICs of the group tell: such a pool is no resource of its own."""
        return machines.read_pools(identified(await self._arm.machine_nics(self._group)))

    async def observe(
        self, pool: PoolRef, backend_id: str
    ) -> tuple[PoolRef, tuple[Instance, ...], tuple[PublicAddress, ...]]:
        """A pool without any NIC comes back as ``vanished``."""
        nics, publics = await self._listed(pool)
        made = machines.read_publics(pool, nics, publics.values())
        if not nics:
            return replace(pool, kind="vanished"), (), made
        found = tuple(
            replace(machines.read_machine(nic, publics, backend_id), base=Observed(nic, publics))
            for nic in nics
        )
        return machines.read_pool(pool.name, nics), found, made

    async def _listed(self, pool: PoolRef) -> tuple[list[Json], dict[str, Json]]:
        # NB: addresses first: an address made in between would look unattached, so unwanted.
        addresses = await self._arm.addresses(self._group)
        nics = [] if pool.kind == "vanished" else await self._arm.machine_nics(self._group)
        tagged = forms.listed(nics, forms.TAGGED)
        here = [nic for nic in tagged if machines.gateway_pool(nic) == pool.name]
        known = forms.listed(addresses, forms.ADDRESS)
        return forms.listed(here, forms.NIC), {item["id"].lower(): item for item in known}

    async def write(self, action: WriteInstance, backend_id: str) -> None:
        """Rewrites a machine's NIC, and makes the addresses that it needs first."""
        nic = observed(action.base).nic
        configs = await self._with_addresses(action.pool, observed(action.base), action.configs)
        document = machines.write_nic(
            nic,
            configs=configs,
            owned=action.owned,
            joined=action.joined,
            backend_id=backend_id,
        )
        await self._arm.put_nic(self._group, nic["name"], document, nic.get("etag"))

    async def make_addresses(self, action: MakeAddresses) -> None:
        """Makes the public IP addresses only. The NIC gets them by the write that follows."""
        await self._with_addresses(action.pool, observed(action.base), dict(action.configs))

    async def _with_addresses(
        self, pool: PoolRef, base: Observed, configs: Mapping[str, str | None]
    ) -> dict[str, str | None]:
        """ipConfig → id of its public address, made if need be."""
        nic, publics = base.nic, base.publics
        result: dict[str, str | None] = {}
        missing: dict[str, tuple[str, str]] = {}
        failed: list[Json] = []
        for config, prefix in configs.items():
            if prefix is None:
                result[config] = None
                continue
            name, found = machines.address_for(
                config, prefix, nic, publics, {made for made, _ in missing.values()}
            )
            result[config] = found["id"] if found else f"{self._address_path}/{name}"
            if found is None:
                missing[config] = (name, prefix)
            elif properties_of(found).get("provisioningState") == "Failed":
                failed.append(found)
        for item in failed:  # nothing may refer to it until the same write has succeeded
            await self._arm.put_address(self._group, item["name"], machines.written_again(item))
        await self._make(pool, missing)
        return result

    async def _make(self, pool: PoolRef, missing: Mapping[str, tuple[str, str]]) -> None:
        gate = asyncio.Semaphore(AT_ONCE)

        async def make(config: str, name: str, prefix: str) -> None:
            body = machines.new_address(
                name, prefix, location=self._location, pool=pool.key, config=config
            )
            async with gate:
                await self._arm.put_address(self._group, name, body)

        outcomes = await asyncio.gather(
            *(make(config, name, prefix) for config, (name, prefix) in missing.items()),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def delete_address(self, name: str) -> None:
        """Nothing if it is gone already."""
        try:
            await self._arm.delete_address(self._group, name)
        except errors.NotFound:
            return
