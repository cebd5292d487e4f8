"""The objects of the API group, as values.

Fields and spellings are the Go project's (``api/v1alpha1``); what we add is optional, so that
objects written by either side decode on the other. *Unset* means empty string, ``{}`` or zero:
the Go project's defaulting leaves ``gatewayVmssProfile: {}`` in every object.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from egress_gateway.api import names

RouteType = Literal["staticEgressGateway", "azureNetworking"]
StartPolicy = Literal["Wait", "HeldBack"]
PodState = Literal["Connected", "Lost", "Waiting"]
UnreachedReason = Literal["TunnelsUnanswered", "LargePacketsLost"]
MOST_UNREACHED: Final = 16
"""Gateways that a PodEndpoint names as not reached."""
RotationPhase = Literal["Preparing", "Moving", "Retiring", "Closing", "Done", "Abandoned"]

LARGE_LOST: Final = "LargePacketsLost"
"""Small packets come through the gateway, and large ones do not."""
DRAINING: Final = "Draining"
"""The gateway works and will go: connections may finish there, new ones should not begin."""
NOT_VERIFIED: Final = "AddressNotVerified"
"""What goes through the gateway leaves from another address than it should."""
INTERNET_UNREACHABLE: Final = "InternetUnreachable"
"""What goes through the gateway gets nowhere."""


REPORTED: Final = names.PORT_LAST - names.PORT_FIRST + 1
"""Entries of a list of a GatewayStatus: a pool has as many ports."""
REPORTED_MESSAGE: Final = 1024
"""Characters of a message there."""
CLAIMS: Final = 16
"""Refused claims that a GatewayStatus names: others fill that list, so it stays short."""


def cut(message: str) -> str:
    """``message`` within ``REPORTED_MESSAGE`` characters."""
    return message if len(message) <= REPORTED_MESSAGE else message[: REPORTED_MESSAGE - 1] + "…"


class ApiStruct(
    msgspec.Struct, rename="camel", omit_defaults=True, frozen=True, kw_only=True, gc=False
):
    """Camel-case on the wire, defaults left out, immutable in memory. No value holds itself, so
    the garbage collector need not look at them."""


class OwnerReference(ApiStruct, frozen=True):
    """``metav1.OwnerReference``."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(ApiStruct, frozen=True):
    """The part of Kubernetes' ObjectMeta that the components read."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: list[str] = []
    owner_references: list[OwnerReference] = []


class Condition(ApiStruct, frozen=True, omit_defaults=False):
    """``metav1.Condition``."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str
    last_transition_time: str = ""
    observed_generation: int = 0


class ObjectReference(ApiStruct, frozen=True):
    """Which object is meant, across namespaces; empty fields are not known."""

    api_version: str = ""
    kind: str = ""
    namespace: str = ""
    name: str = ""


class GatewayVmssProfile(ApiStruct, frozen=True):
    """Names a scale set directly, where pools carry no AKS tags."""

    vmss_resource_group: str = ""
    vmss_name: str = ""
    public_ip_prefix_size: int = 0

    @property
    def unset(self) -> bool:
        """Whether the field was left out: upstream's defaulting writes it empty."""
        return self == GatewayVmssProfile()


class StaticGatewayConfigurationSpec(ApiStruct, frozen=True):
    """What a user asks for; docs/reference/fields.md has all.

    "Ours": not a field of the Go project."""

    gateway_nodepool_name: str = ""
    gateway_vmss_profile: GatewayVmssProfile = GatewayVmssProfile()
    default_route: RouteType | Literal[""] = "staticEgressGateway"
    provision_public_ips: bool = True
    public_ip_prefix_id: str = ""
    public_ip_prefix_id_v6: str = ""
    """Ours. The IPv6 prefix that pods' IPv6 leaves from; empty: it is held back."""
    exclude_cidrs: list[str] = []
    connection_log: bool = False
    """Ours. Gateways log each connection (time, pod, address, port, destination), for audits."""
    verify_targets: list[str] = []
    """Ours. STUN servers, as host:port, that say what the Internet sees of this configuration;
    empty: those of the gateways' settings."""
    start_policy: StartPolicy | Literal[""] = ""
    """Ours. What a pod does that gets no tunnel in time: ``Wait`` (the default) or start with
    everything ``HeldBack`` until it has one."""


class GatewayServerProfile(ApiStruct, frozen=True):
    """Where pods find the gateways: the load balancer's address, the port, the public key."""

    ip: str = ""
    port: int = 0
    public_key: str = ""
    private_key_secret_ref: ObjectReference | None = None


