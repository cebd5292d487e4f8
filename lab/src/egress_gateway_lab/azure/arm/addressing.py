"""Who has which address: subnets, public address space and prefixes.

Addresses are leased to an owner (the id of an ipConfig, a frontend, a public IP), lowest free
first as Azure does, and asking again with the same owner gives the same address. No address is
ever leased twice at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_network,
)
from typing import Any, Generic, TypeVar

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
_N = TypeVar("_N", IPv4Network, IPv6Network)


class Exhausted(Exception):
    """No free address or block is left."""


class OverQuota(Exhausted):
    """The subscription may not have more."""


@dataclass(slots=True)
class AddressPool:
    """Leases single addresses of one network."""

    network: IPNetwork
    reserved: int = 0
    """How many addresses at the start, and the last one if any, belong to the network itself
    (Azure keeps four and the broadcast address of a subnet, none of a public prefix)."""
    _lowest: int = 0
    """Every index below this one is taken: leasing need not look there again."""
    _owners: dict[IPAddress, str] = field(default_factory=dict)
    _leases: dict[str, IPAddress] = field(default_factory=dict)

    @property
    def used(self) -> int:
        return len(self._owners)

    @property
    def size(self) -> int:
        return self.network.num_addresses - self.reserved - (1 if self.reserved else 0)

    def lease(self, owner: str, wanted: IPAddress | None = None) -> IPAddress:
        """The owner's address; raises ``Exhausted``, or ``ValueError`` if ``wanted`` is
        outside the network or another's."""
        key = owner.lower()
        held = self._leases.get(key)
        if held is not None and wanted in (None, held):
            return held
        if wanted is None:
            wanted = self._next_free()
        elif wanted not in self.network or wanted in self._owners:
            raise ValueError(f"{wanted} is not free in {self.network}")
        self.release(owner)
        self._owners[wanted] = key
        self._leases[key] = wanted
        return wanted

    def release(self, owner: str) -> None:
        held = self._leases.pop(owner.lower(), None)
        if held is not None:
            del self._owners[held]
            self._lowest = min(self._lowest, int(held) - int(self.network.network_address))

    def holds(self, owner: str) -> bool:
        return owner.lower() in self._leases

    def owner(self, address: IPAddress) -> str | None:
        """Lower-case id of who holds the address."""
        return self._owners.get(address)

    def free(self) -> int:
        return self.size - self.used

    def _next_free(self) -> IPAddress:
        end = self.network.num_addresses - (1 if self.reserved else 0)
        for index in range(max(self._lowest, self.reserved), end):
            address = self.network[index]
            if address not in self._owners:
                self._lowest = index
                return address
        raise Exhausted(f"no address left in {self.network}")


class BlockSpace(Generic[_N]):
    """Hands out aligned blocks of a given length from several networks of one family, lowest
    first."""

    def __init__(self, networks: Iterable[_N]) -> None:
        self._free: list[_N] = sorted(networks)
        self._blocks: dict[str, _N] = {}

    def allocate(self, owner: str, length: int, *, last: bool = False) -> _N:
        """The owner's block of that prefix length. ``last`` takes the highest free block, which
        keeps single addresses from breaking up the space that blocks are cut from."""
        held = self._blocks.get(owner.lower())
        if held is not None:
            return held
        fitting = [n for n in self._free if n.prefixlen <= length]
        if not fitting:
            raise Exhausted(f"no free block of length /{length}")
        if last:
            parent = fitting[-1]
            block = type(parent)((parent.broadcast_address, length), strict=False)
        else:
            parent = fitting[0]
            block = type(parent)((parent.network_address, length))
        self._free.remove(parent)
        self._free = sorted(self._free + list(parent.address_exclude(block)))
        self._blocks[owner.lower()] = block
        return block

    def holds(self, owner: str) -> bool:
        return owner.lower() in self._blocks

    @property
    def used(self) -> int:
        """How many addresses are handed out."""
        return sum(b.num_addresses for b in self._blocks.values())

    def claim(self, owner: str, block: _N) -> bool:
        """Gives the owner exactly this block; False if the space does not hold it. Raises
        ``ValueError`` if it is not free."""
        if self._blocks.get(owner.lower()) == block:
            return True
        if any(block.overlaps(b) for b in self._blocks.values()):
            raise ValueError(f"{block} is not free")
        parent = next((n for n in self._free if block.subnet_of(n)), None)
        if parent is None:
            return False
        self._free.remove(parent)
        self._free = sorted(self._free + list(parent.address_exclude(block)))
        self._blocks[owner.lower()] = block
        return True

    def release(self, owner: str) -> None:
        block = self._blocks.pop(owner.lower(), None)
        if block is not None:
            self._free.append(block)
            self._free = sorted(collapse_addresses(self._free))


