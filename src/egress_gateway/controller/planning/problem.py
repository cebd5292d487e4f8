"""Why a configuration is not as asked, with the reason that its condition shows."""

from __future__ import annotations

from dataclasses import dataclass

from egress_gateway.api.conditions import Reason
from egress_gateway.cloud import errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a configuration is not as asked. ``accepted`` False: its spec or its pool is wrong;
    True: the spec is fine and the cloud stands in the way."""

    reason: str
    message: str
    accepted: bool = True

    @staticmethod
    def pool_full(limit: int) -> Problem:
        """``limit``: how many configurations a pool carries. Azure limits ipConfigs per NIC."""
        return Problem(
            reason=Reason.QUOTA,
            message=f"the gateway pool already carries {limit} configurations, which is the limit "
            "of 256 IP configurations per network interface; use another gateway pool",
        )

    @staticmethod
    def of(error: errors.CloudError) -> Problem:
        """The condition's reason for a cloud's refusal."""
        return Problem(reason=reason_of(type(error)), message=str(error))


@dataclass(frozen=True, slots=True)
class Note:
    """Added to a good verdict: what is still wrong although it serves, or how far it is."""

    reason: str
    message: str


def reason_of(kind: type[errors.CloudError]) -> str:
    """The condition's reason for refusals of this kind."""
    return next((reason for each, reason in _REASONS if issubclass(kind, each)), Reason.AZURE_ERROR)


_REASONS: tuple[tuple[type[errors.CloudError], str], ...] = (
    (errors.Forbidden, Reason.AUTHORIZATION_FAILED),
    (errors.Unauthenticated, Reason.CREDENTIAL_REJECTED),
    (errors.Throttled, Reason.THROTTLED),
    (errors.Conflict, Reason.CONFLICT),
    (errors.Quota, Reason.QUOTA),
    (errors.Exhausted, Reason.PREFIX_EXHAUSTED),
)