class Gateway(ApiStruct, frozen=True):
    """Ours: one gateway node that serves a configuration.

    ``node`` is the Kubernetes Node's name, ``primary_ip`` where its WireGuard socket answers,
    ``secondary_ip`` the private address that its SNAT uses, ``public_ip`` what the Internet
    sees (empty in private mode or while unknown); ``secondary_ip_v6`` and ``public_ip_v6`` are
    the same of IPv6 (empty: it is not carried there).
    """

    node: str
    primary_ip: str
    secondary_ip: str
    public_ip: str = ""
    secondary_ip_v6: str = ""
    public_ip_v6: str = ""
    seen_ip: str = ""
    """What servers on the Internet see of IPv4 that leaves it; empty while none has answered."""
    leaving: bool = False
    """It serves until the status drops it, which is soon: its pods move to another one first."""
    seen_ip_v6: str = ""
    """The same of IPv6."""


class KeyRotation(ApiStruct, frozen=True):
    """Ours: the last requested change of a configuration's key pair.

    While it is under way ``port`` and ``public_key`` are a second server, besides the profile's,
    that gateways serve too: the next one in ``Preparing`` and ``Moving``, the previous one in
    ``Retiring`` and ``Closing``.
    """

    request: str = ""
    """The annotation that asked for it."""
    phase: RotationPhase | Literal[""] = ""
    port: int = 0
    public_key: str = ""


class PodCount(ApiStruct, frozen=True, omit_defaults=False):
    """Ours: a configuration's attached pods on nodes that are up, and how many of them have a
    working tunnel."""

    attached: int = 0
    connected: int = 0


class StaticGatewayConfigurationStatus(ApiStruct, frozen=True):
    """What the controller made of the spec, and who serves it. ``pods`` is None before the first
    count."""

    egress_ip_prefix: str = ""
    gateway_server_profile: GatewayServerProfile = GatewayServerProfile()
    key_rotation: KeyRotation = KeyRotation()
    gateways: list[Gateway] = []
    pods: PodCount | None = None
    conditions: list[Condition] = []
    observed_generation: int = 0


class StaticGatewayConfiguration(ApiStruct, frozen=True):
    """Namespaced; users write the spec, the controller the status."""

    metadata: ObjectMeta
    spec: StaticGatewayConfigurationSpec = StaticGatewayConfigurationSpec()
    status: StaticGatewayConfigurationStatus = StaticGatewayConfigurationStatus()
    api_version: str = names.API_VERSION
    kind: str = "StaticGatewayConfiguration"


class PodEndpointSpec(ApiStruct, frozen=True):
    """One attached pod. The first three fields are the Go project's.

    ``pod_uid`` and ``node_name`` let a gateway check the endpoint against the Pod itself;
    ``pod_ips`` holds every address of the pod, ``pod_ip_address`` the first IPv4 one.
    ``gateway_public_key`` says which of a configuration's key pairs the pod's tunnel uses.
    """

    static_gateway_configuration: str = ""
    pod_ip_address: str = ""
    pod_public_key: str = ""
    pod_ips: list[str] = []
    pod_uid: str = ""
    node_name: str = ""
    gateway_public_key: str = ""


class UnreachedGateway(ApiStruct, frozen=True):
    """A gateway that a node's pods could not move to, as the agent's trials of the path found."""

    gateway: str
    """Its node."""
    reason: UnreachedReason


class PodEndpointStatus(ApiStruct, frozen=True, omit_defaults=False):
    """Ours. Whether the pod has a tunnel and where it leads; written when that changes, and at no
    other time. ``state`` is empty while its agent has not looked."""

    state: PodState | Literal[""] = ""
    gateway: str = ""
    """The gateway's node, or ``load balancer``; empty without a tunnel."""
    egress_ip: str = ""
    """What the Internet (in private mode: the network) sees of the pod; empty without a tunnel, or
    where nobody knows."""
    egress_ip_v6: str = ""
    since: str | None = None
    """When it came to this state, gateway and address."""
    reason: str = ""
    """CamelCase; docs/operate/troubleshooting.md lists them."""
    message: str = ""
    unreached_gateways: list[UnreachedGateway] = []
    """Gateways of the configuration that the pod's node does not reach, although it reaches
    another. One pod a node and configuration tells of them."""

    @property
    def held_back(self) -> bool:
        """Whether its agent says that the pod sends nothing."""
        return self.state in ("Lost", "Waiting")


class PodEndpoint(ApiStruct, frozen=True):
    """Namespaced; owned by its Pod, written by the Pod's node agent alone. It has the Pod's name,
    or, where that is taken by an endpoint of another node, the node's name behind it."""

    metadata: ObjectMeta
    spec: PodEndpointSpec = PodEndpointSpec()
    status: PodEndpointStatus = PodEndpointStatus()
    api_version: str = names.API_VERSION
    kind: str = "PodEndpoint"

    @property
    def configuration(self) -> str:
        """``namespace/name`` of its configuration, which is always in the pod's namespace."""
        return f"{self.metadata.namespace}/{self.spec.static_gateway_configuration}"

    @property
    def pod_name(self) -> str:
        """Of its Pod."""
        for owner in self.metadata.owner_references:
            if owner.kind == "Pod" and self.metadata.name == f"{owner.name}.{self.spec.node_name}":
                return owner.name
        return self.metadata.name


