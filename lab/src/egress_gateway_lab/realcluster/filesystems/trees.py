"""The files of the lab's images: copied from this machine once, shared by all nodes of all labs.

No registry of container images is asked. What an image holds is what it would hold if its
Containerfile were built: a C library, this Python with the locked packages, ``wireguard-go``,
``setpriv``, libnftables, our package; or a shell, curl and the usual commands. Nothing else of the
host can be seen from it, so a program that needs more than its image says fails here as it would
elsewhere.

Trees lie in the user's cache under a name that changes with what was copied; our own package is
copied for each lab anew. ``layers`` of a node show them read-only (``images.bind``).
"""

from __future__ import annotations

import compileall
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import egress_gateway
from egress_gateway.api.manifests import deploy_dir
from egress_gateway_lab import golang, wireguard
from egress_gateway_lab.runtime import programs

PYTHON: Final = "/opt/python/bin/python3"
PACKAGES: Final = "/opt/egress-gateway/lib"
COMMAND: Final = "/opt/egress-gateway/bin/egress-gateway"
NGINX: Final = "/opt/lab/nginx.py"
CURL: Final = "/opt/lab/curl"
SHIPPED: Final = "shipped"
"""The layer of the image that users get (``shipped``)."""
_FORMAT: Final = 1
_DISTRIBUTION: Final = "static-egress-gateway"
_SKIPPED: Final = frozenset({"test", "idlelib", "tkinter", "ensurepip", "lib2to3", "site-packages",
                             "dist-packages", "turtledemo"})  # fmt: skip
_LIBRARIES: Final = ("libnftables.so.1", "libnss_dns.so.2", "libnss_files.so.2")
_OURS: Final = ("setpriv",)
"""NB: without ``setpriv``, which every Debian image has, all tunnels of a machine would run as one
user, and a user has 128 inotify instances, shared with all that runs on the machine."""
_SHELL: Final = ("sh",)
_COMMANDS: Final = (
    "cat", "chmod", "cp", "cut", "date", "dd", "df", "dirname", "du", "echo", "env", "expr",
    "false", "grep", "head", "hostname", "id", "install", "ip", "kill", "ln", "ls", "md5sum",
    "mkdir", "mktemp", "mv", "nc", "nl", "od", "ping", "printenv", "printf", "ps", "pwd",
    "readlink", "realpath", "rm", "rmdir", "sed", "seq", "sha256sum", "sleep", "sort", "ss",
    "stat", "stty", "sync", "tail", "tee", "test", "timeout", "touch", "tr", "true", "tty",
    "uname", "uniq", "wc", "whoami", "xargs", "yes", "getent", "curl", "awk", "find", "top",
)  # fmt: skip
_FILES: Final = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
    "nonroot:x:65532:65532:nonroot:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\nnonroot:x:65532:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
