"""Programs that Python sources call: by ``subprocess`` and its like, through helpers of their own
that take a command or a script, and as commands in pods.

A value is followed as far as the source shows it: through names, lists that grow, ``split`` and
``join``, format strings, constants of other modules, functions that return text. What the source
does not show is a hole, and a command whose program is a hole says nothing. A parameter of a
function is a command if its name says so (``argv``, ``command``, ``script``), or if the function
passes it on to where a command is expected; then every caller's argument is one.
"""

from __future__ import annotations

import ast
import itertools
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.unit.tools.programs.shell_programs import HOLE, programs, scripted

Function = ast.FunctionDef | ast.AsyncFunctionDef
_MARK: Final = "\1"
_DEPTH: Final = 6
_MANY: Final = 24
"""Alternatives of one value that are looked at."""
_SAID: Final = frozenset({"argv", "cmd", "command"})
"""Names of parameters that take a list of words which is a command; ``script``: a text."""
_TEXT: Final = frozenset({"str", "str | None"})
_SUBPROCESS: Final = frozenset({"run", "Popen", "call", "check_call", "check_output"})
_SHELL: Final = frozenset(
    {"create_subprocess_shell", "getoutput", "getstatusoutput", "system", "popen"}
)


@dataclass(frozen=True, slots=True)
class Call:
    """A program that is called, and where."""

    program: str
    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.program}"


@dataclass(frozen=True, slots=True)
class _Parameter:
    """A parameter that takes a command: its place among those that callers give."""

    name: str
    index: int
    many: bool
    """``*command``."""
    text: bool
    """A script (annotated ``str``) rather than a list of words."""
    said: bool
    """Its name says what it is."""


@dataclass(slots=True)
class _Scope:
    """Names of one function or module, and the scope around it."""

    module: _Module
    names: dict[str, list[ast.expr]] = field(default_factory=lambda: defaultdict(list))
    grown: dict[str, list[ast.expr]] = field(default_factory=lambda: defaultdict(list))
    parameters: dict[str, str] = field(default_factory=dict)
    """Their annotations, as the source has them."""
    around: _Scope | None = None


