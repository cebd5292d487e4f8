"""Real Kubernetes for tests and the lab: prints the folder, building what is missing there.

The Go modules beside this file name the programs and lock what they are made of (go.sum), so that
whoever can reach a Go module proxy can have them; no release archive, no image. What exists is
kept, KUBEBUILDER_ASSETS comes first (see ``egress_gateway_lab.realcluster.binaries``), and a build
that was interrupted goes on where it stopped, for Go keeps what it compiled. On two cores the
first build takes about ten minutes and some GB of Go's own caches; it is niced.

    build.py [PROGRAM …]   all of them, or those named; several at once wait for each other

EGRESS_GATEWAY_KUBERNETES=1.36 builds that version, into a folder of its own.

``egress_gateway_lab.golang`` builds, and finds Go. One line on standard error and status 1 where
the programs cannot be had.
"""

from __future__ import annotations

import sys
from pathlib import Path

from egress_gateway_lab import golang
from egress_gateway_lab.golang import Unavailable, say
from egress_gateway_lab.realcluster import binaries

HERE = Path(__file__).resolve().parent
KUBERNETES = f"v{binaries.KUBERNETES}"
MODULE = binaries.module(binaries.KUBERNETES)
_MEND = (
    f", or set KUBEBUILDER_ASSETS to a folder with the programs of Kubernetes {binaries.KUBERNETES}"
)
_MINOR = binaries.KUBERNETES.split(".")[1]
_VERSION = " ".join(
    f"-X k8s.io/component-base/version.{name}={value}"
    for name, value in (("gitVersion", KUBERNETES), ("gitMajor", "1"), ("gitMinor", _MINOR))
)
_PLUGINS = "github.com/containernetworking/plugins/plugins"
_CONTAINERD = "github.com/containerd/containerd/v2"

# Program: its module here, its package, what the linker is told. The longest first.
PROGRAMS: dict[str, tuple[str, str, str]] = {
    "kube-apiserver": (MODULE, "k8s.io/kubernetes/cmd/kube-apiserver", _VERSION),
    "etcd": ("etcd", "go.etcd.io/etcd/server/v3", ""),
    "kube-controller-manager": (
        MODULE,
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        _VERSION,
    ),
    "kube-scheduler": (MODULE, "k8s.io/kubernetes/cmd/kube-scheduler", _VERSION),
    "kubelet": (MODULE, "k8s.io/kubernetes/cmd/kubelet", _VERSION),
    "kube-proxy": (MODULE, "k8s.io/kubernetes/cmd/kube-proxy", _VERSION),
    **{
        name: (
            "node",
            f"{_CONTAINERD}/cmd/{name}",
            f"-X {_CONTAINERD}/version.Version=v{binaries.CONTAINERD}",
        )
        for name in ("containerd", "containerd-shim-runc-v2", "ctr")
    },
    "cni/host-local": ("node", f"{_PLUGINS}/ipam/host-local", ""),
    "cni/portmap": ("node", f"{_PLUGINS}/meta/portmap", ""),
    **{
        f"cni/{name}": ("node", f"{_PLUGINS}/main/{name}", "")
        for name in ("bridge", "ptp", "loopback")
    },
    "cnitool": ("node", "github.com/containernetworking/cni/cnitool", ""),
}


def missing(names: list[str]) -> list[str]:
    """Those of ``names`` that are neither the user's nor built."""

    def lacks(name: str) -> bool:
        try:
            binaries.find(name)
        except Unavailable:
            return True
        return False

    return [name for name in PROGRAMS if name in names and lacks(name)]


def ensure(names: list[str]) -> None:
    """Builds what is missing. Raises ``Unavailable``."""
    if not missing(names):
        return
    target = binaries.folder()
    target.mkdir(parents=True, exist_ok=True)
    with golang.one_at_a_time(target):
        lacking = missing(names)
        if not lacking:
            return
        go = golang.find(_MEND)
        say(
            f"building {len(lacking)} programs of Kubernetes {binaries.KUBERNETES} (the first "
            "time: about ten minutes on two cores; an interrupted build goes on where it stopped)"
        )
        for number, name in enumerate(lacking, start=1):
            _build(go, name, target / name, f"{number} of {len(lacking)}")


def _build(go: str, name: str, target: Path, place: str) -> None:
    module, package, linked = PROGRAMS[name]
    say(f"{name} ({place}) …")
    golang.build(package, target, go=go, module=HERE / module, linked=linked)


def main() -> int:
    names = sys.argv[1:] or list(PROGRAMS)
    unknown = [name for name in names if name not in PROGRAMS]
    if unknown:
        say(f"unknown: {', '.join(unknown)}; programs are {', '.join(PROGRAMS)}")
        return 2
    try:
        ensure(names)
    except Unavailable as error:
        say(f"NO KUBERNETES: {error}")
        return 1
    print(binaries.folder())
    return 0


if __name__ == "__main__":
    sys.exit(main())
