"""Logs missing protections of this installation, at each start of a leader.

Helm leaves the policies out where the API server does not serve them, and says so once, to the
person who installs. The log tells people who look later.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from egress_gateway.kube.errors import ApiError, NotFound

if TYPE_CHECKING:
    from egress_gateway.kube.client import Client

log = logging.getLogger(__name__)

POLICIES: Final = {
    "egress-gateway-podendpoints": "a node agent's token may claim any pod",
    "egress-gateway-gatewaystatuses": "a gateway agent's token may report for any node",
    "egress-gateway-nodes": "a node agent's token may change any Node",
    "egress-gateway-mode": "a kubelet may make its node a gateway",
    "egress-gateway-events": "an agent's token may forge any Event",
    "egress-gateway-configurations": "the controller's token may rewrite any configuration",
}
"""By policy, what can happen without it."""
_SECONDS: Final = 2.0
"""A new leader has better things to wait for."""
PATH: Final = "/apis/admissionregistration.k8s.io/v1/validatingadmission"
"""How addresses of policies and their bindings begin."""


async def absent(client: Client) -> list[str]:
    """What can happen here for lack of a policy; empty if all are bound. Raises ``ApiError``,
    ``Forbidden`` where that is not ours to see."""
    found = []
    for name, consequence in POLICIES.items():
        try:
            await client.request("GET", f"{PATH}policybindings/{name}")
        except NotFound:
            found.append(f"ValidatingAdmissionPolicy {name} is not bound: {consequence}")
    return found


async def warn(client: Client) -> None:
    """Logs what is absent. Never raises: it is advice."""
    try:
        async with asyncio.timeout(_SECONDS):
            found = await absent(client)
    except (ApiError, TimeoutError) as error:
        log.warning(
            "unknown which policies are bound, because: %s (docs/operate/security.md)",
            str(error) or "no answer in time",
        )
        return
    for line in found:
        log.warning("%s (docs/operate/security.md)", line)
