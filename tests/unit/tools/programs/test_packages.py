"""Whatever program is called here is in ``tools/packages.toml``, for the target that calls it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from egress_gateway_lab import host
from tests.deploy.conftest import tool
from tests.unit.tools.pages import ROOT, script
from tests.unit.tools.programs.called import HOLE, called, commands, scripted

packages: Any = tool("packages")
TABLE = packages.read(packages.TABLE.read_text())

AREAS = (
    (r"tools/(image|release)/", "image"),
    (r"tools/fuzz\.sh", "fuzz"),
    (r"(.*/)?tests/kube/|tools/kubernetes/", "kube"),
    (r"(.*/)?tests/browser/", "browser"),
    (r"(.*/)?tests/azure_cli/|tools/azure_cli\.py", "azure-cli"),
    (r"(.*/)?tests/|conftest\.py", "test"),
    (r"(lab/)?src/.*/(kubernetes|realcluster)/|(lab/)?src/.*/host\.py", "kube"),
    (r"(lab/)?src/|docs/|README\.md", "run"),
    (r"bench/", "bench"),
    (r"tools/uml/", "kernel"),
    (r"tools/bare_root\.sh|tools/closing_line\.py|\.ci/", "ci"),
    (r"tools/|Makefile", "install"),
)
"""Which target runs what lies there; the first that fits."""

KNOWN = frozenset(n for p in TABLE.packages for n in (*p.programs, *p.inner))

NO_PROGRAMS = {
    "bench/benchmarks/fleet.py: private": "an argument of unshare",
    "lab/tests/apiserver/test_kubectl.py: get": "an argument of kubectl",
    "tests/contract/controller/test_keys_namespace.py: migrate": "an argument of egress-gateway",
    "lab/src/egress_gateway_lab/golang.py: build": "an argument of go",
    "lab/src/egress_gateway_lab/commands/faults.py: strip": "a fault of the lab's Azure",
    "lab/tests/azure/test_beside_us.py: strip": "a fault of the lab's Azure",
    "lab/tests/unit/runtime/test_runtime_planning.py: x": "nothing runs it",
    "src/egress_gateway/datapath/linux/netns.py: sysctl": "a message",
    "src/egress_gateway/gateway/peers/rules.py: wg": "a message",
    "tests/contract/controller/test_as_azure_answers.py: strip": "a fault of the lab's Azure",
    "tests/deploy/artefacts/test_image_tools.py: buildah": "a sentence",
    "tests/lab/test_host.py: lab": "an argument of egress-gateway",
    "tools/bare_root.sh: private": "an argument of unshare",
    "tools/uml/build.sh: merge_config.sh": "a file of the kernel's source",
    "tools/uml/run.sh: ro": "an argument of the kernel",
}
"""Words that look like programs, and what they are."""


class Call(NamedTuple):
    """A program that is called, and where."""

    program: str
    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.program}"


@cache
def calls() -> tuple[Call, ...]:
    """Every program that this repository calls, and where."""
    return (*_python(), *_shell(), *_pages())


def _python() -> Iterator[Call]:
    folders = ("src", "lab", "tests", "bench", "tools")
    files = [p for f in folders for p in sorted((ROOT / f).rglob("*.py"))]
    own = ROOT / "tests/unit/tools"
    for path in (p for p in files if own not in p.parents):
        for line, name in called(path.read_text(), KNOWN):
            yield Call(name, path.relative_to(ROOT), line)


def _shell() -> Iterator[Call]:
    scripts = [p for f in ("tools", ".ci", "bench", "tests", "lab") for p in (ROOT / f).rglob("*")]
    for path in sorted(p for p in scripts if p.is_file() and p.suffix not in (".pyc", ".py")):
        text = path.read_bytes()
        if re.match(rb"#!.*\b(ba|da)?sh\b", text):
            yield from (Call(n, path.relative_to(ROOT), 0) for n in scripted(text.decode()))
    recipes = re.findall(r"^\t[-@+]*(.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    lines = re.sub(r"\$\(\w+\)", "$x", "\n".join(recipes)).replace("$$", "$")
    yield from (Call(name, Path("Makefile"), 0) for name in scripted(lines))


def _pages() -> Iterator[Call]:
    """What pages tell a person to type."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        names = scripted(script(path.read_text()))
        yield from (Call(name, path.relative_to(ROOT), 0) for name in names)


def target_of(path: Path) -> str:
    return next(target for pattern, target in AREAS if re.match(pattern, path.as_posix()))


