"""Where the deployment's files are: inside an installed wheel, or in the checkout."""

from __future__ import annotations

from pathlib import Path


def deploy_dir() -> Path:
    """The folder with ``crds/`` and ``manifests/``. Raises ``FileNotFoundError``."""
    package = Path(__file__).resolve().parents[1]
    installed, checkout = package / "_deploy", package.parents[1] / "deploy"
    for folder in (installed, checkout):
        if (folder / "crds").is_dir():
            return folder
    raise FileNotFoundError(
        f"neither {installed} nor {checkout} has the CRDs: install the package again, "
        "or run from a complete checkout"
    )


def crd_files() -> list[Path]:
    """The CustomResourceDefinition files, in a stable order."""
    return sorted((deploy_dir() / "crds").glob("*.yaml"))
