"""The chart's README.md, from ``values.yaml``: every value, its default, its comment.

Registries and Artifact Hub show that page for the chart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parents[2] / "deploy/chart/static-egress-gateway"
PAGE = CHART / "README.md"
_KEY = re.compile(r"^( *)([A-Za-z][\w-]*):")
_HEAD = """# {name}

{description}. Version {version}, for Kubernetes {kubernetes}.

```sh
helm install egress-gateway {name}-{version}.tgz --namespace egress-gateway --create-namespace
helm test egress-gateway --namespace egress-gateway    # with packets: does it work?
```

The notes after the installation say what is missing on your cluster. The guides:
[AKS](../../../docs/install/aks.md), [any cluster](../../../docs/install/self-managed.md),
[every setting](../../../docs/reference/settings.md), [security](../../../docs/operate/security.md).

## Values

`<component>.settings` takes every setting of that component in camelCase: `values.schema.json` has
their types, [settings](../../../docs/reference/settings.md) what they mean. What is misspelled or
of the wrong type is refused. This table is made from `values.yaml` (`make manifests`).

| value | default | |
|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Value:
    """A value as somebody sets it, or the beginning of a group of them that has a comment."""

    path: tuple[str, ...]
    text: str
    default: str


def values(source: str) -> Iterator[Value]:
    """What ``source`` offers, each with the comment above it."""
    document = yaml.safe_load(source)
    comment: list[str] = []
    stack: list[tuple[int, str]] = []
    for line in source.splitlines():
        matched = _KEY.match(line)
        if line.strip().startswith("#"):
            comment.append(line.strip().lstrip("# "))
        elif not line.strip():
            comment.clear()
        elif matched:
            stack = [one for one in stack if one[0] < len(matched[1])]
            stack.append((len(matched[1]), matched[2]))
            path = tuple(name for _, name in stack)
            found = _at(document, path)
            if found is _NOTHING or any(name in _WHOLE for name in path[:-1]):
                continue  # of a list's item, or of a group that is shown as one value
            group = isinstance(found, dict) and bool(found)
            whole = not group or path[-1] in _WHOLE or line.rstrip().endswith("}")
            if whole or comment:
                yield Value(path, " ".join(comment), json.dumps(found) if whole else "")
            comment.clear()


_NOTHING = object()
_WHOLE = ("resources", "nodeSelector", "affinity", "updateStrategy")
"""Groups that are one value to whoever sets them."""


def _at(document: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if not isinstance(document, dict) or name not in document:
            return _NOTHING
        document = document[name]
    return document


def text() -> str:
    """The page as it should be."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    head = _HEAD.format(
        name=chart["name"],
        description=chart["description"],
        version=chart["version"],
        kubernetes=chart["kubeVersion"].removesuffix("-0").removeprefix(">=") + " and later",
    )
    source = (CHART / "values.yaml").read_text()
    return head + "".join(f"{row(value)}\n" for value in values(source))


def row(value: Value) -> str:
    """Of the table; a bar inside of a cell would end it."""
    default = f"`{value.default}`" if value.default else ""
    cells = (f"`{'.'.join(value.path)}`", default, value.text.replace("<", "&lt;"))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