def brings(call: Call) -> bool:
    """Whether the table has the program, in a package that the caller's target installs."""
    if call.program in TABLE.elsewhere or f"{call.path}: {call.program}" in NO_PROGRAMS:
        return True
    if (ROOT / "tools" / call.program).exists() or (ROOT / "tools/uml" / call.program).exists():
        return True
    pattern = ".+".join(re.escape(part) for part in call.program.split(HOLE))
    return any(
        re.fullmatch(pattern, known)
        for package in TABLE.of(target_of(call.path))
        for known in (
            *package.programs,
            *package.inner,
            *(Path(file).name for file in package.files),
        )
    )


def test_every_program_that_is_called_is_in_a_package_of_its_target() -> None:
    lacking = [f"{call} (make {target_of(call.path)})" for call in calls() if not brings(call)]
    assert lacking == [], "put these into tools/packages.toml, or do without them"


def _recipes() -> dict[str, tuple[list[str], str]]:
    """Of each make target: the targets that it makes first, and its commands."""
    text = (ROOT / "Makefile").read_text().replace("\\\n", "")
    rules = re.findall(r"^([a-z][\w-]*(?: [\w-]+)*):([^=\n]*)\n((?:\t.*\n)+)", text, re.MULTILINE)
    return {n: (first.split(), recipe) for names, first, recipe in rules for n in names.split()}


def _prepared(target: str) -> set[str]:
    first, recipe = _recipes()[target]
    named = re.findall(r"\$\(prepare\) ([\w-]+)", recipe)
    here = set[str]().union(*(TABLE.covered(name) for name in named))
    return here.union(*map(_prepared, first))


def _runs(recipe: str) -> set[Path]:
    """Files and folders of this repository that a recipe names, modules and marks among them."""
    paths = set(re.findall(r"(?<![\w./])(?:tools|tests|bench)/[\w./-]+", recipe))
    for module in re.findall(r"python3? -m ([\w.]+)", recipe):
        file = module.replace(".", "/")
        paths |= {f"{top}{file}{end}" for top in ("", "tools/") for end in (".py", "/")}
    paths |= {f"tests/{mark}/" for mark in re.findall(r"pytest\b.*? -m (\w+)", recipe)}
    there = {Path(path) for path in paths if (ROOT / path).exists()}
    return {path for path in there if path.suffix in ("", ".py", ".sh")}


BY_ITSELF = {"tools/uml/run.sh": "installs what it needs, or says that it cannot and skips"}


@pytest.mark.parametrize("target", sorted(_recipes().keys() - {"clean"}))
def test_a_make_target_prepares_all_that_it_runs(target: str) -> None:
    lacking = {
        path.as_posix(): wanted
        for path in _runs(_recipes()[target][1])
        if (wanted := target_of(path / "x" if (ROOT / path).is_dir() else path))
        not in _prepared(target) | {"ci"}
        and path.as_posix() not in BY_ITSELF
    }
    assert lacking == {}, "name these after $(prepare)"


def test_the_search_finds_what_is_known_to_be_called() -> None:
    """Else the test above could pass because nothing is found."""
    assert {"ip", "nft", "ping", "ps", "wg", "iperf3", "runc", "helm", "mmdebstrap", "strip"} <= {
        call.program for call in calls()
    }


def test_no_package_is_listed_of_which_nothing_is_used() -> None:
    known = {call.program for call in calls()}
    patterns = [".+".join(map(re.escape, name.split(HOLE))) for name in known]
    unused = [
        f"{package.name}: {program}"
        for package in TABLE.packages
        for program in package.programs
        if not any(re.fullmatch(pattern, program) for pattern in patterns)
    ]
    assert unused == []


def test_targets_of_packages_are_targets() -> None:
    named = set().union(*(package.targets for package in TABLE.packages))
    assert named <= set(TABLE.below)
    for target in TABLE.below:
        assert target in TABLE.covered(target)


