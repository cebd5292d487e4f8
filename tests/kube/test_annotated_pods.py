"""Annotated pods are sent to ready nodes by policy or by webhook: the same on a real API server,
and no other pod ever notices which, or whether, there is one."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from egress_gateway.api import names
from egress_gateway.api.manifests import deploy_dir
from egress_gateway.webhook import main
from egress_gateway.webhook.review import wait_container
from egress_gateway.webhook.settings import Settings
from egress_gateway_lab.apiserver.wire.client import HttpTransport, KubeClient, KubeError
from egress_gateway_lab.realcluster.control_plane import ControlPlane, _free_port
from tests.kube.chart import rendered
from tests.kube.real import administrator, settle, until, wipe

pytestmark = pytest.mark.kube
A, READY = names.POD_ANNOTATION, names.NODE_READY_LABEL
SYSTEM, USER = names.SYSTEM_NAMESPACE, "egress-gateway-webhook"
WAIT_IMAGE = "our.example/gateway:v7"
SELECTED, OTHER = {READY: "true"}, {"disk": "ssd"}
Pod = dict[str, Any]
Cases = list[tuple[str, Pod, Pod]]


def pod(annotations: dict[str, str] | None = None, **spec: Any) -> Pod:
    metadata: dict[str, Any] = {"generateName": "web-"}
    if annotations is not None:
        metadata["annotations"] = annotations
    containers = [{"name": "c", "image": "nginx"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": containers, **spec},
    }


CASES: Cases = [
    ("plain", pod(), pod()),
    ("plain", pod({"a": "b"}, nodeSelector=OTHER), pod({"a": "b"}, nodeSelector=OTHER)),
    ("plain", pod({A: "e"}), pod({A: "e"}, nodeSelector=SELECTED)),
    ("plain", pod({A: "e"}, nodeSelector=OTHER), pod({A: "e"}, nodeSelector=OTHER | SELECTED)),
    ("plain", pod({A: ""}), pod({A: ""})),
    ("plain", pod({A: "e"}, hostNetwork=True), pod({A: "e"}, hostNetwork=True)),
    ("shop", pod(), pod({A: "usual"}, nodeSelector=SELECTED)),
    ("shop", pod({"a": "b"}), pod({"a": "b", A: "usual"}, nodeSelector=SELECTED)),
    ("shop", pod({A: "own"}), pod({A: "own"}, nodeSelector=SELECTED)),
    ("shop", pod({A: ""}), pod({A: ""})),
    ("shop", pod(hostNetwork=True), pod(hostNetwork=True)),
]  # fmt: skip


async def created(admin: KubeClient, namespace: str, what: Pod) -> Pod:
    """The pod as it would be stored, or as a refusal raises."""
    found: Pod = await admin.call(
        "POST",
        f"/api/v1/namespaces/{namespace}/pods",
        body=what,
        query={"dryRun": "All"},
    )
    return found


def seen(stored: Pod) -> tuple[dict[str, str], dict[str, str]]:
    return stored["metadata"].get("annotations", {}), stored["spec"].get("nodeSelector", {})


async def is_namespace(admin: KubeClient, name: str, annotation: str | None = None) -> None:
    annotations = {A: annotation} if annotation is not None else {}
    meta = {"name": name, "annotations": annotations}
    await admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    account = {"apiVersion": "v1", "kind": "ServiceAccount"}
    await admin.apply({**account, "metadata": {"name": "default", "namespace": name}})


async def install(admin: KubeClient, file: str, *, but: str = "") -> None:
    """A file of the manifests, without documents of a kind that begins with ``but``."""
    await is_namespace(admin, SYSTEM)
    for document in yaml.safe_load_all((deploy_dir() / "manifests" / file).read_text()):
        if not but or not document["kind"].startswith(but):
            await admin.apply(document)


async def waiting_policy(admin: KubeClient, clients: Path) -> None:
    """The policy as it is where pods wait for their tunnels."""
    repository, tag = WAIT_IMAGE.rsplit(":", 1)
    values = f"image.repository={repository},image.tag={tag},admission.waitForTunnel=true"
    for document in rendered(clients, values):
        if document["kind"].startswith("MutatingAdmissionPolicy"):
            await admin.apply(document)


async def token_of(admin: KubeClient) -> str:
    """The ServiceAccount's, as a kubelet gets it."""
    made = await admin.create("serviceaccounts", {}, namespace=SYSTEM, name=USER, sub="token")
    token: str = made["status"]["token"]
    return token


