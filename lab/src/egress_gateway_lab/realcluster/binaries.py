"""Where real Kubernetes' programs are: what the user has first, then what `make kubernetes` built.

Nothing is built or fetched here: ``find`` looks, and says in one line what to do where a program
is missing. Each program is looked for on its own, in this order::

    $KUBEBUILDER_ASSETS   a folder as envtest knows it (etcd, kube-apiserver, perhaps more)
    folder()              $XDG_CACHE_HOME/static-egress-gateway/kubernetes/<versions>

``tools/kubernetes/build.py`` fills the second; ``make kubernetes`` runs it and prints the folder.
Use::

    programs = binaries.find(*binaries.CONTROL_PLANE)      # raises binaries.Unavailable
    programs["kube-apiserver"]                             # a Path
    programs.cni                                           # the folder of CNI plugins
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from egress_gateway_lab import golang
from egress_gateway_lab.golang import Unavailable as Unavailable

VARIABLE: Final = "EGRESS_GATEWAY_KUBERNETES"
RELEASES: Final = {"1.36": "1.36.3", "1.37": "1.37.2"}
"""Kubernetes versions that can be built, by their minor version; ``VARIABLE`` chooses one."""
DEFAULT: Final = "1.37"


def chosen(environment: Mapping[str, str]) -> str:
    """The Kubernetes version to use. Raises ``ValueError`` for one that is not offered."""
    minor = environment.get(VARIABLE) or DEFAULT
    if minor not in RELEASES:
        raise ValueError(f"{VARIABLE}={minor}: only {', '.join(RELEASES)} can be had")
    return RELEASES[minor]


KUBERNETES: Final = chosen(os.environ)
ETCD: Final = "3.7.3"
CONTAINERD: Final = "2.4.2"
CNI_PLUGINS: Final = "1.9.1"
"""Versions; ``tools/kubernetes/*/go.mod`` name the same ones (a test holds that)."""


def module(version: str) -> str:
    """The folder below ``tools/kubernetes`` whose go.mod requires this version of Kubernetes."""
    minor = version.rpartition(".")[0]
    return "kubernetes" if minor == "1.36" else f"kubernetes-{minor}"


CONTROL_PLANE: Final = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
NODE: Final = ("kubelet", "kube-proxy", "containerd", "containerd-shim-runc-v2", "ctr")
CNI: Final = ("cni/bridge", "cni/ptp", "cni/loopback", "cni/host-local", "cni/portmap")
CNI_CLIENT: Final = ("cnitool",)
"""What a runtime does with CNI, one call at a time: for conformance tests."""
ALL: Final = (*CONTROL_PLANE, *NODE, *CNI, *CNI_CLIENT)


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs that were asked for, by name."""

    paths: Mapping[str, Path]

    def __getitem__(self, name: str) -> Path:
        return self.paths[name]

    @property
    def cni(self) -> Path:
        """The folder of CNI plugins, as ``bin_dirs`` of a runtime; needs a plugin asked for."""
        return next(path.parent for name, path in self.paths.items() if name.startswith("cni/"))


def folder() -> Path:
    """Where built programs of these versions are, or would be put."""
    versions = f"{KUBERNETES}+etcd-{ETCD}+containerd-{CONTAINERD}+cni-{CNI_PLUGINS}"
    return golang.cache() / "kubernetes" / versions


def find(*names: str) -> Programs:
    """The programs ``names``. Raises ``Unavailable`` naming all that are missing."""
    found = {name: path for name in names if (path := _path(name))}
    missing = [name for name in names if name not in found]
    if missing:
        raise Unavailable(
            f"no {', '.join(missing)} of Kubernetes {KUBERNETES}: run `make kubernetes` (builds "
            "them once, about ten minutes) or set KUBEBUILDER_ASSETS to a folder that has them"
        )
    return Programs(MappingProxyType(found))


def _path(name: str) -> Path | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    for place in [Path(assets)] if assets else []:
        if os.access(place / name, os.X_OK):
            return (place / name).resolve()
    built = folder() / name
    return built if os.access(built, os.X_OK) else None
