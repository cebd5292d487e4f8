#!/usr/bin/env python3
"""Renders the chart into ``deploy/manifests``, for those who use kubectl alone, and for the lab.

``--write`` renders, ``--check`` ends with status 1 and the names of files that differ. One file a
template; hooks are left out, being Helm's. ``admission/`` is a folder of its own, since clusters
before 1.36 do not serve all of its kinds; ``webhook/`` is what those use instead.

Needs helm (see ``kubernetes_clients.py``) and the standard library.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import kubernetes_clients

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "deploy/chart/static-egress-gateway"
MANIFESTS = ROOT / "deploy/manifests"
HEADER = "# Rendered from deploy/chart by `make manifests`; change the chart.\n"
NAMESPACE = "kube-egress-gateway-system"
VALUES = ("namespace.create=true", "crds.install=false", "controller.replicas=1")
KINDS = ("MutatingAdmissionPolicy", "ValidatingAdmissionPolicy")
WEBHOOK = MANIFESTS / "webhook"


def rendered() -> dict[Path, str]:
    """Path below ``deploy/manifests`` and text of every file. Raises ``Unavailable``."""
    files = {MANIFESTS / name: text for name, text in _rendered().items()}
    # Taken from the other rendering, which has nothing else that differs.
    webhook = _rendered("admission.mode=webhook")["admission/webhook.yaml"]
    return files | {WEBHOOK / "webhook.yaml": webhook}


def _rendered(*values: str) -> dict[str, str]:
    """Names below the chart's ``templates``, and texts, of one rendering."""
    helm = kubernetes_clients.ensure() / "helm"
    with tempfile.TemporaryDirectory() as folder:
        command = [str(helm), "template", "egress-gateway", str(CHART), "--namespace", NAMESPACE]
        command += ["--no-hooks", "--output-dir", folder]
        for value in (*VALUES, *values):
            command += ["--set", value]
        for kind in KINDS:
            command += ["--api-versions", f"admissionregistration.k8s.io/v1/{kind}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        templates = Path(folder) / CHART.name / "templates"
        found = sorted(templates.rglob("*.yaml"))
        return {str(p.relative_to(templates)): _text(p.read_text()) for p in found}


def _text(text: str) -> str:
    """Without helm's ``# Source:`` lines, and one ``---`` only between documents."""
    lines = [line.rstrip() for line in text.splitlines() if not line.startswith("# Source: ")]
    body = "\n".join(lines).strip().removeprefix("---").strip()
    return f"{HEADER}{body}\n"


def differing(wanted: dict[Path, str], folder: Path) -> list[Path]:
    """Files that are missing, differ, or are nobody's."""
    present = set(folder.rglob("*.yaml"))
    return sorted(
        path
        for path in wanted.keys() | present
        if path not in wanted or not path.exists() or path.read_text() != wanted[path]
    )


def main() -> int:
    if sys.argv[1:] not in (["--write"], ["--check"]):
        print("usage: manifests.py --write | --check", file=sys.stderr)
        return 2
    try:
        files = rendered()
    except kubernetes_clients.Unavailable as error:
        print(f"the manifests cannot be rendered: {error}", file=sys.stderr)
        return 1
    stale = differing(files, MANIFESTS)
    if sys.argv[1] == "--write":
        _write(files, stale)
        return 0
    for path in stale:
        print(f"{path.relative_to(ROOT)}: not as rendered; run `make manifests`", file=sys.stderr)
    return 1 if stale else 0


def _write(files: dict[Path, str], stale: list[Path]) -> None:
    for path in stale:
        if path not in files:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path])


if __name__ == "__main__":
    sys.exit(main())
