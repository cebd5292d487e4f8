"""What our client expects of an API server, and the server holds: verbs, conflicts, schema."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from egress_gateway.api import conditions, crd, names
from egress_gateway.api.types import (
    GatewayServerProfile,
    GatewayStatus,
    GatewayVeto,
    ObjectMeta,
    PodEndpoint,
    PodEndpointSpec,
    StaticGatewayConfigurationStatus,
)
from egress_gateway.gateway.health.report import Reporter, status_spec
from egress_gateway.kube import errors
from egress_gateway.kube.client import Client
from egress_gateway.kube.events import Recorder
from egress_gateway.kube.informer.cache import Cache
from egress_gateway.kube.leader.lease import LeaderElection
from egress_gateway.kube.resources import (
    CONFIG_MAPS,
    EVENTS,
    GATEWAY_STATUSES,
    LEASES,
    NAMESPACES,
    NODES,
    POD_ENDPOINTS,
    PODS,
    ROLES,
    SECRETS,
    SGCS,
    Key,
    Resource,
    Untyped,
    v1,
)
from egress_gateway_lab.realcluster.control_plane import ControlPlane
from tests.contract.kube.kube_cluster import CRDS, Cluster, cluster

BINDINGS: Resource[Untyped] = v1(
    "rolebindings", "RoleBinding", dict, group="rbac.authorization.k8s.io"
)


@pytest.fixture
async def c(tmp_path: Path, plane: ControlPlane | None) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path, plane) as found:
        yield found


def sgc(c: Cluster, name: str = "a", **spec: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": c.namespace}
    return {"metadata": meta, "spec": {"gatewayNodepoolName": "np", **spec}}


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


async def test_create_get_apply_delete(c: Cluster) -> None:
    made = await c.client.create(SGCS, sgc(c))
    assert made.spec.default_route == "staticEgressGateway"
    assert made.metadata.uid
    assert made.metadata.generation == 1
    with pytest.raises(errors.AlreadyExists):
        await c.client.create(SGCS, sgc(c))
    changed = await c.client.apply(SGCS, sgc(c, excludeCidrs=["10.0.0.0/8"]))
    assert changed.metadata.generation == 2
    assert (await c.client.get(SGCS, "a", c.namespace)).spec.exclude_cidrs == ["10.0.0.0/8"]
    with pytest.raises(errors.Conflict):
        await c.client.delete(SGCS, "a", c.namespace, uid="another")
    await c.client.delete(SGCS, "a", c.namespace, uid=made.metadata.uid)
    with pytest.raises(errors.NotFound):
        await c.client.get(SGCS, "a", c.namespace)


async def test_apply_drops_what_this_manager_no_longer_says_and_nothing_else(c: Cluster) -> None:
    await c.client.apply(SGCS, sgc(c, excludeCidrs=["10.0.0.0/8"]))
    async with Client(c.access, "another-manager") as other:
        patch = {"metadata": {"finalizers": ["example.com/f"], "annotations": {"k": "v"}}}
        await other.merge_patch(SGCS, "a", patch, c.namespace)
    now = await c.client.apply(SGCS, sgc(c))
    assert now.spec.exclude_cidrs == []
    assert now.metadata.finalizers == ["example.com/f"]
    assert now.metadata.annotations == {"k": "v"}
    await c.client.merge_patch(SGCS, "a", {"metadata": {"finalizers": None}}, c.namespace)


async def test_a_struct_is_applied_as_it_is(c: Cluster) -> None:
    meta = ObjectMeta(name="p", namespace=c.namespace)
    spec = PodEndpointSpec(pod_uid="u", pod_ips=["10.244.0.5"], node_name="n1")
    made = await c.client.apply(POD_ENDPOINTS, PodEndpoint(metadata=meta, spec=spec))
    assert made.spec == spec
    again = await c.client.apply(POD_ENDPOINTS, made)
    assert again.metadata.resource_version == made.metadata.resource_version


async def test_status_is_apart_from_spec(c: Cluster) -> None:
    made = await c.client.create(SGCS, sgc(c))
    status = StaticGatewayConfigurationStatus(
        egress_ip_prefix="203.0.113.0/30",
        gateway_server_profile=GatewayServerProfile(ip="10.224.0.9", port=6000),
        conditions=conditions.with_condition(
            [],
            conditions.READY,
            "True",
            reason="Ready",
            message="",
            now="2026-01-01T00:00:00Z",
            generation=1,
        ),
    )
    body = {
        "metadata": {
            "name": "a",
            "namespace": c.namespace,
            "resourceVersion": made.metadata.resource_version,
        },
        "spec": {"gatewayNodepoolName": "changed"},
        "status": {
            "egressIpPrefix": status.egress_ip_prefix,
            "gatewayServerProfile": {"ip": "10.224.0.9", "port": 6000},
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "Ready",
                    "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                    "observedGeneration": 1,
                }
            ],
        },
    }
    now = await c.client.replace_status(SGCS, body)
    assert now.status == status
    assert now.spec.gateway_nodepool_name == "np"
    assert now.metadata.generation == 1
    with pytest.raises(errors.Conflict):
        await c.client.replace_status(SGCS, body)
    kept = await c.client.merge_patch(SGCS, "a", {"status": {}, "spec": {}}, c.namespace)
    assert kept.status == status


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"gatewayVmssProfile": {"vmssName": "v"}}, "keep one of the two"),
        ({"gatewayNodepoolName": ""}, "name the gateway node pool"),
        ({"excludeCidrs": ["10.0.0.0"]}, "write address/length"),
        ({"publicIpPrefixId": "p"}, "az network public-ip prefix show"),
        ({"defaultRoute": "x"}, "Unsupported value"),
    ],
)
async def test_the_servers_refusals_name_the_mend(
    c: Cluster, spec: dict[str, Any], says: str
) -> None:
    with pytest.raises(errors.Invalid, match=says):
        await c.client.apply(SGCS, sgc(c, **spec))


async def test_what_the_go_project_left_unset_is_accepted(c: Cluster) -> None:
    made = await c.client.apply(
        SGCS, sgc(c, gatewayVmssProfile={}, publicIpPrefixId="", provisionPublicIps=False)
    )
    assert made.spec.gateway_vmss_profile.unset
    assert not made.spec.provision_public_ips


async def test_lists_are_selected_and_complete_over_pages(c: Cluster) -> None:
    async with asyncio.TaskGroup() as group:
        for n in range(520):
            meta = {
                "name": f"cm-{n}",
                "namespace": c.namespace,
                "labels": {"odd": str(n % 2)},
            }
            group.create_task(c.client.create(CONFIG_MAPS, {"metadata": meta}))
    page = await c.client.list(CONFIG_MAPS, c.namespace)
    found = {m.metadata.name for m in page.items}
    assert {f"cm-{n}" for n in range(520)} <= found
    odd = await c.client.list(CONFIG_MAPS, c.namespace, labels="odd=1")
    assert len(odd.items) == 260
    one = await c.client.list(CONFIG_MAPS, c.namespace, fields="metadata.name=cm-7")
    assert [m.metadata.name for m in one.items] == ["cm-7"]


async def test_a_cache_sees_every_kind_of_change(c: Cluster) -> None:
    await c.client.create(SGCS, sgc(c, "before"))
    cache = Cache(c.client, SGCS, c.namespace)
    seen: list[str] = []

    def note(key: Key, old: object, new: object) -> None:
        seen.append(("+" if old is None else "-" if new is None else "~") + key.name)

    cache.on_change(note)
    task = asyncio.create_task(cache.run())
    await cache.synced()
    assert seen == ["+before"]
    await c.client.create(SGCS, sgc(c, "after"))
    await c.client.apply(SGCS, sgc(c, "before", excludeCidrs=["10.0.0.0/8"]))
    await c.client.delete(SGCS, "after", c.namespace)
    await until(lambda: len(seen) == 4)
    assert seen == ["+before", "+after", "~before", "-after"]
    found = cache.get(c.namespace, "before")
    assert found is not None
    assert found.spec.exclude_cidrs == ["10.0.0.0/8"]
    task.cancel()
    await asyncio.wait([task])


async def test_nodes_hear_of_gateways_that_ask_to_be_left_and_of_no_heartbeat(c: Cluster) -> None:
    """A thousand nodes that hear each gateway's heartbeat would be most of what we cost."""
    cache = Cache(c.client, GATEWAY_STATUSES, c.namespace, labels=names.VETOES_LABEL)
    heard: list[list[str]] = []

    def note(key: Key, old: object, new: GatewayStatus | None) -> None:
        heard.append([veto.reason for veto in new.spec.vetoes] if new else [])

    cache.on_change(note)
    # The report's owner: without it the report is garbage.
    node = await c.client.create(NODES, {"metadata": {"name": f"gw-{c.namespace}"}})
    reporter = Reporter(c.client, node, c.namespace, heartbeat=0.0)
    task = asyncio.create_task(cache.run())
    await cache.synced()
    for number in range(5):
        problems = {"default/a": f"number {number}"}
        await reporter.publish(status_spec({}, {}, problems))
    await reporter.veto([GatewayVeto(reason="Draining", message="cordoned")])
    await until(lambda: len(heard) == 1)
    await reporter.veto([])
    await until(lambda: len(heard) == 2)
    await reporter.publish(status_spec({}, {}, {}))
    await reporter.veto([GatewayVeto(reason="InternetUnreachable")])
    await until(lambda: len(heard) == 3)
    assert heard == [["Draining"], [], ["InternetUnreachable"]]
    await c.client.delete(NODES, node.metadata.name)
    task.cancel()
    await asyncio.wait([task])


