"""Our controller on a cluster that the Go project has managed: nothing changes, nothing is lost."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from egress_gateway.api import names
from tests.contract.controller.migration.moved_cluster import (
    OLD,
    SGCS,
    SYSTEM,
    Moved,
    moved_cluster,
)
from tests.contract.controller.test_controller import condition, controller

MODES = ["my-static-egress-gateway", "managed-prefix", "vms-private", "vms-public"]
COMPUTED = frozenset({"_model", "resourceGuid", "virtualMachine"})
"""The emulator's own counters, and what it computes when it is asked."""
DEPLOYMENT = "kube-egress-gateway-controller-manager"


async def settled(moved: Moved) -> None:
    """All configurations are in service and the old objects gone."""
    await provisioned(moved)
    async with asyncio.timeout(60):
        while await moved.old_objects():
            await asyncio.sleep(0.05)


async def provisioned(moved: Moved) -> None:
    for name in MODES:
        await moved.kube.wait_for(
            SGCS,
            name,
            lambda s: s is not None and condition(s, "Provisioned").get("status") == "True",
            namespace="default",
            timeout=90,
        )


async def assert_unchanged(moved: Moved) -> None:
    assert moved.writes() == []
    assert moved.azure() == moved.before
    for was in moved.configurations():
        now = await moved.kube.get(SGCS, was["metadata"]["name"], namespace="default")
        assert now["metadata"]["uid"] == was["metadata"]["uid"]
        assert now["spec"] == was["spec"]
        assert now["status"]["egressIpPrefix"] == was["status"]["egressIpPrefix"]
        assert now["status"]["gatewayServerProfile"] == was["status"]["gatewayServerProfile"]
        secret = f"sgw-{was['metadata']['uid']}"
        stored = await moved.kube.get("secrets", secret, namespace=SYSTEM)
        recorded = moved.recorded["kubernetes"]
        assert stored["data"] == next(
            d["data"] for d in recorded if d["metadata"]["name"] == secret
        )


async def test_addresses_ports_keys_and_names_stay_and_azure_is_only_read(tmp_path: Path) -> None:
    async with moved_cluster(tmp_path) as moved:
        async with controller(tmp_path, moved.kubeconfig):
            await settled(moved)
            await assert_unchanged(moved)
            for was in moved.configurations():
                await assert_serving(moved, was)


async def test_names_are_told_from_azure_when_the_old_objects_were_deleted_by_force(
    tmp_path: Path,
) -> None:
    async with moved_cluster(tmp_path, definitions=False) as moved:
        async with controller(tmp_path, moved.kubeconfig):
            await provisioned(moved)
            await assert_unchanged(moved)
            for was in moved.configurations():
                await assert_serving(moved, was)


async def test_who_cannot_be_told_is_not_let_go_before_somebody_says_the_names(
    tmp_path: Path,
) -> None:
    """No status to compare with, and a deletion that would leave everything in Azure."""
    name = "managed-prefix"
    async with moved_cluster(tmp_path, definitions=False) as moved:
        status = {"status": {"egressIpPrefix": ""}}
        await moved.kube.patch(SGCS, name, status, namespace="default", subresource="status")
        await moved.kube.delete(SGCS, name, namespace="default")
        config = moved.recorded_of("GatewayVMConfiguration", name)["metadata"]["uid"]
        rule = moved.recorded_of("GatewayLBConfiguration", name)["metadata"]["uid"]
        async with controller(tmp_path, moved.kubeconfig, drift_interval=0.5):
            told = await moved.kube.wait_for(
                SGCS,
                name,
                lambda s: s is not None and "kubectl annotate" in str(condition(s, "Ready")),
                namespace="default",
                timeout=90,
            )
            assert told is not None
            assert moved.writes() == []
            annotations = {
                names.RULE_ANNOTATION: rule,
                names.IP_CONFIGURATION_ANNOTATION: f"egressgateway-{config}",
            }
            uid = told["metadata"]["uid"]
            patch = {"metadata": {"annotations": annotations}}
            await moved.kube.patch("secrets", f"sgw-{uid}", patch, namespace=SYSTEM)
            await moved.kube.wait_for(
                SGCS, name, lambda s: s is None, namespace="default", timeout=90
            )
        assert_left(moved, without(moved.before, f"egressgateway-{config}", rule))


