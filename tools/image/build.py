#!/usr/bin/env python3
"""`make image`: the image of all components, from Debian's packages, PyPI and the Go module proxy.

No registry is needed: Debian's packages are fetched by mmdebstrap, the final image's base is made
of their files (``runtime``), and buildah follows deploy/Containerfile. What is left is an OCI
archive in dist/, and its digest, size and contents on standard output (``archives``); then its
program runs once in a container that may open 1,024 files (``containers``). Two builds of one
commit on one day's packages are the same: all times in the image are 0, whichever commit's build
made a layer that is kept, and the archive is written in a fixed order. Images, layers and packages
stay in the user's cache; nothing else is touched.

    build.py [--platform linux/arm64] [--base IMAGE] [--twice] [--no-run] [--output text|json]

``--base`` takes an image of a registry, as the Containerfile would. ``--twice`` builds once more
without anything that the first time left, and compares. Needs root, mmdebstrap and buildah. One
line on standard error and status 1 where that is impossible.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from image import archives, containers, runtime
from image.archives import Archive

ROOT = Path(__file__).resolve().parents[2]
SUITE = "bookworm"
PACKAGES = ("ca-certificates", "libnftables1", "python3")
"""What the final image needs of Debian, as deploy/Containerfile has it (a test holds that)."""
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
NAME = "static-egress-gateway"
_HOST_FILES = ("/etc/ssl/certs", "/etc/pip.conf")
"""How this machine reaches PyPI; shown to the build's steps, never part of the image."""
_TIMELESS = ("--timestamp", "0")
"""A layer that another commit's build left is taken as it is, with that build's time. The
image that is built is told of which commit it is. (buildah's ``build --label`` writes a label into
every step, and a step's history names the one before: on kept layers the image was another one. A
step ``LABEL $ARGUMENT`` is kept whatever the argument is.)"""
_APART = ("unshare", "--mount", "--propagation=private", "--")
"""What buildah mounts ends with it: 1.28 leaves a mount for each build that copies from a stage."""
_STORE = "steps"
"""Not the folders "store" and "layers" of before, whose layers tell of commits."""


class ImageError(Exception):
    """The image cannot be built; the text says why, in one line."""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> str:
    """Standard output of ``command``. Raises ``ImageError`` with its last words."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, **(env or {})}
        )
    except FileNotFoundError as error:
        raise ImageError(f"{command[0]} is missing: apt-get install {command[0]}") from error
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.strip()][-12:]
        shown = " ".join(command).removeprefix(" ".join(_APART)).strip()
        raise ImageError(f"{shown[:60]} … failed:\n" + "\n".join(words))
    return done.stdout


def commit_time() -> int:
    """Seconds since the epoch: when the checkout's commit was made."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return int(given or _git("log", "-1", "--format=%ct"))


def revision() -> str:
    """The commit of what is built; it says so if something of it is changed."""
    changed = _git("status", "--porcelain", "--", "src", "deploy", "uv.lock", "tools/wireguard")
    return _git("rev-parse", "HEAD") + ("-changed" if changed else "")


def _git(*arguments: str) -> str:
    return run(["git", "-c", "safe.directory=*", "-C", str(ROOT), *arguments]).strip()


def version() -> str:
    for line in (ROOT / "pyproject.toml").read_text().splitlines():
        if line.startswith("version"):
            return line.split('"')[1]
    raise ImageError("pyproject.toml names no version")


