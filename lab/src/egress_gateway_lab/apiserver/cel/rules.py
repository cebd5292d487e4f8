"""CEL rules of schemas and of admission policies: compiled once, refused when they cannot be
evaluated.

``compile_rule`` checks what can be known without a value: syntax, names, functions, numbers of
arguments, and fields along the schema. What passes can only fail on values, and such a failure
makes the object invalid, as on a cluster. Results are Python values; ``bool`` and ``int`` are kept
apart as CEL does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from egress_gateway_lab.apiserver.cel import syntax
from egress_gateway_lab.apiserver.cel.functions import (
    FUNCTIONS,
    METHODS,
    NONE,
    PATCH_FUNCTIONS,
    CelError,
    Optional,
)

__all__ = ["CelError", "CelRefusedError", "compile_rule"]

Env = Mapping[str, Any]
Program = Callable[[Env], Any]
Schema = Mapping[str, Any]

_MACROS = frozenset({"all", "exists", "exists_one", "existsOne", "map", "filter"})
_ESCAPED = re.compile(r"__(dot|dash|slash|underscores|[a-z]+)__")
_ESCAPES = {"dot": ".", "dash": "-", "slash": "/", "underscores": "__"}


class CelRefusedError(Exception):
    """The rule cannot be evaluated here; the text says why."""


_PATCH_FIELDS = frozenset({"op", "path", "from", "value"})


def compile_rule(
    text: str, names: Mapping[str, Schema | None], *, patches: bool = False
) -> Program:
    """A program of an expression over the named variables, each with its schema (None: any
    value). ``patches``: it may construct ``JSONPatch`` values (they come out as maps) and call
    ``jsonpatch.escapeKey``. Raises ``CelRefusedError``."""
    try:
        tree = syntax.parse(text)
    except syntax.CelSyntaxError as error:
        raise CelRefusedError(str(error)) from error
    program, _ = _Compiler(dict(names), patches=patches).compile(tree)
    return program


def unescape(name: str) -> str:
    """A property's name from its CEL spelling (``__dot__`` and the like, ``__namespace__``)."""
    return _ESCAPED.sub(lambda m: _ESCAPES.get(m.group(1), m.group(1)), name)