def test_the_lab_names_the_same_packages() -> None:
    """Its own list goes with a wheel, in which the table is not."""
    listed = {program: p.name for p in TABLE.of("run") for program in p.programs}
    assert {program: listed.get(program) for program in host.PACKAGES} == host.PACKAGES
    files = {file for package in TABLE.of("run") for file in package.files}
    assert {str(host.CNI_BIN / plugin) for plugin in host.CNI_PLUGINS} <= files


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="not a Debian system")
def test_packages_bring_what_the_table_says() -> None:
    """Of those that are installed here; in a bare root that is all of what its target needs."""
    lacking = {}
    for package in TABLE.packages:
        shown = ["dpkg-query", "-L", package.name]
        done = subprocess.run(shown, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            files = done.stdout.splitlines()
            names = {Path(file).name for file in files}
            programs = {*package.programs, *package.inner}
            lacking[package.name] = {
                *(n for n in programs - names if not (Path("/etc/alternatives") / n).exists()),
                *(set(package.files) - {*files, "/etc/ssl/certs/ca-certificates.crt"}),
            }
    assert {"bash", "dash"} <= lacking.keys()
    assert {name: what for name, what in lacking.items() if what} == {}


# -- the search itself

SHELL = {
    "a | b && c || d; e &\nf": "abcdef",
    "if a; then b; elif c; then d; else e; fi; while f; do g; done": "abcdefg",
    "x=1 a; y=$(b c) z=`d`; e \"$(f)\" '$(not)' \"${g:-$(g)}\"": "abdefg",
    "case $(a) in x|y) b ;; (z) c ;; *) d; esac; e": "abcde",
    "for x in not not; do a; done": "a",
    "own() { a; }; own; function two { b; }; two": "ab",
    "a <<END >not 2>&1\nnot $(b)\nEND\nc <<'END'\n$(not)\nEND\nd <not": "abcd",
    "! a; { b; }; (c; d); [ -e not ] || e; [[ not == x ]] && f": "abcdef",
    "# not\na # not\nb '# no'": "ab",
    "cmp <(a) <(b)": "ab",
    "a >&2\nb 2>&1\nc >not\n! d -q 2>/dev/null || e": "abcde",
    "trap 'a' EXIT; eval \"b\"; exec c; command -v d": "abcd",
    "list=(x $(a)); list+=(y); b \"${list[@]}\"": "ab",
    "echo $((1 + $(a))) $not ${not}": "",
    "a \\\n  not; b": "ab",
    "nsenter -t 1 -n a; env -u X Y=1 b; timeout -k 1 5 c; nice -n 3 d; setsid -w e": "abcde",
    "ip netns exec x a; sh -ec 'b; c'; xargs -n 1 d; find . -exec e {} +; sudo -E f": "abcdef",
    "unshare --net -- a; setpriv --reuid=1 --clear-groups b; setpriv --pdeathsig TERM -- c": "abc",
    "ip netns exec x env A=1 nice sh -c 'nsenter -n a'": "a",
    "$x not; \"$x\" not; /usr/sbin/a": "a",
}  # fmt: skip


@pytest.mark.parametrize("script", SHELL)
def test_shell(script: str) -> None:
    assert "".join(sorted({n for n in scripted(script) if len(n) == 1})) == SHELL[script]


def test_shell_scripts_words() -> None:
    found = commands("f() { x; }\ng 'a b' \"c $d\" e\\ f")
    assert found == [["f"], ["x"], ["g", "a b", f"c {HOLE}", "e f"]]


PYTHON = [
    'subprocess.run(["a", "not"]); subprocess.Popen(("b",)); subprocess.check_output(["c"])',
    'subprocess.run("a | b; c", shell=True); os.system("c")',
    'shutil.which("a"); os.execvp("b", ["b"]); os.posix_spawn("/bin/c", [], {})',
    'asyncio.create_subprocess_exec("a", "not", stdin=None), create_subprocess_shell("b; c")',
    'command = ["a", "--q", "not"]; node.run(["b", "-c"]); ["sh", "-c", "c not"]; x = ["not"]',
    '["nsenter", "-t", "1", "-n", "a"], ["unshare", "-n", "b"]; [*prefix, "not"]; '
    'run(["nice", "-n", "1", "env", "X=1", "sh", "-c", "c"])',
    "['known_a', not_]; node.run('known_b not', 1); sh(f'x; known_c {not_}')",
    'pod = {"command": ["a", "-n"], "lifecycle": {"exec": {"command": ["sh", "-c", "b; c"]}}}',
]


@pytest.mark.parametrize("text", PYTHON)
def test_python(text: str) -> None:
    known = frozenset({"known_a", "known_b", "known_c"})
    found = {name.removeprefix("known_") for _, name in called(text, known)}
    assert {name for name in found if len(name) == 1} == {"a", "b", "c"}
    assert "not" not in found


@pytest.mark.parametrize(
    "place",
    ["tests/unit/new/test_new.py", "bench/new.py", "src/egress_gateway/lab/new.py", "tools/new.py"],
)
def test_a_program_of_no_package_is_found_wherever_it_is(place: str) -> None:
    [(line, name)] = set(called('subprocess.run(["fping", "-c", "1"])', KNOWN))
    assert not brings(Call(name, Path(place), line))


def test_a_package_of_another_target_does_not_do() -> None:
    assert brings(Call("iperf3", Path("bench/new.py"), 1))
    assert not brings(Call("iperf3", Path("tests/datapath/test_new.py"), 1))
    assert not brings(Call("ping", Path("src/egress_gateway/node/new.py"), 1))


# -- what installs them


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An apt-get that notes what it is asked, and fails as often as ``fails`` says."""
    log, fails = tmp_path / "log", tmp_path / "fails"
    fails.write_text("")
    program = tmp_path / "apt-get"
    program.write_text(
        f'#!/bin/sh\necho "$@" >>{log}\n[ -s {fails} ] || exit 0\n'
        f"sed -i 1d {fails}\necho 'E: Unable to locate package x' >&2\nexit 100\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return tmp_path


def asked(apt: Path) -> list[str]:
    """Which of apt's commands, in their order."""
    lines = (apt / "log").read_text().splitlines()
    return [re.sub(r"-o \S+ ", "", line).split(" -")[0] for line in lines]


def test_packages_are_installed_by_name_and_said(
    apt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packages.install(["one", "two"])
    assert (apt / "log").read_text().endswith("--no-install-recommends one two\n")
    assert capsys.readouterr().err == "installing system packages: one two\n"


def test_a_machine_that_knows_no_packages_asks_once(apt: Path) -> None:
    (apt / "fails").write_text("1\n")
    packages.install(["one"])
    assert asked(apt) == ["install", "update", "install"]


@pytest.mark.parametrize(("failures", "said"), [(2, "`apt-get update` failed"), (9, "failed: E: ")])
def test_what_cannot_be_installed_is_said(apt: Path, failures: int, said: str) -> None:
    (apt / "fails").write_text("1\n" * failures)
    with pytest.raises(packages.Refused, match=re.escape(said)):
        packages.install(["one"])


def test_without_root_one_line_says_what_to_do(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(packages.Refused) as refused:
        packages.install(["one", "two"])
    assert str(refused.value) == (
        "root is needed to install system packages: "
        "sudo apt-get install --no-install-recommends one two"
    )
    assert not (apt / "log").exists()


def test_who_is_not_root_hears_so_before_anything_is_installed_for_a_lab(tmp_path: Path) -> None:
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{packages.SYSTEM}", "PYTHON": "false"}
    script = ROOT / "tools/bootstrap.sh"
    done = subprocess.run([script, "run"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "needs root: sudo make demo" in done.stderr


def test_other_systems_are_told_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(packages.Refused, match="by hand: one two"):
        packages.install(["one", "two"])


@pytest.mark.parametrize(
    "lacks",
    [
        {"programs": ("nosuch-program",)},
        {"inner": ("nosuch-program",)},
        {"files": ("/nosuch/file",)},
        {"libraries": ("libnosuch.so.1",)},
        {"modules": ("nosuch_module",)},
    ],
    ids=str,
)
def test_one_thing_that_lacks_is_enough(lacks: dict[str, Any]) -> None:
    there = {
        "programs": ("sh",),
        "files": ("/",),
        "modules": ("json",),
        "libraries": ("libc.so.6",),
    }
    assert packages.Package("x", frozenset(), "", **there).present
    assert not packages.Package("x", frozenset(), "", **{**there, **lacks}).present


def recipes() -> dict[str, list[str]]:
    """The Makefile's targets that do something, with their lines."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "Makefile").read_text().replace("\\\n", " ").splitlines():
        if named := re.match(r"([a-z][\w-]*):(?! *=)", line):
            lines = found.setdefault(named[1], [])
        elif line.startswith("\t"):
            lines.append(line.strip().lstrip("@"))
    return found


@pytest.mark.parametrize("target", sorted(recipes()))
def test_a_target_installs_what_it_needs_before_it_works(target: str) -> None:
    """Else somebody waits for minutes, and then reads what is missing."""
    getting = (
        "$(prepare)",
        "tools/kubernetes_clients.py",
        ".venv/bin/python tools/kubernetes/build.py",
    )
    gets = [line.startswith(getting) for line in recipes()[target]]
    assert gets == sorted(gets, reverse=True)
    assert target in ("clean", "manifests") or gets[0], "manifests has crds, which does"
