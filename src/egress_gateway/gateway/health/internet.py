"""Whether the Internet answers this gateway's secondary addresses. Off without targets.

A node whose inner side works while its outer side is dead is worse than a dead one: pods stay
there. So the agent asks targets from each secondary address, by the path of pods' packets. If none
has answered for some rounds, the agent asks pods to use other gateways. Node agents never leave the
last gateway for such a request, so a target that is down itself does no harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.gateway.namespace import NAMESPACE
from egress_gateway.datapath.gateway.reach import Asker, ProbeTarget
from egress_gateway.datapath.linux import netns

_LOOKS: Final = 10
"""Looks for answers in one round."""


@dataclass(slots=True)
class Reach:
    """Of one secondary address. Pure."""

    misses: int = 3
    recoveries: int = 5
    """Answered rounds that make a dead way good again: more than ``misses``, or it would flap."""
    dead: bool = False
    run: int = 0
    """Rounds in a row that contradict ``dead``."""

    def round(self, answered: bool) -> None:
        """One round is over."""
        self.run = self.run + 1 if answered == self.dead else 0
        if self.run >= (self.recoveries if self.dead else self.misses):
            self.dead, self.run = not self.dead, 0


class Internet:
    """``served`` tells the configurations' secondary addresses by name."""

    def __init__(
        self,
        targets: tuple[ProbeTarget, ...],
        served: Callable[[], Mapping[str, IPv4Address]],
        *,
        interval: float,
        misses: int,
        namespace: Path = netns.DIRECTORY / NAMESPACE,
    ) -> None:
        self._namespace = namespace
        self._targets = targets
        self._served = served
        self._interval = interval
        self._misses = misses
        self._reach: dict[IPv4Address, Reach] = {}
        self._number = 0

    @property
    def dead(self) -> dict[str, str]:
        """Configurations that reach no target, and that in words."""
        asked = ", ".join(map(str, self._targets))
        return {
            name: f"none of {asked} answers {address}"
            for name, address in self._served().items()
            if (reach := self._reach.get(address)) and reach.dead
        }

    async def round(self) -> None:
        """Asks every target from every secondary address, and judges. Takes ``interval``
        seconds."""
        addresses = set(self._served().values())
        self._reach = {a: self._reach.get(a) or Reach(self._misses) for a in addresses}
        answered = await self._ask(addresses) if addresses else set()
        if answered is None or not addresses:
            await asyncio.sleep(self._interval)
            return
        for address, reach in self._reach.items():
            reach.round(address in answered)

    async def _ask(self, addresses: set[IPv4Address]) -> set[IPAddress] | None:
        """Which addresses were answered; None if nothing could be asked."""
        try:
            asker = await asyncio.to_thread(Asker.open, self._namespace)
        except (DatapathError, OSError):
            return None  # the structure pass makes the namespace, and tells what hinders it
        try:
            self._number += 1
            for address in addresses:
                asker.ask(address, self._targets, self._number)
            answered: set[IPAddress] = set()
            for _ in range(_LOOKS):
                await asyncio.sleep(self._interval / _LOOKS)
                answered |= {answer.secondary for answer in asker.answers()}
            return answered
        finally:
            asker.close()