class _Compiler:
    """Tree to closures; beside each the schema of its value, where that is known."""

    def __init__(self, names: dict[str, Schema | None], *, patches: bool = False) -> None:
        self._names = names
        self._patches = patches

    def compile(self, node: syntax.Node) -> tuple[Program, Schema | None]:
        match node:
            case syntax.Literal(value):
                return (lambda env: value), None
            case syntax.Ident(name):
                return self._ident(name)
            case syntax.Select():
                return self._select(node)
            case syntax.Index():
                return self._index(node)
            case syntax.ListOf(items):
                programs = [self.compile(item)[0] for item in items]
                return (lambda env: [p(env) for p in programs]), None
            case syntax.MapOf(entries):
                pairs = [(self.compile(k)[0], self.compile(v)[0]) for k, v in entries]
                return (lambda env: {k(env): v(env) for k, v in pairs}), None
            case syntax.Call():
                return self._call(node)
            case syntax.Message():
                return self._message(node), None

    def _ident(self, name: str) -> tuple[Program, Schema | None]:
        if name not in self._names:
            raise CelRefusedError(f"undeclared reference to {name!r}")
        return (lambda env: env[name]), self._names[name]

    def _select(self, node: syntax.Select) -> tuple[Program, Schema | None]:
        operand, schema = self.compile(node.operand)
        field = unescape(node.field)
        below = _field_schema(schema, field)
        if node.optional:
            return (lambda env: _optional_field(operand(env), field)), below
        return (lambda env: _field(operand(env), field)), below

    def _index(self, node: syntax.Index) -> tuple[Program, Schema | None]:
        operand, schema = self.compile(node.operand)
        index, _ = self.compile(node.index)
        below = (schema or {}).get("items") or _values_schema(schema)
        if node.optional:
            return (lambda env: _optional_field(operand(env), index(env))), below
        return (lambda env: _at(operand(env), index(env))), below

    def _call(self, node: syntax.Call) -> tuple[Program, Schema | None]:
        if node.target is not None:
            if node.name in _MACROS:
                return self._macro(node), None
            if isinstance(node.target, syntax.Ident) and node.target.name == "optional":
                return self._optional(node), None
            if node.target == syntax.Ident("jsonpatch") and self._patches:
                return self._function(node.name, PATCH_FUNCTIONS, node.args, 0), None
            return self._function(node.name, METHODS, (node.target, *node.args), 1), None
        if node.name == "has":
            return self._has(node), None
        if node.name in _OPERATORS:
            programs = [self.compile(arg)[0] for arg in node.args]
            return _OPERATORS[node.name](*programs), None
        return self._function(node.name, FUNCTIONS, node.args, 0), None

    def _function(
        self,
        name: str,
        known: Mapping[str, tuple[tuple[int, ...], Callable[..., Any]]],
        args: tuple[syntax.Node, ...],
        targets: int,
    ) -> Program:
        if name not in known:
            raise CelRefusedError(
                f"undeclared reference to {name!r} (the embedded API server has no such function)"
            )
        arities, function = known[name]
        if len(args) - targets not in arities:
            raise CelRefusedError(f"found no matching overload for {name!r}")
        programs = [self.compile(arg)[0] for arg in args]

        def run(env: Env) -> Any:
            values = [p(env) for p in programs]
            try:
                return function(*values)
            except (TypeError, AttributeError, ValueError) as error:
                raise CelError(f"no such overload: {name}") from error

        return run

    def _optional(self, node: syntax.Call) -> Program:
        if node.name == "none" and not node.args:
            return lambda env: NONE
        if node.name == "of" and len(node.args) == 1:
            value, _ = self.compile(node.args[0])
            return lambda env: Optional(True, value(env))
        raise CelRefusedError(f"the embedded API server has no CEL function optional.{node.name}")

    def _message(self, node: syntax.Message) -> Program:
        if node.type != "JSONPatch" or not self._patches:
            raise CelRefusedError(f"undeclared reference to the type {node.type!r}")
        for name, _ in node.fields:
            if name not in _PATCH_FIELDS:
                raise CelRefusedError(f"undefined field {name!r} of JSONPatch")
        programs = [(name, self.compile(value)[0]) for name, value in node.fields]
        return lambda env: {name: program(env) for name, program in programs}

    def _has(self, node: syntax.Call) -> Program:
        if len(node.args) != 1 or not isinstance(node.args[0], syntax.Select):
            raise CelRefusedError("invalid argument to has() macro")
        chosen = node.args[0]
        operand, schema = self.compile(chosen.operand)
        field = unescape(chosen.field)
        _field_schema(schema, field)

        def run(env: Env) -> bool:
            value = operand(env)
            if not isinstance(value, dict):
                raise CelError("no such overload: has")
            return value.get(field) is not None

        return run

    def _macro(self, node: syntax.Call) -> Program:
        name, args = node.name, node.args
        sizes = (2, 3) if name == "map" else (2,)
        if len(args) not in sizes or not isinstance(args[0], syntax.Ident):
            raise CelRefusedError(f"unsupported form of the macro {name}()")
        assert node.target is not None
        target, schema = self.compile(node.target)
        variable = args[0].name
        names = {**self._names, variable: (schema or {}).get("items")}
        inner = _Compiler(names, patches=self._patches)
        programs = [inner.compile(arg)[0] for arg in args[1:]]

        def elements(env: Env) -> list[Env]:
            value = target(env)
            if not isinstance(value, list | dict):
                raise CelError(f"no such overload: {name}")
            return [{**env, variable: element} for element in value]

        return _comprehension(name, variable, elements, programs)


def _comprehension(
    name: str,
    variable: str,
    elements: Callable[[Env], list[Env]],
    programs: list[Program],
) -> Program:
    test = programs[0]
    match name:
        case "all":
            return lambda env: _all([lambda e=e: test(e) for e in elements(env)])  # type: ignore[misc]
        case "exists":
            return lambda env: _any([lambda e=e: test(e) for e in elements(env)])  # type: ignore[misc]
        case "exists_one" | "existsOne":
            return lambda env: sum(_truth(test(e)) for e in elements(env)) == 1
        case "filter":
            return lambda env: [e[variable] for e in elements(env) if _truth(test(e))]
        case _ if len(programs) == 2:
            return lambda env: [programs[1](e) for e in elements(env) if _truth(test(e))]
    return lambda env: [test(e) for e in elements(env)]


def _field_schema(schema: Schema | None, field: str) -> Schema | None:
    """The schema of a field; refuses a field that the schema does not have."""
    if schema is None or schema.get("x-kubernetes-preserve-unknown-fields"):
        return None
    kind = schema.get("type")
    if kind is None:
        return None
    if kind != "object":
        raise CelRefusedError(f"type {kind!r} does not support field selection ({field!r})")
    properties = schema.get("properties")
    if properties is not None:
        if field in properties:
            found: Schema = properties[field]
            return found
        raise CelRefusedError(f"undefined field {field!r}")
    return _values_schema(schema)