class Addresses:
    """All address space of a subscription."""

    def __init__(
        self,
        *,
        outbound: Sequence[IPv4Network],
        prefixes: Sequence[IPv4Network],
        prefixes6: Sequence[IPv6Network] = (),
        quota: int = 1000,
    ) -> None:
        """``outbound``: where clusters' own load balancers get public addresses from.
        ``prefixes`` and ``prefixes6``: public IP prefixes and all other public addresses.
        ``quota``: how many public addresses the subscription may have, those of its prefixes
        included."""
        self.quota = quota
        self._outbound = BlockSpace(outbound)
        for network in outbound:
            # Azure could hand out .0, but people would take it for a network.
            self._outbound.claim(f"network {network}", IPv4Network(network.network_address))
        self._kept = len(outbound)
        self._public = BlockSpace(prefixes)
        self._public6 = BlockSpace(prefixes6)
        self._pools: dict[str, AddressPool] = {}

    def subnet(self, subnet_id: str, network: IPNetwork) -> AddressPool:
        """The pool of one of a subnet's two families."""
        key = subnet_id if network.version == 4 else f"{subnet_id}/ipv6"
        return self._pool(key, network, reserved=4)

    def prefix(self, prefix_id: str, network: IPNetwork) -> AddressPool:
        """The pool of a public IP prefix; every address can be used."""
        return self._pool(prefix_id, network, reserved=0)

    def allocate_prefix(self, prefix_id: str, length: int) -> IPNetwork:
        """Of IPv6 if it is longer than any of IPv4. Raises ``Exhausted``, as ``OverQuota`` if it
        is the subscription's limit."""
        if length > 32:
            self._check_quota(prefix_id, 2 ** (128 - length))
            return self._public6.allocate(prefix_id, length)
        self._check_quota(prefix_id, 2 ** (32 - length))
        return self._public.allocate(prefix_id, length)

    def allocate_public(
        self, public_ip_id: str, *, outbound: bool, ipv6: bool = False
    ) -> IPAddress:
        """A public address outside of any prefix. Raises as ``allocate_prefix``."""
        self._check_quota(public_ip_id, 1)
        if ipv6:
            return self._public6.allocate(public_ip_id, 128, last=True).network_address
        space = self._outbound if outbound else self._public
        return space.allocate(public_ip_id, 32, last=not outbound).network_address

    def claim_prefix(self, prefix_id: str, network: IPNetwork) -> None:
        """A prefix that exists already; one outside of our space is nobody else's anyway."""
        if isinstance(network, IPv6Network):
            self._public6.claim(prefix_id, network)
        else:
            self._public.claim(prefix_id, network)

    def claim_public(self, public_ip_id: str, address: IPAddress) -> None:
        """A public address outside of any prefix that exists already."""
        block = ip_network(address)
        if isinstance(block, IPv6Network):
            self._public6.claim(public_ip_id, block)
        elif not self._outbound.claim(public_ip_id, block):
            self._public.claim(public_ip_id, block)

    def release(self, owner: str) -> None:
        """Takes back whatever the owner holds: blocks, addresses, its own pool."""
        self._outbound.release(owner)
        self._public.release(owner)
        self._public6.release(owner)
        self._pools.pop(owner.lower(), None)
        for pool in self._pools.values():
            pool.release(owner)

    @property
    def public_used(self) -> int:
        """How many public addresses the quota counts."""
        return self._outbound.used + self._public.used + self._public6.used - self._kept

    def command(self, arguments: Mapping[str, Any]) -> dict[str, int]:
        """What the control socket's ``quota`` does: ``public_addresses`` is how many the
        subscription may have from now on; without it, only tells."""
        if "public_addresses" in arguments:
            self.quota = int(arguments["public_addresses"])
        return {"public_addresses": self.quota, "used": self.public_used}

    def _check_quota(self, owner: str, wanted: int) -> None:
        spaces = (self._outbound, self._public, self._public6)
        if any(s.holds(owner) for s in spaces):
            return
        if self.public_used + wanted > self.quota:
            raise OverQuota(f"{self.public_used} of {self.quota} public addresses are used")

    def _pool(self, key: str, network: IPNetwork, *, reserved: int) -> AddressPool:
        pool = self._pools.get(key.lower())
        if pool is None:
            pool = self._pools[key.lower()] = AddressPool(network, reserved)
        return pool
