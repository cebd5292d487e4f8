"""The annotation of a workload, and of its pods."""

from __future__ import annotations

from typing import Any

import pytest

from egress_gateway.api.names import POD_ANNOTATION
from egress_gateway.cli.diagnosis.checks.templates import misplaced

ASKS = {POD_ANNOTATION: "partner"}


PLACED: list[tuple[Any, Any, list[str]]] = [
    (ASKS, {}, ["EG110"]),
    (ASKS, {"metadata": {"annotations": None}}, ["EG110"]),
    (ASKS, {"metadata": {"annotations": ASKS}}, []),
    (None, {"metadata": {"annotations": ASKS}}, []),
    ({"other": "x"}, {"metadata": {"labels": ASKS}}, []),
]
"""A workload's annotations, its template, and the codes of what is found."""


@pytest.mark.parametrize(("own", "template", "found"), PLACED)
def test_an_annotation_that_the_pods_do_not_have_is_told(
    own: Any, template: Any, found: list[str]
) -> None:
    meta = {"name": "web", "namespace": "shop", "annotations": own}
    seen = list(misplaced("Deployment", [{"metadata": meta, "spec": {"template": template}}]))
    assert [one.code for one in seen] == found
    assert all(one.object == "Deployment shop/web" for one in seen)


@pytest.mark.parametrize("at", ["metadata", "jobTemplate"])
@pytest.mark.parametrize(("own", "template", "found"), PLACED)
def test_so_it_is_of_a_cron_job_and_of_its_jobs(
    own: Any, template: Any, found: list[str], at: str
) -> None:
    meta: dict[str, Any] = {"name": "web", "namespace": "shop"}
    jobs = {"metadata": {"annotations": own}} if at == "jobTemplate" else {}
    spec = {"jobTemplate": {**jobs, "spec": {"template": template}}}
    if at == "metadata":
        meta |= {"annotations": own}
    seen = list(misplaced("CronJob", [{"metadata": meta, "spec": spec}]))
    assert [one.code for one in seen] == found
    assert all("spec.jobTemplate.spec.template.metadata" in one.mend for one in seen)


@pytest.mark.parametrize(
    ("owners", "found"),
    [([], ["EG110"]), ([{"kind": "CronJob"}], []), ([{"kind": "Workflow"}], ["EG110"])],
)
def test_a_job_that_a_cron_job_has_made_is_not_told_beside_it(
    owners: list[dict[str, str]], found: list[str]
) -> None:
    meta = {"name": "web-1", "namespace": "shop", "annotations": ASKS, "ownerReferences": owners}
    seen = list(misplaced("Job", [{"metadata": meta, "spec": {"template": {}}}]))
    assert [one.code for one in seen] == found
