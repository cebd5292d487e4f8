"""Our components on real Kubernetes: the chart, installed by the real helm, as anybody does it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from egress_gateway.api import names
from egress_gateway.api.manifests import deploy_dir
from egress_gateway_lab import golang
from egress_gateway_lab.realcluster.binaries import Unavailable

RELEASE: Final = "egress-gateway"
IMAGE: Final = {
    "repository": "static-egress-gateway",
    "tag": "latest",
    "pullPolicy": "IfNotPresent",
}


def find_helm() -> Path:
    """``$KUBERNETES_CLIENTS/helm``, what ``make clients`` fetched, or the PATH's. Raises
    ``Unavailable``."""
    chosen = os.environ.get("KUBERNETES_CLIENTS")
    fetched = sorted(golang.cache().glob("kubernetes-clients-*"), reverse=True)
    for folder in [Path(chosen)] if chosen else fetched:
        if os.access(folder / "helm", os.X_OK):
            return folder / "helm"
    on_path = shutil.which("helm")
    if on_path:
        return Path(on_path)
    raise Unavailable("no helm to install our components with: run `make clients` (37 MB, once)")


def values(azure: Mapping[str, Any], ca: str) -> dict[str, Any]:
    """The chart's values for a lab: its image, and where its Azure is."""
    return {"image": IMAGE, "azure": {"config": dict(azure), "caBundle": ca}}


async def install(helm: Path, kubeconfig: Path, given: Mapping[str, Any]) -> None:
    """Installs the chart; does not wait for pods, for which there may be no node yet. Raises
    ``RuntimeError`` with helm's words."""
    import yaml  # no other command of the lab needs it

    chart = deploy_dir() / "chart" / "static-egress-gateway"
    file = kubeconfig.with_name("values.yaml")
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump(dict(given)))
    process = await asyncio.create_subprocess_exec(
        str(helm),
        "upgrade",
        "--install",
        RELEASE,
        str(chart),
        f"--namespace={names.SYSTEM_NAMESPACE}",
        "--create-namespace",
        f"--values={file}",
        f"--kubeconfig={kubeconfig}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(kubeconfig.parent)},
    )
    _, said = await process.communicate()
    if process.returncode != 0:
        last = (said.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"helm cannot install the chart: {last}")
