"""What a StaticGatewayConfiguration's spec may say; every check of the CRD's schema again.

Objects may have been written before the schema was installed, or by a server without CEL, so
the controller never relies on admission. Rules: the Go project's webhook and AKS's documentation
(https://learn.microsoft.com/azure/aks/configure-static-egress-gateway).
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from egress_gateway.api.crd_texts import (
    GROUP,
    GROUP_CHARACTERS,
    NAME,
    NAME_CHARACTERS,
    VERIFY_TARGET,
)
from egress_gateway.api.types import StaticGatewayConfigurationSpec

PREFIX_SIZES: Final = range(28, 32)
IPV6_LONGER: Final = 96
"""Bits by which an IPv6 prefix with as many addresses is longer: 31 and 127, 28 and 124."""
_PREFIX_ID: Final = re.compile(
    rf"/subscriptions/(?P<subscription>[A-Za-z0-9-]+)/resourceGroups/(?P<group>{GROUP})"
    rf"/providers/Microsoft\.Network/publicIPPrefixes/(?P<name>{NAME})",
    re.IGNORECASE,
)
_STRANGE_NAME: Final = re.compile(f"[^{NAME_CHARACTERS}]")
_STRANGE_GROUP: Final = re.compile(f"[^{GROUP_CHARACTERS}]")
_STRANGE_ID: Final = re.compile(f"[^/{GROUP_CHARACTERS}]")
_LENGTH: Final = re.compile(r"/(0|[1-9][0-9]{0,2})\Z")


@dataclass(frozen=True, slots=True)
class InvalidField:
    """One fault of a spec: the field (JSON path), what is wrong, what mends it."""

    field: str
    message: str
    mend: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}; {self.mend}"


@dataclass(frozen=True, slots=True)
class PrefixId:
    """A public IP prefix's resource id, taken apart. Compare without regard to case."""

    subscription: str
    resource_group: str
    name: str


def parse_prefix_id(text: str) -> PrefixId | None:
    """``text`` as the id of a public IP prefix; None if it is not one."""
    match = _PREFIX_ID.fullmatch(text)
    if match is None:
        return None
    return PrefixId(match["subscription"], match["group"], match["name"])


def validate_spec(spec: StaticGatewayConfigurationSpec) -> list[InvalidField]:
    """Every fault of ``spec``, in field order; empty if it is sound."""
    return [
        *_names(spec),
        *_pool(spec),
        *_addresses(spec),
        *_cidrs(spec.exclude_cidrs),
        *_targets(spec.verify_targets),
    ]


def host_and_port(text: str) -> tuple[str, int]:
    """``stun.example.com:3478`` or ``[2001:db8::1]:3478``. Raises ``ValueError``."""
    host, _, port = text.strip().rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not re.fullmatch(VERIFY_TARGET, text.strip()) or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is no host:port")
    return bare, int(port)


def _targets(targets: list[str]) -> list[InvalidField]:
    problems = []
    for index, text in enumerate(targets):
        try:
            host_and_port(text)
        except ValueError as error:
            field = f"spec.verifyTargets[{index}]"
            problems.append(InvalidField(field, str(error), "write it as stun.example.com:3478"))
    return problems


def strange_character(text: str, strange: re.Pattern[str] = _STRANGE_NAME) -> str:
    """The first character of ``text`` that does not belong, as a reader finds it; empty: none."""
    match = strange.search(text)
    if match is None:
        return ""
    found = match[0]
    name = _CHARACTERS.get(found) or unicodedata.name(found, "a control character").lower()
    at = "the end" if match.end() == len(text) else f"position {match.start() + 1}"
    return f"{name} (U+{ord(found):04X}) at {at}"


_CHARACTERS: Final = {
    "\r": "carriage return",
    "\n": "line end",
    "\t": "tab",
    " ": "blank",
    "\u00a0": "no-break blank",
}