class ReadyGatewayConfiguration(ApiStruct, frozen=True):
    """A configuration that a gateway serves, and with which key."""

    static_gateway_configuration: str
    """``namespace/name``."""
    interface_name: str = ""
    uid: str = ""
    public_key: str = ""
    second_public_key: str = ""
    """Of the second server while the configuration's key pair is being changed."""


class GatewaySummary(ApiStruct, frozen=True, omit_defaults=False):
    """What the lists of a GatewayStatus come to; a printer column shows no list."""

    serves: int = 0
    problems: int = 0
    vetoes: str = ""
    """Their reasons, each once, separated by commas."""


class GatewayStatusSpec(ApiStruct, frozen=True):
    """What a gateway node serves at this moment. Holds no peers: it must stay small."""

    ready_gateway_configurations: list[ReadyGatewayConfiguration] = []
    problems: list[GatewayProblem] = []
    vetoes: list[GatewayVeto] = []
    refused_claims: list[RefusedClaim] = []
    """The first few, in a stable order: a list that somebody else fills must not grow."""
    heartbeat: str = ""
    verified: list[SeenAddress] = []
    """Ours. What the Internet sees of this node's addresses; those that were asked for."""
    summary: GatewaySummary = GatewaySummary()
    """Ours."""

    def bounded(self) -> GatewayStatusSpec:
        """With its summary, and within the schema's bounds: a report that is cut says more than
        one that the API server refuses."""
        problems = [
            msgspec.structs.replace(p, message=cut(p.message)) for p in self.problems[:REPORTED]
        ]
        vetoes = [
            msgspec.structs.replace(v, message=cut(v.message)) for v in self.vetoes[:REPORTED]
        ]
        return msgspec.structs.replace(
            self,
            ready_gateway_configurations=self.ready_gateway_configurations[:REPORTED],
            problems=problems,
            vetoes=vetoes,
            verified=self.verified[:REPORTED],
            refused_claims=[
                msgspec.structs.replace(claim, message=cut(claim.message))
                for claim in self.refused_claims[:CLAIMS]
            ],
            summary=GatewaySummary(
                serves=len(self.ready_gateway_configurations),
                problems=len(self.problems),
                vetoes=",".join(sorted({veto.reason for veto in self.vetoes})),
            ),
        )


class SeenAddress(ApiStruct, frozen=True, omit_defaults=False):
    """What servers on the Internet see of what leaves a gateway for a configuration."""

    static_gateway_configuration: str
    """``namespace/name``."""
    expected_ip: str = ""
    """The public address that it should be."""
    seen_ip: str = ""
    """Empty: no server answers."""
    expected_ip_v6: str = ""
    """The same of IPv6; empty where it is not carried, or no server was ever reached by it."""
    seen_ip_v6: str = ""
    large_lost: bool = False
    """Servers that answered packets of full size answer only small ones now."""

    @property
    def as_expected(self) -> bool:
        """Whether the Internet saw what the status promises, in both families."""
        return (self.seen_ip, self.seen_ip_v6) == (self.expected_ip, self.expected_ip_v6)


class GatewayProblem(ApiStruct, frozen=True):
    """Why a gateway node does not serve a configuration that lists it.

    Agents and the controller can be of different versions while an upgrade runs. Each side goes by
    ``reason`` and shows ``message``. A reason that the reader does not know counts as an empty one.
    """

    static_gateway_configuration: str
    message: str
    reason: str = ""
    """Machine-readable. ``GatewayWithoutIPv6``: the node serves IPv4 only. Empty: it does not serve
    the configuration."""


class RefusedClaim(ApiStruct, frozen=True):
    """A PodEndpoint that a gateway does not believe, on a configuration that it serves."""

    pod: str
    """``namespace/name``, which is the PodEndpoint's too."""
    static_gateway_configuration: str
    """``namespace/name``."""
    reason: str
    """CamelCase; docs/operate/troubleshooting.md lists them."""
    message: str = ""


class GatewayVeto(ApiStruct, frozen=True):
    """Why pods should use other gateways than this one, as long as there are others."""

    reason: str
    """``DRAINING``, ``INTERNET_UNREACHABLE``, ``NOT_VERIFIED`` or ``LARGE_LOST``."""
    message: str = ""
    static_gateway_configuration: str = ""
    """``namespace/name``; empty: all."""


class GatewayStatus(ApiStruct, frozen=True):
    """In the system namespace; named as its Node, owned by it, written by its gateway agent."""

    metadata: ObjectMeta
    spec: GatewayStatusSpec = GatewayStatusSpec()
    api_version: str = names.API_VERSION
    kind: str = "GatewayStatus"
