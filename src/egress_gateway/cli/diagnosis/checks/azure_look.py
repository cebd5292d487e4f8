"""Reads what ``check --pre`` judges of Azure. It changes nothing.

Guarantee: on a person's machine the metadata service (169.254.169.254) is never asked. A managed or
workload identity is the machine's or the pod's, not a person's: with a file that names one, the
person's own sign-in of ``az`` is used, and the rights that are judged are said to be theirs.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
from azure.identity import CredentialUnavailableError

from egress_gateway.cli.diagnosis.checks.azure import (
    IN_GROUP,
    ON_PREFIX,
    ON_SUBNET,
    AzureBefore,
    FoundPrefix,
    Permission,
    Room,
    Usage,
    usable,
)
from egress_gateway.cloud.azure import forms
from egress_gateway.cloud.azure.account import config as azure_config
from egress_gateway.cloud.azure.account.config import AzureConfig
from egress_gateway.cloud.azure.account.credentials import credential
from egress_gateway.cloud.azure.documents import known_pool
from egress_gateway.cloud.azure.requests.arm import ResourceManager
from egress_gateway.cloud.azure.requests.pacing import Pace
from egress_gateway.cloud.azure.requests.shapes import Json, identified, properties_of, strings_of
from egress_gateway.cloud.errors import CloudError

T = TypeVar("T")
_AUTHORIZATION: Final = "2022-04-01"
_NETWORK: Final = "2025-05-01"
_COMPUTE: Final = "2025-04-01"


async def look(
    file: Path, prefixes: Sequence[str], *, as_me: bool, here: bool = False
) -> tuple[AzureBefore, list[str]]:
    """What there is to see, and what is not. ``here``: this is where the identity of ``file`` is,
    and it is asked only whether Azure takes it, and for its rights on ``prefixes``. Raises
    ``cloud.errors.ConfigError``."""
    # The library logs what it raises: a person reads it once.
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    config = azure_config.load(file)
    unseen: list[str] = []
    elsewhere = (config.use_managed_identity or config.use_workload_identity) and not here
    own = as_me or elsewhere
    if own and not as_me:
        unseen.append(
            "rights of the identity that azure.json names: it is not here, so yours are judged"
        )
    signed_in = _own(config) if own else credential(config)
    manager = ResourceManager(config, signed_in, Pace())
    try:
        who = "you" if own else f"the identity {config.client_id}".strip()
        looking = AzureLook(config, manager, unseen)
        reading = looking.rights if here else looking.everything
        return await reading(who, prefixes), unseen
    finally:
        await manager.close()
        await signed_in.close()


def _own(config: AzureConfig) -> Any:
    from azure.identity.aio import AzureCliCredential

    return AzureCliCredential(tenant_id=config.tenant_id, process_timeout=30)


class _Name(msgspec.Struct):
    value: str


class _Quota(msgspec.Struct):
    name: _Name
    current: int = msgspec.field(name="currentValue")
    limit: int


class AzureLook:
    """One look through ``manager``; what is not to be seen goes into ``unseen``."""

    def __init__(self, config: AzureConfig, manager: ResourceManager, unseen: list[str]) -> None:
        self._config = config
        self._manager = manager
        self._unseen = unseen
        self._refused = ""
        base = config.endpoints.resource_manager
        self._base = base
        self._subscription = f"/subscriptions/{config.subscription_id}"
        self._group = f"{self._subscription}/resourceGroups/{config.resource_group}"

    async def everything(self, who: str, prefixes: Sequence[str]) -> AzureBefore:
        """What Azure holds before an installation: pools, rights of ``who``, ``prefixes`` (ids). A
        look that is refused is part of the answer."""
        sets = await self._list("scale sets", f"{self._group}{_SETS}", _COMPUTE)
        known = [(known_pool(scale_set), scale_set) for scale_set in identified(sets)]
        self._unseen += [str(pool.unread) for pool, _ in known if pool.unread]
        gateways = [
            (pool, scale_set, pool.prefix_size)
            for pool, scale_set in known
            if pool.prefix_size is not None and not pool.unread
        ]
        pools = {pool.resource_name: size for pool, _, size in gateways}
        subnets = {self._config.subnet, *(pool.subnet for pool, _, _ in gateways)} - {""}
        wanted = [(self._group, IN_GROUP), *((p, ON_PREFIX) for p in prefixes if "/" in p)]
        outside = f"{self._group}/".lower()
        wanted += [(s, ON_SUBNET) for s in sorted(subnets) if not s.lower().startswith(outside)]
        facts = AzureBefore(
            who=who,
            subscription=self._config.subscription_id,
            location=self._config.location,
            rights=[
                (scope, needed, found)
                for scope, needed in wanted
                if (found := await self._rights(scope)) is not None
            ],
            usages=await self._usages(),
            rooms=[room for s in sorted(subnets) if (room := await self._room(s)) is not None],
            pools=pools,
            nodes=max(
                (int((s.get("sku") or {}).get("capacity") or 0) for _, s, _ in gateways), default=0
            ),
            prefixes=[FoundPrefix(id=p, document=await self._prefix(p)) for p in prefixes],
        )
        return msgspec.structs.replace(facts, refused=self._refused)

    async def rights(self, who: str, prefixes: Sequence[str]) -> AzureBefore:
        """Whether Azure takes ``who``, and what it lets them do with ``prefixes`` (ids)."""
        await self._rights(self._group)
        found = await asyncio.gather(*map(self._rights, prefixes))
        return AzureBefore(
            who=who,
            subscription=self._config.subscription_id,
            location=self._config.location,
            rights=[
                (scope, ON_PREFIX, granted)
                for scope, granted in zip(prefixes, found, strict=True)
                if granted is not None
            ],
            refused=self._refused,
        )

    async def _tried(self, what: str, reading: Awaitable[T]) -> T | None:
        try:
            return await reading
        except (AzureError, CloudError) as error:
            if isinstance(error, ClientAuthenticationError) and not isinstance(
                error, CredentialUnavailableError
            ):
                self._refused = str(error.message).strip().splitlines()[0]
                return None  # the finding says it once
            told = str(getattr(error, "message", error)).strip().splitlines()
            self._unseen.append(f"{what}: {told[0] if told else type(error).__name__}")
            return None

    async def _list(self, what: str, path: str, version: str) -> list[dict[str, Any]]:
        found: Any = await self._tried(what, self._manager.list(f"{self._base}{path}", version))
        return found or []

    async def _rights(self, scope: str) -> list[Permission] | None:
        """None where nobody can tell. Who may not even ask for his rights has none there."""
        path = f"{self._base}{scope}/providers/Microsoft.Authorization/permissions"

        async def asked() -> list[dict[str, Any]]:
            try:
                return await self._manager.list(path, _AUTHORIZATION)
            except HttpResponseError as error:
                if error.status_code == 403:
                    return []
                raise

        found = await self._tried(f"rights at {scope}", asked())
        try:
            return None if found is None else msgspec.convert(found, list[Permission])
        except msgspec.ValidationError as error:
            self._unseen.append(f"rights at {scope}: {error}")
            return None

    async def _usages(self) -> list[Usage]:
        path = f"/providers/Microsoft.Network/locations/{self._config.location}/usages"
        found = await self._list("quota", f"{self._subscription}{path}", _NETWORK)
        return [usage for each in found if (usage := self._usage(each))]

    def _usage(self, found: Json) -> Usage | None:
        """None for what counts nothing."""
        try:
            told = msgspec.convert(found, _Quota)
        except msgspec.ValidationError as error:
            self._unseen.append(f"quota: {error}")
            return None
        return Usage(name=told.name.value, used=told.current, limit=told.limit)

    async def _room(self, subnet: str) -> Room | None:
        found = await self._read(f"subnet {subnet}", subnet, forms.SUBNET)
        if found is None:
            return None
        has = properties_of(found)
        texts = strings_of([has.get("addressPrefix")]) or strings_of(has.get("addressPrefixes"))
        four = [n for n in map(ipaddress.ip_network, texts) if n.version == 4]
        used = len(has.get("ipConfigurations") or [])
        return Room(subnet=subnet, used=used, size=usable([n.num_addresses for n in four]))

    async def _prefix(self, prefix: str) -> dict[str, Any] | None:
        if not prefix.lower().startswith(f"{self._subscription}/".lower()):
            return None
        return await self._read(f"prefix {prefix}", prefix, forms.PREFIX)

    async def _read(self, what: str, resource: str, form: Any) -> Json | None:
        async def read() -> Json:
            return forms.read(await self._manager.get(f"{self._base}{resource}", _NETWORK), form)

        return await self._tried(what, read())


_SETS: Final = "/providers/Microsoft.Compute/virtualMachineScaleSets"
