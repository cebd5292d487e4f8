"""Programs that a shell script calls: as much of the shell's grammar as that takes.

``commands`` gives a script's simple commands, also those inside of substitutions; ``programs`` what
a command starts, also behind programs that start others (``nsenter … ip``, ``sh -c '…'``). What is
only known when it runs is a ``HOLE`` in a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

HOLE = "\0"
_SCRIPT = frozenset({"sh", "bash", "dash", "/bin/sh", "/bin/bash"})

_WITH_VALUE: dict[str, frozenset[str]] = {
    "chroot": frozenset({"--userspec", "--groups"}),
    "command": frozenset(),
    "doas": frozenset({"-u"}),
    "env": frozenset({"-u", "--unset", "-C", "--chdir", "-S"}),
    "exec": frozenset({"-a"}),
    "flock": frozenset({"-w", "-E"}),
    "ionice": frozenset({"-c", "-n"}),
    "nice": frozenset({"-n"}),
    "nohup": frozenset(),
    "nsenter": frozenset({"-t", "--target", "-S", "-G"}),
    "setpriv": frozenset(
        {"--pdeathsig", "--reuid", "--regid", "--ruid", "--euid", "--groups", "--inh-caps",
         "--ambient-caps", "--bounding-set", "--securebits"}
    ),
    "setsid": frozenset(),
    "stdbuf": frozenset({"-i", "-o", "-e"}),
    "strace": frozenset({"-o", "-e", "-p", "-s"}),
    "sudo": frozenset({"-u", "-g"}),
    "taskset": frozenset(),
    "time": frozenset(),
    "timeout": frozenset({"-s", "--signal", "-k", "--kill-after"}),
    "unshare": frozenset({"--propagation", "--map-users", "--map-groups", "-S", "-G"}),
    "watch": frozenset({"-n"}),
    "xargs": frozenset({"-a", "-d", "-E", "-I", "-L", "-n", "-P", "-s"}),
}  # fmt: skip
"""Programs that start the one that their arguments name, and those options of theirs that take
the next word."""
_BEFORE = {"chroot": 1, "flock": 1, "taskset": 1, "timeout": 1}
"""How many words of their own they want before it."""

_BUILTINS = frozenset(
    {".", ":", "[", "[[", "alias", "bg", "break", "builtin", "cd", "compgen", "continue", "declare",
     "echo", "eval", "exit", "export", "false", "fg", "getopts", "hash", "jobs", "kill", "let",
     "local", "mapfile", "popd", "printf", "pushd", "pwd", "read", "readarray", "readonly",
     "return", "set", "shift", "shopt", "source", "test", "times", "trap", "true", "type",
     "typeset", "ulimit", "umask", "unalias", "unset", "wait"}
)  # fmt: skip
_OPENING = frozenset({"if", "then", "elif", "else", "while", "until", "do", "!", "{"})
_CLOSING = frozenset({"fi", "done", "esac", "}"})
_FUNCTION = re.compile(r"^\s*(\w+)\(\)\s*\{(.*?)^\s*\}", re.MULTILINE | re.DOTALL)
_ARGUMENTS = re.compile(r"(^|--|&&|\|\||[;{])\s*\"\$@\"", re.MULTILINE)
"""In a function that runs its arguments."""
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*(\[[^]]*\])?\+?=")
_SEPARATORS = ("&&", "||", ";;&", ";;", ";&", "|&", ";", "&", "|", "\n")


def programs(argv: Sequence[str]) -> Iterator[str]:
    """Names (without folders) of what the command starts. One that is not known is left out;
    one that is known in part has a hole."""
    if not argv:
        return
    name, rest = argv[0].rpartition("/")[2], list(argv[1:])
    if not name.strip(HOLE) or " " in argv[0] or re.match(r"[\w.]+/", argv[0]):
        return  # not known, no name, or a file of the checkout
    if name not in ("command", "exec", "time"):
        yield name
    if name in _SCRIPT:
        yield from _of_shell(rest)
    elif name == "ip":
        yield from _of_ip(rest)
    elif name == "find":
        for index, word in enumerate(rest):
            if word in ("-exec", "-execdir", "-ok"):
                yield from programs(rest[index + 1 :])
    elif name in ("eval", "trap"):
        yield from scripted(" ".join(rest) if name == "eval" else "".join(rest[:1]))
    elif name in _WITH_VALUE:
        yield from programs(_started(name, rest))


def _started(name: str, words: list[str]) -> list[str]:
    """What is left of ``words`` after the options of ``name`` and the words that it wants."""
    index = 0
    while index < len(words):
        word = words[index]
        if word == "--":
            index += 1
            break
        if name == "env" and _ASSIGNMENT.match(word):
            index += 1
        elif word.startswith("-") and len(word) > 1:
            index += 1 + (word in _WITH_VALUE[name])
        else:
            break
    return words[index + _BEFORE.get(name, 0) :]


def _of_shell(words: list[str]) -> Iterator[str]:
    """``sh -c SCRIPT``, with further options around."""
    for index, word in enumerate(words):
        if re.fullmatch(r"-[a-z]*c[a-z]*", word):
            yield from scripted("".join(words[index + 1 : index + 2]))
            return


def _of_ip(words: list[str]) -> Iterator[str]:
    """``ip netns exec NAME COMMAND``."""
    for index in range(len(words) - 2):
        if words[index] in ("netns", "vrf") and words[index + 1] == "exec":
            yield from programs(words[index + 3 :])


def scripted(text: str) -> Iterator[str]:
    """Programs of a whole script; its own functions and the shell's commands are none."""
    found, own = commands(text)
    starting = {name for name, body in _FUNCTION.findall(text) if _ARGUMENTS.search(body)}
    for argv in found:
        for name in programs(argv[1:] if argv[0] in starting else argv):
            if name not in own and (name not in _BUILTINS or "/" in argv[0]):
                yield name


