"""Which pods prove a cluster, and what follows from what they found. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from egress_gateway.api import names
from egress_gateway.api.types import Gateway, StaticGatewayConfiguration
from egress_gateway.cli.agents.answers import Asked, Round
from egress_gateway.cli.diagnosis.overview import ComponentView
from egress_gateway.cli.diagnosis.packets.hops import of_gateway
from egress_gateway.datapath.addresses import IPNetwork, parse_networks
from egress_gateway.datapath.pod.ruleset import LINKS
from egress_gateway.kube.resources import Node, Untyped

RUN_LABEL: Final = f"{names.GROUP}/test-run"
DEADLINE: Final = 300
"""Seconds after which a pod of a test ends by itself, if nobody was left to delete it."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One pod: of this configuration, on this node."""

    configuration: StaticGatewayConfiguration
    node: str
    pod: str

    @property
    def namespace(self) -> str:
        """Where the pod is made: the configuration's namespace, because an annotation names
        configurations of its own."""
        return self.configuration.metadata.namespace

    @property
    def name(self) -> str:
        """The configuration as ``namespace/name``, for what people read."""
        return f"{self.namespace}/{self.configuration.metadata.name}"


class ProofResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What was proven. ``passed`` None: it could not be tried."""

    configuration: str
    node: str
    check: str
    passed: bool | None
    text: str


def cases(
    configurations: Iterable[StaticGatewayConfiguration],
    nodes: Iterable[Node],
    run: str,
    *,
    per_configuration: int,
    most: int,
) -> tuple[list[Case], int]:
    """Pods to make, at most ``most``, and how many more there would be. Each configuration gets
    one before any gets two."""
    usable = sorted(
        n.metadata.name
        for n in nodes
        if n.ready and not n.spec.unschedulable and names.NODE_READY_LABEL in n.metadata.labels
    )
    ordered = sorted(configurations, key=lambda s: (s.metadata.namespace, s.metadata.name))
    wanted = [
        (sgc, usable[(turn + number) % len(usable)])
        for turn in range(min(per_configuration, len(usable)))
        for number, sgc in enumerate(ordered)
    ]
    made = [
        Case(configuration=sgc, node=node, pod=f"egress-gateway-test-{run}-{number}")
        for number, (sgc, node) in enumerate(wanted[:most])
    ]
    return made, len(wanted) - len(made)


def pod(
    case: Case, image: str, run: str, servers: Sequence[str], *, every: float
) -> dict[str, Any]:
    """Fits the strictest Pod Security Standard; ends by itself."""
    command = ["egress-gateway", "probe", "--every", str(every)]
    command += [part for name in hosts(servers) for part in ("--name", name)]
    command += [part for server in servers for part in ("--server", server)]
    command += [part for way in excluded(case.configuration)[:1] for part in ("--way", way)]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": case.pod,
            "namespace": case.namespace,
            "labels": {RUN_LABEL: run},
            "annotations": {names.POD_ANNOTATION: case.configuration.metadata.name},
        },
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": DEADLINE,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "nodeSelector": {"kubernetes.io/hostname": case.node},
            "tolerations": [{"operator": "Exists"}],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "probe",
                    "image": image,
                    "command": command,
                    "resources": {
                        "requests": {"cpu": "10m", "memory": "64Mi"},
                        "limits": {"memory": "128Mi"},
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


def last_words(pod: Untyped) -> bytes:
    """The termination message of the probe; empty while it runs, or from an image without one."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or [{}]
    ended = (statuses[0].get("state") or {}).get("terminated") or {}
    return str(ended.get("message", "")).encode()


def working(found: Iterable[ComponentView]) -> list[ProofResult]:
    """Whether each component's pods are ready."""
    return [
        ProofResult(
            configuration="-",
            node="-",
            check=component.name,
            passed=component.ready >= component.wanted,
            text=component.message or f"{component.ready} of {component.wanted} ready",
        )
        for component in found
    ]


def nothing_to_send() -> ProofResult:
    """The result where no configuration exists: neither passed nor failed."""
    text = "there is no StaticGatewayConfiguration, so no packet was sent"
    return ProofResult(configuration="-", node="-", check="egress", passed=None, text=text)


