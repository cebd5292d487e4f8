"""Programs that the sources call, as far as one list, call or text shows them by itself.

Nothing is followed through names: that names nearly all programs, without a reader of Python and of
the shell. What only a run shows, the run in a bare root shows (``tools/bare_root.sh``).
"""

from __future__ import annotations

import ast
import itertools
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress

HOLE = "\0"
"""What is only known when it runs, in a word."""
_SHELLS = frozenset({"sh", "bash", "dash"})
_BEFORE = {"chroot": 1, "flock": 1} | dict.fromkeys(
    ("command", "doas", "env", "exec", "ionice", "nice", "nohup", "nsenter", "setpriv", "setsid",
     "stdbuf", "strace", "sudo", "taskset", "time", "timeout", "unshare", "watch", "xargs"), 0
)  # fmt: skip
"""Programs that start the one that their arguments name, and how many words they want before."""
_BUILTINS = frozenset(
    {"[", "[[", "alias", "break", "case", "cd", "command", "compgen", "continue", "declare", "done",
     "echo", "esac", "eval", "exec", "exit", "export", "false", "fi", "for", "function", "getopts",
     "hash", "in", "jobs", "kill", "let", "local", "mapfile", "printf", "pwd", "read", "readonly",
     "return", "select", "set", "shift", "shopt", "source", "test", "time", "trap", "true", "type",
     "typeset", "ulimit", "umask", "unset", "wait"}
)  # fmt: skip
_DOCUMENT = re.compile(r"<<-?\s*(['\"]?)(\w+)\1(.*)\n((?s:.*?))^\t*\2$", re.MULTILINE)
_INNER = re.compile(r"\$\(.*?\)")
_PATTERN = re.compile(r"(^\s*|\bin\s+|;;\s*)\(?[^()\s]+( \| [^()\s]+)*\)(?=\s)", re.MULTILINE)
"""Of a ``case``."""
_WITH_COMMAND = r'^(\w+)\(\) *\{\n(?:[^}].*\n)*.*(?:^| )"\$@"'
"""A function that runs its arguments."""
_OPENING = frozenset({"if", "then", "elif", "else", "while", "until", "do", "!", "{", "}"})
_STARTING = re.compile(
    r"(shutil\.)?which|(asyncio\.)?create_subprocess_(exec|shell)"
    r"|subprocess\.(run|Popen|(check_)?(call|output)|get(status)?output)"
    r"|os\.(system|popen|exec\w+|posix_spawnp?)"
)
"""Functions of the standard library that start a program, or look for one."""


def commands(script: str) -> list[list[str]]:
    """Simple commands of a shell script as words, also those inside of substitutions. Raises
    ``ValueError`` for a text whose quotes do not close."""
    text = re.sub(r"(^|\s)#.*", r"\1", script.replace("\\\n", " "), flags=re.MULTILINE)
    text = _DOCUMENT.sub(lambda m: f"{m[3]} {'' if m[1] else ' '.join(_INNER.findall(m[4]))}", text)
    text = re.sub(r"\$\(\(.*?\)\)", HOLE, text)
    found: list[list[str]] = []
    while inner := re.search(r"\$\(([^()]*)\)|`([^`]*)`", text):
        found += commands(inner[1] or inner[2] or "")
        text = text[: inner.start()] + HOLE + text[inner.end() :]
    text = re.sub(r"\$\{[^}]*\}|\$(\w+|[@*#?!$-])|(?<==)\([^()]*\)", HOLE, text)
    text = re.sub(r"\bfunction (\w+)", r"\1()", text)
    text = _PATTERN.sub(r"\1;", text).replace("< <(", "<(")
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";&|()<>\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words: list[str] = []
    tokens = iter(lexer)
    for token in itertools.chain(tokens, "\n"):
        if set(token) & set("<>") and set(token) <= set("<>&|"):
            next(tokens, "")
        elif set(token) <= set(";&|()<>\n"):
            plain = list(itertools.dropwhile(_no_command, words))
            found += [plain] if plain else []
            words = []
        else:
            words.append(token)
    return found


def _no_command(word: str) -> bool:
    """A keyword after which a command follows, or an assignment."""
    return word in _OPENING or re.match(r"\w+(\[.*\])?\+?=", word) is not None


def _no_program(word: str) -> bool:
    """An option, a number, a signal, an assignment, or what is not known."""
    return not re.fullmatch(r"[a-z/][^=\s]*", word)


def scripted(script: str) -> Iterator[str]:
    """Programs of a whole script; its own functions and the shell's commands are none."""
    own = set(re.findall(r"(\w+)\(\)", script))
    starting = set(re.findall(_WITH_COMMAND, script, re.MULTILINE))
    for words in commands(script):
        for name in programs(words[1:] if words[0] in starting else words):
            if name not in own and (name not in _BUILTINS or "/" in words[0]):
                yield name


def programs(words: Sequence[str]) -> Iterator[str]:
    """Names, without folders, of what a command starts: also behind programs that start others."""
    if not words or re.match(r"\.?\w+/", words[0]):
        return  # nothing, or a file of the checkout
    name = words[0].rpartition("/")[2]
    if not re.fullmatch(rf"[a-z{HOLE}][\w.+{HOLE}-]*", name) or not name.strip(HOLE):
        return
    yield name
    if name in _SHELLS:
        for option, script in itertools.pairwise(words):
            if re.fullmatch(r"-[a-z]*c", option):
                yield from scripted(script)
    elif name == "ip" and "exec" in words[:-2]:
        yield from programs(words[words.index("exec") + 2 :])
    elif name == "find" and "-exec" in words:
        yield from programs(words[words.index("-exec") + 1 :])
    elif name in ("eval", "trap"):
        yield from scripted(" ".join(words[1:2]))
    elif name in _BEFORE:
        rest = words[1 + _BEFORE[name] :]
        yield from programs(list(itertools.dropwhile(_no_program, rest)))


def called(source: str, known: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Line and name of each program that a Python source calls. A word is one if the standard
    library is asked to start it, if it begins a list and an option follows, or if it is ``known``
    and begins a list, the arguments of a call, or a command in a text."""
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        for words, sure in _written(node):
            yield from ((line, n) for n in programs(words) if sure or n in known)


def _written(node: ast.AST) -> Iterator[tuple[list[str], bool]]:
    """Words that may be a command, and whether they are one for sure."""
    if isinstance(node, ast.List | ast.Tuple):
        words = [_text(element) for element in node.elts]
        yield words, isinstance(node, ast.List) and _has_option(words)
    elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "command":
        yield from ((words, True) for words, _ in _written(node.value))
    elif isinstance(node, ast.Call) and node.args:
        first, sure = node.args[0], bool(_STARTING.fullmatch(ast.unparse(node.func)))
        elements = first.elts if isinstance(first, ast.List | ast.Tuple) else node.args
        words = [_text(element) for element in elements]
        several = commands(words[0]) if sure and words else [words]
        yield from ((some + words[1:], sure) for some in several)
    elif " " in _text(node):
        with suppress(ValueError):
            yield from ((words, False) for words in commands(_text(node)))


def _has_option(words: list[str]) -> bool:
    return any(re.fullmatch("-[a-zA-Z0-9]{1,2}", word) for word in words[1:2])


def _text(node: ast.AST) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(_text, parts))
    return HOLE