@dataclass
class Running:
    """The webhook as its ServiceAccount; ``stop`` ends it as a node's death would."""

    task: asyncio.Task[None]

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def webhook(
    admin: KubeClient, plane: ControlPlane, folder: Path, wait_image: str = ""
) -> AsyncIterator[Running]:
    kubeconfig = folder / "webhook.kubeconfig"
    document = yaml.safe_load(plane.kubeconfig("nobody"))
    document["users"][0]["user"] = {"token": await token_of(admin)}
    kubeconfig.write_text(yaml.safe_dump(document))
    port = _free_port("127.0.0.1")
    settings = Settings(
        kubeconfig=str(kubeconfig),
        url=f"https://127.0.0.1:{port}",
        address="127.0.0.1",
        port=port,
        health_port=0,
        interval=0.2,
        wait_image=wait_image,
    )
    running = Running(asyncio.create_task(main.run(settings)))
    try:
        yield running
    finally:
        await running.stop()


@asynccontextmanager
async def mechanism_in_force(
    plane: ControlPlane, folder: Path, mechanism: str, wait_image: str = ""
) -> AsyncIterator[tuple[KubeClient, Running | None]]:
    await wipe(plane)
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(administrator(plane))
        await is_namespace(admin, "plain")
        await is_namespace(admin, "shop", "usual")
        running = None
        if mechanism == "policy":
            await install(admin, "admission/pods.yaml")
        else:
            # Ours runs beside the server, not behind the Service that its policy insists on.
            await install(admin, "webhook/webhook.yaml", but="ValidatingAdmissionPolicy")
            running = await stack.enter_async_context(webhook(admin, plane, folder, wait_image))
        await settle(admin)
        await until(lambda: in_force(admin), f"{mechanism} in force")
        yield admin, running


async def in_force(admin: KubeClient) -> bool:
    return all([await accepted(admin, *case) for case in (CASES[2], CASES[6])])


async def accepted(admin: KubeClient, namespace: str, before: Pod, after: Pod) -> bool:
    try:
        return seen(await created(admin, namespace, copy.deepcopy(before))) == seen(after)
    except KubeError as error:
        if "failed calling webhook" not in str(error):
            raise
        return False  # closed until it answers


@pytest.mark.parametrize("mechanism", ["policy", "webhook"])
async def test_which_pods_are_changed_and_how(
    real_plane: ControlPlane, tmp_path: Path, mechanism: str
) -> None:
    async with mechanism_in_force(real_plane, tmp_path, mechanism) as (admin, _):
        for namespace, before, after in CASES:
            stored = await created(admin, namespace, copy.deepcopy(before))
            assert seen(stored) == seen(after), (namespace, before)
        await is_namespace(admin, "shop", "other")
        await until(lambda: stamped(admin, "shop", "other"), "the namespace's new default")
        await is_namespace(admin, "shop")
        await until(lambda: stamped(admin, "shop", ""), "no default any more")
        await is_namespace(admin, "plain", "late")
        await until(lambda: stamped(admin, "plain", "late"), "another namespace's default")


@pytest.mark.parametrize("mechanism", ["policy", "webhook"])
async def test_annotated_pods_wait_for_their_tunnels_before_all_else(
    real_plane: ControlPlane, tmp_path: Path, clients: Path, mechanism: str
) -> None:
    ours = wait_container(WAIT_IMAGE)
    own = {"name": "setup", "image": "busybox"}
    early = {**own, "name": names.WAIT_CONTAINER}
    async with mechanism_in_force(real_plane, tmp_path, mechanism, WAIT_IMAGE) as (admin, _):
        if mechanism == "policy":
            await waiting_policy(admin, clients)
        await until(lambda: waits(admin, [], [names.WAIT_CONTAINER]), "pods that wait")
        for namespace, before, after in CASES:
            stored = await created(admin, namespace, copy.deepcopy(before))
            expected = [ours] if seen(after)[1].get(READY) else []
            assert of_ours(stored) == expected, (namespace, before)
        assert await waits(admin, [own], [names.WAIT_CONTAINER, "setup"])
        assert await waits(admin, [own, early], ["setup", names.WAIT_CONTAINER])


