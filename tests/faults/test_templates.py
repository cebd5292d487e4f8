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