async def test_a_deletion_waits_for_finalizers(c: Cluster) -> None:
    obj = sgc(c)
    obj["metadata"]["finalizers"] = ["example.com/f"]
    await c.client.create(SGCS, obj)
    await c.client.delete(SGCS, "a", c.namespace)
    held = await c.client.get(SGCS, "a", c.namespace)
    assert held.metadata.deletion_timestamp
    await c.client.merge_patch(SGCS, "a", {"metadata": {"finalizers": []}}, c.namespace)
    with pytest.raises(errors.NotFound):
        await c.client.get(SGCS, "a", c.namespace)


async def test_a_watch_from_a_forgotten_version_is_gone(
    tmp_path: Path, plane: ControlPlane | None
) -> None:
    async with cluster(tmp_path, plane, history=10) as c, asyncio.timeout(180):
        # Older than the definition: a real server remembers nothing of its objects then.
        start = (await c.client.get(NAMESPACES, "kube-system")).metadata.resource_version
        for n in range(30):
            await c.client.create(SGCS, sgc(c, f"m{n}"))
        watch = c.client.watch(SGCS, c.namespace, resource_version=start, timeout_seconds=1)
        with pytest.raises(errors.Gone):
            await anext(watch)


async def test_a_cache_reports_deletions_that_fell_into_a_gap(
    tmp_path: Path, plane: ControlPlane | None
) -> None:
    """The watch is cut, the server forgets what happened meanwhile, and the cache still tells."""
    async with cluster(tmp_path, plane, history=10) as c, asyncio.timeout(180):
        for name in ("kept", "lost"):
            meta = {"name": name, "namespace": c.namespace}
            await c.client.create(CONFIG_MAPS, {"metadata": meta})
        # The cache's connection of its own is closed under it: the gap.
        own = Client(c.access, "cache")
        await own.__aenter__()
        cache = Cache(own, CONFIG_MAPS, c.namespace)
        gone: list[str] = []
        cache.on_change(lambda key, old, new: gone.append(key.name) if new is None else None)
        task = asyncio.create_task(cache.run())
        await cache.synced()
        task.cancel()
        await asyncio.wait([task])
        await c.client.delete(CONFIG_MAPS, "lost", c.namespace)
        for n in range(30):
            meta = {"name": f"m{n}", "namespace": c.namespace}
            await c.client.create(CONFIG_MAPS, {"metadata": meta})
        task = asyncio.create_task(cache.run())
        await until(lambda: gone and cache.get(c.namespace, "m29"))
        assert gone == ["lost"]
        assert cache.get(c.namespace, "kept") is not None
        task.cancel()
        await asyncio.wait([task])
        await own.__aexit__(None, None, None)


