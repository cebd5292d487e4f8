"""Where an attached pod's tunnel should lead, and in which steps it gets there. Pure.

A tunnel that works is left in two steps (``Joining``, then ``joined``): a second one is made first,
so that no packet is without a way. One that does not is moved at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from msgspec.structs import replace

from egress_gateway.api import keys
from egress_gateway.datapath.pod.ruleset import LINKS
from egress_gateway.node.attachment.choose import (
    BalancerAddress,
    Destination,
    GatewayNode,
    choose,
    same_place,
)
from egress_gateway.node.attachment.model import (
    Attachment,
    Joining,
    Parting,
    PodConfiguration,
    ServerKey,
    TunnelRecord,
)


def retarget(
    attachment: Attachment,
    configuration: PodConfiguration,
    *,
    doubt: Callable[[str], float],
    avoid: Collection[str] = (),
    vetoes: Mapping[str, bool] = {},
    free_port: Callable[[], int],
    now: float = 0.0,
) -> Attachment:
    """``attachment`` with ``configuration`` and the gateway that should serve it now.

    ``vetoes`` names gateways that ask to be left, and whether they still work. Those that do, and
    gateways that the configuration calls leaving, are left in two steps (``Joining``, then
    ``joined``), so that connections can finish. So is a server whose key pair is being changed.
    ``now`` is in seconds since the epoch.

    Whenever the tunnel's other end changes, so does the listen port: the gateway left behind
    holds the session and would otherwise take the pod back within fifteen seconds.
    """
    if attachment.configuration.uid != configuration.uid:
        attachment = replace(attachment, active=None, standby=None)
    attachment = replace(attachment, configuration=configuration)
    active = attachment.active
    vetoes = {g.name: True for g in configuration.gateways if g.leaving} | dict(vetoes)
    target = choose(
        attachment.uid,
        active.to if active else None,
        configuration.gateways,
        balancer=configuration.balancer,
        doubt=doubt,
        avoid=avoid,
        vetoed=vetoes,
    )
    if target is None or configuration.server is None:
        return replace(attachment, active=None, standby=None)
    if active is None:
        chosen = TunnelRecord(to=target, server=configuration.server, listen_port=free_port())
        return replace(attachment, active=chosen)
    parting = _still_parting(active, attachment.standby, configuration, doubt, now)
    works = active.server in configuration.servers and active.verified
    works = works and not doubt(active.address)
    has_moved = active.server == configuration.next
    server = configuration.next if configuration.next and (works or has_moved) else None
    server = server or configuration.server
    staying = same_place(active.to, target) and active.address == target.address
    if staying and active.server == server:
        return replace(attachment, active=replace(active, to=target), standby=parting)
    asked = vetoes.get(active.to.name) if isinstance(active.to, GatewayNode) else None
    if works and asked is not False and (asked or active.server != server):
        return _join(attachment, active, parting, target, server, free_port)
    moved = replace(
        active,
        to=target,
        server=server if has_moved else configuration.server,
        listen_port=free_port(),
        verified=False,
    )
    return replace(attachment, active=moved, standby=parting)


def _still_parting(
    active: TunnelRecord,
    standby: Joining | Parting | None,
    configuration: PodConfiguration,
    doubt: Callable[[str], float],
    now: float,
) -> Parting | None:
    """The second tunnel of a move, while it is of use: for its time, or, of a server that the
    gateway itself will take away, until that is so."""
    if not isinstance(standby, Parting):
        return None
    old = standby.tunnel
    listed = isinstance(old.to, BalancerAddress) or any(
        same_place(old.to, gateway) for gateway in configuration.gateways
    )
    if not listed or doubt(old.address) or old.server not in configuration.servers:
        return None
    other_server = same_place(old.to, active.to) and old.server != active.server
    return standby if other_server or standby.until > now else None


def _join(
    attachment: Attachment,
    active: TunnelRecord,
    parting: Parting | None,
    target: Destination,
    server: ServerKey,
    free_port: Callable[[], int],
) -> Attachment:
    """The first step towards ``target``, unless the second link is still needed for connections
    of an earlier move."""
    if parting is not None and not attachment.standby_receives_only:
        return replace(attachment, standby=parting)
    known = attachment.joining
    place = (target.address, server)
    if known and same_place(known.to, target) and (known.address, known.server) == place:
        return attachment
    joining = TunnelRecord(
        to=target, server=server, link=_other_link(active.link), listen_port=free_port()
    )
    return replace(attachment, standby=Joining(joining))


def joined(attachment: Attachment, *, until: float) -> Attachment:
    """The second step of a planned move: the joining tunnel has a handshake and takes what is new;
    what there is may finish where it is ``until`` then (seconds since the epoch)."""
    arrived, left = attachment.joining, attachment.active
    if arrived is None or left is None:
        return attachment
    return replace(
        attachment,
        active=replace(arrived, verified=True),
        standby=Parting(left, until),
    )


def rekeyed(attachment: Attachment) -> Attachment:
    """The same with another key pair, which no gateway knows a session of."""
    pair = keys.generate()
    renewed = replace(attachment, private_key=pair.private, public_key=pair.public)
    return renewed.with_active(verified=False)


def _other_link(link: str) -> str:
    return LINKS[1] if link == LINKS[0] else LINKS[0]