@dataclass(slots=True)
class _Module:
    path: Path
    tree: ast.Module
    scope: _Scope = field(init=False)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Name here → (last part of the module's name, name there or empty for the module)."""
    functions: dict[str, list[tuple[Function, _Scope]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    methods: dict[str, list[tuple[Function, _Scope]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    calls: list[tuple[ast.AST, _Scope]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scope = _Scope(self)


class Sources:
    """All sources at once: helpers are called from other files than their own."""

    def __init__(self, texts: dict[Path, str]) -> None:
        self._modules = [_read(path, text) for path, text in texts.items()]
        self._named: dict[str, list[_Module]] = defaultdict(list)
        for module in self._modules:
            path = module.path
            self._named[path.parent.name if path.stem == "__init__" else path.stem].append(module)
        self._taking: dict[int, tuple[_Parameter, ...]] = {}
        """Parameters that take commands, by the function's identity."""
        self._names: set[str] = set()
        """Names of such functions."""

    def calls(self) -> list[Call]:
        """Every program that is called, in the order of files and lines."""
        self._learn()
        found = {
            Call(name, module.path, getattr(node, "lineno", 0))
            for module in self._modules
            for node, scope in module.calls
            for name in self._programs(node, scope)
            if not name.startswith(_MARK)
        }
        return sorted(found, key=lambda call: (str(call.path), call.line, call.program))

    # -- which parameters take commands

    def _learn(self) -> None:
        by_scope: dict[int, tuple[Function, bool]] = {}
        for module in self._modules:
            for table, is_method in ((module.functions, False), (module.methods, True)):
                for function, scope in itertools.chain.from_iterable(table.values()):
                    by_scope[id(scope)] = (function, is_method)
                    known = tuple(p for p in _parameters(function, is_method) if p.said)
                    self._take(function, known)
        for _ in range(_DEPTH):
            before = sum(map(len, self._taking.values()))
            for module in self._modules:
                for node, scope in module.calls:
                    for name in self._programs(node, scope):
                        if name.startswith(_MARK):
                            self._pass_on(name.removeprefix(_MARK), scope, by_scope)
            if sum(map(len, self._taking.values())) == before:
                return

    def _pass_on(
        self, name: str, scope: _Scope, by_scope: dict[int, tuple[Function, bool]]
    ) -> None:
        """Parameter ``name``, seen in ``scope``, goes to where a command is expected."""
        place: _Scope | None = scope
        while place is not None and name not in place.parameters:
            place = place.around
        if place is not None:
            function, is_method = by_scope[id(place)]
            known = tuple(p for p in _parameters(function, is_method) if p.name == name)
            self._take(function, known)

    def _take(self, function: Function, parameters: tuple[_Parameter, ...]) -> None:
        already = self._taking.get(id(function), ())
        new = tuple(p for p in parameters if p not in already)
        if new:
            self._taking[id(function)] = (*already, *new)
            self._names.add(function.name)

    # -- what one call starts

    def _programs(self, node: ast.AST, scope: _Scope) -> Iterator[str]:
        for argv in self._commands(node, scope):
            for name in programs(argv):
                whole = re.fullmatch(rf"{_MARK}\w+", name)
                known = name if whole else re.sub(rf"{_MARK}\w+?(?=\W|$)", HOLE, name)
                if whole or _is_name(known):
                    yield known

    def _commands(self, node: ast.AST, scope: _Scope) -> Iterator[list[str]]:
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "command":
                    yield from self._lists(value, scope)
            return
        assert isinstance(node, ast.Call)
        name = _callee(node)
        if name == "which" and node.args:
            yield from ([text] for text in self._texts(node.args[0], scope))
        elif name == "create_subprocess_exec":
            yield from self._elements(node.args, scope)
        elif name in _SHELL and node.args:
            yield from self._scripts(node.args[0], scope)
        elif name in _SUBPROCESS and _base(node) == "subprocess":
            first = node.args[0] if node.args else _keyword(node, "args")
            if first is not None:
                yield from self._lists(first, scope)
                yield from self._scripts(first, scope)
        elif _base(node) == "os" and re.fullmatch(r"(exec|posix_spawn|spawn)[a-z]*", name):
            at = 1 if name.startswith("spawn") else 0
            yield from ([t] for a in node.args[at : at + 1] for t in self._texts(a, scope))
        else:
            yield from self._through_helpers(node, name, scope)

    def _through_helpers(self, node: ast.Call, name: str, scope: _Scope) -> Iterator[list[str]]:
        for keyword in node.keywords:
            if keyword.arg in _SAID:
                yield from self._lists(keyword.value, scope)
        if name not in self._names:
            return
        parameters = {
            parameter
            for function in self._definitions(node, name, scope)
            for parameter in self._taking.get(id(function), ())
        }
        for parameter in sorted(parameters, key=lambda p: (p.name, p.index)):
            if parameter.many:
                yield from self._elements(node.args[parameter.index :], scope)
                continue
            value = _keyword(node, parameter.name)
            if value is None and len(node.args) > parameter.index:
                value = node.args[parameter.index]
            if value is None or isinstance(value, ast.Starred):
                continue
            if parameter.text:
                yield from self._scripts(value, scope)
            else:
                yield from self._lists(value, scope)

    def _definitions(self, node: ast.Call, name: str, scope: _Scope) -> Iterator[Function]:
        """Functions that the call may mean."""
        module = scope.module
        if isinstance(node.func, ast.Name):
            origin, there = module.imported.get(name, ("", ""))
            known = [module] if not origin else self._named.get(origin, [])
            yield from (f for m in known for f, _ in m.functions.get(there or name, ()))
        elif isinstance(node.func, ast.Attribute):
            base = node.func.value
            if isinstance(base, ast.Name) and base.id in module.imported:
                origin, there = module.imported[base.id]
                for candidate in self._named.get(there or origin, ()):
                    yield from (f for f, _ in candidate.functions.get(name, ()))
                return
            yield from self._methods(name, module, isinstance(base, ast.Name) and base.id)

    def _methods(self, name: str, module: _Module, base: str | bool) -> list[Function]:
        """Methods of that name: those of the module and of what it imports, or else all, if they
        agree about what they take."""
        own = [f for f, _ in module.methods.get(name, ())]
        if own and base in ("self", "cls"):
            return own
        origins = {origin for pair in module.imported.values() for origin in pair if origin}
        near = [m for origin in sorted(origins) for m in self._named.get(origin, ())]
        own += [f for m in near for f, _ in m.methods.get(name, ())]
        every = [f for m in self._modules for f, _ in m.methods.get(name, ())]
        texts = {any(p.text for p in self._taking.get(id(f), ())) for f in every}
        if not own and texts != {True, False}:
            return every
        # A list of words is no other method's argument by chance.
        lists = [f for f in every if any(not p.text for p in self._taking.get(id(f), ()))]
        return [*own, *lists]

    # -- values

    def _lists(self, node: ast.expr, scope: _Scope, depth: int = 0) -> list[list[str]]:
        """What a list of words may be; an empty list of alternatives if it is none."""
        if depth > _DEPTH:
            return []
        found: list[list[str]] = []
        if isinstance(node, ast.List | ast.Tuple):
            found = self._elements(node.elts, scope, depth)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = (self._lists(n, scope, depth + 1) for n in (node.left, node.right))
            found = [[*a, *b] for a, b in itertools.product(left, right or [[]])]
        elif isinstance(node, ast.IfExp):
            found = self._either((node.body, node.orelse), scope, depth)
        elif isinstance(node, ast.BoolOp):
            found = self._either(node.values, scope, depth)
        elif isinstance(node, ast.Name):
            found = self._named_lists(node, scope, depth)
        elif isinstance(node, ast.Call):
            found = self._called_lists(node, scope, depth)
        return found[:_MANY]

    def _either(self, several: Sequence[ast.expr], scope: _Scope, depth: int) -> list[list[str]]:
        return [found for node in several for found in self._lists(node, scope, depth + 1)]

    def _called_lists(self, node: ast.Call, scope: _Scope, depth: int) -> list[list[str]]:
        name = _callee(node)
        if name == "split" and isinstance(node.func, ast.Attribute):
            whole = node.args[0] if _base(node) == "shlex" else node.func.value
            return [_words(text) for text in self._texts(whole, scope, depth + 1)]
        if name in ("list", "tuple", "sorted") and len(node.args) == 1:
            return self._lists(node.args[0], scope, depth + 1)
        return [
            found
            for value, place in self._returned(node, name, scope)
            for found in self._lists(value, place, depth + 1)
        ]

    def _named_lists(self, node: ast.Name, scope: _Scope, depth: int) -> list[list[str]]:
        place, values = self._value(node.id, scope)
        if place is None:
            return []
        found = [v for value in values for v in self._lists(value, place, depth + 1)]
        if place.parameters.get(node.id, "str") not in _TEXT:
            found.append([_MARK + node.id])
        for more in place.grown.get(node.id, ()):
            tails = self._lists(more, place, depth + 1) or [[]]
            found = [[*a, *b] for a, b in itertools.product(found, tails)][:_MANY]
        return found

    def _elements(
        self, nodes: Sequence[ast.expr], scope: _Scope, depth: int = 0
    ) -> list[list[str]]:
        parts: list[list[list[str]]] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                parts.append(self._lists(node.value, scope, depth + 1) or [[HOLE]])
            else:
                parts.append([[text] for text in self._texts(node, scope, depth + 1)])
        whole = itertools.islice(itertools.product(*parts), _MANY)
        return [[word for part in several for word in part] for several in whole]

    def _scripts(self, node: ast.expr, scope: _Scope) -> Iterator[list[str]]:
        """Programs of a script, each as a command of its own."""
        if isinstance(node, ast.Name):
            place, _ = self._value(node.id, scope)
            if place is not None and place.parameters.get(node.id) in _TEXT:
                yield [_MARK + node.id]
        for text in self._texts(node, scope):
            yield from ([name] for name in scripted(text))

    def _texts(self, node: ast.expr, scope: _Scope, depth: int = 0) -> list[str]:
        """What a text may be, with holes; one hole if nothing is known."""
        if depth > _DEPTH:
            return [HOLE]
        found: list[str] = []
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = [node.value]
        elif isinstance(node, ast.JoinedStr):
            parts = [self._texts(value, scope, depth + 1) for value in node.values]
            found = ["".join(p) for p in itertools.islice(itertools.product(*parts), _MANY)]
        elif isinstance(node, ast.FormattedValue):
            found = self._texts(node.value, scope, depth + 1)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Div):
            middle = "/" if isinstance(node.op, ast.Div) else ""
            left, right = (self._texts(n, scope, depth + 1) for n in (node.left, node.right))
            found = [a + middle + b for a, b in itertools.product(left, right)]
        elif isinstance(node, ast.IfExp):
            found = [t for n in (node.body, node.orelse) for t in self._texts(n, scope, depth + 1)]
        elif isinstance(node, ast.BoolOp):
            found = [t for n in node.values for t in self._texts(n, scope, depth + 1)]
        elif isinstance(node, ast.Name):
            place, values = self._value(node.id, scope)
            if place is not None:
                found = [t for v in values for t in self._texts(v, place, depth + 1)]
                if node.id in place.parameters:
                    found.append(_MARK + node.id)
        elif isinstance(node, ast.Call):
            found = self._called_texts(node, scope, depth)
        return found[:_MANY] or [HOLE]

    def _called_texts(self, node: ast.Call, scope: _Scope, depth: int) -> list[str]:
        name = _callee(node)
        if name in ("str", "Path", "fsdecode") and node.args:
            return self._texts(node.args[-1], scope, depth + 1)
        if name == "join" and isinstance(node.func, ast.Attribute) and node.args:
            between = self._texts(node.func.value, scope, depth + 1)[0]
            between = " " if _base(node) == "shlex" else between
            return [between.join(words) for words in self._lists(node.args[0], scope, depth + 1)]
        if name in ("format", "strip", "lstrip", "rstrip", "replace", "with_name"):
            assert isinstance(node.func, ast.Attribute)
            whole = node.args[0] if name == "with_name" else node.func.value
            return [re.sub(r"\{\w*\}", HOLE, t) for t in self._texts(whole, scope, depth + 1)]
        return [
            text
            for value, place in self._returned(node, name, scope)
            for text in self._texts(value, place, depth + 1)
        ]

    def _returned(
        self, node: ast.Call, name: str, scope: _Scope
    ) -> Iterator[tuple[ast.expr, _Scope]]:
        wanted = {id(function) for function in self._definitions(node, name, scope)}
        if len(wanted) > 3:
            return
        for module in self._modules:
            for table in (module.functions, module.methods):
                for function, place in table.get(name, ()):
                    if id(function) in wanted:
                        for part in ast.walk(function):
                            if isinstance(part, ast.Return) and part.value is not None:
                                yield part.value, place

    def _value(self, name: str, scope: _Scope) -> tuple[_Scope | None, list[ast.expr]]:
        """Where a name has its value, and what it may be there."""
        place: _Scope | None = scope
        while place is not None:
            if name in place.names or name in place.parameters:
                return place, place.names.get(name, [])
            place = place.around
        origin, there = scope.module.imported.get(name, ("", ""))
        for module in self._named.get(origin, ()) if there else ():
            if there in module.scope.names:
                return module.scope, module.scope.names[there]
        return None, []


def _read(path: Path, text: str) -> _Module:
    module = _Module(path, ast.parse(text))
    _Names(module).visit(module.tree)
    return module


class _Names(ast.NodeVisitor):
    """Notes a module's names, functions and calls, each with its scope."""

    def __init__(self, module: _Module) -> None:
        self._module = module
        self._scope = module.scope
        self._in_class = False

    def visit_Import(self, node: ast.Import) -> None:
        for name in node.names:
            here = name.asname or name.name.partition(".")[0]
            self._module.imported[here] = (name.name.rpartition(".")[2], "")

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for name in node.names:
            origin = (node.module or "").rpartition(".")[2]
            self._module.imported[name.asname or name.name] = (origin, name.name)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        before, self._in_class = self._in_class, True
        self.generic_visit(node)
        self._in_class = before

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def _function(self, node: Function) -> None:
        for part in (*node.decorator_list, *node.args.defaults, *node.args.kw_defaults):
            if part is not None:
                self.visit(part)
        arguments = node.args
        given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every = [a for a in (*given, arguments.vararg, arguments.kwarg) if a is not None]
        shown = {a.arg: ast.unparse(a.annotation) if a.annotation else "" for a in every}
        if arguments.vararg is not None:
            shown[arguments.vararg.arg] = "tuple"
        scope = _Scope(self._module, parameters=shown, around=self._scope)
        for argument, default in _defaults(arguments):
            if isinstance(default, ast.Constant) and isinstance(default.value, str):
                scope.names[argument.arg].append(default)
        for name, values in _parametrized(node):
            scope.names[name].extend(values)
        table = self._module.methods if self._in_class else self._module.functions
        table[node.name].append((node, scope))
        before, self._scope, self._in_class = (self._scope, self._in_class), scope, False
        for statement in node.body:
            self.visit(statement)
        self._scope, self._in_class = before

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._assign(target, node.value)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._assign(node.target, node.value)
        self.generic_visit(node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self._assign(node.target, node.value)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self._scope.grown[node.target.id].append(node.value)
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        self._each(node.target, node.iter)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self._each(node.target, node.iter)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self._module.calls.append((node, self._scope))
        name = _callee(node)
        if name in ("append", "extend") and isinstance(node.func, ast.Attribute) and node.args:
            value = node.args[0] if name == "extend" else ast.List([node.args[0]], ast.Load())
            if isinstance(node.func.value, ast.Name):
                self._scope.grown[node.func.value.id].append(value)
        self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        self._module.calls.append((node, self._scope))
        self.generic_visit(node)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self._scope.names[target.id].append(value)
        elif isinstance(target, ast.Tuple):
            parts = value.elts if isinstance(value, ast.Tuple) else []
            for name, part in itertools.zip_longest(target.elts, parts):
                if isinstance(name, ast.Name):
                    self._scope.names[name.id].extend([part] if part is not None else [])

    def _each(self, target: ast.expr, values: ast.expr) -> None:
        if isinstance(target, ast.Name) and isinstance(values, ast.List | ast.Tuple | ast.Set):
            self._scope.names[target.id].extend(values.elts)


def _parametrized(function: Function) -> Iterator[tuple[str, list[ast.expr]]]:
    """Values that ``pytest.mark.parametrize`` gives to single parameters."""
    for mark in function.decorator_list:
        if isinstance(mark, ast.Call) and _callee(mark) == "parametrize" and len(mark.args) > 1:
            name, values = mark.args[:2]
            if isinstance(name, ast.Constant) and isinstance(values, ast.List | ast.Tuple):
                yield str(name.value), values.elts


def _defaults(arguments: ast.arguments) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    positional = [*arguments.posonlyargs, *arguments.args]
    with_default = positional[len(positional) - len(arguments.defaults) :]
    yield from zip(with_default, arguments.defaults, strict=True)
    yield from zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)


def _parameters(function: Function, is_method: bool) -> list[_Parameter]:
    """Those that may take a command, by their annotations."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    static = any(
        isinstance(d, ast.Name) and d.id == "staticmethod" for d in function.decorator_list
    )
    if is_method and not static:
        positional = positional[1:]
    found = [(a, index, False) for index, a in enumerate(positional)]
    found += [(a, 1 << 16, False) for a in arguments.kwonlyargs]
    if arguments.vararg is not None:
        found.append((arguments.vararg, len(positional), True))
    several = []
    for argument, index, many in found:
        shown = ast.unparse(argument.annotation) if argument.annotation else "str"
        if "str" in shown:
            text = shown in _TEXT
            said = argument.arg == "script" if text and not many else argument.arg in _SAID
            several.append(_Parameter(argument.arg, index, many, text, said))
    return several


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _callee(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _base(node: ast.Call) -> str:
    """``subprocess`` of ``subprocess.run`` and of a ``run`` that was imported from there."""
    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        return node.func.value.id
    return ""


def _keyword(node: ast.Call, name: str) -> ast.expr | None:
    return next((k.value for k in node.keywords if k.arg == name), None)


def _is_name(text: str) -> bool:
    """Whether a program may be called that; of one with holes enough must be known."""
    return bool(re.fullmatch(rf"[\w{HOLE}][\w.+{HOLE}-]*", text)) and (
        HOLE not in text or len(text.replace(HOLE, "")) > 2
    )