async def test_rbac_holds_and_refuses_in_words(c: Cluster) -> None:
    for name in ("sgw-mine", "sgw-other"):
        meta = {"name": name, "namespace": c.namespace}
        await c.client.create(SECRETS, {"metadata": meta, "data": {"PrivateKey": "aw=="}})
    access = await c.service_account("agent")
    async with Client(access, "agent") as agent:
        with pytest.raises(errors.Forbidden, match="agent"):
            await agent.get(SECRETS, "sgw-mine", c.namespace)
        rule = {
            "apiGroups": [""],
            "resources": ["secrets"],
            "verbs": ["get"],
            "resourceNames": ["sgw-mine"],
        }
        meta = {"name": "keys", "namespace": c.namespace}
        await c.client.apply(ROLES, {"metadata": meta, "rules": [rule]})
        await c.client.apply(
            BINDINGS,
            {
                "metadata": meta,
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "Role",
                    "name": "keys",
                },
                "subjects": [{"kind": "ServiceAccount", "name": "agent", "namespace": c.namespace}],
            },
        )
        found = None
        while found is None:
            try:
                found = await agent.get(SECRETS, "sgw-mine", c.namespace)
            except errors.Forbidden:
                await asyncio.sleep(0.05)  # a real server's authorizer follows with a delay
        assert found.data == {"PrivateKey": "aw=="}
        with pytest.raises(errors.Forbidden):
            await agent.get(SECRETS, "sgw-other", c.namespace)