_CURL_ENTRY: Final = """#!/bin/sh
# As the image's own: options alone are curl's, anything else is a command.
case "${1-}" in -* | http:* | https:*) set -- curl "$@" ;; esac
exec "$@"
"""
_ENTRY: Final = f"""#!{PYTHON} -IS
import sys
sys.path.insert(0, "{PACKAGES}")
from egress_gateway.cli.main import main
sys.exit(main())
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trees:
    """Folders of the host with the files of each layer."""

    commands: Path
    python: Path
    project: Path
    shipped: Path | None = None

    def items(self) -> Iterator[tuple[str, Path]]:
        """(name of the layer, its folder)."""
        yield "commands", self.commands
        yield "python", self.python
        yield "project", self.project
        if self.shipped:
            yield SHIPPED, self.shipped


def build(project: Path, shipped: Path | None = None) -> Trees:
    """All trees; those that the cache has are taken as they are. ``project``: where our own
    package goes, a folder of the lab; ``shipped``: what runs in its place. Blocks for seconds the
    first time."""
    distributions = _closure(_DISTRIBUTION)
    base = golang.cache() / "lab-images"
    _project(project)
    return Trees(
        commands=_cached(base, "commands", _commands_facts(), _commands),
        python=_cached(base, "python", _python_facts(distributions), _python),
        project=project,
        shipped=shipped,
    )


def _cached(base: Path, name: str, facts: object, fill: Callable[[Path], None]) -> Path:
    digest = hashlib.sha256(json.dumps([_FORMAT, facts]).encode()).hexdigest()[:16]
    return filled(base / f"{name}-{digest}", fill)


def filled(target: Path, fill: Callable[[Path], None]) -> Path:
    """``target``, which ``fill`` makes once for all labs; nobody sees half of it.

    NB: a number of a process tells no two labs apart: each is 1 in a namespace of its own."""
    if target.is_dir():
        return target
    with golang.one_at_a_time(target):
        if target.is_dir():  # another lab was faster
            return target
        fresh = target.with_name(f".{target.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)  # of one that was killed
        fresh.mkdir()
        try:
            fill(fresh)
            fresh.chmod(0o755)
            fresh.rename(target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return target


# -- what a tree is made of, as values that change when it must be made anew


def _commands_facts() -> list[object]:
    return [_identity(path) for path in _found((*_SHELL, *_COMMANDS))] + [_hash_of_programs()]


def _python_facts(distributions: Iterable[importlib.metadata.Distribution]) -> list[object]:
    packages = sorted(f"{d.name}=={d.version}" for d in distributions)
    files = [Path(sys.executable).resolve(), *_ours()]
    return [sys.version, packages, [_identity(path) for path in files], sorted(_FILES.items())]


def _identity(path: Path) -> list[object]:
    found = path.stat()
    return [str(path), found.st_size, found.st_mtime_ns]


def _hash_of_programs() -> str:
    return hashlib.sha256(_nginx_source().read_bytes() + _CURL_ENTRY.encode()).hexdigest()


def _nginx_source() -> Path:
    return Path(programs.__file__).with_name("nginx.py")


def _found(names: Iterable[str]) -> list[Path]:
    """Where the host has programs; those that it lacks are left out."""
    found = (shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin") for name in names)
    return [Path(path) for path in found if path]


def _ours() -> list[Path]:
    """Programs that the agents call."""
    tunnels = wireguard.program()
    return _found(_OURS) + ([tunnels] if tunnels else [])


def _closure(name: str) -> list[importlib.metadata.Distribution]:
    """A distribution and all that it needs at run time, as this environment has them; of ours all
    extras, as an image has them."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [name]
    while waiting:
        key = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if key in found:
            continue
        try:
            distribution = found[key] = importlib.metadata.distribution(key)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another Python or platform
        for requirement in distribution.requires or ():
            if key == _DISTRIBUTION or "extra ==" not in requirement:
                matched = re.match(r"[A-Za-z0-9._-]+", requirement)
                waiting += [matched.group()] if matched else []
    return list(found.values())


# -- making them


def _skeleton(root: Path) -> None:
    for name in ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc/ssl/certs", "root", "run",
                 "proc", "sys", "dev", "tmp", "var/tmp", "opt"):  # fmt: skip
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "var/run").symlink_to("/run")
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    for name, text in _FILES.items():
        (root / name).write_text(text)
    if _CERTIFICATES.exists():
        shutil.copy2(_CERTIFICATES, root / "etc/ssl/certs")


def _commands(root: Path) -> None:
    """A shell, curl, the usual commands; Python for the web server."""
    _skeleton(root)
    programs = _found((*_SHELL, *_COMMANDS))
    for program in programs:
        shutil.copy2(program.resolve(), root / "usr/bin" / program.name)
    _interpreter(root)
    _link_libraries(root, [root / "usr/bin" / p.name for p in programs])
    _write_program(root, NGINX, _nginx_source().read_text())
    _write_program(root, CURL, _CURL_ENTRY)


