"""Whether Azure takes the controller at this moment, as ``check`` asks through its pod.

The controller itself learns of a role that was taken away, or of a credential that has expired,
when it next needs it. Its pod has what a person lacks: its identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.cli.diagnosis.checks.findings import Finding
from egress_gateway.cli.diagnosis.workloads import agents
from egress_gateway.kube.errors import ApiError

if TYPE_CHECKING:
    from egress_gateway.kube.client import Client

_FILE: Final = "/etc/egress-gateway/azure.json"
"""Where chart and manifests put it."""
_MOST: Final = 50
"""Prefixes that are asked about: a request each."""
_WHAT: Final = "Azure, as the controller sees it"


class _Answer(msgspec.Struct, frozen=True):
    """What ``check --pre --here --output json`` prints."""

    findings: list[Finding]
    unseen: list[str] = []


async def ask(
    client: Client, configurations: Sequence[StaticGatewayConfiguration], system: str
) -> tuple[list[Finding], list[str]]:
    """What is amiss, and what was not to be seen."""
    prefixes = sorted(
        {
            prefix
            for sgc in configurations
            for prefix in (sgc.spec.public_ip_prefix_id, sgc.spec.public_ip_prefix_id_v6)
            if prefix
        }
    )
    command = ["egress-gateway", "check", "--pre", "--here", "--azure-config", _FILE]
    command += ["--output", "json"]
    command += [part for prefix in prefixes[:_MOST] for part in ("--prefix", prefix)]
    more = [f"rights on {len(prefixes) - _MOST} more prefixes"] if prefixes[_MOST:] else []
    try:
        pods = await agents(client, "controller", system)
        running = [pod for pod in pods if pod.status.phase == "Running" and not pod.ends]
        if not running:  # EG301 says why
            return [], []
        name = running[0].metadata.name
        _, out, error = await client.execute(system, name, "controller", command)
    except ApiError as refused:
        return [], [f"{_WHAT}: {refused}; it takes pods/exec in {system}"]
    try:
        found = msgspec.json.decode(out, type=_Answer)
    except (ValueError, RecursionError):
        said = (error or out).decode(errors="replace").strip().rpartition("\n")[2]
        return [], [f"{_WHAT}: {said}"]
    return found.findings, [*found.unseen, *more]
