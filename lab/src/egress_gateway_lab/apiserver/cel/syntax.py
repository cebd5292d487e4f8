"""The syntax of CEL: text to tree.

Grammar: https://github.com/google/cel-spec/blob/master/doc/langdef.md#syntax, without optional
elements of lists, maps and messages (``[?a]``, ``{?k: v}``).

A hand-written parser rather than a library: those on PyPI cost 20 to 35 MB and 0.1 to 0.2 s of the
lab's start, lack Kubernetes' functions, and find an unknown function only when a rule runs. A
server that must refuse at once what it cannot evaluate needs to see the tree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any


class CelSyntaxError(Exception):
    """The expression is not CEL; the text says where."""


@dataclass(frozen=True, slots=True)
class Literal:
    value: Any


@dataclass(frozen=True, slots=True)
class Ident:
    name: str


@dataclass(frozen=True, slots=True)
class Select:
    operand: Node
    field: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Index:
    operand: Node
    index: Node
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """A function, a method (``target``) or an operator (its sign is the name)."""

    name: str
    args: tuple[Node, ...]
    target: Node | None = None


@dataclass(frozen=True, slots=True)
class ListOf:
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class MapOf:
    entries: tuple[tuple[Node, Node], ...]


@dataclass(frozen=True, slots=True)
class Message:
    """A message's construction: ``Type{field: value}``."""

    type: str
    fields: tuple[tuple[str, Node], ...]


Node = Literal | Ident | Select | Index | Call | ListOf | MapOf | Message

_TOKEN = re.compile(
    r"""\s*(?://[^\n]*\s*)*(?:
    (?P<float>(?:\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\.\d+))
  | (?P<int>0x[0-9a-fA-F]+|\d+)[uU]?
  | (?P<string>[bB]?[rR]?(?:'''(?:[^\\]|\\.)*?'''|\"\"\"(?:[^\\]|\\.)*?\"\"\"
        |'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"))
  | (?P<ident>[_a-zA-Z][_a-zA-Z0-9]*)
  | (?P<op>&&|\|\||==|!=|<=|>=|\.\?|\[\?|[-+*/%!<>?:.,()\[\]{}])
  )""",
    re.VERBOSE | re.DOTALL,
)
_RAW = re.compile(r"^([bB]?[rR]?)('''|\"\"\"|'|\")(.*)\2$", re.DOTALL)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)", re.DOTALL)
_SIMPLE = dict(zip("abfnrtv\\'\"`?", "\a\b\f\n\r\t\v\\'\"`?", strict=True))
_RELATIONS = ("==", "!=", "<=", ">=", "<", ">", "in")


