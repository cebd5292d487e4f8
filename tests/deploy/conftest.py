"""helm and kubectl for these tests; without them every test that needs them says so aloud.

Fetching 37 MB is not a test's business: ``make clients`` does it once.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/chart/static-egress-gateway"
Document = dict[str, Any]


def tool(name: str) -> ModuleType:
    """A script of ``tools/`` as a module."""
    known = sys.modules.get(name)
    if known is not None:
        return known
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def clients() -> Path:
    """The folder with kubectl and helm."""
    found = tool("kubernetes_clients")
    if not found.present():
        pytest.skip("NO HELM: the chart was NOT tested (fetch helm and kubectl: make clients)")
    folder: Path = found.folder()
    return folder


Helm = Callable[..., str]


@pytest.fixture
def helm(clients: Path) -> Helm:
    """``helm("template", …)`` → stdout; ``fails=True`` → stderr of a failure."""

    def call(*arguments: str, fails: bool = False) -> str:
        done = subprocess.run(
            [str(clients / "helm"), *arguments], capture_output=True, text=True, check=False
        )
        assert (done.returncode != 0) == fails, done.stderr or done.stdout
        return done.stderr if fails else done.stdout

    return call


@pytest.fixture
def render(helm: Helm) -> Callable[..., list[Document]]:
    """The documents of ``helm template`` with values (``"a.b=c"``) and the API's kinds."""

    def call(*values: str, apis: tuple[str, ...] = (), hooks: bool = False) -> list[Document]:
        arguments = ["template", "egress-gateway", str(CHART), "--namespace", "somewhere"]
        arguments += [] if hooks else ["--no-hooks"]
        for value in values:
            arguments += ["--set-json" if value.endswith(("]", "}")) else "--set", value]
        for api in apis:
            arguments += ["--api-versions", f"admissionregistration.k8s.io/{api}"]
        return [d for d in yaml.safe_load_all(helm(*arguments)) if d]

    return call