def of_ours(stored: Pod) -> list[Pod]:
    """The containers that wait, without what the server adds to every container."""
    keys = wait_container("").keys()
    return [
        {key: value for key, value in container.items() if key in keys}
        for container in stored["spec"].get("initContainers") or []
        if container["name"] == names.WAIT_CONTAINER
    ]


async def waits(admin: KubeClient, present: list[Pod], wanted: list[str]) -> bool:
    stored = await created(admin, "plain", pod({A: "e"}, initContainers=copy.deepcopy(present)))
    return [c["name"] for c in stored["spec"].get("initContainers") or []] == wanted


async def stamped(admin: KubeClient, namespace: str, wanted: str) -> bool:
    annotations, selector = seen(await created(admin, namespace, pod()))
    assert bool(selector) == bool(annotations)
    return annotations.get(A, "") == wanted


async def test_without_the_webhook_annotated_pods_wait_and_no_other_notices(
    real_plane: ControlPlane, tmp_path: Path
) -> None:
    async with mechanism_in_force(real_plane, tmp_path, "webhook") as (admin, running):
        assert running is not None
        await running.stop()
        for namespace, before, after in CASES:
            if seen(before) == seen(after):
                assert seen(await created(admin, namespace, copy.deepcopy(before))) == seen(after)
                continue
            with pytest.raises(KubeError, match="failed calling webhook"):
                await created(admin, namespace, copy.deepcopy(before))
        # Nor do pods of the system, among which the webhook itself would be.
        assert seen(await created(admin, SYSTEM, pod({A: "e"}))) == ({A: "e"}, {})
        mirror = pod({A: "e", names.MIRROR_ANNOTATION: "hash"})
        with pytest.raises(KubeError) as refused:  # for another reason: only kubelets make them
            await created(admin, "plain", mirror)
        assert "webhook" not in str(refused.value)


async def test_webhook_can_do_what_it_needs_and_nothing_else(
    real_plane: ControlPlane, tmp_path: Path
) -> None:
    async with mechanism_in_force(real_plane, tmp_path, "webhook") as (admin, _):
        hooks = "mutatingwebhookconfigurations.admissionregistration.k8s.io/v1"
        await admin.create(hooks, {"metadata": {"name": "other"}})
        await admin.create("secrets", {"metadata": {"name": "sgw-1", "namespace": SYSTEM}})
        token = await token_of(admin)
        tls = real_plane.tls("")
        async with HttpTransport(real_plane.url, tls, token=token) as transport:
            account = KubeClient(transport)
            own = await account.get("secrets", USER, namespace=SYSTEM)
            assert len(own["data"]) == 3
            label = {"metadata": {"labels": {"a": "b"}}}
            for attempt in (
                account.get("secrets", "sgw-1", namespace=SYSTEM),
                account.list("secrets", namespace=SYSTEM),
                account.patch("secrets", "sgw-1", label, namespace=SYSTEM),
                account.create("secrets", {"metadata": {"name": "x", "namespace": SYSTEM}}),
                account.get(hooks, "other"),
                account.patch(hooks, "other", label),
                account.create(hooks, {"metadata": {"name": "x"}}),
                account.delete(hooks, "egress-gateway-pods"),
                account.patch("namespaces", "plain", label),
                account.list("pods", namespace="plain"),
            ):  # fmt: skip
                with pytest.raises(KubeError) as refused:
                    await attempt
                assert refused.value.code == 403


async def test_installing_again_takes_nothing_away(
    real_plane: ControlPlane, tmp_path: Path
) -> None:
    """As `helm upgrade` and `kubectl apply` do, with the webhook away."""
    async with mechanism_in_force(real_plane, tmp_path, "webhook") as (admin, running):
        assert running is not None
        await running.stop()
        await install(admin, "webhook/webhook.yaml", but="ValidatingAdmissionPolicy")
        secret = await admin.get("secrets", USER, namespace=SYSTEM)
        assert len(secret["data"]) == 3
        with pytest.raises(KubeError, match="failed calling webhook"):
            await created(admin, "plain", pod({A: "e"}))
        async with webhook(admin, real_plane, tmp_path):
            await until(lambda: in_force(admin), "the webhook, at another address")
        again = await admin.get("secrets", USER, namespace=SYSTEM)
        assert again["data"] == secret["data"]
