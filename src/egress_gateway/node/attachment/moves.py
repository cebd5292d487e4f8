"""Where an attached pod's tunnel should lead, and in which steps it gets there. Pure.

A tunnel that works is left in two steps (``joining``, then ``joined``): a second one is made first,
so that no packet is without a way. One that does not is moved at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import msgspec

from egress_gateway.node.attachment.choose import Candidate, choose
from egress_gateway.node.attachment.model import Attachment, Configuration, Leg, Server, other_link


def retarget(
    attachment: Attachment,
    configuration: Configuration,
    *,
    usable: Callable[[str], bool],
    avoid: Collection[str] = (),
    vetoes: Mapping[str, bool] = {},
    free_port: Callable[[], int],
    now: float = 0.0,
) -> Attachment:
    """``attachment`` with ``configuration`` and the gateway that should serve it now.

    ``vetoes`` names gateways that ask to be left, and whether they still work: those are left in
    two steps (``joining``, then ``joined``), so that connections can finish. So is a server whose
    key pair is being changed. ``now`` is in seconds since the epoch.

    Whenever the tunnel's other end changes, so does the listen port: the gateway left behind
    holds the session and would otherwise take the pod back within fifteen seconds.
    """
    replace = msgspec.structs.replace
    if attachment.configuration.uid != configuration.uid:
        attachment = replace(attachment, gateway=None, joining=None, parting=None)
    current = attachment.server if attachment.gateway is not None else None
    parting = _still_parting(attachment, configuration, usable, now)
    attachment = replace(attachment, parting=parting)
    target = choose(
        attachment.uid,
        attachment.gateway,
        configuration.gateways,
        balancer=configuration.balancer,
        usable=lambda candidate: usable(candidate.address),
        avoid=avoid,
        vetoed=vetoes,
    )
    if target is None:
        return replace(attachment, configuration=configuration, gateway=None, joining=None)
    staying = (attachment.gateway, attachment.address) == (target.name, target.address)
    works = current in configuration.servers and attachment.verified and usable(attachment.address)
    moved = configuration.next if current == configuration.next else None
    server = (works and configuration.next) or moved or configuration.server
    if current is not None and staying and current == server:
        return _served_by(replace(attachment, configuration=configuration, joining=None), current)
    asked = vetoes.get(attachment.gateway or "")
    if current is not None and works and asked is not False and (asked or current != server):
        planned = _join(attachment, target, server, free_port)
        return _served_by(replace(planned, configuration=configuration), current)
    moving = replace(
        attachment,
        configuration=configuration,
        gateway=target.name,
        address=target.address,
        listen_port=free_port(),
        verified=False,
        joining=None,
    )
    return _served_by(moving, moved or configuration.server)


def _served_by(attachment: Attachment, server: Server) -> Attachment:
    usual = server == attachment.configuration.server
    key, port = ("", 0) if usual else server
    return msgspec.structs.replace(attachment, server_key=key, port=port)


def _still_parting(
    attachment: Attachment,
    configuration: Configuration,
    usable: Callable[[str], bool],
    now: float,
) -> Leg | None:
    """The second tunnel of a move, while it is of use: for its time, or, of a server that the
    gateway itself will take away, until that is so."""
    leg = attachment.parting
    if leg is None or not usable(leg.address) or leg.server not in configuration.servers:
        return None
    other_server = leg.gateway == attachment.gateway and leg.server != attachment.server
    return leg if other_server or leg.until > now else None


def _join(
    attachment: Attachment, target: Candidate, server: Server, free_port: Callable[[], int]
) -> Attachment:
    """The first step towards ``target``, unless the second link is still needed for connections
    of a former move."""
    replace = msgspec.structs.replace
    known = attachment.joining
    if attachment.parting is not None and not attachment.hears_only:
        return replace(attachment, joining=None)
    if known and (known.gateway, known.address, known.server) == (*_place(target), server):
        return attachment
    leg = Leg(
        gateway=target.name,
        address=target.address,
        listen_port=free_port(),
        server_key=server.key,
        port=server.port,
    )
    return replace(attachment, joining=leg, parting=None)


def _place(candidate: Candidate) -> tuple[str, str]:
    return candidate.name, candidate.address


def joined(attachment: Attachment, *, until: float) -> Attachment:
    """The second step of a planned move: ``joining`` has a handshake and takes what is new;
    what there is may finish where it is ``until`` then (seconds since the epoch)."""
    leg, old = attachment.joining, attachment.server
    if leg is None:
        return attachment
    arrived = msgspec.structs.replace(
        attachment,
        gateway=leg.gateway,
        address=leg.address,
        listen_port=leg.listen_port,
        verified=True,
        link=other_link(attachment.link),
        joining=None,
        parting=Leg(
            gateway=attachment.gateway or "",
            address=attachment.address,
            listen_port=attachment.listen_port,
            server_key=old.key,
            port=old.port,
            until=until,
        ),
    )
    return _served_by(arrived, leg.server)
