"""What the CustomResourceDefinitions say about each field, beyond its type.

``FIELDS`` has an entry for every field of every kind (``crd`` refuses to generate otherwise):
the description that ``kubectl explain`` shows, and schema keywords. ``RULES`` are CEL rules, each
with a message that names the mend. Rules use only ``has()``, comparison, ``&&``, ``||``, ``!`` and
``matches()``, so that Kubernetes 1.30 and small evaluators understand them; the exact checks are
``validation.validate_spec``'s, which the controller repeats. Strings that a rule reads have a
``maxLength``: the server estimates a rule's cost from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from egress_gateway.api import types


@dataclass(frozen=True, slots=True)
class CelRule:
    """A CEL rule on the value of its schema node (``self``)."""

    rule: str
    message: str


@dataclass(frozen=True, slots=True)
class Field:
    """Description and added schema keywords of a field; ``items`` go to a list's items."""

    description: str
    keywords: Mapping[str, Any] = field(default_factory=dict)
    items: Mapping[str, Any] = field(default_factory=dict)


def _bounded(length: int, **keywords: Any) -> dict[str, Any]:
    return {"maxLength": length, **keywords}


_NAMED: Final = _bounded(253, pattern="^[A-Za-z0-9._-]*$")
"""A name as Kubernetes has them; the field may be unset."""
_GATEWAY: Final = _bounded(253, pattern="^[A-Za-z0-9. _-]*$")
"""A Node's name, or ``load balancer``."""
_QUALIFIED: Final = _bounded(317, pattern="^[A-Za-z0-9._/-]*$")
"""``namespace/name``."""
_UID: Final = _bounded(128, pattern="^[A-Za-z0-9-]*$")
_ADDRESS: Final = _bounded(45, pattern="^[0-9a-fA-F:.]*$")
"""An IPv4 or IPv6 address: 45 is an IPv4-mapped one (RFC 4291, section 2.5.5)."""
_KEY: Final = _bounded(44, pattern="^[A-Za-z0-9+/=]*$")
_INTERFACE: Final = _bounded(15)
"""Linux names links so (IFNAMSIZ)."""
_REASON: Final = _bounded(64, pattern="^[A-Za-z0-9]*$")
_MESSAGE: Final = _bounded(types.REPORTED_MESSAGE)
_REPORTED: Final = {"maxItems": types.REPORTED}

_POOL: Final = "has(self.gatewayNodepoolName) && self.gatewayNodepoolName != ''"
_GROUP: Final = "has(self.vmssResourceGroup) && self.vmssResourceGroup != ''"
_VMSS: Final = "has(self.vmssName) && self.vmssName != ''"
_SIZE: Final = "has(self.publicIpPrefixSize) && self.publicIpPrefixSize != 0"
_PROFILE_UNSET: Final = f"!({_GROUP}) && !({_VMSS}) && !({_SIZE})"
_PROFILE: Final = (
    "has(self.gatewayVmssProfile) && ("
    + " || ".join(
        f"({part.replace('self.', 'self.gatewayVmssProfile.')})" for part in (_GROUP, _VMSS, _SIZE)
    )
    + ")"
)

_OCTET: Final = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4_CIDR: Final = f"({_OCTET}[.]){{3}}{_OCTET}/(3[0-2]|[12]?[0-9])"
_IPV6_CIDR: Final = "[0-9a-fA-F:.]*:[0-9a-fA-F:.]*/(12[0-8]|1[01][0-9]|[1-9]?[0-9])"

LETTERS: Final = (
    "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0370-\u03ff\u0400-\u04ff\u05d0-\u05ea"
    "\u0621-\u064a\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3"
)
"""Azure takes letters of any script in names of resource groups."""
NAME_CHARACTERS: Final = "A-Za-z0-9._-"
GROUP_CHARACTERS: Final = f"{LETTERS}0-9._()-"
NAME: Final = f"[{NAME_CHARACTERS}]*[A-Za-z0-9_-]"
GROUP: Final = f"[{GROUP_CHARACTERS}]*[{LETTERS}0-9_()-]"
"""Patterns. No name in Azure ends with a dot; ``..`` in a request's path would lead elsewhere."""

