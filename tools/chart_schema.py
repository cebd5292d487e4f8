#!/usr/bin/env python3
"""Keeps ``settings`` in the chart's ``values.schema.json`` what the programs' settings are.

``--write`` or ``--check``. What the chart gives a program by itself is not offered: one value in
two places would be a riddle. Everything else in the schema is written by hand and left alone.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

SCHEMA = (
    Path(__file__).resolve().parents[1] / "deploy/chart/static-egress-gateway/values.schema.json"
)
EVERYWHERE = {"health_port", "kubeconfig", "node_name", "run_dir", "system_namespace"}
MANAGED = {
    "controller": EVERYWHERE | {"azure_config", "health_address", "identity"},
    "gateway": EVERYWHERE | {"refused_cidrs"},
    "node": EVERYWHERE
    | {
        "cluster_cidrs",
        "cni_bin_dir",
        "cni_cache_dir",
        "cni_conf_dir",
        "host_run_dir",
        "uninstall",
    },
    "webhook": EVERYWHERE | {"address", "configuration", "name", "port", "url"},
}
_KINDS: dict[Any, dict[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer", "minimum": 0},
    float: {"$ref": "#/definitions/seconds"},
    str: {"type": "string"},
    list[str]: {"type": "array", "items": {"type": "string"}},
}


def settings(component: str) -> dict[str, Any]:
    """The properties of ``<component>.settings``."""
    module = importlib.import_module(f"egress_gateway.{component}.settings")
    fields = msgspec.structs.fields(module.Settings)
    return {_camel(f.name): _KINDS[f.type] for f in fields if f.name not in MANAGED[component]}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def text() -> str:
    """The schema as it should be."""
    schema = json.loads(SCHEMA.read_text())
    for component in MANAGED:
        place = schema["properties"][component]["properties"]["settings"]
        place["properties"] = settings(component)
    return json.dumps(schema, indent=2) + "\n"


def main() -> int:
    wanted = text()
    if sys.argv[1:] == ["--write"]:
        SCHEMA.write_text(wanted)
        return 0
    if SCHEMA.read_text() != wanted:
        print(
            f"{SCHEMA.name}: settings are not the programs'; run `make manifests`", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
