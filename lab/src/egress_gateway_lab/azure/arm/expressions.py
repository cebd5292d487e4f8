"""Expressions of deployment templates as ``az`` writes them: ``[concat('a', variables('b'))]``.

Calls of functions with strings and numbers, members (``.name``) and items (``[0]``). No copies, no
conditions, no functions of one's own.
https://learn.microsoft.com/azure/azure-resource-manager/templates/template-expressions
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from egress_gateway_lab.azure.arm.errors import ArmError

Functions = Mapping[str, Callable[..., Any]]
"""By name in lower case."""
_TOKEN = re.compile(
    r"\s*(?:(?P<string>'(?:[^']|'')*')|(?P<number>-?\d+)|(?P<name>\w+)|(?P<mark>.))"
)


def evaluated(value: Any, functions: Functions) -> Any:
    """``value`` with all expressions in it replaced. Raises ``ArmError`` (InvalidTemplate)."""
    if isinstance(value, dict):
        return {key: evaluated(item, functions) for key, item in value.items()}
    if isinstance(value, list):
        return [evaluated(item, functions) for item in value]
    if not isinstance(value, str) or not value.startswith("[") or not value.endswith("]"):
        return value
    if value.startswith("[["):
        return value[1:]
    return _Reader(value[1:-1], functions).whole()


def invalid_template(message: str) -> ArmError:
    return ArmError(400, "InvalidTemplate", f"Deployment template validation failed: '{message}'.")


class _Reader:
    def __init__(self, text: str, functions: Functions) -> None:
        self._text, self._functions = text, functions
        self._tokens = [
            (m.lastgroup or "", m.group(m.lastgroup or 0)) for m in _TOKEN.finditer(text)
        ]
        self._at = 0

    def whole(self) -> Any:
        found = self._expression()
        if self._at != len(self._tokens):
            raise self._wrong()
        return found

    def _wrong(self) -> ArmError:
        return invalid_template(f"The language expression '{self._text}' is not valid.")

    def _next(self) -> tuple[str, str]:
        if self._at == len(self._tokens):
            raise self._wrong()
        self._at += 1
        return self._tokens[self._at - 1]

    def _is(self, mark: str) -> bool:
        """Whether this comes next; then it is read."""
        if self._tokens[self._at : self._at + 1] != [("mark", mark)]:
            return False
        self._at += 1
        return True

    def _expression(self) -> Any:
        kind, text = self._next()
        value: Any
        if kind == "string":
            value = text[1:-1].replace("''", "'")
        elif kind == "number":
            value = int(text)
        elif kind == "name" and self._is("("):
            value = self._called(text, self._arguments())
        else:
            raise self._wrong()
        return self._members(value)

    def _arguments(self) -> list[Any]:
        found: list[Any] = []
        if self._is(")"):
            return found
        while True:
            found.append(self._expression())
            if self._is(")"):
                return found
            if not self._is(","):
                raise self._wrong()

    def _called(self, name: str, arguments: list[Any]) -> Any:
        function = self._functions.get(name.lower())
        if function is None:
            raise invalid_template(f"The template function '{name}' is not valid.")
        try:
            return function(*arguments)
        except (LookupError, TypeError) as error:
            raise self._wrong() from error

    def _members(self, value: Any) -> Any:
        while True:
            if self._is("."):
                key: Any = self._next()[1]
            elif self._is("["):
                key = self._expression()
                if not self._is("]"):
                    raise self._wrong()
            else:
                return value
            try:
                value = value[key]
            except (LookupError, TypeError) as error:
                raise self._wrong() from error