_LINE_END: Final = CelRule(
    "!self.matches('[\\\\r\\\\n]')",
    "it has a carriage return or line end, as `az ... -o tsv` leaves behind a value on Windows: "
    "remove it (in a shell: tr -d '\\r\\n')",
)
_BLANK: Final = CelRule("!self.matches('[ \\\\t]')", "it has a blank or tab: remove it")


_LAST_DOT: Final = CelRule("!self.matches('[.]$')", "it ends with a dot: remove it")


def _of(characters: str, shown: str) -> dict[str, Any]:
    """An Azure name: rules that name the character which most often is too much, then all that
    may be there."""
    allowed = CelRule(
        f"self.matches('^[{characters}]*$')", f"it has a character that is not allowed: {shown}"
    )
    return _bounded(256, **{"x-kubernetes-validations": (_LINE_END, _BLANK, allowed, _LAST_DOT)})


_AZURE_NAME: Final = _of(NAME_CHARACTERS, "use letters, digits, '.', '_' and '-'")
_GROUP_NAME: Final = _of(GROUP_CHARACTERS, "use letters, digits, '.', '_', '-', '(' and ')'")

CIDR_RULE: Final = CelRule(
    f"self.matches('^({_IPV4_CIDR}|{_IPV6_CIDR})$')",
    "not a CIDR: write address/length, such as 10.0.0.0/8 or 192.0.2.1/32",
)
PREFIX_ID_RULE: Final = CelRule(
    f"self == '' || self.matches('(?i)^/subscriptions/[A-Za-z0-9-]+/resourceGroups/"
    f"{GROUP}/providers/Microsoft[.]Network/publicIPPrefixes/{NAME}$')",
    "not the id of a public IP prefix: use what "
    "`az network public-ip prefix show --query id` prints",
)

RULES: Final[dict[type, tuple[CelRule, ...]]] = {
    types.StaticGatewayConfigurationSpec: (
        CelRule(
            f"!({_POOL}) || !({_PROFILE})",
            "gatewayNodepoolName and gatewayVmssProfile are both set: keep one of the two",
        ),
        CelRule(
            f"({_POOL}) || ({_PROFILE})",
            "neither gatewayNodepoolName nor gatewayVmssProfile is set: name the gateway node "
            "pool, or the scale set with its resource group",
        ),
        CelRule(
            "!has(self.publicIpPrefixId) || self.publicIpPrefixId == '' || "
            "!has(self.provisionPublicIps) || self.provisionPublicIps",
            "publicIpPrefixId is set although provisionPublicIps is false: remove it, or set "
            "provisionPublicIps to true",
        ),
        CelRule(
            "!has(self.publicIpPrefixIdV6) || self.publicIpPrefixIdV6 == '' || "
            "!has(self.provisionPublicIps) || self.provisionPublicIps",
            "publicIpPrefixIdV6 is set although provisionPublicIps is false: remove it, or set "
            "provisionPublicIps to true",
        ),
    ),
    types.PodEndpointSpec: (
        CelRule(
            "has(self.podPublicKey) == has(oldSelf.podPublicKey) && "
            "(!has(self.podPublicKey) || self.podPublicKey == oldSelf.podPublicKey)",
            "podPublicKey never changes: delete the PodEndpoint and create another one",
        ),
    ),
    types.GatewayVmssProfile: (
        CelRule(
            f"({_PROFILE_UNSET}) || ({_GROUP})",
            "vmssResourceGroup is empty: name the scale set's resource group",
        ),
        CelRule(f"({_PROFILE_UNSET}) || ({_VMSS})", "vmssName is empty: name the scale set"),
        CelRule(
            f"({_PROFILE_UNSET}) || "
            "(has(self.publicIpPrefixSize) && self.publicIpPrefixSize >= 28)",
            "publicIpPrefixSize is not between 28 and 31: choose 28 (16 gateway nodes) to 31 "
            "(2 gateway nodes)",
        ),
    ),
}

