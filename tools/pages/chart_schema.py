"""``settings`` in the chart's ``values.schema.json``, from the programs' settings.

What the chart gives a program by itself is not offered: one value in two places would be a riddle.
Everything else in the schema is written by hand and left alone.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from egress_gateway.service.settings import Setting, describe

SCHEMA = (
    Path(__file__).resolve().parents[2] / "deploy/chart/static-egress-gateway/values.schema.json"
)
EVERYWHERE = {
    "health_port",
    "keys_namespace",
    "kubeconfig",
    "metrics_auth",
    "metrics_port",
    "probe_port",
    "node_name",
    "run_dir",
    "system_namespace",
}
MANAGED = {
    "controller": EVERYWHERE | {"agent_pools", "azure_config", "health_address", "identity"},
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
    "webhook": EVERYWHERE | {"health_address", "address", "configuration", "name", "port", "url"},
}
_POSITIVE = "^([1-9][0-9]*(\\.[0-9]+)?|0?\\.[0-9]*[1-9][0-9]*)$"
_NOT_NEGATIVE = "^[0-9]*\\.?[0-9]+$"


def settings(component: str) -> dict[str, Any]:
    """The properties of ``<component>.settings``."""
    module = importlib.import_module(f"egress_gateway.{component}.settings")
    return {
        _camel(setting.name): {"description": setting.text, **_kind(setting)}
        for setting in describe(module.Settings)
        if setting.name not in MANAGED[component]
    }


def _kind(setting: Setting) -> dict[str, Any]:
    match setting.kind:
        case "boolean" | "string":
            return {"type": setting.kind}
        case "list":
            return {"type": "array", "items": {"type": "string"}}
        case "integer":
            return {"type": "integer", **_limits(setting)}
    # NB: `helm --set` gives fractions as text.
    pattern = _POSITIVE if "gt" in setting.limits else _NOT_NEGATIVE
    return {
        "anyOf": [
            {"type": "number", **_limits(setting)},
            {"type": "string", "pattern": pattern},
        ]
    }


def _limits(setting: Setting) -> dict[str, Any]:
    words = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum"}
    return {words[k]: v for k, v in setting.limits.items() if k in words}


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
