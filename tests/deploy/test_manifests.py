"""What is generated is as generated."""

from __future__ import annotations

from pathlib import Path

from egress_gateway.api.manifests import deploy_dir
from tests.deploy.conftest import tool


def test_chart_carries_the_definitions_as_they_are() -> None:
    manifests = tool("manifests")
    copies = manifests.crd_copies()
    assert len(copies) == 3
    assert manifests.differing(copies, manifests.CHART / "files/crds") == []


def test_manifests_are_the_chart_rendered(clients: Path) -> None:
    manifests = tool("manifests")
    stale = manifests.differing(manifests.rendered(), manifests.MANIFESTS)
    assert stale == [], "run `make manifests`"


def test_what_old_clusters_do_not_serve_lies_apart() -> None:
    folder = deploy_dir() / "manifests"
    apart = {path.name for path in (folder / "admission").glob("*.yaml")}
    assert apart == {"hints.yaml", "pods.yaml", "writers.yaml"}
    assert [path.name for path in (folder / "webhook").glob("*")] == ["webhook.yaml"]
    assert not any("AdmissionPolicy\n" in path.read_text() for path in folder.glob("*.yaml"))