def _python(root: Path) -> None:
    """What the Containerfile installs below our package."""
    _skeleton(root)
    _interpreter(root)
    for program in _ours():
        shutil.copy2(program.resolve(), root / "usr/bin" / program.name)
    packages = root / PACKAGES.lstrip("/")
    for distribution in _closure(_DISTRIBUTION):
        if distribution.name != _DISTRIBUTION:
            _copy_distribution(distribution, packages)
    _write_program(root, COMMAND, _ENTRY)
    binaries = [*packages.rglob("*.so"), *(root / "usr/bin").iterdir()]
    _link_libraries(root, binaries, extra=_LIBRARIES)


def _project(root: Path) -> None:
    """Our package with ``deploy/``, as a wheel would have it, compiled."""
    shutil.rmtree(root, ignore_errors=True)
    package = root / PACKAGES.lstrip("/") / "egress_gateway"
    shutil.copytree(Path(egress_gateway.__file__).parent, package)
    if not (package / "_deploy").exists():
        shutil.copytree(deploy_dir(), package / "_deploy")
    compileall.compile_dir(str(package), quiet=2, stripdir=str(root), prependdir="/")
    _readable(root)


def _interpreter(root: Path) -> None:
    home = root / PYTHON.lstrip("/")
    home.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(Path(sys.executable).resolve(), home)
    library = Path(sysconfig.get_path("stdlib"))
    target = root / "opt/python/lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"

    def unwanted(_: str, names: list[str]) -> set[str]:
        return {name for name in names if name in _SKIPPED or name.startswith("config-")}

    shutil.copytree(library, target, ignore=unwanted, ignore_dangling_symlinks=True)
    modules = [home, *target.rglob("*.so")]
    _link_libraries(root, modules)
    _readable(root / "opt")


def _copy_distribution(distribution: importlib.metadata.Distribution, packages: Path) -> None:
    for file in distribution.files or ():
        if file.parts[0] == "..":
            continue
        source = Path(str(file.locate()))
        target = packages.joinpath(*file.parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_file():
            shutil.copy2(source, target)
        if source.suffix == ".py":
            compiled = Path(sysconfig_cache(source))
            if compiled.is_file():
                cache = target.parent / "__pycache__"
                cache.mkdir(exist_ok=True)
                shutil.copy2(compiled, cache)


def sysconfig_cache(source: Path) -> str:
    """Where this Python keeps a module's bytecode."""
    tag = sys.implementation.cache_tag
    return f"{source.parent}/__pycache__/{source.stem}.{tag}.pyc"


def _link_libraries(root: Path, binaries: Iterable[Path], extra: Iterable[str] = ()) -> None:
    """Copies the shared libraries that ``binaries`` name (ldd), and those of ``extra``. A library
    from outside the system's folders goes where the image's loader looks by itself."""
    found = _libraries([str(path) for path in binaries])
    system = next(Path(p).parent for n, p in found.items() if n.startswith("libc.so"))
    named = [path for name in extra for path in [system / name] if path.exists()]
    found |= {path.name: str(path) for path in named}
    found |= _libraries([str(path) for path in named])
    for name, path in found.items():
        folder = Path(path).parent
        inside = folder if str(folder).startswith(("/lib", "/usr/lib")) else system
        target = root / str(inside).lstrip("/") / Path(name).name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy2(Path(path).resolve(), target)


def _libraries(binaries: list[str]) -> dict[str, str]:
    """Name and path of every library that the dynamic linker would load for ``binaries``."""
    if not binaries:
        return {}
    shown = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    found = {}
    for line in shown.splitlines():
        name, arrow, path = line.strip().partition(" => ")
        target = path.partition(" (")[0] if arrow else name.partition(" (")[0]
        if target.startswith("/") and not target.endswith(":"):
            found[Path(name.partition(" (")[0]).name if arrow else target] = target
    return found


def _write_program(root: Path, path: str, text: str) -> None:
    target = root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    target.chmod(0o755)


def _readable(root: Path) -> None:
    """Every user of an image may read it; on the host some of it lies in closed folders."""
    for folder, _, names in os.walk(root):
        os.chmod(folder, 0o755)  # noqa: S103
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