def commands(text: str) -> tuple[list[list[str]], set[str]]:
    """Simple commands as words, and the names of functions that the script defines."""
    reader = _Reader(text)
    reader.run()
    return reader.found, reader.functions


@dataclass
class _Reader:
    """One pass over a script's characters."""

    text: str
    found: list[list[str]] = field(default_factory=list)
    functions: set[str] = field(default_factory=set)
    at: int = 0
    _words: list[str] = field(default_factory=list)
    _word: str | None = None
    _documents: list[tuple[str, bool]] = field(default_factory=list)
    _patterns: bool = False
    """Between ``case … in`` or ``;;`` and the pattern's parenthesis."""
    _cases: int = 0

    def run(self) -> None:
        while self.at < len(self.text):
            self._step()
        self._end_command()

    def _step(self) -> None:
        text, at = self.text, self.at
        char = text[at]
        separator = next((s for s in _SEPARATORS if text.startswith(s, at)), None)
        if char == "\\":
            if text[at + 1 : at + 2] != "\n":
                self._append(text[at + 1 : at + 2])
            self.at += 2
        elif char in " \t":
            self._end_word()
            self.at += 1
        elif char == "#" and self._word is None:
            end = text.find("\n", at)
            self.at = len(text) if end < 0 else end
        elif char == "'":
            end = _find(text, "'", at + 1)
            self._append(text[at + 1 : end])
            self.at = end + 1
        elif char == '"':
            self.at += 1
            self._quoted()
        elif char in "$`":
            self.expansion()
        elif char in "<>":
            self._redirection()
        elif separator and not (char == "&" and self._word == HOLE + "redirect"):
            self.at += len(separator)
            self._end_command()
            if separator.startswith(";;") or separator == ";&":
                self._patterns = self._cases > 0
            if separator == "\n":
                self._skip_documents()
        elif char == "(":
            self._open()
        elif char == ")":
            self.at += 1
            if self._patterns:
                self._word, self._words, self._patterns = None, [], False
            else:
                self._end_command()
        else:
            self._append(char)
            self.at += 1

    def _append(self, text: str) -> None:
        self._word = (self._word or "") + text

    def _open(self) -> None:
        """A subshell, a function's parentheses, an array or a pattern's first parenthesis."""
        text, at = self.text, self.at
        if self._word and _ASSIGNMENT.fullmatch(self._word):
            end = _closing(text, at)
            self.found += commands_inside(text[at + 1 : end])
            self._append(HOLE)
            self.at = end + 1
        elif self._word and (empty := re.compile(r"\(\s*\)").match(text, at)):
            self.functions.add(self._word)
            self._word = None
            self.at = empty.end()
        else:
            self.at += 1
            if not self._patterns:
                self._end_command()

    def _quoted(self) -> None:
        """Up to the closing double quote."""
        self._append("")
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == '"':
                self.at += 1
                return
            if char in "$`":
                self.expansion()
            elif char == "\\" and self.text[self.at + 1 : self.at + 2] in tuple('"\\$`'):
                self._append(self.text[self.at + 1])
                self.at += 2
            else:
                self._append(char)
                self.at += 1

    def expansion(self) -> None:
        """``$x``, ``${x}``, ``$(…)``, ``$((…))``, backticks: a hole; commands inside are noted."""
        text, at = self.text, self.at
        if text.startswith("$((", at):
            end = _closing(text, at + 1)
        elif text.startswith("$(", at):
            end = _closing(text, at + 1)
            self._inner(text[at + 2 : end])
        elif text.startswith("${", at):
            end = _closing(text, at + 1, "{", "}")
            self.found += commands_inside(text[at + 2 : end])
        elif text[at] == "`":
            end = _find(text, "`", at + 1)
            self._inner(text[at + 1 : end])
        else:
            known = re.compile(r"\$(\w+|[@*#?$!-])?").match(text, at)
            assert known is not None
            if not known[1]:
                self._append("$")
                self.at = known.end()
                return
            end = known.end() - 1
        self._append(HOLE)
        self.at = end + 1

    def _inner(self, text: str) -> None:
        found, functions = commands(text)
        self.found += found
        self.functions |= functions

    def _redirection(self) -> None:
        """``>file``, ``2>&1``, ``<<END``, ``<(…)``: no words of the command."""
        text, at = self.text, self.at
        if self._word is not None and self._word.isdigit():
            self._word = None
        self._end_word()
        if text[at : at + 2] in ("<(", ">("):
            end = _closing(text, at + 1)
            self._inner(text[at + 2 : end])
            self._words.append(HOLE)
            self.at = end + 1
            return
        document = re.compile(r"<<(-?)[ \t]*(['\"\\]?)(\w+)['\"]?").match(text, at)
        if document:
            self._documents.append((document[3], bool(document[2])))
            self.at = document.end()
            return
        operator = re.compile(r"<<<|[<>&]*[<>][&|]?\d*-?[ \t]*").match(text, at)
        assert operator is not None
        self.at = operator.end()
        if not re.search(r"&[\d-]", operator[0]):
            self._drop_word()

    def _drop_word(self) -> None:
        """The file of a redirection."""
        before, self._word = self._word, None
        while self.at < len(self.text) and self.text[self.at] not in " \t\n;|&()<>":
            self._step()
        self._word = before

    def _skip_documents(self) -> None:
        for word, quoted in self._documents:
            end = re.compile(rf"^\t*{re.escape(word)}$", re.MULTILINE).search(self.text, self.at)
            body = self.text[self.at : end.start() if end else len(self.text)]
            if not quoted:
                self.found += commands_inside(body)
            self.at = min(len(self.text), end.end() + 1) if end else len(self.text)
        self._documents.clear()

    def _end_word(self) -> None:
        if self._word is None:
            return
        word, self._word = self._word, None
        first = not self._words
        if first and (word in _OPENING or word in _CLOSING):
            if word == "esac":
                self._cases -= 1
                self._patterns = False
            return
        if first and _ASSIGNMENT.match(word):
            return
        self._words.append(word)
        match self._words:
            case ["function", name]:
                self.functions.add(name)
                self._words = []
            case ["case", _, "in"]:
                self._words, self._patterns = [], True
                self._cases += 1

    def _end_command(self) -> None:
        self._end_word()
        words, self._words = self._words, []
        if self._patterns or not words or words[0] in ("for", "select", "[[", "[", "in"):
            return
        self.found.append(words)


def commands_inside(text: str) -> list[list[str]]:
    """Commands of the substitutions alone, in a text that is none itself."""
    reader = _Reader(text)
    while reader.at < len(text):
        if text[reader.at] in "$`":
            reader.expansion()
        else:
            reader.at += 1
    return reader.found


def _find(text: str, char: str, start: int) -> int:
    end = text.find(char, start)
    return len(text) if end < 0 else end


def _closing(text: str, at: int, opening: str = "(", closing: str = ")") -> int:
    """Where what opens at ``at`` closes; quotes hide what is inside of them."""
    depth, quote = 0, ""
    while at < len(text):
        char = text[at]
        if char == "\\" and quote != "'":
            at += 1
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == opening:
            depth += 1
        elif char == closing:
            depth -= 1
            if depth == 0:
                return at
        at += 1
    return len(text)