async def test_another_controller_knows_the_names_and_a_newcomer_gets_its_own(
    tmp_path: Path,
) -> None:
    async with moved_cluster(tmp_path) as moved:
        async with controller(tmp_path, moved.kubeconfig):
            await settled(moved)
        async with controller(tmp_path, moved.kubeconfig):
            newcomer = {
                "apiVersion": names.API_VERSION,
                "kind": "StaticGatewayConfiguration",
                "metadata": {"name": "newcomer", "namespace": "default"},
                "spec": {"gatewayNodepoolName": "npegress"},
            }
            await moved.kube.apply(newcomer, resource=SGCS)
            made = await moved.kube.wait_for(
                SGCS,
                "newcomer",
                lambda s: s is not None and condition(s, "Provisioned").get("status") == "True",
                namespace="default",
                timeout=90,
            )
            assert made is not None
            assert made["status"]["gatewayServerProfile"]["port"] == 6002
            prefix = f"egressgateway-{made['metadata']['uid']}"
            assert any(document["name"] == prefix for document in moved.azure().values())
            for was in moved.configurations():
                await assert_serving(moved, was)
            await moved.kube.delete(SGCS, "newcomer", namespace="default")
            await moved.kube.wait_for(
                SGCS, "newcomer", lambda s: s is None, namespace="default", timeout=90
            )
        assert_left(moved, moved.before)


async def assert_serving(moved: Moved, was: dict[str, Any]) -> None:
    """The gateways are the recorded ones, and the Secret says under which names."""
    name, uid = was["metadata"]["name"], was["metadata"]["uid"]
    balancing = moved.recorded_of("GatewayLBConfiguration", name)
    machines = moved.recorded_of("GatewayVMConfiguration", name)
    now = await moved.kube.get(SGCS, name, namespace="default")
    profiles = machines["status"]["gatewayVMProfiles"]
    public_on_machines = name == "vms-public"  # the recording was made while they still moved
    assert {g["primaryIp"] for g in now["status"]["gateways"]} == {p["primaryIP"] for p in profiles}
    if not public_on_machines:
        assert {g["secondaryIp"] for g in now["status"]["gateways"]} == {
            p["secondaryIP"] for p in profiles
        }
    secret = await moved.kube.get("secrets", f"sgw-{uid}", namespace=SYSTEM)
    assert secret["metadata"]["annotations"] == {
        names.RULE_ANNOTATION: balancing["metadata"]["uid"],
        names.IP_CONFIGURATION_ANNOTATION: f"egressgateway-{machines['metadata']['uid']}",
    }


@pytest.mark.parametrize("name", MODES)
async def test_deleting_one_configuration_removes_exactly_its_resources(
    tmp_path: Path, name: str
) -> None:
    async with moved_cluster(tmp_path) as moved:
        async with controller(tmp_path, moved.kubeconfig):
            await settled(moved)
            await moved.kube.delete(SGCS, name, namespace="default")
            await moved.kube.wait_for(
                SGCS, name, lambda s: s is None, namespace="default", timeout=90
            )
        config = moved.recorded_of("GatewayVMConfiguration", name)["metadata"]["uid"]
        rule = moved.recorded_of("GatewayLBConfiguration", name)["metadata"]["uid"]
        assert_left(moved, without(moved.before, f"egressgateway-{config}", rule))
        uid = moved.recorded_of("StaticGatewayConfiguration", name)["metadata"]["uid"]
        secrets = {s["metadata"]["name"] for s in await moved.kube.list("secrets")}
        assert f"sgw-{uid}" not in secrets
        assert len([s for s in secrets if s.startswith("sgw-")]) == len(MODES) - 1


def assert_left(moved: Moved, expected: dict[str, Any]) -> None:
    after = moved.azure()
    assert after.keys() == expected.keys()
    assert list(differences(expected, after)) == []


def without(documents: dict[str, Any], config: str, rule: str) -> dict[str, Any]:
    """The recorded state less one configuration's resources."""

    def mine(name: str) -> bool:
        return name in (config, rule) or name.startswith(f"{config}-")

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: cut(v) for k, v in value.items()}
        if isinstance(value, list):
            return [cut(v) for v in value if not (isinstance(v, dict) and mine(_name(v)))]
        return value

    kept = {
        key: cut(copy.deepcopy(document))
        for key, document in documents.items()
        if not mine(document["name"])
    }
    assert len(kept) < len(documents) or rule
    return kept