class Builder:
    """buildah with a store of its own, so that no other images are seen or touched."""

    def __init__(self, cache: Path, epoch: int) -> None:
        self._cache = cache
        self._epoch = epoch
        self._revision = revision()
        cache.mkdir(parents=True, exist_ok=True)
        self._policy = cache / "policy.json"
        self._policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}\n')

    def buildah(self, verb: str, *arguments: str) -> str:
        store = ["--root", str(self._cache / _STORE), "--runroot", str(self._cache / "run")]
        return run([*_APART, "buildah", *store, verb, *arguments]).strip()

    def has(self, name: str) -> bool:
        return bool(self.buildah("images", "--quiet", "--filter", f"reference={name}"))

    def base(self, architecture: str, *, fresh: bool = False) -> str:
        """The name of an installed Debian to build in, made once a day."""
        name = f"localhost/debian:{SUITE}-{architecture}"
        made = f"{name}-{time.strftime('%Y%m%d')}"
        if self.has(made) and self.has(name) and not fresh:
            return name
        say(f"base: Debian {SUITE} ({architecture}) from its packages, a minute …")
        with tempfile.TemporaryDirectory(dir=self._cache) as scratch:
            tar = f"{scratch}/base.tar"
            command = ["mmdebstrap", "--quiet", "--variant=minbase", "--format=tar"]
            command += [f"--architectures={architecture}", f"--include={','.join(PACKAGES)}"]
            run([*command, SUITE, tar], env={"SOURCE_DATE_EPOCH": "0"})
            self._take(tar, name, made)
        return name

    def runtime(self, architecture: str, *, fresh: bool = False) -> str:
        """The name of the final image's base, made once a day."""
        name = f"localhost/{NAME}-runtime:{architecture}"
        how = hashlib.sha256(Path(runtime.__file__).read_bytes()).hexdigest()[:8]
        made = f"{name}-{time.strftime('%Y%m%d')}-{how}"
        if self.has(made) and self.has(name) and not fresh:
            return name
        say(f"runtime: files of Debian's packages ({architecture}), half a minute …")
        with tempfile.TemporaryDirectory(dir=self._cache) as scratch:
            debs = Path(scratch, "debs")
            debs.mkdir()
            command = ["mmdebstrap", "--quiet", "--variant=extract", "--format=null"]
            command += [f"--architectures={architecture}"]
            command += [f"--include={','.join(runtime.WANTED)}"]
            command += [f'--extract-hook=cp "$1"/var/cache/apt/archives/*.deb {debs}/']
            run([*command, SUITE])
            runtime.build(debs, Path(scratch, "runtime.tar"), epoch=0)
            self._take(f"{scratch}/runtime.tar", name, made)
        return name

    def _take(self, tar: str, *names: str) -> None:
        """The tree as an image of one layer. It is called this machine's whatever it holds, for
        builds of buildah 1.28 find no other."""
        container = self.buildah("from", "scratch")
        try:
            self.buildah("add", "--quiet", container, tar, "/")
            self.buildah("commit", "--quiet", *_TIMELESS, container, names[0])
            for name in names[1:]:
                self.buildah("tag", names[0], name)
        finally:
            self.buildah("rm", container)

    def build(self, base: str | None, architecture: str, *, fresh: bool = False) -> str:
        """The image's name. The build's own steps run in chroots: no daemon, no runtime."""
        own = ARCHITECTURES[platform.machine()]
        name = f"localhost/{NAME}:{version()}-{architecture}"
        bases = [f"BASE={base or self.base(own, fresh=fresh)}"]
        if base is None:
            bases.append(f"RUNTIME={self.runtime(architecture, fresh=fresh)}")
        say(f"image: {name}, some minutes the first time …")
        shown = [f"--volume={path}:{path}:ro" for path in _HOST_FILES if Path(path).exists()]
        arguments = [*bases, f"TARGETARCH={architecture}"]
        self.buildah(
            "build",
            *("--quiet", "--layers", "--isolation", "chroot"),
            *(["--pull-never"] if base is None else []),
            *(["--no-cache"] if fresh else []),
            *("--signature-policy", str(self._policy)),
            *("--platform", f"linux/{own}", *_TIMELESS),
            *(word for argument in arguments for word in ("--build-arg", argument)),
            *shown,
            *("--file", str(ROOT / "deploy/Containerfile"), "--tag", name, str(ROOT)),
        )
        self._finish(name, ["--arch", architecture] if architecture != own else [])
        return name

    def _finish(self, name: str, options: Sequence[str]) -> None:
        """Writes of which commit the image is, and ``options``: nothing of an image for another
        architecture ran in its build, so only its name says for what it is."""
        created = datetime.fromtimestamp(self._epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for key, value in (
            ("created", created),
            ("revision", self._revision),
            ("version", version()),
        ):
            options = [*options, "--label", f"org.opencontainers.image.{key}={value}"]
        container = self.buildah("from", "--pull-never", name)
        try:
            self.buildah("config", *options, container)
            self.buildah("commit", "--quiet", *_TIMELESS, container, name)
        finally:
            self.buildah("rm", container)

    def export(self, image: str, target: Path) -> None:
        """Writes ``image`` as an OCI archive whose bytes follow from its contents."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._cache) as scratch:
            policy = ("--signature-policy", str(self._policy))
            fresh = Path(scratch, "image.tar")
            self.buildah("push", "--quiet", *policy, image, f"oci-archive:{fresh}")
            archives.settle(fresh, target, epoch=self._epoch, name=f"{NAME}:{version()}")


def made(builder: Builder, base: str | None, architecture: str, target: Path) -> Archive:
    builder.export(builder.build(base, architecture), target)
    return archives.read(target)


def compare(builder: Builder, first: Archive, base: str | None) -> None:
    """Builds once more, from nothing. Raises ``ImageError`` that says what differs."""
    say("once more, from nothing …")
    with tempfile.TemporaryDirectory() as scratch:
        again = Path(scratch, "again.tar")
        builder.export(builder.build(base, first.architecture, fresh=True), again)
        second = archives.read(again)
        if first.digest != second.digest:
            differences = archives.differences(first.path, again)
            raise ImageError("two builds differ:\n" + "\n".join(differences[:20]))
        if first.path.read_bytes() != again.read_bytes():
            raise ImageError("two builds have one digest, and their archives differ")


def main() -> int:
    own = ARCHITECTURES.get(platform.machine(), platform.machine())
    parser = argparse.ArgumentParser(description="Builds the image of all components.")
    parser.add_argument("--base", help="any Debian image, in place of one from packages")
    parser.add_argument("--platform", default=f"linux/{own}", help="linux/amd64 or linux/arm64")
    parser.add_argument("--twice", action="store_true", help="build twice and compare")
    parser.add_argument("--no-run", action="store_true", help="do not try its program")
    parser.add_argument("--output", choices=["text", "json"], default="text")
    given = parser.parse_args()
    architecture = given.platform.removeprefix("linux/")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    target = ROOT / "dist" / f"{NAME}-{version()}-{architecture}.oci.tar"
    try:
        if os.geteuid():
            raise ImageError("building the image needs root: sudo make image")
        if own not in ARCHITECTURES.values() or architecture not in ARCHITECTURES.values():
            raise ImageError(f"{own} → {architecture}: there are images of amd64 and arm64 only")
        builder = Builder(home / NAME / "image", commit_time())
        found = made(builder, given.base, architecture, target)
        if given.twice:
            compare(builder, found, given.base)
        said = "not tried" if given.no_run else containers.try_version(found, own)
    except (ImageError, containers.ContainerError) as error:
        say(f"image: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    if given.output == "json":
        print(json.dumps(found.shown() | {"tried": said, "twice": given.twice}, indent=2))
        return 0
    print(f"archive     {target.relative_to(ROOT)}")
    print(found.text())
    print(f"tried       {said}")
    if given.twice:
        print("twice       the same, byte by byte")
    return 0


if __name__ == "__main__":
    sys.exit(main())
