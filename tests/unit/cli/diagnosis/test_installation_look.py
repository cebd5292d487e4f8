"""What `check` reads of an installation, and what it must not take for a fault."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, cast

import pytest

from egress_gateway.api.types import ObjectMeta
from egress_gateway.cli.diagnosis.checks.installation import judged, look
from egress_gateway.controller.reporting.posture import POLICIES
from egress_gateway.kube import resources, wire
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import ApiError, NotFound
from egress_gateway.kube.resources import ConfigMap, Lease, LeaseSpec, Resource, Untyped

NOW: Final = datetime(2030, 1, 1, 3, 0, tzinfo=UTC)


class Installed:
    """Has workloads with the images of ``workloads`` and the ConfigMap of plain manifests. Lets
    nobody ask for others' rights."""

    def __init__(self, **workloads: str) -> None:
        self.workloads = [workload(name, image) for name, image in workloads.items()]
        self.hooked = True
        self.served: set[str] | None = None
        """Of which kinds there are policies and bindings; None: not to be seen."""
        self.elsewhere: list[Untyped] = []
        """Deployments of all namespaces."""
        self.leases: list[Lease] = []
        """One after the other."""
        self.refused: ApiError = NotFound(404, "NotFound", "no such thing")

    async def list(self, resource: Resource[Any], *_: object, **__: object) -> Any:
        if resource.plural == resources.DAEMON_SETS.plural:
            found = self.workloads
        else:
            found = [] if "system" in _ else self.elsewhere
        return wire.ListPage(items=found, resource_version="1")

    def now(self) -> datetime:
        return NOW

    async def get(self, resource: Resource[Any], name: str, *_: object) -> Any:
        if resource is resources.LEASES and self.leases:
            return self.leases.pop(0)
        if resource is resources.CONFIG_MAPS:
            return ConfigMap(
                metadata=ObjectMeta(name=name),
                data={"clusterCidrs": "10.0.0.0/8", "admission": "policy"},
            )
        if self.hooked and resource.plural == "mutatingwebhookconfigurations":
            return {}
        raise self.refused

    async def request(self, _: str, path: str, **__: object) -> Any:
        if self.served is None:
            raise ApiError(403, "Forbidden", "not yours")
        if path.split("/")[-2] not in self.served:
            raise NotFound(404, "NotFound", "no such thing")
        return b"{}"


def workload(component: str, image: str) -> Untyped:
    return {
        "metadata": {"name": f"egress-gateway-{component}"},
        "spec": {"template": {"spec": {"containers": [{"image": image}]}}},
    }


async def codes(**workloads: str) -> list[str]:
    installed, _ = await look(cast(Client, Installed(**workloads)), "system")
    return [finding.code for finding in judged(installed, None)]


@pytest.mark.parametrize(
    ("refused", "found"),
    [
        (NotFound(404, "NotFound", "no such thing"), ["EG308"]),
        (ApiError(403, "Forbidden", "not yours"), []),
    ],
)
async def test_a_secret_that_is_gone_is_a_fault_and_one_that_is_not_yours_to_read_is_none(
    refused: ApiError, found: list[str]
) -> None:
    controller = workload("controller", "r/i:1")
    controller["spec"]["template"]["spec"]["volumes"] = [
        {"name": "azure", "secret": {"secretName": "egress-gateway-azure"}},
        {"name": "more", "secret": {"secretName": "not-needed", "optional": True}},
    ]
    client = Installed(webhook="r/i:1")
    client.workloads.append(controller)
    client.refused = refused
    installed, unseen = await look(cast(Client, client), "system")
    assert [finding.code for finding in judged(installed, None)] == found
    assert ("Secret egress-gateway-azure in system" in unseen) == (not found)


async def test_hosts_of_tunnels_that_an_upgrade_leaves_alone_are_no_fault() -> None:
    assert await codes(node="r/i:2", webhook="r/i:2", wireguard="r/i:1") == []


