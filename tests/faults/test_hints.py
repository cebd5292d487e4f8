"""Whoever writes what can hardly be meant is told so, and is let through."""

from __future__ import annotations

from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway_lab.realcluster.control_plane import ControlPlane
from lab.tests.apiserver.conftest import Cluster, real
from lab.tests.apiserver.test_admission import installed
from lab.tests.apiserver.test_objects import pod, refusal

KEY = names.POD_ANNOTATION
BINDING = "validatingadmissionpolicybindings.admissionregistration.k8s.io/v1"
HINTS = "egress-gateway-hints"
CRON_JOBS = "cronjobs.batch/v1"


def annotated(annotations: dict[str, str], labels: dict[str, str], **spec: Any) -> dict[str, Any]:
    made = pod("p", **spec)
    made["metadata"] |= {"annotations": annotations, "labels": labels}
    return made


def deployment(annotations: dict[str, str], labels: dict[str, str]) -> dict[str, Any]:
    labels = {"app": "x", **labels}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "x"}},
            "template": {
                "metadata": {"annotations": annotations, "labels": labels},
                "spec": {"containers": [{"name": "c", "image": "nginx"}]},
            },
        },
    }


WRONG: list[tuple[dict[str, str], dict[str, str], str]] = [
    ({"static-gateway-configuration": "a"}, {}, "spelt in another way"),
    ({f"{KEY}s": "a"}, {}, "spelt in another way"),
    ({"azure.com/static-gateway-configuration": "a"}, {}, "spelt in another way"),
    ({"kubernetes.azure.com/StaticGatewayConfiguration": "a"}, {}, "spelt in another way"),
    ({"kubernetes.azure.com/static-gatewya-config": "a"}, {}, "spelt in another way"),
    ({}, {KEY: "a"}, "read as an annotation alone"),
    ({KEY: "shop/a"}, {}, "not namespace/name"),
]
RIGHT: list[dict[str, str]] = [
    {},
    {KEY: "a"},
    {KEY: ""},
    {"app.kubernetes.io/configuration": "x", "static.example.com/gateway": "y"},
]


async def strictly(cluster: Cluster) -> None:
    """The hints refuse, so that a test sees what they say."""
    await installed(cluster)
    await cluster.admin.patch(BINDING, HINTS, {"spec": {"validationActions": ["Deny"]}})
    await cluster.settled()


@pytest.mark.parametrize(("annotations", "labels", "words"), WRONG)
async def test_what_can_hardly_be_meant_is_said_of_pods_and_of_templates(
    cluster: Cluster, annotations: dict[str, str], labels: dict[str, str], words: str
) -> None:
    await strictly(cluster)
    for resource, made in (
        ("pods", annotated(annotations, labels)),
        ("deployments", deployment(annotations, labels)),
    ):
        assert words in str(await refusal(cluster.admin.create(resource, made)))


async def test_a_pod_on_its_nodes_network_is_said(cluster: Cluster) -> None:
    await strictly(cluster)
    made = annotated({KEY: "a"}, {}, hostNetwork=True)
    assert "hostNetwork" in str(await refusal(cluster.admin.create("pods", made)))


async def test_nothing_is_said_of_what_is_right(cluster: Cluster) -> None:
    await strictly(cluster)
    for number, right in enumerate(RIGHT):
        made = annotated(right, {"app": "x"})
        made["metadata"]["name"] = f"p{number}"
        await cluster.admin.create("pods", made)
    await cluster.admin.create("pods", pod("host", hostNetwork=True))
    await cluster.admin.create("deployments", deployment({KEY: "a"}, {}))


async def test_an_annotation_of_the_workload_itself_is_said(cluster: Cluster) -> None:
    await strictly(cluster)
    made = deployment({}, {})
    await cluster.admin.create("deployments", made)
    patch = {"metadata": {"annotations": {KEY: "a"}}}
    words = await refusal(cluster.admin.patch("deployments", "d", patch, namespace="default"))
    assert "spec.template.metadata.annotations" in str(words)
    both = deployment({KEY: "a"}, {})
    both["metadata"] |= {"name": "both", **patch["metadata"]}
    await cluster.admin.create("deployments", both)


async def test_a_hint_refuses_nothing(cluster: Cluster) -> None:
    await installed(cluster)
    await cluster.admin.create("pods", annotated({f"{KEY}s": "a"}, {KEY: "a"}))
    await cluster.admin.create("deployments", deployment({KEY: "shop/a"}, {}))


@pytest.mark.kube
async def test_the_same_is_said_of_cron_jobs_and_of_their_jobs(real_plane: ControlPlane) -> None:
    def cron_job(name: str, own: Any, jobs: Any, pods: Any, **labels: str) -> dict[str, Any]:
        containers = [{"name": "c", "image": "nginx"}]
        template = {
            "metadata": {"annotations": pods, "labels": labels},
            "spec": {"containers": containers, "restartPolicy": "Never"},
        }
        job = {"metadata": {"annotations": jobs}, "spec": {"template": template}}
        return {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "metadata": {"name": name, "namespace": "default", "annotations": own},
            "spec": {"schedule": "0 3 * * *", "jobTemplate": job},
        }

    asks = {KEY: "a"}
    async with real(real_plane) as cluster:
        await strictly(cluster)
        for wrong, words in (
            (cron_job("c", asks, {}, {}), "jobTemplate"),
            (cron_job("c", {}, asks, {}), "jobTemplate"),
            (cron_job("c", {}, {}, {f"{KEY}s": "a"}), "spelt in another way"),
            (cron_job("c", {}, {}, {KEY: "shop/a"}), "not namespace/name"),
            (cron_job("c", {}, {}, {}, **asks), "read as an annotation alone"),
        ):
            assert words in str(await refusal(cluster.admin.create(CRON_JOBS, wrong)))
        for name, right in (("bare", {}), ("asks", asks)):
            await cluster.admin.create(CRON_JOBS, cron_job(name, right, right, right))
