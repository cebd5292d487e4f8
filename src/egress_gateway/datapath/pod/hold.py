"""The hold of one pod: its nftables table, applied, recognised, and told of older connections.

The table is listed only after somebody has changed the rules of its namespace (nftables'
generation): while a pod starts, milliseconds count.
"""

from __future__ import annotations

from typing import Final

from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.linux import conntrack, sockets
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.linux.nft import Nftables, fingerprint
from egress_gateway.datapath.linux.sockets import Flow
from egress_gateway.datapath.pod.actions import ApplyFilter
from egress_gateway.datapath.pod.model import PodDesired
from egress_gateway.datapath.pod.origins import (
    NO_ORIGINS,
    Origins,
    merged,
    origins,
    server_ports,
    undecided,
    wrongly_marked,
)
from egress_gateway.datapath.pod.ruleset import (
    MARK,
    SEEDED,
    TABLE,
    amendment,
    replacement,
)

_LOOKS: Final = 4
"""At the sockets of a pod, while some TCP connection's counters do not fit together."""


class Hold:
    """What is known of a pod's table. Each call takes the pod's namespace, open, and its rules;
    ``node`` is the node's namespace."""

    def __init__(self, node: NetNS) -> None:
        self._node = node
        self._applied = ("", "")
        """The text last applied, and what the kernel made of it."""
        self._intact: tuple[str, tuple[tuple[int, int], int]] | None = None
        """The text that was last seen to be there, and nftables' generation at that time."""

    def observe(
        self, netns: NetNS, nft: Nftables, desired: PodDesired
    ) -> tuple[str | None, Origins]:
        """The text that the table is known to equal, as in ``PodObserved``; and what the sockets
        tell of older connections, unless the table has it."""
        text, tells = self._text(netns, nft, desired)
        return text, NO_ORIGINS if tells else self._origins(netns, desired)

    def apply(self, netns: NetNS, nft: Nftables, desired: PodDesired, action: ApplyFilter) -> None:
        """Makes the table equal the action's text; one that cannot be amended is replaced."""
        ruleset, present, known = action.ruleset, action.present, action.origins
        before = nft.generation()
        try:
            listing = nft.table("inet", TABLE) if present else None
            nft.apply(replacement(ruleset, known, listing))
        except DatapathError:
            if not present:
                raise
            # What is there cannot be amended (another version's, or damaged): replaced whole.
            known = merged(known, self._origins(netns, desired))
            whole = replacement(ruleset, known, None)
            nft.apply(f"delete table inet {TABLE}\n{whole}")
        after = nft.generation()
        if known.older or not present:
            self._look_again(netns, nft, desired, known, fresh=not present)
        if not present and not known.older and after == before + 1:
            # Ours was the only change. What the kernel made of it is looked at when there has
            # been another one: while a pod starts, milliseconds count.
            self._applied, self._intact = ("", ""), (ruleset, (netns.identity, after))
            return
        listing = nft.table("inet", TABLE)
        self._applied = (ruleset, fingerprint(listing, without=SEEDED))

    def _look_again(
        self, netns: NetNS, nft: Nftables, desired: PodDesired, known: Origins, *, fresh: bool
    ) -> None:
        """After the table is there: connections that began between the look and the table, and
        marks of a time before."""
        found = merged(known, self._origins(netns, desired))
        if not found.older:
            return
        if change := amendment(known, found).strip():
            nft.apply(change)
        wrong = wrongly_marked(found, desired.addresses, certain=not fresh)
        conntrack.clear_mark(netns, MARK, wrong)

    def remove(self, nft: Nftables) -> None:
        """The pod has the ordinary path again."""
        nft.apply(f"add table inet {TABLE}\ndelete table inet {TABLE}\n")

    def forget(self) -> None:
        """The table may be gone."""
        self._applied = ("", "")

    def _text(self, netns: NetNS, nft: Nftables, desired: PodDesired) -> tuple[str | None, bool]:
        """As ``observe``; and whether the table has what is known of older connections."""
        # NB: asked first; what changes afterwards is seen next time.
        generation = (netns.identity, nft.generation())
        if self._intact == (desired.filter, generation):
            return desired.filter, True
        listing = nft.table("inet", TABLE)
        if listing is None:
            return None, False
        names = {item["set"]["name"] for item in listing if "set" in item}
        tells = names.issuperset(SEEDED)
        text, listed = self._applied
        intact = text == desired.filter and fingerprint(listing, without=SEEDED) == listed
        self._intact = (text, generation) if intact else None
        return (text if intact else ""), tells

    def _origins(self, netns: NetNS, desired: PodDesired) -> Origins:
        if not sockets.has_sockets(netns):
            return NO_ORIGINS
        samples = [sockets.connections(netns)]
        while undecided(samples) and len(samples) < _LOOKS:
            samples.append(sockets.connections(netns))
        ephemeral = sockets.ephemeral_ports(netns)
        passed: set[Flow] = set()
        if server_ports(samples[0], ephemeral):
            passed = conntrack.datagrams_from(self._node, desired.addresses)
        return origins(samples, ephemeral=ephemeral, passed=passed)
