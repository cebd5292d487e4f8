"""What keeps a brought public IP prefix, of either family, from being used. Pure."""

from __future__ import annotations

from egress_gateway.api.conditions import Reason
from egress_gateway.cloud import errors
from egress_gateway.cloud.protocol import Advice, PoolState
from egress_gateway.controller.planning.problem import Problem

_FIELDS = {False: "spec.publicIpPrefixId", True: "spec.publicIpPrefixIdV6"}
"""By whether it is IPv6's."""


def judge_prefix(
    prefix_id: str, state: PoolState, *, size: int, ipv6: bool, advice: Advice
) -> Problem | None:
    """None: it can be used. ``size`` is the length that the pool asks for, in bits. A problem
    with the prefix of IPv4 is one with the spec; IPv6 never costs IPv4 anything."""
    field = _FIELDS[ipv6]

    def problem(reason: str, message: str) -> Problem:
        return Problem(reason=reason, message=message, accepted=ipv6)

    found = state.prefixes.get(prefix_id.lower())
    if isinstance(found, errors.OutOfReach):
        return problem(Reason.PREFIX_SUBSCRIPTION, f"{found.message}; {found.mend}")
    if isinstance(found, errors.NotFound) or found is None:
        return problem(
            Reason.PREFIX_NOT_FOUND,
            f"public IP prefix {prefix_id!r} does not exist; create it "
            f"({advice.create_prefix(size, ipv6=ipv6)}) or correct {field}",
        )
    if isinstance(found, errors.CloudError):
        return Problem.of(found)
    if found.ipv6 != ipv6:
        is_, takes = ("IPv6", "IPv4") if found.ipv6 else ("IPv4", "IPv6")
        return problem(
            Reason.PREFIX_SIZE,
            f"public IP prefix {found.name} in {field} is an {is_} prefix (length {found.size}), "
            f"but the field takes an {takes} prefix of length {size}; put this one in "
            f"{_FIELDS[found.ipv6]}",
        )
    if found.unusable:
        return problem(Reason.PREFIX_UNUSABLE, f"public IP prefix {found.name} {found.unusable}")
    if found.zones and not state.ref.zones <= found.zones:
        theirs, ours = (", ".join(sorted(zones)) for zones in (found.zones, state.ref.zones))
        return problem(
            Reason.PREFIX_UNUSABLE,
            f"public IP prefix {found.name} is in zone {theirs}, but the gateway pool has nodes in "
            f"zones {ours}; use a prefix in all zones, or in none",
        )
    if found.size != size:
        return problem(
            Reason.PREFIX_SIZE,
            f"public IP prefix {found.name} of {field} has length {found.size}, but the gateway "
            f"pool asks for length {size}: one address for each gateway node; use a prefix of "
            f"length {size}",
        )
    return None