def _name(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return str(value.get("name") or str(value.get("id", "")).rpartition("/")[2])


def differences(wanted: Any, found: Any, path: str = "") -> Iterator[str]:
    """Where two documents differ, one line a place. Entries of lists go by their names; what the
    service adds to a document when it is written is no difference, another entry is."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key in wanted.keys() - COMPUTED:
            yield from differences(wanted[key], found.get(key), f"{path}/{key}")
    elif isinstance(wanted, list) and isinstance(found, list):
        ours, theirs = ({_name(i): i for i in items} for items in (wanted, found))
        if ours.keys() != theirs.keys():
            yield f"{path}: {sorted(ours)} became {sorted(theirs)}"
        for name in ours.keys() & theirs.keys():
            yield from differences(ours[name], theirs[name], f"{path}[{name}]")
    elif wanted != found:
        yield f"{path}: {wanted} became {found}"


async def test_while_the_old_controller_runs_nothing_is_done_and_everyone_is_told(
    tmp_path: Path,
) -> None:
    async with moved_cluster(tmp_path) as moved:
        await moved.kube.create("deployments", old_deployment())
        async with controller(tmp_path, moved.kubeconfig):
            for name in MODES:
                told = await moved.kube.wait_for(
                    SGCS,
                    name,
                    lambda s: s is not None and condition(s, "Ready") != {},
                    namespace="default",
                    timeout=90,
                )
                assert told is not None
                assert condition(told, "Ready")["reason"] == "OtherControllerRunning"
                assert (
                    f"kubectl scale deployment -n {SYSTEM} {DEPLOYMENT} --replicas=0"
                    in condition(told, "Ready")["message"]
                )
            assert len(await moved.old_objects()) == 2 * len(MODES)
            assert moved.writes() == []
            await moved.kube.patch(
                "deployments", DEPLOYMENT, {"spec": {"replicas": 0}}, namespace=SYSTEM
            )
            await settled(moved)
            await assert_unchanged(moved)


def old_deployment() -> dict[str, Any]:
    label = {names.GO_CONTROLLER_LABEL: "controller-manager"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": DEPLOYMENT, "namespace": SYSTEM, "labels": label},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": label},
            "template": {
                "metadata": {"labels": label},
                "spec": {"containers": [{"name": "manager", "image": "controller:latest"}]},
            },
        },
    }


async def test_a_deletion_that_the_old_controller_began_is_finished(tmp_path: Path) -> None:
    """It had deleted the key pair and asked for the rest when it was stopped."""
    async with moved_cluster(tmp_path) as moved:
        name = "managed-prefix"
        uid = moved.recorded_of("StaticGatewayConfiguration", name)["metadata"]["uid"]
        await moved.kube.delete("secrets", f"sgw-{uid}", namespace=SYSTEM)
        await moved.kube.delete(SGCS, name, namespace="default")
        for resource in OLD.values():
            await moved.kube.delete(resource, name, namespace="default")
        async with controller(tmp_path, moved.kubeconfig):
            await moved.kube.wait_for(
                SGCS, name, lambda s: s is None, namespace="default", timeout=90
            )
        config = moved.recorded_of("GatewayVMConfiguration", name)["metadata"]["uid"]
        rule = moved.recorded_of("GatewayLBConfiguration", name)["metadata"]["uid"]
        assert_left(moved, without(moved.before, f"egressgateway-{config}", rule))


async def test_deleting_every_configuration_leaves_the_machines_as_they_were_before_any(
    tmp_path: Path,
) -> None:
    async with moved_cluster(tmp_path) as moved:
        async with controller(tmp_path, moved.kubeconfig):
            await settled(moved)
            for name in MODES:
                await moved.kube.delete(SGCS, name, namespace="default")
            for name in MODES:
                await moved.kube.wait_for(
                    SGCS, name, lambda s: s is None, namespace="default", timeout=90
                )
        expected = moved.before
        for name in MODES:
            config = moved.recorded_of("GatewayVMConfiguration", name)["metadata"]["uid"]
            rule = moved.recorded_of("GatewayLBConfiguration", name)["metadata"]["uid"]
            expected = without(expected, f"egressgateway-{config}", rule)
        after = moved.azure()
        gone = expected.keys() - after.keys()
        assert [key.rpartition("/")[2] for key in gone] == ["kubeegressgateway-ilb"]
        assert after.keys() <= expected.keys(), "nothing else was made"
        for key, document in after.items():
            left = str(document)
            assert "egressgateway-" not in left, key
            assert "kubeegressgateway-ilb" not in left, key
        secrets = {s["metadata"]["name"] for s in await moved.kube.list("secrets")}
        assert not [s for s in secrets if s.startswith("sgw-")]
