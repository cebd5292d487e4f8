"""What is generated is as generated."""

from __future__ import annotations

from pathlib import Path

from egress_gateway.api.manifests import crd_files, deploy_dir
from tests.deploy.conftest import ROOT, tool


def test_the_chart_carries_the_very_definitions() -> None:
    """``test_crd.py`` holds them to the code."""
    carried = {p.name: p.read_text() for p in (tool("manifests").CHART / "files/crds").iterdir()}
    assert carried == {path.name: path.read_text() for path in crd_files()}


def test_manifests_are_the_chart_rendered(clients: Path) -> None:
    manifests = tool("manifests")
    stale = manifests.differing(manifests.rendered(), manifests.MANIFESTS)
    assert stale == [], "run `make manifests`"


def test_whoever_names_an_image_by_kustomize_names_it_everywhere() -> None:
    page = (ROOT / "docs/install/self-managed.md").read_text()
    named = page.partition("# kustomization.yaml\n")[2].partition("```")[0]
    folder = deploy_dir() / "manifests"
    with_image = {
        p.relative_to(folder) for p in folder.rglob("*.yaml") if "image:" in p.read_text()
    }
    assert len(with_image) == 5
    assert [path for path in with_image if f"manifests/{path}" not in named] == []


def test_what_old_clusters_do_not_serve_lies_apart() -> None:
    folder = deploy_dir() / "manifests"
    apart = {path.name for path in (folder / "admission").glob("*.yaml")}
    assert apart == {"hints.yaml", "pods.yaml", "writers.yaml"}
    assert [path.name for path in (folder / "webhook").glob("*")] == ["webhook.yaml"]
    assert not any("AdmissionPolicy\n" in path.read_text() for path in folder.glob("*.yaml"))