_LABEL: Final = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
VERIFY_TARGET: Final = rf"^({_LABEL}(\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]+\]):[0-9]{{1,5}}$"
"""``host:port``; a name's labels have 1 to 63 characters (RFC 1035), an IPv6 address stands in
brackets."""

FIELDS: Final[dict[type, dict[str, Field]]] = {
    types.StaticGatewayConfiguration: {
        "spec": Field("Which gateway nodes to use, and with which addresses."),
        "status": Field("What the controller has made of the spec. Only the controller writes it."),
    },
    types.StaticGatewayConfigurationSpec: {
        "gatewayNodepoolName": Field(
            "Name of the gateway node pool. Exactly one of gatewayNodepoolName and "
            "gatewayVmssProfile must be set.",
            _AZURE_NAME,
        ),
        "gatewayVmssProfile": Field(
            "Names the gateway nodes' scale set directly, where node pools carry no AKS tags. "
            "An empty profile counts as unset."
        ),
        "defaultRoute": Field(
            "Where the pods' default route goes: staticEgressGateway sends everything through "
            "the gateway except excludeCidrs; azureNetworking sends only excludeCidrs through "
            "the gateway.",
            {"default": "staticEgressGateway"},
        ),
        "provisionPublicIps": Field(
            "Whether gateway nodes get public addresses for this configuration. False is private "
            "mode: traffic leaves from private addresses of the virtual network.",
            {"default": True},
        ),
        "publicIpPrefixId": Field(
            "Resource id of an existing public IP prefix to take the addresses from: in the "
            "cluster's subscription, and exactly as large as the pool asks for. If empty, the "
            "controller makes a prefix, and removes it with the configuration. Only with "
            "provisionPublicIps.",
            {"maxLength": 1024, "x-kubernetes-validations": (_LINE_END, _BLANK, PREFIX_ID_RULE)},
        ),
        "publicIpPrefixIdV6": Field(
            "Resource id of an existing IPv6 public IP prefix for the pods' IPv6 traffic: in the "
            "cluster's subscription, with as many addresses as the pool asks for (length 124 to "
            "127 for 28 to 31). If empty, pods' IPv6 traffic that belongs to the gateway is "
            "dropped. Only with provisionPublicIps.",
            {"maxLength": 1024, "x-kubernetes-validations": (_LINE_END, _BLANK, PREFIX_ID_RULE)},
        ),
        "excludeCidrs": Field(
            "CIDRs of destinations that do not follow defaultRoute: their traffic takes the other "
            "of the two ways.",
            {"maxItems": 1000},
            {"maxLength": 64, "x-kubernetes-validations": (CIDR_RULE,)},
        ),
        "connectionLog": Field(
            "Whether gateway nodes log a line for each connection that begins or ends, with time, "
            "pod, address, port and destination. For audits; off if not set."
        ),
        "verifyTargets": Field(
            "STUN servers, as host:port, that verify this configuration's addresses. They must be "
            "outside of the cluster's networks. Empty: the servers of the gateways' setting "
            "verify_targets.",
            {"maxItems": 8},
            {"maxLength": 261, "pattern": VERIFY_TARGET},
        ),
        "startPolicy": Field(
            "What happens to a pod that gets no tunnel in time. Wait (the default): the pod does "
            "not start. HeldBack: the pod starts, and all its traffic that belongs to the gateway "
            "is dropped until it has a tunnel."
        ),
    },
    types.GatewayVmssProfile: {
        "vmssResourceGroup": Field(
            "Resource group of the scale set, in the cluster's subscription.", _GROUP_NAME
        ),
        "vmssName": Field("Name of the scale set.", _AZURE_NAME),
        "publicIpPrefixSize": Field(
            "Length of the public IP prefix, 28 to 31: its number of addresses bounds the "
            "number of gateway nodes (31: two, 28: sixteen).",
            {"format": "int32", "minimum": 0, "maximum": 31},
        ),
    },
    types.StaticGatewayConfigurationStatus: {
        "egressIpPrefix": Field(
            "The source addresses of the pods' traffic: the public IP prefix (with IPv6, both "
            "prefixes separated by a comma), or in private mode the gateways' secondary addresses "
            "separated by commas. While addresses are exchanged, the old ones follow the new, as "
            "long as a gateway may still use them.",
            _bounded(16384, pattern="^[0-9a-fA-F:./,]*$"),
        ),
        "gatewayServerProfile": Field("How pods reach the gateways."),
        "keyRotation": Field("The latest change of the key pair (egress-gateway rotate-keys)."),
        "gateways": Field("The gateway nodes that serve this configuration.", {"maxItems": 256}),
        "pods": Field("The attached pods, and how many of them have a working tunnel."),
        "conditions": Field(
            "Ready sums up Accepted (the spec is valid and its pool exists), Provisioned (Azure "
            "holds what it asks for) and GatewaysReady (gateway nodes serve it). KeysRotated "
            "describes the latest change of the key pair, if there was one. Degraded is True "
            "while there is a problem that Ready does not show.",
            {
                "maxItems": 32,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            },
        ),
        "observedGeneration": Field(
            "Generation of the spec that the status describes.", {"format": "int64", "minimum": 0}
        ),
    },
    types.GatewayServerProfile: {
        "ip": Field("Address of the internal load balancer in front of the gateways.", _ADDRESS),
        "port": Field(
            "UDP port of this configuration's WireGuard server.",
            {"format": "int32", "minimum": 0, "maximum": 65535},
        ),
        "publicKey": Field(
            "WireGuard public key that all gateways of this configuration share.", _KEY
        ),
        "privateKeySecretRef": Field(
            "The Secret that holds the private key. For people and the Go project: agents derive "
            "its name from the UID and never follow this reference.",
            {"x-kubernetes-map-type": "atomic"},
        ),
    },
    types.KeyRotation: {
        "request": Field("Value of the annotation that requested it.", _bounded(262144)),
        "phase": Field(
            "Preparing (gateways get a second interface), Moving (pods move to it), Retiring (the "
            "profile names it, and the previous one is about to go), Closing (nothing leaves by "
            "the previous one), Done or Abandoned."
        ),
        "port": Field(
            "UDP port of the second WireGuard server, while there is one.",
            {"format": "int32", "minimum": 0, "maximum": 65535},
        ),
        "publicKey": Field("WireGuard public key of the second server, while there is one.", _KEY),
    },
    types.PodCount: {
        "attached": Field("Attached pods on nodes that are up.", {"format": "int32", "minimum": 0}),
        "connected": Field(
            "Those of them that have a working tunnel.", {"format": "int32", "minimum": 0}
        ),
    },
    types.ObjectReference: {
        "apiVersion": Field("API version of the referent.", _bounded(317)),
        "kind": Field("Kind of the referent.", _bounded(63)),
        "namespace": Field("Namespace of the referent.", _NAMED),
        "name": Field("Name of the referent.", _NAMED),
    },
    types.Gateway: {
        "node": Field("Name of the Kubernetes Node.", _NAMED),
        "primaryIp": Field(
            "Private address of the node, where its WireGuard socket answers.", _ADDRESS
        ),
        "secondaryIp": Field(
            "Private address that this configuration's traffic leaves from.", _ADDRESS
        ),
        "publicIp": Field(
            "Public address that the Internet sees. Empty in private mode or while unknown.",
            _ADDRESS,
        ),
        "secondaryIpV6": Field(
            "Private IPv6 address that this configuration's IPv6 traffic leaves from. Empty: the "
            "gateway drops its IPv6 traffic.",
            _ADDRESS,
        ),
        "publicIpV6": Field(
            "Public IPv6 address that the Internet sees. Empty while unknown.", _ADDRESS
        ),
        "seenIp": Field(
            "Source address that servers on the Internet see on IPv4 traffic of this gateway. It "
            "should equal publicIp. Empty while no server has answered.",
            _ADDRESS,
        ),
        "leaving": Field(
            "true while pods move away from this gateway, because its address is about to change. "
            "It serves until it is no longer listed."
        ),
        "seenIpV6": Field("The same of IPv6 traffic, beside publicIpV6.", _ADDRESS),
    },
    types.Condition: {
        "type": Field("Type of the condition, in CamelCase.", {"maxLength": 316}),
        "status": Field("True, False or Unknown."),
        "reason": Field(
            "Why, in CamelCase, for programs.",
            {
                "minLength": 1,
                "maxLength": 1024,
                "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
            },
        ),
        "message": Field("Why, in words, and what fixes it. May be empty.", {"maxLength": 32768}),
        "lastTransitionTime": Field("When the status last changed.", {"format": "date-time"}),
        "observedGeneration": Field(
            "Generation of the spec that the condition describes.",
            {"format": "int64", "minimum": 0},
        ),
    },
    types.PodEndpoint: {
        "spec": Field("The pod's end of its tunnel. The agent of the pod's node writes it."),
        "status": Field("Whether the tunnel works, and where it leads. The same agent writes it."),
    },
    types.PodEndpointStatus: {
        "state": Field(
            "Connected (the tunnel works), Lost (it worked before) or Waiting (it has not worked "
            "yet)."
        ),
        "gateway": Field("Gateway node that the tunnel leads to; empty without one.", _GATEWAY),
        "egressIp": Field(
            "Source address of the pod's traffic outside the cluster: a public address, or in "
            "private mode the gateway's. Empty without a tunnel, or if unknown.",
            _ADDRESS,
        ),
        "egressIpV6": Field("The same of IPv6.", _ADDRESS),
        "since": Field(
            "When the pod got its present state, gateway and address.", {"format": "date-time"}
        ),
        "reason": Field("Why it has no tunnel, in CamelCase, for programs.", _REASON),
        "message": Field("The same in words, and what fixes it.", _MESSAGE),
        "unreachedGateways": Field(
            "Gateways that the pod's node does not reach, although it reaches another: pods there "
            "could not move to them. One pod of a node and configuration tells of them.",
            {"maxItems": types.MOST_UNREACHED},
        ),
    },
    types.UnreachedGateway: {
        "gateway": Field("Gateway node.", _GATEWAY),
        "reason": Field(
            "TunnelsUnanswered (no handshake is answered) or LargePacketsLost (small packets are "
            "answered, full-size ones are not)."
        ),
    },
    types.PodEndpointSpec: {
        "staticGatewayConfiguration": Field(
            "Name of the StaticGatewayConfiguration that the pod uses, in the same namespace.",
            _NAMED,
        ),
        "podIpAddress": Field("The pod's IPv4 address.", _ADDRESS),
        "podPublicKey": Field(
            "WireGuard public key of the pod's end. It never changes: if two objects claim a key, "
            "the older one keeps it.",
            _KEY,
        ),
        "podIps": Field("Every address of the pod.", {"maxItems": 8}, _ADDRESS),
        "podUid": Field("UID of the Pod. A gateway accepts no endpoint without a live pod.", _UID),
        "nodeName": Field("Node that the pod runs on.", _NAMED),
        "gatewayPublicKey": Field(
            "WireGuard public key of the server that the pod's tunnel leads to.", _KEY
        ),
    },
    types.GatewayStatus: {
        "spec": Field("What the gateway node serves. Its gateway agent writes it."),
    },
    types.GatewayStatusSpec: {
        "readyGatewayConfigurations": Field(
            "Configurations that the node serves at this moment.", _REPORTED
        ),
        "problems": Field("Why the node does not serve a configuration that lists it.", _REPORTED),
        "vetoes": Field("Why pods should use other gateways, if there are any.", _REPORTED),
        "refusedClaims": Field(
            "Some of the PodEndpoints that the gateway does not serve, because they do not agree "
            "with the cluster.",
            {"maxItems": types.CLAIMS},
        ),
        "heartbeat": Field(
            "When the agent last wrote. It writes regularly, even without a change.",
            {"format": "date-time"},
        ),
        "verified": Field("Which addresses servers on the Internet see for this node.", _REPORTED),
        "summary": Field("The lists in numbers."),
    },
    types.GatewaySummary: {
        "serves": Field("Configurations that the node serves.", {"format": "int32", "minimum": 0}),
        "problems": Field("Problems that it reports.", {"format": "int32", "minimum": 0}),
        "vetoes": Field("Reasons of its vetoes, separated by commas.", _bounded(256)),
    },
    types.ReadyGatewayConfiguration: {
        "staticGatewayConfiguration": Field("The configuration, as namespace/name.", _QUALIFIED),
        "interfaceName": Field("Name of its WireGuard interface on the node.", _INTERFACE),
        "uid": Field("UID of the configuration.", _UID),
        "publicKey": Field("WireGuard public key that the interface has.", _KEY),
        "secondPublicKey": Field(
            "Public key of the second interface, while the key pair of the configuration changes.",
            _KEY,
        ),
    },
    types.RefusedClaim: {
        "pod": Field("The Pod, as namespace/name.", _QUALIFIED),
        "staticGatewayConfiguration": Field("The configuration, as namespace/name.", _QUALIFIED),
        "reason": Field("Why, in CamelCase, for programs.", _REASON),
        "message": Field("What does not agree, in words.", _MESSAGE),
    },
    types.GatewayVeto: {
        "reason": Field(
            "Draining (the gateway works, and is about to go), InternetUnreachable (no traffic "
            "gets through), AddressNotVerified (traffic leaves from another address) or "
            "LargePacketsLost (small packets get through, and large ones do not).",
            _REASON,
        ),
        "message": Field("Why, in words.", _MESSAGE),
        "staticGatewayConfiguration": Field(
            "The configuration, as namespace/name; empty: all.", _QUALIFIED
        ),
    },
    types.SeenAddress: {
        "staticGatewayConfiguration": Field("The configuration, as namespace/name.", _QUALIFIED),
        "expectedIp": Field("The expected public address.", _ADDRESS),
        "seenIp": Field("The address that servers see. Empty: no server answers.", _ADDRESS),
        "expectedIpV6": Field("The expected public IPv6 address.", _ADDRESS),
        "seenIpV6": Field("The IPv6 address that servers see. Empty: no server answers.", _ADDRESS),
        "largeLost": Field("Servers answer small packets, and full-size packets no longer."),
    },
    types.GatewayProblem: {
        "staticGatewayConfiguration": Field("The configuration, as namespace/name.", _QUALIFIED),
        "message": Field("What is wrong, in words.", _MESSAGE),
        "reason": Field(
            "Kind of the problem: GatewayWithoutIPv6 (the node serves IPv4 only). Empty: the node "
            "does not serve the configuration.",
            _REASON,
        ),
    },
}

_STRING: Final = {"type": "string"}

FOREIGN: Final[dict[type, dict[str, dict[str, Any]]]] = {
    types.ObjectReference: {
        "fieldPath": {**_STRING, **_bounded(1024), "description": "Part of the referent."},
        "resourceVersion": {**_STRING, **_bounded(64), "description": "Version of the referent."},
        "uid": {**_STRING, **_UID, "description": "UID of the referent."},
    },
    types.GatewayStatusSpec: {
        "readyPeerConfigurations": {
            "type": "array",
            "maxItems": 10000,
            "description": "Written by the Go project only: its peers. Kept so that both can "
            "run against one definition while a cluster moves over.",
            "items": {
                "type": "object",
                "properties": {
                    "podEndpoint": {**_STRING, **_QUALIFIED, "description": "As namespace/name."},
                    "interfaceName": {
                        **_STRING,
                        **_INTERFACE,
                        "description": "WireGuard interface.",
                    },
                    "publicKey": {**_STRING, **_KEY, "description": "WireGuard public key."},
                },
            },
        },
    },
}
"""Properties that our types do not read but that must survive pruning."""
