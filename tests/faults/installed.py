"""Faults of an installation that leave running pods and the components' readiness as they are."""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from egress_gateway.cli.diagnosis.checks.installation import Installation
from egress_gateway.kube.resources import Node, NodeAddress, NodeSpec, NodeStatus
from tests.faults.table import node

WHOLE: Final = Installation(
    cidrs=["10.244.0.0/16", "10.224.0.0/12", "10.0.0.0/16", "2001:db8:244::/56"],
    resolvers=["10.0.0.10"],
    admission="policy",
    bound=True,
    rights={
        f"{kind} egress-gateway-{account}": True
        for kind in ("ClusterRoleBinding", "RoleBinding")
        for account in ("controller", "gateway", "node")
    },
    images={"egress-gateway-controller": "r/i:1", "egress-gateway-node": "r/i:1"},
)


def worker(*pod_cidrs: str, address: str = "10.224.0.4") -> Node:
    return replace(
        node("n0", {}),
        spec=NodeSpec(pod_cidrs=list(pod_cidrs)),
        status=NodeStatus(addresses=[NodeAddress(type="InternalIP", address=address)]),
    )


NODES: Final = [worker("10.244.0.0/24", "2001:db8:244:1::/64"), worker("10.244.1.0/24")]


def without(*gone: str) -> Installation:
    return replace(WHOLE, cidrs=[cidr for cidr in WHOLE.cidrs or () if cidr not in gone])


def lost(binding: str) -> dict[str, Any]:
    return {"rights": {**WHOLE.rights, binding: False}}


INSTALLED: Final[list[tuple[str, Installation, str, str, str]]] = [
    ("clusterCidrs without pods", without("10.244.0.0/16"), "EG304", "ConfigMap", "lacks pods"),
    ("clusterCidrs without nodes", without("10.224.0.0/12"), "EG304", "ConfigMap", "lacks nodes"),
    ("clusterCidrs without DNS", without("10.0.0.0/16"), "EG304", "ConfigMap", "DNS: 10.0.0.10"),
    (
        "clusterCidrs without pods' IPv6",
        without("2001:db8:244::/56"),
        "EG304",
        "ConfigMap",
        "2001:db8:244:1::/64",
    ),
    (
        "the mutating policy's binding is deleted",
        replace(WHOLE, bound=False),
        "EG305",
        "MutatingAdmissionPolicyBinding",
        "helm upgrade",
    ),
    (
        "the webhook's configuration is deleted",
        replace(WHOLE, admission="webhook", bound=False),
        "EG305",
        "MutatingWebhookConfiguration egress-gateway-pods",
        "helm upgrade",
    ),
    (
        "a policy's binding is deleted",
        replace(WHOLE, unguarded=["ValidatingAdmissionPolicy egress-gateway-x is not bound: woe"]),
        "EG310",
        "ValidatingAdmissionPolicy egress-gateway-x",
        "woe",
    ),
    *(
        (
            f"{binding} is lost",
            replace(WHOLE, **lost(binding)),
            "EG306",
            f"ServiceAccount {binding.split()[1]}",
            f"makes the {binding} again",
        )
        for binding in WHOLE.rights
    ),
    (
        "the Secret with azure.json is deleted",
        replace(WHOLE, missing={"Secret egress-gateway-azure": "egress-gateway-controller"}),
        "EG308",
        "Secret egress-gateway-azure",
        "egress-gateway-controller needs it",
    ),
    (
        "a dead leader's Lease runs for hours",
        replace(WHOLE, leaderless="c-0 holds it for 36000 s, and renewed it 120 s ago"),
        "EG311",
        "Lease static-egress-gateway-controller",
        "delete lease",
    ),
    (
        "the chart is installed twice",
        replace(WHOLE, others=["egress"]),
        "EG312",
        "Namespace egress",
        "undo each other's writes",
    ),
    (
        "clusterCidrs has all of IPv4",
        replace(WHOLE, cidrs=["0.0.0.0/0", "2001:db8:244::/56"]),
        "EG309",
        "ConfigMap",
        "0.0.0.0/0",
    ),
    (
        "clusterCidrs has all of IPv6",
        replace(WHOLE, cidrs=[*(WHOLE.cidrs or ()), "2000::/3"]),
        "EG309",
        "ConfigMap",
        "2000::/3",
    ),
    (
        "one component of another image",
        replace(WHOLE, images={**WHOLE.images, "egress-gateway-node": "r/i:2"}),
        "EG307",
        "Workloads",
        "egress-gateway-node: r/i:2",
    ),
]
