"""What becomes of which pod."""

from __future__ import annotations

import base64
import json
from typing import Any

import jsonpatch
import pytest

from egress_gateway.api import names
from egress_gateway.api.names import MIRROR_ANNOTATION as MIRROR
from egress_gateway.webhook.review import ReviewError, asks_default, review

A, READY = names.POD_ANNOTATION, names.NODE_READY_LABEL
SELECTED = {READY: "true"}


def pod(annotations: Any = ..., **spec: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"generateName": "web-"}
    if annotations is not ...:
        metadata["annotations"] = annotations
    return {"metadata": metadata, "spec": {"containers": [{"name": "c"}], **spec}}


def document(obj: dict[str, Any], namespace: str = "shop") -> dict[str, Any]:
    request = {"uid": "u-1", "namespace": namespace, "operation": "CREATE", "object": obj}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def judged(obj: dict[str, Any], default: str = "", wait_image: str = "") -> dict[str, Any]:
    """The pod as it is after the review."""
    answer = review(document(obj), default=default, wait_image=wait_image)
    assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response = answer["response"]
    assert (response["uid"], response["allowed"]) == ("u-1", True)
    if "patch" not in response:
        return obj
    assert response["patchType"] == "JSONPatch"
    patch = json.loads(base64.b64decode(response["patch"]))
    changed: dict[str, Any] = jsonpatch.apply_patch(obj, patch)
    return changed


@pytest.mark.parametrize(
    ("before", "default", "after"),
    [
        # What it names itself.
        (pod({A: "e"}), "", pod({A: "e"}, nodeSelector=SELECTED)),
        (pod({A: "e"}), "other", pod({A: "e"}, nodeSelector=SELECTED)),
        (
            pod({A: "e"}, nodeSelector={"disk": "ssd"}),
            "",
            pod({A: "e"}, nodeSelector={"disk": "ssd", **SELECTED}),
        ),
        (pod({A: "e"}, nodeSelector=None), "", pod({A: "e"}, nodeSelector=SELECTED)),
        (pod({A: "e"}, nodeSelector={READY: "false"}), "", pod({A: "e"}, nodeSelector=SELECTED)),
        (
            pod({A: "e"}, hostNetwork=False),
            "",
            pod({A: "e"}, hostNetwork=False, nodeSelector=SELECTED),
        ),
        # Its namespace's.
        (pod(), "d", pod({A: "d"}, nodeSelector=SELECTED)),
        (pod(None), "d", pod({A: "d"}, nodeSelector=SELECTED)),
        (pod({}), "d", pod({A: "d"}, nodeSelector=SELECTED)),
        (pod({"a": "b"}), "d", pod({"a": "b", A: "d"}, nodeSelector=SELECTED)),
        # Opted out.
        (pod({A: ""}), "d", pod({A: ""})),
        # Nothing of ours.
        (pod(), "", pod()),
        (pod({"a": "b"}, nodeSelector={"c": "d"}), "", pod({"a": "b"}, nodeSelector={"c": "d"})),
        (pod({A: "e"}, hostNetwork=True), "", pod({A: "e"}, hostNetwork=True)),
        (pod(hostNetwork=True), "d", pod(hostNetwork=True)),
        (pod({A: "e", MIRROR: "x"}), "", pod({A: "e", MIRROR: "x"})),
        (pod({MIRROR: "x"}), "d", pod({MIRROR: "x"})),
    ],
)  # fmt: skip
def test_pods(before: dict[str, Any], default: str, after: dict[str, Any]) -> None:
    found = judged(before, default)
    assert found == after
    # Asked again, as API servers may: it is right as it is.
    assert judged(found, default) == after


@pytest.mark.parametrize(
    ("obj", "asked"),
    [
        (pod(), "shop"),
        (pod({"a": "b"}), "shop"),
        (pod({A: "e"}), ""),
        (pod({A: ""}), ""),
        (pod(hostNetwork=True), ""),
        (pod({MIRROR: "x"}), ""),
    ],
)
def test_namespace_is_asked_only_where_it_decides(obj: dict[str, Any], asked: str) -> None:
    assert asks_default(document(obj)) == asked


@pytest.mark.parametrize(
    "nonsense",
    [
        None,
        [],
        {},
        {"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "request": {}},
        document(pod()) | {"request": None},
        document(pod()) | {"request": {"uid": "", "object": pod()}},
        document(pod()) | {"request": {"uid": "u"}},
        document([]),  # type: ignore[arg-type]
        document({"metadata": {"annotations": []}}) | {"kind": "Pod"},
        document({"metadata": [1]}),
        document({"spec": "x"}),
    ],
)
def test_nonsense_is_no_answer(nonsense: Any) -> None:
    for judge in (asks_default, review):
        with pytest.raises(ReviewError):
            judge(nonsense)


OWN, EARLY = {"name": "setup"}, {"name": names.WAIT_CONTAINER}


@pytest.mark.parametrize(
    ("present", "after"),
    [
        ({}, [names.WAIT_CONTAINER]),
        ({"initContainers": None}, [names.WAIT_CONTAINER]),
        ({"initContainers": []}, [names.WAIT_CONTAINER]),
        ({"initContainers": [OWN]}, [names.WAIT_CONTAINER, "setup"]),
        (
            {"initContainers": [OWN, {"name": names.WAIT_CONTAINER}]},
            ["setup", names.WAIT_CONTAINER],
        ),
    ],
)
def test_the_container_that_waits_is_the_first_and_there_once(
    present: dict[str, Any], after: list[str]
) -> None:
    for before, default in ((pod({A: "e"}, **present), ""), (pod(**present), "d")):
        found = judged(before, default, wait_image="i")
        assert [c["name"] for c in found["spec"]["initContainers"]] == after
    for unasked in (pod(**present), pod({A: ""}, **present), pod({A: "e"}, hostNetwork=True)):
        assert judged(unasked, wait_image="i") == unasked


def test_init_containers_that_are_no_list_are_an_error() -> None:
    with pytest.raises(ReviewError, match="initContainers"):
        review(document(pod({A: "e"}, initContainers="x")), wait_image="i")