async def test_a_wrong_token_is_unauthorized(c: Cluster) -> None:
    access = await c.service_account("agent")
    forged = type(access)(
        server=access.server, ssl_context=access.ssl_context, token=lambda fresh: "forged"
    )
    async with Client(forged, "agent") as client:
        with pytest.raises(errors.Unauthorized):
            await client.list(PODS, c.namespace)


async def test_one_leader_at_a_time_and_a_quick_hand_over(c: Cluster) -> None:
    leading: list[str] = []

    async def lead(name: str) -> None:
        leading.append(name)
        await asyncio.Event().wait()

    def member(name: str) -> asyncio.Task[None]:
        election = LeaderElection(
            c.client, c.namespace, "leader", name, duration=30, renew=20, retry=0.05
        )
        return asyncio.create_task(election.run(lambda: lead(name)))

    first = member("first")
    await until(lambda: leading == ["first"])
    second = member("second")
    lease = await c.client.get(LEASES, "leader", c.namespace)
    assert lease.spec.holder_identity == "first"
    first.cancel()
    await until(lambda: leading == ["first", "second"])
    lease = await c.client.get(LEASES, "leader", c.namespace)
    assert lease.spec.holder_identity == "second"
    assert lease.spec.lease_transitions == 1
    second.cancel()
    await asyncio.wait([first, second])


async def test_events_are_what_describe_shows(c: Cluster) -> None:
    made = await c.client.create(SGCS, sgc(c))
    recorder = Recorder(c.client, "static-egress-gateway-controller")
    recorder.event(SGCS.reference(made), "Warning", "GatewayPoolNotFound", "no pool np")
    task = asyncio.create_task(recorder.run())
    selector = f"involvedObject.uid={made.metadata.uid},involvedObject.name=a"
    found: list[Any] = []
    while not found:
        found = list((await c.client.list(EVENTS, c.namespace, fields=selector)).items)
        await asyncio.sleep(0.01)
    (event,) = found
    assert (event.reason, event.message, event.count) == (
        "GatewayPoolNotFound",
        "no pool np",
        1,
    )
    task.cancel()
    await asyncio.wait([task])


async def test_an_object_from_before_the_rules_can_be_released_and_deleted(c: Cluster) -> None:
    """A cluster that moves over may hold objects that our rules refuse."""
    strict = next(d for d in crd.documents() if "shortNames" in d["spec"]["names"])
    loose = copy.deepcopy(strict)
    schema = loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    del schema["properties"]["spec"]["x-kubernetes-validations"]
    await c.client.apply(CRDS, loose)
    bad = sgc(c, gatewayNodepoolName="")
    bad["metadata"]["finalizers"] = ["example.com/f"]
    await accepted(c, bad)
    await c.client.apply(CRDS, strict)
    await refused(c)
    held = await c.client.get(SGCS, "a", c.namespace)
    status: dict[str, Any] = {"conditions": []}
    body = {"metadata": {**NAMED, "namespace": c.namespace}, "status": status}
    body["metadata"]["resourceVersion"] = held.metadata.resource_version
    await c.client.replace_status(SGCS, body)
    await c.client.delete(SGCS, "a", c.namespace)
    await c.client.merge_patch(SGCS, "a", {"metadata": {"finalizers": []}}, c.namespace)
    with pytest.raises(errors.NotFound):
        await c.client.get(SGCS, "a", c.namespace)


NAMED: dict[str, Any] = {"name": "a"}


async def accepted(c: Cluster, obj: dict[str, Any]) -> None:
    """Creates as soon as the definition's change has reached the server's handlers."""
    while True:
        try:
            await c.client.create(SGCS, obj)
            return
        except (errors.Invalid, errors.Unavailable):
            await asyncio.sleep(0.1)


async def refused(c: Cluster) -> None:
    """Returns when the rules are in force again."""
    while True:
        try:
            await c.client.create(SGCS, sgc(c, "probe", gatewayNodepoolName=""))
        except errors.Invalid:
            return
        except errors.Unavailable:
            continue
        await c.client.delete(SGCS, "probe", c.namespace)
        await asyncio.sleep(0.1)
