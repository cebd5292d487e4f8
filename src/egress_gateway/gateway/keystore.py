"""Private keys of the served configurations, each from its own Secret.

The agent may read exactly the Secrets that the controller names in a Role, so it asks for one at a
time and never lists. The name is derived from the configuration's UID: no reference inside an
object is ever followed. What was read once is kept while the API server is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from egress_gateway.api import keysecret, names
from egress_gateway.gateway.serving import Listed, key_mismatch, keys_of
from egress_gateway.kube import errors
from egress_gateway.kube.client import Client
from egress_gateway.kube.resources import SECRETS

_AT_ONCE: Final = 16


class KeyStore:
    """The private keys of the configurations served here, each read from its Secret."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._private: dict[str, str] = {}
        self._second: dict[str, str] = {}

    @property
    def second(self) -> dict[str, str]:
        """By uid, the private keys of second servers: of pairs that are being changed."""
        return dict(self._second)

    async def refresh(self, wanted: Iterable[Listed]) -> tuple[dict[str, str], dict[str, str]]:
        """(private keys, problems) by uid. Asks only for keys that are missing or whose public
        half is not the one the status names."""
        kept = list(wanted)
        uids = {one.uid for one in kept}
        self._private = {uid: key for uid, key in self._private.items() if uid in uids}
        seconds = {one.uid for one in kept if one.second}
        self._second = {uid: key for uid, key in self._second.items() if uid in seconds}
        problems: dict[str, str] = {}
        limit = asyncio.Semaphore(_AT_ONCE)

        async def ask(one: Listed) -> None:
            async with limit:
                try:
                    first, second = keys_of(one, await self._read(one.uid))
                    if first is not None:
                        self._private[one.uid] = first
                    if second is not None:
                        self._second[one.uid] = second
                except (errors.ApiError, ValueError) as error:
                    problems[one.uid] = str(error)

        async with asyncio.TaskGroup() as group:
            for one in kept:
                known, second = self._private.get(one.uid), self._second.get(one.uid)
                if key_mismatch(one, known, second):
                    group.create_task(ask(one))
        return dict(self._private), problems

    async def _read(self, uid: str) -> list[str]:
        name = names.key_secret(uid)
        where = f"Secret {self._namespace}/{name}"
        try:
            secret = await self._client.get(SECRETS, name, self._namespace)
        except errors.NotFound:
            raise ValueError(f"{where} does not exist; the controller makes it") from None
        except errors.Forbidden as error:
            raise ValueError(
                f"{where} may not be read ({error}); the controller adds it to the Role "
                "egress-gateway-keys of this agent's account"
            ) from None
        try:
            return keysecret.private_keys(secret.data)
        except ValueError as error:
            raise ValueError(
                f"{where}: {error}; delete it and the controller makes a new pair"
            ) from None
