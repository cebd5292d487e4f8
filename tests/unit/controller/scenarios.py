"""Plays the scenarios of ``scenarios.yaml``: the real reconciler on any Azure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path
from typing import Any, Protocol

import yaml

from egress_gateway.cloud.azure.cloud import AzureCloud
from tests.unit.controller.test_reconcile import World

SCENARIOS: list[dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("scenarios.yaml").read_text()
)
OURS = "egressgateway-"
NO_PREFIX = "none"
EVERY_PREFIX = "every prefix"
ROUNDS = 12
"""Looks at everything until an ``expect`` gives up; exchanges of addresses take some."""


class Azure(Protocol):
    """What a scenario does to Azure, and what it looks for there."""

    def cloud(self) -> AzureCloud: ...
    async def make_pool(self, name: str, *, machines: int, size: int, scale_set: bool) -> None: ...
    async def make_prefix(self, name: str, *, size: int, role: bool) -> None: ...
    async def give_role(self, name: str) -> None: ...
    def prefix_id(self, name: str) -> str: ...
    async def network(self, prefix_id: str) -> str: ...
    def managed_prefix_id(self, name: str) -> str: ...
    async def managed_prefixes(self) -> set[str]: ...
    async def carried(self, pool: str) -> set[str]: ...
    async def has_balancer(self) -> bool: ...
    def writes(self) -> int: ...


class Play:
    """One scenario."""

    def __init__(self, azure: Azure) -> None:
        self._azure = azure
        self._world = World(azure)
        self._writes = 0

    async def run(self, steps: Sequence[dict[str, Any]]) -> None:
        for step in steps:
            ((word, argument),) = step.items()
            await self._step(word, argument)

    async def _step(self, word: str, argument: Any) -> None:
        cluster = self._world.cluster
        match word:
            case "gateway pool":
                await self._pool(**_words(argument))
            case "public IP prefix":
                await self._prefix(**_words(argument))
            case "role on":
                await self._azure.give_role(argument)
            case "configuration":
                self._configuration(**argument)
            case "delete":
                cluster.delete(argument)
            case "delete by force":
                del cluster.objects[argument]
            case "restart":
                self._world.restart()
            case "expect":
                await self._settle()
                await self._expect(argument)
            case _:
                raise AssertionError(f"a scenario knows no {word!r}")

    async def _pool(
        self, name: str, machines: int = 2, prefix_size: int = 30, kind: str = "scale set"
    ) -> None:
        assert kind in ("scale set", "machines"), kind
        await self._azure.make_pool(
            name, machines=machines, size=prefix_size, scale_set=kind == "scale set"
        )

    async def _prefix(self, name: str, size: int = 30, role: str = "given") -> None:
        assert role in ("given", "missing"), role
        await self._azure.make_prefix(name, size=size, role=role == "given")

    def _configuration(
        self, name: str, pool: str = "np", prefix: str | None = None, **spec: Any
    ) -> None:
        if prefix == NO_PREFIX:
            spec["provision_public_ips"] = False
        elif prefix is not None:
            spec["public_ip_prefix_id"] = self._azure.prefix_id(prefix)
        self._world.cluster.write(name, gateway_nodepool_name=pool, **spec)

    async def _settle(self) -> None:
        """Until two looks in a row tell the same. Agents follow what they are told, and time
        passes, so that whoever waits for a second try gets it."""
        told: list[str] = []
        for _ in range(ROUNDS):
            await self._world.turn()
            self._world.cluster.agents_follow()
            self._world.now += 61
            told.append(repr(sorted(self._world.cluster.told.items())))
            if len(told) > 3 and len(set(told[-3:])) == 1:
                return

    async def _expect(self, expected: dict[str, Any]) -> None:
        written, self._writes = self._azure.writes() - self._writes, self._azure.writes()
        for name, wanted in expected.items():
            if name == "writes":
                assert wanted == "none"
                assert written == 0, f"{written} writes"
            elif name == "azure":
                await self._expect_azure(**_words(wanted))
            elif wanted == "gone":
                assert name not in self._world.cluster.objects, f"{name} is not gone"
                assert name not in self._world.cluster.keypairs.made, f"the keys of {name} are left"
            else:
                await self._expect_state(
                    name, **({"is_": wanted} if isinstance(wanted, str) else _words(wanted))
                )

    async def _expect_state(
        self,
        name: str,
        is_: str,
        gateways: int | None = None,
        from_: str | None = None,
        because: str = "",
    ) -> None:
        verdict = self._world.verdict(name)
        problem = verdict.problem
        found = problem.reason if problem else "served" if verdict.settled else "unsettled"
        assert found == is_, f"{name} is {found}: {problem or verdict}"
        assert because in (problem.message if problem else "")
        serving = verdict.serving
        if gateways is not None:
            assert serving is not None
            assert len(serving.gateways) == gateways
        if from_ is not None:
            assert serving is not None
            addresses = {gateway.public for gateway in serving.gateways} - {None}
            network = await self._network(name, from_)
            assert bool(addresses) == (network is not None)
            for address in addresses:
                assert network is not None
                assert ip_address(str(address)) in network, f"{name} leaves from {address}"

    async def _network(self, name: str, prefix: str) -> IPv4Network | None:
        if prefix == "nowhere":
            return None
        own = prefix == "its own prefix"
        prefix_id = (
            self._azure.managed_prefix_id(OURS + name) if own else self._azure.prefix_id(prefix)
        )
        network = ip_network(await self._azure.network(prefix_id))
        assert isinstance(network, IPv4Network)
        return network

    async def _expect_azure(
        self,
        prefixes: list[str] | None = None,
        pools: dict[str, list[str]] | None = None,
        load_balancer: bool | None = None,
    ) -> None:
        if prefixes is not None:
            assert await self._azure.managed_prefixes() == {OURS + name for name in prefixes}
        for pool, names in (pools or {}).items():
            assert await self._azure.carried(pool) == {OURS + name for name in names}, pool
        if load_balancer is not None:
            assert await self._azure.has_balancer() == load_balancer


def _words(argument: dict[str, Any]) -> dict[str, Any]:
    """As keyword arguments: ``prefix size`` and ``from`` are no Python names."""
    names: Callable[[str], str] = lambda word: {"is": "is_", "from": "from_"}.get(word, word)  # noqa: E731
    return {names(word).replace(" ", "_"): value for word, value in argument.items()}
