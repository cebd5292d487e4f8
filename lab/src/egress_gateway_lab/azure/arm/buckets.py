"""Microsoft.Compute's token buckets: requests that one resource takes from everybody together.

Each scale set and each instance has buckets of its own. They are shared with AKS, the autoscaler
and everyone else in the subscription, so a share of every bucket is used up by others.
https://learn.microsoft.com/azure/virtual-machines/compute-throttling-limits
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass

from egress_gateway_lab.azure.arm.errors import ArmError
from egress_gateway_lab.azure.arm.operations import Clock


@dataclass(frozen=True, slots=True)
class Limit:
    """``name`` as in ``x-ms-ratelimit-remaining-resource``; ``size``: tokens saved up at most."""

    name: str
    size: float
    per_minute: float


POLLS = Limit("GetOperation", 15, 15)
_SET = r"/providers/microsoft\.compute/virtualmachinescalesets/[^/]+"
REQUESTS = (
    ("GET", re.compile(f"{_SET}$"), Limit("GetVMScaleSetResource", 36, 12)),
    ("PUT", re.compile(f"{_SET}$"), Limit("PutVMScaleSetResource", 12, 4)),
    ("PATCH", re.compile(f"{_SET}$"), Limit("PutVMScaleSetResource", 12, 4)),
    (
        "PUT",
        re.compile(f"{_SET}/virtualmachines/[^/]+$"),
        Limit("PutVMScaleSetVMResource", 12, 4),
    ),
)


class Buckets:
    """``share``: the part of each bucket that is left for us, size and refill alike; None lets
    every request through."""

    def __init__(self, clock: Clock, share: float | None) -> None:
        self.share = share
        self._clock = clock
        self._levels: dict[tuple[str, str], tuple[float, float]] = {}

    def request(self, method: str, resource_id: str) -> dict[str, str]:
        """Takes a token for a request; the header that tells what is left. Raises ``ArmError``."""
        for verb, path, limit in REQUESTS:
            if verb == method and path.search(resource_id.lower()):
                return self._take(limit, resource_id)
        return {}

    def poll(self, target: str) -> dict[str, str]:
        """The same for a question about an operation on a resource."""
        return self._take(POLLS, target) if "/microsoft.compute/" in target.lower() else {}

    def _take(self, limit: Limit, resource_id: str) -> dict[str, str]:
        left = limit.size if self.share is None else self._left(limit, resource_id, self.share)
        return {"x-ms-ratelimit-remaining-resource": f"Microsoft.Compute/{limit.name};{int(left)}"}

    def _left(self, limit: Limit, resource_id: str, share: float) -> float:
        now, key = self._clock.time(), (limit.name, resource_id.lower())
        size, rate = limit.size * share, limit.per_minute * share / 60
        level, since = self._levels.get(key, (size, now))
        level = min(size, level + (now - since) * rate)
        if level < 1:
            self._levels[key] = level, now
            raise _throttled(limit, math.ceil((1 - level) / rate))
        self._levels[key] = level - 1, now
        return level - 1


def _throttled(limit: Limit, seconds: int) -> ArmError:
    measured = {"operationGroup": limit.name, "allowedRequestCount": int(limit.size)}
    return ArmError(
        429,
        "OperationNotAllowed",
        "The server rejected the request because too many requests have been received for this "
        "subscription.",
        details=[
            {
                "code": "TooManyRequests",
                "target": limit.name,
                "message": json.dumps(measured, separators=(",", ":")),
            }
        ],
        headers={"Retry-After": str(max(seconds, 1))},
    )