def _values_schema(schema: Schema | None) -> Schema | None:
    values = (schema or {}).get("additionalProperties")
    return values if isinstance(values, dict) else None


def _field(value: Any, field: str) -> Any:
    if isinstance(value, Optional):
        return _optional_field(value, field)
    if not isinstance(value, dict):
        raise CelError("no such overload: field selection")
    if field not in value:
        raise CelError(f"no such key: {field}")
    return value[field]


def _at(value: Any, index: Any) -> Any:
    if isinstance(value, Optional):
        return _optional_field(value, index)
    if isinstance(value, list):
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(value):
            raise CelError(f"index out of bounds: {index}")
        return value[index]
    return _field(value, index)


def _optional_field(value: Any, index: Any) -> Optional:
    if isinstance(value, Optional):
        if not value.present:
            return NONE
        value = value.value
    try:
        return Optional(True, _at(value, index))
    except CelError:
        return NONE


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise CelError("no such overload: not a bool")
    return value


def _any(tests: list[Callable[[], Any]]) -> bool:
    """CEL's ``||``: true wins over an error, an error over false, in whatever order."""
    failure: CelError | None = None
    for test in tests:
        try:
            if _truth(test()):
                return True
        except CelError as error:
            failure = error
    if failure is not None:
        raise failure
    return False


def _all(tests: list[Callable[[], Any]]) -> bool:
    """CEL's ``&&``: false wins over an error, an error over true."""
    failure: CelError | None = None
    for test in tests:
        try:
            if not _truth(test()):
                return False
        except CelError as error:
            failure = error
    if failure is not None:
        raise failure
    return True


def equal(left: Any, right: Any) -> bool:
    """CEL's ``==``: numbers compare across types, a bool is no number."""
    if isinstance(left, bool) != isinstance(right, bool):
        return False
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(equal(v, right[k]) for k, v in left.items())
    return bool(left == right)


def _contains(left: Any, right: Any) -> bool:
    if isinstance(right, dict):
        return left in right
    if isinstance(right, list):
        return any(equal(left, value) for value in right)
    raise CelError("no such overload: in")


def _arithmetic(sign: str) -> Callable[[Any, Any], Any]:
    def run(left: Any, right: Any) -> Any:
        if isinstance(left, bool) or isinstance(right, bool):
            raise CelError(f"no such overload: {sign}")
        try:
            return _compute(sign, left, right)
        except TypeError as error:
            raise CelError(f"no such overload: {sign}") from error
        except ZeroDivisionError as error:
            raise CelError("division by zero") from error

    return run


def _compute(sign: str, left: Any, right: Any) -> Any:
    whole = isinstance(left, int) and isinstance(right, int)
    match sign:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            if isinstance(left, str | list) or isinstance(right, str | list):
                raise CelError("no such overload: *")
            return left * right
        case "/":
            if not whole:
                return left / right
            quotient = abs(left) // abs(right)
            return quotient if (left < 0) == (right < 0) else -quotient
        case "%":
            rest = abs(left) % abs(right)
            return -rest if left < 0 else rest
        case "<":
            return left < right
        case "<=":
            return left <= right
        case ">":
            return left > right
    return left >= right


def _binary(function: Callable[[Any, Any], Any]) -> Callable[..., Program]:
    return lambda left, right: lambda env: function(left(env), right(env))


def _negated(env_value: Any) -> Any:
    if isinstance(env_value, bool) or not isinstance(env_value, int | float):
        raise CelError("no such overload: -")
    return -env_value


_OPERATORS: dict[str, Callable[..., Program]] = {
    "&&": lambda a, b: lambda env: _all([lambda: a(env), lambda: b(env)]),
    "||": lambda a, b: lambda env: _any([lambda: a(env), lambda: b(env)]),
    "!": lambda a: lambda env: not _truth(a(env)),
    "neg": lambda a: lambda env: _negated(a(env)),
    "?:": lambda t, a, b: lambda env: a(env) if _truth(t(env)) else b(env),
    "==": _binary(equal),
    "!=": _binary(lambda a, b: not equal(a, b)),
    "in": _binary(_contains),
    **{
        sign: _binary(_arithmetic(sign)) for sign in ("+", "-", "*", "/", "%", "<", "<=", ">", ">=")
    },
}
