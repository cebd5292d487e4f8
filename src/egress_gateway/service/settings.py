"""One schema per process, three sources: flags beat the environment, which beats the file.

A settings schema is a frozen ``msgspec.Struct``; its fields are the flags (``--health-port``), the
environment (``EGRESS_GATEWAY_HEALTH_PORT``) and the keys of the YAML file (``healthPort`` or
``health_port``). An unknown key, a wrong value or a missing one is one clear line, not a trace,
before anything starts.

The schema is the only source for descriptions of settings. ``describe`` reads each field's type,
unit, default and docstring; ``--help``, the chart's schema and ``docs/reference/settings.md``
are made of it.
"""

from __future__ import annotations

import ast
import functools
import inspect
import ipaddress
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec

from egress_gateway.service.errors import ExpectedError

PREFIX: Final = "EGRESS_GATEWAY_"
T = TypeVar("T", bound=msgspec.Struct)

SMALLEST_MTU: Final = 1280
"""Bytes; IPv6 needs as much of every link (RFC 8200, section 5)."""
_ENDLESS: Final = 1e8
"""A limit from here on guards arithmetic and is not worth a word."""
_LONGEST: Final = 10 * 366 * 86400.0
"""Seconds. Clocks and timers overflow beyond some such value; nobody means more than ten years."""


def _meta(word: str, **limits: Any) -> msgspec.Meta:
    return msgspec.Meta(extra={"word": word}, **limits)


