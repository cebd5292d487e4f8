"""Finding Kubernetes' programs: the user's first, then the cache, and one line for what lacks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from egress_gateway_lab.realcluster import binaries

MODULES = Path(__file__).parents[4] / "tools/kubernetes"


@pytest.fixture(autouse=True)
def empty_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def program(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o755)
    return path


def test_what_lacks_is_named_with_its_mend() -> None:
    program(binaries.folder(), "etcd")
    with pytest.raises(binaries.Unavailable) as caught:
        binaries.find("etcd", "kubelet", "ctr")
    assert "no kubelet, ctr of Kubernetes" in str(caught.value)
    assert "run `make kubernetes`" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_users_own_come_first_and_the_cache_fills_up(
    empty_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = [program(binaries.folder(), name) for name in ("etcd", "kubelet", "cni/ptp")]
    own = program(empty_machine / "own", "etcd")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(own.parent))
    found = binaries.find("etcd", "kubelet", "cni/ptp")
    assert [found["etcd"], found["kubelet"]] == [own, built[1]]
    assert found.cni == built[2].parent


def test_what_cannot_be_run_is_not_found() -> None:
    program(binaries.folder(), "etcd").chmod(0o644)
    with pytest.raises(binaries.Unavailable):
        binaries.find("etcd")


@pytest.mark.parametrize(
    ("module", "requirement"),
    [
        *(
            (binaries.module(version), f"k8s.io/kubernetes v{version}")
            for version in binaries.RELEASES.values()
        ),
        ("etcd", f"go.etcd.io/etcd/server/v3 v{binaries.ETCD}"),
        ("node", f"github.com/containerd/containerd/v2 v{binaries.CONTAINERD}"),
        ("node", f"github.com/containernetworking/plugins v{binaries.CNI_PLUGINS}"),
    ],
)
def test_modules_are_of_the_versions_that_the_folder_is_named_by(
    module: str, requirement: str
) -> None:
    text = (MODULES / module / "go.mod").read_text()
    assert re.search(rf"^(require|\t)\s*{re.escape(requirement)}$", text, re.MULTILINE)
    if module.startswith("kubernetes"):
        patch = requirement.rpartition(" v1.")[2]
        libraries = set(re.findall(r"^replace k8s\.io/\S+ => \S+ (\S+)$", text, re.MULTILINE))
        assert libraries == {f"v0.{patch}"}


def test_a_setting_chooses_among_versions() -> None:
    assert binaries.chosen({}) == binaries.RELEASES[binaries.DEFAULT]
    for minor, version in binaries.RELEASES.items():
        assert binaries.chosen({binaries.VARIABLE: minor}) == version
    with pytest.raises(ValueError, match=r"EGRESS_GATEWAY_KUBERNETES=1\.12: only 1\.36, "):
        binaries.chosen({binaries.VARIABLE: "1.12"})
