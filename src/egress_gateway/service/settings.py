"""One schema per process, three sources: flags beat the environment, which beats the file.

A settings schema is a frozen ``msgspec.Struct``; its fields are the flags (``--health-port``), the
environment (``EGRESS_GATEWAY_HEALTH_PORT``) and the keys of the YAML file (``healthPort`` or
``health_port``). An unknown key, a wrong type or a missing value is one clear line, not a trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import yaml

PREFIX: Final = "EGRESS_GATEWAY_"
T = TypeVar("T", bound=msgspec.Struct)


class SettingsError(ValueError):
    """A setting is missing, unknown or of the wrong type. The text is for the operator."""


def load(
    schema: type[T],
    *,
    file: Path | None = None,
    environment: Mapping[str, str],
    flags: Mapping[str, Any],
) -> T:
    """Merges the three sources into ``schema``. Flags that are None were not given."""
    fields = {f.name: f for f in msgspec.structs.fields(schema)}
    merged = _from_file(file, set(fields)) if file else {}
    for name in fields:
        text = environment.get(PREFIX + name.upper())
        if text is not None:
            merged[name] = _split(text, fields[name].type)
    merged |= {k: _split(v, fields[k].type) for k, v in flags.items() if v is not None}
    missing = [n for n, f in fields.items() if f.required and n not in merged]
    if missing:
        flag = missing[0].replace("_", "-")
        raise SettingsError(
            f"setting {missing[0]!r} is missing: pass --{flag} or set {PREFIX}{missing[0].upper()}"
        )
    encoded = {fields[k].encode_name: v for k, v in merged.items()}
    try:
        return msgspec.convert(encoded, schema, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"settings: {error}") from error


def _from_file(file: Path, known: set[str]) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"settings file {file}: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"settings file {file}: a mapping of settings is expected")
    result = {_snake(str(key)): value for key, value in content.items()}
    unknown = sorted(set(result) - known)
    if unknown:
        raise SettingsError(
            f"settings file {file}: unknown setting {unknown[0]!r}; "
            f"known: {', '.join(sorted(known))}"
        )
    return result


def _snake(key: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in key).replace("-", "_")


def _split(value: Any, kind: Any) -> Any:
    """Lists are written with commas in flags and the environment."""
    origin = getattr(kind, "__origin__", kind)
    if isinstance(value, str) and origin in (list, tuple, set, frozenset):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value