def excluded(sgc: StaticGatewayConfiguration) -> list[str]:
    """An address of each network that does not go by the gateway."""
    if sgc.spec.default_route == "azureNetworking":
        return []
    found = [n for n in parse_networks(sgc.spec.exclude_cidrs) if n.version == 4]
    return [str(n[min(1, n.num_addresses - 1)]) for n in found]


def judged(
    case: Case, found: Round, gateways: Sequence[Gateway], cluster: Sequence[IPNetwork]
) -> Iterator[ProofResult]:
    """``gateways`` as the configuration has them now."""
    public = {g.public_ip for g in gateways if g.public_ip}

    def verdict(check: str, passed: bool | None, text: str) -> ProofResult:
        return ProofResult(
            configuration=case.name, node=case.node, check=check, passed=passed, text=text
        )

    yield verdict("dns", *_dns(found))
    ours, others = _by_way(case, found.asked, cluster)
    yield verdict("egress", *_egress(ours, public))
    yield verdict("full size", *_full(ours))
    yield verdict("excluded", *_excluded(found.ways, others, public))


def hosts(servers: Iterable[str]) -> list[str]:
    """Those of host:port that are names."""
    found = (server.rpartition(":")[0] for server in servers)
    return [host for host in found if not host.replace(".", "").isdecimal()]


def _dns(found: Round) -> tuple[bool | None, str]:
    named = hosts(one.server for one in found.asked)
    if not named:
        return None, "every server is an address; name another with --server"
    lost = [f"{name}: {why}" for name, why in found.unresolved.items()]
    return not lost, "; ".join(lost) or f"{named[0]} resolves"


def _by_way(
    case: Case, asked: Sequence[Asked], cluster: Sequence[IPNetwork]
) -> tuple[list[Asked], list[Asked]]:
    """Servers that should be reached by the gateway, and those that should not."""
    ours: list[Asked] = []
    others: list[Asked] = []
    for one in asked:
        to = ipaddress.ip_address(one.address) if one.address else None
        by_gateway = to is None or of_gateway(case.configuration, to, cluster)
        (ours if by_gateway else others).append(one)
    return ours, others


def _egress(ours: Sequence[Asked], public: set[str]) -> tuple[bool | None, str]:
    answered = [one for one in ours if one.seen]
    if not ours:
        return None, "every server is excluded from the gateway; name another with --server"
    if not answered:
        why = "; ".join(f"{one.server}: {one.error or 'no answer'}" for one in ours)
        return False, f"no server answers: {why}"
    wrong = [one for one in answered if one.seen not in public]
    if not public:
        return None, f"{answered[0].seen}; the configuration has no public address to compare"
    if wrong:
        known = ", ".join(sorted(public))
        return False, f"{wrong[0].server} sees {wrong[0].seen}, which is none of {known}"
    return True, f"leaves from {answered[0].seen}"


def _full(ours: Sequence[Asked]) -> tuple[bool | None, str]:
    answered = [one for one in ours if one.seen]
    if not answered:
        return None, "nothing answers, whatever its size"
    whole = [one for one in answered if one.full_seen]
    if whole:
        return True, f"{whole[0].mtu} bytes pass"
    text = (
        f"{answered[0].mtu} bytes get no answer, small packets do: something between drops large "
        "ones (docs/operate/troubleshooting.md, MTU)"
    )
    return False, text


def _excluded(
    ways: Mapping[str, str], others: Sequence[Asked], public: set[str]
) -> tuple[bool | None, str]:
    wrong = [f"{to} goes by {device}" for to, device in ways.items() if device in LINKS]
    wrong += [f"{o.server} sees {o.seen}, the gateway's" for o in others if o.seen in public]
    if wrong:
        return False, "; ".join(wrong)
    seen = [f"{o.server} sees {o.seen}" for o in others if o.seen]
    fine = seen + [f"{to} goes by {device}" for to, device in ways.items()]
    return (True, fine[0]) if fine else (None, "the configuration excludes nothing")


def table(verdicts: Sequence[ProofResult]) -> list[str]:
    """A line a verdict, in columns."""
    signs = {True: "✓", False: "✗", None: "-"}
    rows = [(v.configuration, v.node, v.check) for v in verdicts]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    return [
        f"{signs[v.passed]} "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        + f"  {v.text}"
        for row, v in zip(rows, verdicts, strict=True)
    ]
