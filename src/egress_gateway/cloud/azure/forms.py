"""The forms of Azure's documents: of which type each field is that we read.

``read`` holds a document against its form, once, before anything of it is believed. So readers need
no guard of their own: a field is absent, null, or of the type that they expect. Fields that no form
names may be anything, and are carried along as they are.

Source: Microsoft's API descriptions, https://learn.microsoft.com/rest/api/azure/.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from ipaddress import ip_address, ip_network
from typing import Any, Final, TypedDict

import msgspec

from egress_gateway.api import names
from egress_gateway.cloud import errors
from egress_gateway.cloud.azure.requests.shapes import Json, id_name, identified

POOL_TAG: Final = "egress-gateway-pool"
CONFIG_TAG: Final = "egress-gateway-ip-config"
"""Ours, on public addresses: whose they are even when the NIC that they were made for is gone."""


class Malformed(errors.Unavailable):
    """A document of which a field is of another type than Azure describes. Whoever sent it, a look
    later may show another."""


class Text(str):
    """A text that the ipaddress module reads, or an empty one."""


class AddressText(Text):
    """``10.0.0.4``, ``2001:db8::4``."""


class NetworkText(Text):
    """``203.0.113.0/30``."""


_TAGS: Final = TypedDict(  # type: ignore[misc]  # its names are constants
    "_TAGS", dict.fromkeys((names.POOL_NAME_TAG, POOL_TAG, CONFIG_TAG), str | None), total=False
)


def _form(name: str, /, **fields: Any) -> Any:
    """An object; each of its fields may be absent or null."""
    return msgspec.defstruct(name, [(key, kind | None, None) for key, kind in fields.items()])


def _of(name: str, /, **properties: Any) -> Any:
    """A resource, or a part of one, with these ``properties``."""
    return _form(
        name,
        id=str,
        name=str,
        etag=str,
        location=str,
        instanceId=str,
        tags=_TAGS,
        sku=_form("Sku", name=str, tier=str, capacity=int),
        properties=_form(f"{name}Properties", **properties),
    )


def _several(kind: Any) -> Any:
    return list[kind | None]


_Reference: Final = _form("Reference", id=str)
_STATE: Final = {"provisioningState": str}
_PREFIX_OF: Final = {"publicIPPrefix": _Reference}
_IP_CONFIGS: Final = _several(
    _of(
        "IpConfig",
        **_STATE,
        primary=bool,
        privateIPAddress=AddressText,
        privateIPAddressVersion=str,
        publicIPAddress=_Reference,
        publicIPAddressConfiguration=_of("PublicConfig", **_PREFIX_OF),
        subnet=_Reference,
        loadBalancerBackendAddressPools=_several(_Reference),
    )
)
_PROFILE: Final = _form(
    "NetworkProfile",
    networkInterfaceConfigurations=_several(
        _of("NicConfiguration", primary=bool, ipConfigurations=_IP_CONFIGS)
    ),
)

BALANCER: Final = _of(
    "LoadBalancer",
    **_STATE,
    frontendIPConfigurations=_several(_of("Frontend", privateIPAddress=AddressText)),
    backendAddressPools=_several(
        _of(
            "BackendPool",
            loadBalancerBackendAddresses=_several(
                _of("Member", networkInterfaceIPConfiguration=_Reference)
            ),
        )
    ),
    loadBalancingRules=_several(
        _of(
            "Rule",
            protocol=str,
            frontendPort=int,
            backendPort=int,
            enableFloatingIP=bool,
            frontendIPConfiguration=_Reference,
            backendAddressPool=_Reference,
            probe=_Reference,
        )
    ),
    probes=_several(
        _of(
            "Probe",
            protocol=str,
            port=int,
            requestPath=str,
            intervalInSeconds=int,
            probeThreshold=int,
        )
    ),
)
SCALE_SET: Final = _of(
    "ScaleSet",
    **_STATE,
    uniqueId=str,
    orchestrationMode=str,
    upgradePolicy=_form("UpgradePolicy", mode=str),
    virtualMachineProfile=_form("Model", networkProfile=_PROFILE),
)
INSTANCE: Final = _of("ScaleSetInstance", **_STATE, networkProfileConfiguration=_PROFILE)
NIC: Final = _of(
    "Nic", **_STATE, primary=bool, virtualMachine=_Reference, ipConfigurations=_IP_CONFIGS
)
PREFIX: Final = _of(
    "PublicPrefix",
    **_STATE,
    ipPrefix=NetworkText,
    prefixLength=int,
    publicIPAddresses=list,
)
ADDRESS: Final = _of(
    "PublicIpAddress",
    **_STATE,
    **_PREFIX_OF,
    ipAddress=AddressText,
    ipConfiguration=_Reference,
)
SUBNET: Final = _of(
    "AzureSubnet",
    addressPrefix=NetworkText,
    addressPrefixes=_several(NetworkText),
    ipConfigurations=list,
)
TAGGED: Final = _form("Tagged", tags=_TAGS)
"""Any resource: enough to see whose it is."""

_PLACE: Final = re.compile(r"(?P<what>.*?)(?: - at `\$?\.?(?P<place>.*)`)?", re.DOTALL)


def read(document: Json, form: Any) -> Json:
    """``document``, as it is. Raises ``Malformed``, with its name and the field, if it is not of
    the form."""
    try:
        msgspec.convert(document, form, dec_hook=_text)
    except (msgspec.ValidationError, RecursionError, UnicodeError) as error:  # a lone surrogate
        raise _malformed(document, str(error)) from error
    return document


def listed(documents: Iterable[Json], form: Any) -> list[Json]:
    """Those that can be told apart, each with its name. Raises ``Malformed`` for the first one that
    is not of the form."""
    return [read(document, form) for document in identified(documents)]


def _malformed(document: Json, told: str) -> Malformed:
    found = _PLACE.fullmatch(told)
    what, place = (found["what"], found["place"]) if found else (told, None)
    what = what.replace(" | null", "")
    resource, name = (v if isinstance(v := document.get(k), str) else "" for k in ("id", "name"))
    called = id_name(resource) or name or "a resource"
    return Malformed(
        f"Azure's document of {called} makes no sense at {place or 'its beginning'}: "
        f"{what[:1].lower()}{what[1:]}; nothing of it is believed, and the controller asks again",
        resource=resource,
        hint="if it lasts, see what answers in Azure's place: a proxy, a firewall, a front door",
    )


def _parsed(parse: Callable[[str], object], text: str) -> None:
    try:
        parse(text)
    except ValueError as error:
        raise ValueError(f"expected an IP address or network, got {text[:50]!r}") from error


def _text(kind: type, value: Any) -> Any:
    if not isinstance(value, str):
        raise TypeError(f"expected `str`, got `{type(value).__name__}`")
    if value and kind is AddressText:
        _parsed(ip_address, value)
    elif value and kind is NetworkText:
        _parsed(ip_network, value)
    return kind(value)
