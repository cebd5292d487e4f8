"""What the CNI plugin says to the node agent, and what it leaves behind. Values only, no I/O.

The plugin sends one JSON object (``Call``) over a stream socket and closes its half; the same
object is the record it writes of every pod. The agent answers ``ok\\n``, or ``error\\n`` and a CNI
error object that the plugin prints as it stands, and closes. Anything else means "try again
later", so a half-written answer can never start a pod. Formats: https://www.cni.dev/docs/spec/
"""

from __future__ import annotations

import functools
import ipaddress
from typing import Final

import msgspec

from egress_gateway.api import names
from egress_gateway.service.errors import ExpectedError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

SOCKET: Final = "cni.sock"
RECORDS: Final = "pods"
"""Folder below the run directory: the plugin's record of every sandbox."""
ATTACHMENTS: Final = "attached"
"""Folder below the run directory: the agent's file for every attached sandbox. The plugin looks
only whether it is there, to know whether DEL concerns the agent."""

OK: Final = b"ok\n"
TRY_AGAIN: Final = 11
"""Error code "try again later": the kubelet makes a new sandbox after a pause."""
DECODE_FAILURE: Final = 6
INVALID_CONFIG: Final = 7
_interface: Final = functools.lru_cache(maxsize=1 << 12)(ipaddress.ip_interface)

SUPPORTED_VERSIONS: Final = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""All that know chains. Azure CNI's own configuration says 0.3.0."""


class ProtocolError(ExpectedError, ValueError):
    """The call or its configuration makes no sense; the text says which part."""


class _Loose(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Unknown fields are somebody else's."""


class ResultIP(_Loose, frozen=True, kw_only=True):
    """One of a result's addresses, in CIDR form."""

    address: str = ""


class Result(_Loose, frozen=True, kw_only=True):
    """The part of a CNI result that is read: the pod's addresses."""

    ips: list[ResultIP] | None = None


class ValidAttachment(_Loose, frozen=True, kw_only=True):
    """One of GC's valid attachments."""

    container_id: str = msgspec.field(name="containerID", default="")
    if_name: str = msgspec.field(name="ifname", default="")


class NetConf(_Loose, frozen=True, kw_only=True):
    """The network configuration on a plugin's standard input."""

    cni_version: str = ""
    name: str = ""
    runtime_config: dict[str, msgspec.Raw] | None = None
    prev_result: Result | None = None
    valid_attachments: list[ValidAttachment] | None = msgspec.field(
        name="cni.dev/valid-attachments", default=None
    )


class Call(_Loose, frozen=True, kw_only=True):
    """One call of the plugin by a container runtime, or the record of an ADD."""

    command: str
    container_id: str = msgspec.field(name="containerID", default="")
    netns: str = ""
    if_name: str = ""
    args: str = ""
    config: NetConf

    @property
    def id(self) -> str:
        """Names the attachment; also the stem of its files."""
        return f"{self.container_id}-{self.if_name}"

    @property
    def pod(self) -> tuple[str, str, str]:
        """(namespace, name, uid); what the runtime did not say is empty."""
        args = parse_args(self.args)
        return (
            args.get("K8S_POD_NAMESPACE", ""),
            args.get("K8S_POD_NAME", ""),
            args.get("K8S_POD_UID", ""),
        )

    @property
    def configuration(self) -> str:
        """What the pod's annotation named when the runtime called; empty: nothing."""
        raw = (self.config.runtime_config or {}).get(names.CNI_CAPABILITY)
        if raw is None:
            return ""
        try:
            annotations = msgspec.json.decode(raw, type=dict[str, str] | None) or {}
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ProtocolError(f"runtimeConfig {names.CNI_CAPABILITY!r}: {error}") from error
        return names.asked_configuration(annotations)

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """The pod's addresses, as the plugins before us gave them."""
        result = self.config.prev_result
        entries = result.ips or [] if result else []
        try:
            return tuple(_interface(entry.address).ip for entry in entries)
        except ValueError as error:
            raise ProtocolError(f"prevResult.ips: {error}") from error


_call = msgspec.json.Decoder(Call)


def decode(raw: bytes) -> Call:
    """A call or a record. Raises ``ProtocolError``."""
    try:
        return _call.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"call of the CNI plugin: {error}") from error


def parse_args(args: str) -> dict[str, str]:
    """CNI_ARGS: ``KEY=VALUE`` pairs between semicolons. Anything else is skipped."""
    return dict(pair.split("=", 1) for pair in args.split(";") if "=" in pair)


def refusal(code: int, message: str, details: str = "", *, version: str = "") -> bytes:
    """The answer that fails the call with ``message`` (shown in the pod's events)."""
    error = {
        "cniVersion": version or SUPPORTED_VERSIONS[-1],
        "code": code,
        "msg": message,
        "details": details,
    }
    return b"error\n" + msgspec.json.encode(error) + b"\n"
