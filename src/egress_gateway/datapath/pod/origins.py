"""Which side opened the connections that a pod had before its table existed. Pure.

Connection tracking began with the table. The next packet of an older connection looks like its
first one, and when it comes in, like that of a connection that came in. So we look at the sockets
of the namespace, and at the node's own connection tracking, which saw the pod's packets pass. An
unknown connection counts as opened by the pod: the hold drops it rather than send it by the
ordinary link.

- TCP: the socket's counters tell (``sockets.opener``). Whatever else is in the middle of its
  stream counts as the pod's.
- UDP, a socket that is connected: the pod's. A server that connects a socket for each of its
  clients is not told apart.
- UDP, a socket at a port that the kernel chose: the whole port is in doubt.
- UDP, a socket at a port of its own choice: a server, but for the flows that the node saw the pod
  open.
- Other protocols than ICMP: in doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.linux.sockets import TCP, UDP, Flow, Opener, Socket

_ICMP: Final = frozenset({1, 58})


class Origins(msgspec.Struct, frozen=True):
    """``accepted``: TCP connections that came in. ``opened``: TCP connections that the pod is known
    to have opened, and UDP flows that it opened or might have. ``ports``: UDP ports where this is
    unknown. ``older``: there were sockets at all, so other protocols are in doubt."""

    accepted: frozenset[Flow] = frozenset()
    opened: frozenset[Flow] = frozenset()
    ports: frozenset[int] = frozenset()
    older: bool = False


NO_ORIGINS: Final = Origins()
"""Of a pod that has just been made."""


def server_ports(sockets: Iterable[Socket], ephemeral: range) -> set[int]:
    """UDP ports of sockets that chose theirs."""
    unbound = (s for s in sockets if s.protocol == UDP and s.flow is None)
    return {s.local_port for s in unbound if s.local_port and s.local_port not in ephemeral}


def origins(
    samples: Sequence[Sequence[Socket]], *, ephemeral: range, passed: Iterable[Flow] = ()
) -> Origins:
    """``samples``: the sockets, listed one or more times; ``ephemeral``: the ports that the kernel
    chooses; ``passed``: UDP flows that the pod opened, as the node saw them pass."""
    verdicts: dict[Flow, set[Opener]] = {}
    opened = {flow for flow in passed if flow.protocol == UDP}
    ports: set[int] = set()
    for socket in (s for sample in samples for s in sample if not s.local.is_loopback):
        if socket.protocol == TCP and socket.flow is not None:
            verdicts.setdefault(socket.flow, set()).add(socket.opener)
        elif socket.flow is not None:
            opened.add(socket.flow)
        elif socket.local_port in ephemeral:
            ports.add(socket.local_port)
    by_pod = {flow for flow, said in verdicts.items() if "pod" in said}
    accepted = {flow for flow, said in verdicts.items() if "remote" in said} - by_pod
    return Origins(
        accepted=frozenset(accepted),
        opened=frozenset(opened | by_pod),
        ports=frozenset(ports),
        older=any(samples),
    )


def merged(first: Origins, second: Origins) -> Origins:
    """What two looks tell together. Whatever one of them takes for the pod's is the pod's."""
    opened = first.opened | second.opened
    return Origins(
        accepted=(first.accepted | second.accepted) - opened,
        opened=opened,
        ports=first.ports | second.ports,
        older=first.older or second.older,
    )


def undecided(samples: Sequence[Sequence[Socket]]) -> bool:
    """Whether another look might tell more: no source knows of some TCP connection."""
    said: dict[Flow, bool] = {}
    for socket in (s for sample in samples for s in sample):
        if socket.protocol == TCP and socket.flow is not None:
            known = socket.opener != "unknown"
            said[socket.flow] = said.get(socket.flow, False) or known
    return not all(said.values())


def wrongly_marked(
    found: Origins, own: Iterable[IPAddress], *, certain: bool
) -> Callable[[IPAddress, Flow], bool]:
    """Of a connection that is marked as one that came in, by its original source and its flow:
    whether it must not be. With ``certain`` only TCP connections that the pod is known to have
    opened; otherwise all but those that are known to have come in."""
    addresses = frozenset(own)

    def wrong(source: IPAddress, flow: Flow) -> bool:
        if source in addresses or flow in found.opened:
            return True
        if flow.protocol == TCP:
            return not certain and flow not in found.accepted
        if flow.protocol == UDP:
            return flow.local_port in found.ports
        return not certain and flow.protocol not in _ICMP

    return wrong