def _names(spec: StaticGatewayConfigurationSpec) -> list[InvalidField]:
    profile = spec.gateway_vmss_profile
    fields = (
        ("spec.gatewayNodepoolName", spec.gateway_nodepool_name, _STRANGE_NAME),
        ("spec.gatewayVmssProfile.vmssResourceGroup", profile.vmss_resource_group, _STRANGE_GROUP),
        ("spec.gatewayVmssProfile.vmssName", profile.vmss_name, _STRANGE_NAME),
    )
    strange = [
        InvalidField(field, f"{text!r} has a {strange}", "remove that character")
        for field, text, pattern in fields
        if (strange := strange_character(text, pattern))
    ]
    return strange + [
        InvalidField(field, f"{text!r} ends with a dot", "remove it")
        for field, text, _ in fields
        if text.endswith(".")
    ]


def _pool(spec: StaticGatewayConfigurationSpec) -> Iterator[InvalidField]:
    profile, name = spec.gateway_vmss_profile, "spec.gatewayVmssProfile"
    if spec.gateway_nodepool_name:
        if not profile.unset:
            said = "set together with spec.gatewayNodepoolName"
            yield InvalidField(name, said, "keep one of the two")
        return
    if profile.unset:
        yield InvalidField(
            "spec.gatewayNodepoolName",
            "neither gatewayNodepoolName nor gatewayVmssProfile is set",
            "name the gateway node pool, or the scale set with its resource group",
        )
        return
    if not profile.vmss_resource_group:
        mend = "name the scale set's resource group"
        yield InvalidField(f"{name}.vmssResourceGroup", "empty", mend)
    if not profile.vmss_name:
        yield InvalidField(f"{name}.vmssName", "empty", "name the scale set")
    if profile.public_ip_prefix_size not in PREFIX_SIZES:
        yield InvalidField(
            f"{name}.publicIpPrefixSize",
            f"{profile.public_ip_prefix_size} is not between 28 and 31",
            "choose 28 (16 gateway nodes) to 31 (2 gateway nodes)",
        )


def _addresses(spec: StaticGatewayConfigurationSpec) -> list[InvalidField]:
    problems = []
    if spec.default_route not in ("", "staticEgressGateway", "azureNetworking"):
        problems.append(
            InvalidField(
                "spec.defaultRoute",
                f"{spec.default_route!r} is unknown",
                "use staticEgressGateway or azureNetworking",
            )
        )
    for field, prefix in (
        ("spec.publicIpPrefixId", spec.public_ip_prefix_id),
        ("spec.publicIpPrefixIdV6", spec.public_ip_prefix_id_v6),
    ):
        problems += _prefix(field, prefix, spec) if prefix else []
    return problems


def _prefix(field: str, prefix: str, spec: StaticGatewayConfigurationSpec) -> list[InvalidField]:
    problems = []
    if not spec.provision_public_ips:
        problems.append(
            InvalidField(
                field,
                "set although provisionPublicIps is false",
                "remove it, or set provisionPublicIps to true",
            )
        )
    strange = strange_character(prefix, _STRANGE_ID)
    if strange and prefix.count("/") > 1:  # an address has one
        problems.append(InvalidField(field, f"{prefix!r} has a {strange}", "remove that character"))
    elif strange or parse_prefix_id(prefix) is None:
        problems.append(
            InvalidField(
                field,
                f"{prefix!r} is not the id of a public IP prefix",
                "use the id that `az network public-ip prefix show --query id` prints",
            )
        )
    return problems


def _cidrs(cidrs: list[str]) -> list[InvalidField]:
    problems = []
    for index, text in enumerate(cidrs):
        field = f"spec.excludeCidrs[{index}]"
        # NB: ip_network() alone also takes netmasks (/255.0.0.0), padded lengths and zones.
        if not _LENGTH.search(text) or "%" in text:
            problems.append(
                InvalidField(field, f"{text!r} is not a CIDR", "write address/length, such as /32")
            )
            continue
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError as error:
            problems.append(InvalidField(field, str(error), "write it as address/length"))
    return problems
