"""Leader election on a coordination.k8s.io Lease."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from egress_gateway.kube.client import Client


class LeadershipLost(Exception):
    """The Lease could not be renewed in time or went to another; the process should end."""


class LeaderElection:
    """At most one process leads, as long as clocks run at about the same rate."""

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        identity: str,
        *,
        duration: float = 15.0,
        renew: float = 10.0,
        retry: float = 2.0,
    ) -> None: ...

    @property
    def leading(self) -> bool:
        raise NotImplementedError

    async def run(self, on_lead: Callable[[], Awaitable[None]]) -> None:
        """Waits for the Lease, then runs ``on_lead`` while renewing. Raises ``LeadershipLost``
        (after cancelling ``on_lead``) on loss. When ``on_lead`` returns, or this is cancelled,
        the Lease is released so that another need not wait for it to expire."""
        raise NotImplementedError