async def test_an_agent_of_another_image_is_a_fault() -> None:
    assert await codes(node="r/i:1", webhook="r/i:2") == ["EG307"]


async def test_a_cluster_whose_webhook_does_the_policys_work_lacks_no_policy() -> None:
    """Before Kubernetes 1.36 plain manifests are applied with the webhook."""
    assert await codes(node="r/i:1", webhook="r/i:1") == []
    assert await codes(node="r/i:1") == ["EG305"]


async def test_a_webhook_that_nobody_asks_is_named() -> None:
    cluster = Installed(node="r/i:1", webhook="r/i:1")
    cluster.hooked = False
    installed, _ = await look(cast(Client, cluster), "system")
    (found,) = judged(installed, None)
    assert (found.code, found.object.split()[0]) == ("EG305", "MutatingWebhookConfiguration")


@pytest.mark.parametrize(
    ("served", "found"),
    [
        (set(), 0),
        ({"validatingadmissionpolicies"}, len(POLICIES)),
        ({"validatingadmissionpolicybindings"}, 0),
    ],
)
async def test_policies_that_nobody_wanted_are_no_fault(served: set[str], found: int) -> None:
    """``admission.writers: false`` leaves them out, with their bindings."""
    cluster = Installed(node="r/i:1", webhook="r/i:1")
    cluster.served = served
    installed, _ = await look(cast(Client, cluster), "system")
    assert [finding.code for finding in judged(installed, None)] == ["EG310"] * found


def lease(renewed: str, version: str, *, duration: int = 0, holder: str = "c-0") -> Lease:
    spec = LeaseSpec(holder_identity=holder, lease_duration_seconds=duration, renew_time=renewed)
    return Lease(metadata=ObjectMeta(name="l", resource_version=version), spec=spec)


OLD: Final = "2030-01-01T02:58:00.000000Z"


@pytest.mark.parametrize(
    ("leases", "ready", "found"),
    [
        ([lease(OLD, "1"), lease(OLD, "1")], 1, ["EG311"]),
        ([lease(OLD, "1", duration=0), lease(OLD, "1")], 0, []),
        ([lease("2030-01-01T02:59:30.000000Z", "1")], 1, []),
        ([lease(OLD, "1"), lease(OLD, "2")], 1, []),  # renewed, by a clock that is two minutes late
        ([lease(OLD, "1", holder="")], 1, []),
        ([lease(OLD, "1")], 1, []),  # deleted meanwhile
        ([], 1, []),
    ],
)
async def test_a_lease_that_nobody_renews_while_a_standby_waits(
    leases: list[Lease], ready: int, found: list[str]
) -> None:
    cluster = Installed(node="r/i:1", webhook="r/i:1")
    cluster.workloads.append(workload("controller", "r/i:1") | {"status": {"readyReplicas": ready}})
    cluster.leases = leases
    installed, _ = await look(cast(Client, cluster), "elsewhere")
    judgement = list(judged(installed, None, system="elsewhere"))
    assert [finding.code for finding in judgement] == found
    assert all("kubectl -n elsewhere delete lease" in f.mend for f in judgement)


async def test_what_is_not_to_be_seen_is_unknown_and_says_why() -> None:
    _, unseen = await look(cast(Client, Installed(node="r/i:1")), "system")
    assert any(one.startswith("bindings of validating policies: not yours") for one in unseen)


async def test_a_second_installation_is_told_and_one_that_is_stopped_is_not() -> None:
    cluster = Installed(node="r/i:1", webhook="r/i:1")
    for namespace, replicas in (("system", 2), ("egress", 1), ("old", 0)):
        one = workload("controller", "r/i:1")
        one["metadata"]["namespace"], one["spec"]["replicas"] = namespace, replicas
        cluster.elsewhere.append(one)
    installed, _ = await look(cast(Client, cluster), "system")
    (found,) = judged(installed, None, system="system")
    assert (found.code, found.object) == ("EG312", "Namespace egress")