Seconds = Annotated[float, _meta("seconds", ge=0, le=_LONGEST)]
"""0 has a meaning of its own, which the docstring gives."""
Interval = Annotated[float, _meta("seconds", gt=0, le=_LONGEST)]
Rate = Annotated[float, _meta("per second", gt=0, le=1e9)]
Count = Annotated[int, _meta("number", ge=1, le=2**31 - 1)]
Amount = Annotated[int, _meta("number", ge=0, le=2**31 - 1)]
"""A count that may be 0."""
Percent = Annotated[int, _meta("percent", ge=1, le=100)]
Port = Annotated[int, _meta("port", ge=0, le=65535)]
"""0 lets the kernel choose, or has the meaning that the docstring gives."""
Mtu = Annotated[int, _meta("bytes", ge=0, le=65535)]
AbsolutePath = Annotated[str, _meta("path", pattern="^(/|$)", max_length=4096)]
"""Empty only where the docstring says what that means."""
DnsLabel = Annotated[str, _meta("name", pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
OptionalLabel = Annotated[
    str, _meta("name", pattern="^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$", max_length=63)
]
DnsName = Annotated[str, _meta("name", pattern="^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Cidrs = Annotated[list[str], _meta("CIDRs", max_length=1000)]
"""The schema's ``__post_init__`` reads them."""


class SettingsError(ExpectedError, ValueError):
    """A setting is missing, unknown or wrong. The text is for the operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is to be said about one field of a schema."""

    name: str
    kind: str
    """``boolean``, ``integer``, ``number``, ``string`` or ``list``."""
    word: str
    """The unit, or what a text stands for; empty: nothing to add to the kind."""
    default: Any
    """``msgspec.NODEFAULT``: it must be given."""
    text: str
    """The field's docstring in one line, as plain text."""
    limits: Mapping[str, Any]
    """As msgspec names them: ``ge``, ``gt``, ``le``, ``pattern``, ``max_length``."""

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """The command line's option that sets it; it wins over the variable."""
        return "--" + self.name.replace("_", "-")

    @property
    def shown_default(self) -> str:
        """Empty, where nothing is the default."""
        if isinstance(self.default, list | tuple):
            return ",".join(str(v) for v in self.default)
        if isinstance(self.default, bool):
            return str(self.default).lower()
        if isinstance(self.default, float):
            return f"{self.default:g}" if abs(self.default) < 1e6 else f"{self.default:.0f}"
        return str(self.default)

    @property
    def expected(self) -> str:
        """In words, what a value must be."""
        words = {"boolean": "true or false", "list": "a list"}.get(self.kind, self.kind)
        if self.word:
            words = self._with_word(words)
        low, high = self.limits.get("ge"), self.limits.get("le")
        if (above := self.limits.get("gt")) is not None:
            words += f", more than {above}"
        elif low is not None:
            words += f", {low} or more"
        return words if high is None or high >= _ENDLESS else f"{words}, at most {high:g}"

    def _with_word(self, words: str) -> str:
        special = {
            "number": "a whole number",
            "port": "a port",
            "path": "an absolute path",
            "name": "a name of lower-case letters, digits and '-'",
            "CIDRs": "a list of CIDRs",
        }
        article = "an" if words[0] in "aeiou" else "a"
        return special.get(self.word, f"{article} {words} ({self.word})")


@functools.cache
def describe(schema: type[msgspec.Struct]) -> Sequence[Setting]:
    """Every field of ``schema``, in order."""
    info = msgspec.inspect.type_info(schema)
    assert isinstance(info, msgspec.inspect.StructType)
    texts = _docstrings(schema)
    return tuple(_setting(field, texts.get(field.name, "")) for field in info.fields)


_KINDS: Final[dict[type, str]] = {
    msgspec.inspect.BoolType: "boolean",
    msgspec.inspect.IntType: "integer",
    msgspec.inspect.FloatType: "number",
    msgspec.inspect.StrType: "string",
    msgspec.inspect.ListType: "list",
}


def _setting(field: msgspec.inspect.Field, text: str) -> Setting:
    kind: Any = field.type
    extra: dict[str, Any] = {}
    if isinstance(kind, msgspec.inspect.Metadata):
        kind, extra = kind.type, kind.extra or {}
    default = field.default
    if default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    found = ((name, getattr(kind, name, None)) for name in ("ge", "gt", "le", "pattern"))
    return Setting(
        name=field.name,
        kind=_KINDS[type(kind)],
        word=str(extra.get("word", "")),
        default=default,
        text=text,
        limits={name: value for name, value in found if value is not None},
    )


def _docstrings(schema: type) -> dict[str, str]:
    """By field, the text that stands under it in the source, in one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(schema))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(str(below.value.value).replace("``", "").split())
    return found


def load(
    schema: type[T],
    *,
    file: Path | None = None,
    environment: Mapping[str, str],
    flags: Mapping[str, Any],
) -> T:
    """Merges the three sources into ``schema``. Flags that are None were not given. Raises
    ``SettingsError`` with one line that names the setting and where its value came from."""
    known = {setting.name: setting for setting in describe(schema)}
    fields = {f.name: f for f in msgspec.structs.fields(schema)}
    given: dict[str, tuple[Any, str]] = {}
    for name, value in (_from_file(file, set(known)) if file else {}).items():
        given[name] = value, str(file)
    for name, setting in known.items():
        if (text := environment.get(setting.variable)) is not None:
            given[name] = text, setting.variable
        if (flag := flags.get(name)) is not None:
            given[name] = flag, setting.flag
    for name, setting in known.items():
        if setting.default is msgspec.NODEFAULT and name not in given:
            raise SettingsError(
                f"setting {name!r} is missing: pass {setting.flag} or set {setting.variable}"
            )
    values = {
        name: _value(known[name], fields[name].type, value, source)
        for name, (value, source) in given.items()
    }
    try:
        return schema(**values)
    except ValueError as error:
        raise SettingsError(_one_line(f"settings: {error}")) from error


def _value(setting: Setting, kind: Any, given: Any, source: str) -> Any:
    value = given
    if isinstance(given, str) and setting.kind == "list":
        # Lists are written with commas in flags and the environment.
        value = [part.strip() for part in given.split(",") if part.strip()]
    why = _unprintable(value)
    if not why:
        try:
            value = msgspec.convert(value, kind, strict=False)
            why = "" if setting.kind != "number" or math.isfinite(value) else "not a finite number"
        except msgspec.ValidationError:
            why = f"expected {setting.expected}"
    if why:
        shown = _one_line(repr(given))
        raise SettingsError(f"setting {setting.name!r}: {shown} from {source}: {why}")
    return value


def _unprintable(value: Any) -> str:
    """Line ends and the like: what came with a copy or from a file, and is in no name or path."""
    texts = value if isinstance(value, list) else [value]
    if any(isinstance(text, str) and not text.isprintable() for text in texts):
        return "a character that is not printable, such as a line end"
    return ""


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:299] + "…"


def _from_file(file: Path, known: set[str]) -> dict[str, Any]:
    import yaml  # 12 ms and 1 MB, for those who have a file

    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise SettingsError(_one_line(f"settings file {file}: {error}")) from error
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


def address(name: str, text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IP address of the setting ``name``. Raises ``ValueError`` naming it and the text."""
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def mtu(name: str, size: int) -> None:
    """Raises ``ValueError`` naming the setting ``name`` if ``size`` bytes carry no tunnel."""
    if size and size < SMALLEST_MTU:
        raise ValueError(f"{name}: {size} is less than {SMALLEST_MTU} bytes")


def networks(
    name: str, texts: Sequence[str]
) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """The CIDRs of the setting ``name``. Raises ``ValueError`` naming it and the text."""
    try:
        return tuple(ipaddress.ip_network(text, strict=False) for text in texts)
    except ValueError as error:
        raise ValueError(f"{name}: {error}; write address/length") from None