def _unescape(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        body = match.group(1)
        if body[0] in "xuU":
            return chr(int(body[1:], 16))
        if body.isdigit() and len(body) == 3:
            return chr(int(body, 8))
        if body in _SIMPLE:
            return _SIMPLE[body]
        raise CelSyntaxError(f"unknown escape \\{body}")

    return _ESCAPE.sub(one, text)


def _tokens(text: str) -> list[tuple[str, Any, int]]:
    found: list[tuple[str, Any, int]] = []
    at = 0
    end = len(re.sub(r"(\s|//[^\n]*$)*$", "", text))
    while at < end:
        match = _TOKEN.match(text, at)
        if not match or match.end() == at:
            raise CelSyntaxError(f"Syntax error at {at}: {text[at : at + 20]!r}")
        kind = match.lastgroup or ""
        value: Any = match.group(kind)
        if kind == "int":
            value = int(value, 0)
        elif kind == "float":
            value = float(value)
        elif kind == "string":
            value = _string(value)
        found.append((kind, value, at))
        at = match.end()
    found.append(("end", "", at))
    return found


def _string(token: str) -> str | bytes:
    match = _RAW.match(token)
    assert match is not None
    prefix, _, body = match.groups()
    text = body if "r" in prefix.lower() else _unescape(body)
    return text.encode() if "b" in prefix.lower() else text


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0

    def parse(self) -> Node:
        node = self._ternary()
        if self._peek()[0] != "end":
            raise self._unexpected()
        return node

    def _peek(self) -> tuple[str, Any, int]:
        return self._tokens[self._at]

    def _unexpected(self) -> CelSyntaxError:
        _, value, at = self._peek()
        return CelSyntaxError(f"Syntax error at {at}: unexpected {value!r}")

    def _accept(self, *signs: str) -> str | None:
        kind, value, _ = self._peek()
        if kind in ("op", "ident") and value in signs:
            self._at += 1
            return str(value)
        return None

    def _expect(self, sign: str) -> None:
        if self._accept(sign) is None:
            raise self._unexpected()

    def _ternary(self) -> Node:
        test = self._binary_or()
        if not self._accept("?"):
            return test
        yes = self._binary_or()
        self._expect(":")
        return Call("?:", (test, yes, self._ternary()))

    def _binary_or(self) -> Node:
        left = self._binary_and()
        while self._accept("||"):
            left = Call("||", (left, self._binary_and()))
        return left

    def _binary_and(self) -> Node:
        left = self._relation()
        while self._accept("&&"):
            left = Call("&&", (left, self._relation()))
        return left

    def _relation(self) -> Node:
        left = self._sum()
        while sign := self._accept(*_RELATIONS):
            left = Call(sign, (left, self._sum()))
        return left

    def _sum(self) -> Node:
        left = self._product()
        while sign := self._accept("+", "-"):
            left = Call(sign, (left, self._product()))
        return left

    def _product(self) -> Node:
        left = self._unary()
        while sign := self._accept("*", "/", "%"):
            left = Call(sign, (left, self._unary()))
        return left

    def _unary(self) -> Node:
        if self._accept("!"):
            return Call("!", (self._unary(),))
        if self._accept("-"):
            inner = self._unary()
            if isinstance(inner, Literal) and isinstance(inner.value, int | float):
                return Literal(-inner.value)
            return Call("neg", (inner,))
        return self._member()

    def _member(self) -> Node:
        node = self._primary()
        while sign := self._accept(".", ".?", "[", "[?", "{"):
            if sign == "{":
                node = self._message(node)
                continue
            if sign in ("[", "[?"):
                index = self._ternary()
                self._expect("]")
                node = Index(node, index, sign == "[?")
                continue
            kind, name, _ = self._peek()
            if kind != "ident":
                raise self._unexpected()
            self._at += 1
            if sign == "." and self._accept("("):
                node = Call(name, self._list(")"), node)
            else:
                node = Select(node, name, sign == ".?")
        return node

    def _primary(self) -> Node:
        kind, value, _ = self._peek()
        if kind in ("int", "float", "string"):
            self._at += 1
            return Literal(value)
        if kind == "ident":
            self._at += 1
            if value in ("true", "false"):
                return Literal(value == "true")
            if value == "null":
                return Literal(None)
            if self._accept("("):
                return Call(value, self._list(")"))
            return Ident(value)
        if self._accept("("):
            node = self._ternary()
            self._expect(")")
            return node
        if self._accept("["):
            return ListOf(self._list("]"))
        if self._accept("{"):
            return self._map()
        raise self._unexpected()

    def _list(self, closing: str) -> tuple[Node, ...]:
        items: list[Node] = []
        while not self._accept(closing):
            items.append(self._ternary())
            if not self._accept(","):
                self._expect(closing)
                break
        return tuple(items)

    def _message(self, named: Node) -> Node:
        fields: list[tuple[str, Node]] = []
        while not self._accept("}"):
            kind, name, _ = self._peek()
            if kind != "ident":
                raise self._unexpected()
            self._at += 1
            self._expect(":")
            fields.append((name, self._ternary()))
            if not self._accept(","):
                self._expect("}")
                break
        return Message(_qualified(named), tuple(fields))

    def _map(self) -> Node:
        entries: list[tuple[Node, Node]] = []
        while not self._accept("}"):
            key = self._ternary()
            self._expect(":")
            entries.append((key, self._ternary()))
            if not self._accept(","):
                self._expect("}")
                break
        return MapOf(tuple(entries))


def _qualified(node: Node) -> str:
    """The name of a type, from the tree that its dotted spelling parses to."""
    match node:
        case Ident(name):
            return name
        case Select(operand, field, False):
            return f"{_qualified(operand)}.{field}"
    raise CelSyntaxError("Syntax error: only a type's name may stand before '{'")


def parse(text: str) -> Node:
    """The tree of an expression; raises ``CelSyntaxError``."""
    return _Parser(text).parse()
