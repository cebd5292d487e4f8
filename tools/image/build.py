#!/usr/bin/env python3
"""`make image`: the image of all components, from Debian's packages, PyPI and the Go module proxy.

No registry is needed: the base is made by mmdebstrap and named to deploy/Containerfile, which
buildah follows. What it leaves is an OCI archive in dist/, and its digest, size and contents on
standard output. Two builds of one commit on one day's packages have one digest: every time stamp is
the commit's. Images, layers and the base stay in the user's cache; nothing else is touched.

    tools/image/build.py [--base IMAGE] [--platform linux/amd64] [--output text|json]

``--base`` takes any image of a registry in place of the base made here. Needs root, mmdebstrap and
buildah. One line on standard error and status 1 where that is impossible.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SUITE = "bookworm"
PACKAGES = ("ca-certificates", "libnftables1", "python3")
"""What the final image needs of Debian, as deploy/Containerfile has it (a test holds that)."""
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
NAME = "static-egress-gateway"
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
_KEPT = "/usr/share/doc/*/copyright"
_HOST_FILES = ("/etc/ssl/certs", "/etc/pip.conf")
"""How this machine reaches PyPI; shown to the build's steps, never part of the image."""


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
        raise ImageError(f"{' '.join(command[:3])} … failed:\n" + "\n".join(words))
    return done.stdout


def commit_time() -> int:
    """Seconds since the epoch of the checkout's commit: the time of everything in the image."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return int(given or run(["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]))


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
        cache.mkdir(parents=True, exist_ok=True)
        self._policy = cache / "policy.json"
        self._policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}\n')

    def buildah(self, verb: str, *arguments: str) -> str:
        store = ["--root", str(self._cache / "store"), "--runroot", str(self._cache / "run")]
        return run(["buildah", *store, verb, *arguments]).strip()

    def base(self, architecture: str) -> str:
        """The name of a base of Debian's packages, made once a day."""
        name = f"localhost/debian:{SUITE}-{architecture}-{time.strftime('%Y%m%d')}"
        if self.buildah("images", "--quiet", "--filter", f"reference={name}"):
            return name
        say(f"base: Debian {SUITE} ({architecture}) from its packages, a minute …")
        with tempfile.TemporaryDirectory(dir=self._cache) as scratch:
            tar = f"{scratch}/base.tar"
            rules = [f"--dpkgopt=path-exclude={path}" for path in _LEFT_OUT]
            run(
                [
                    *("mmdebstrap", "--quiet", "--variant=minbase", "--format=tar"),
                    f"--architectures={architecture}",
                    f"--include={','.join(PACKAGES)}",
                    *rules,
                    f"--dpkgopt=path-include={_KEPT}",
                    '--customize-hook=rm -rf "$1"/var/cache/ldconfig "$1"/var/log/*',
                    *(SUITE, tar),
                ],
                env={"SOURCE_DATE_EPOCH": str(self._epoch)},
            )
            container = self.buildah("from", "scratch")
            try:
                self.buildah("add", "--quiet", container, tar, "/")
                self.buildah("config", "--arch", architecture, container)
                self.buildah("commit", "--quiet", "--timestamp", str(self._epoch), container, name)
            finally:
                self.buildah("rm", container)
        return name

    def build(self, base: str, architecture: str) -> str:
        """The image's name. The build's own steps run in chroots: no daemon, no runtime."""
        name = f"localhost/{NAME}:{version()}-{architecture}"
        say(f"image: {name}, some minutes the first time …")
        shown = [f"--volume={path}:{path}:ro" for path in _HOST_FILES if Path(path).exists()]
        self.buildah(
            "build",
            *("--quiet", "--layers", "--isolation", "chroot", "--pull-never"),
            *("--signature-policy", str(self._policy)),
            *("--platform", f"linux/{architecture}", "--timestamp", str(self._epoch)),
            *("--build-arg", f"BASE={base}", "--build-arg", f"TARGETARCH={architecture}"),
            *("--build-arg", f"SOURCE_DATE_EPOCH={self._epoch}"),
            *shown,
            *("--file", str(ROOT / "deploy/Containerfile"), "--tag", name, str(ROOT)),
        )
        return name

    def export(self, image: str, target: Path) -> None:
        """Writes ``image`` as an OCI archive."""
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        policy = ("--signature-policy", str(self._policy))
        self.buildah("push", "--quiet", *policy, image, f"oci-archive:{target}")


def describe(archive: Path) -> dict[str, Any]:
    """Digest, compressed bytes and contents of an OCI archive."""
    with tarfile.open(archive) as tar:

        def blob(digest: str) -> Any:
            member = tar.extractfile("blobs/" + digest.replace(":", "/"))
            assert member is not None
            return json.load(member)

        index = tar.extractfile("index.json")
        assert index is not None
        (entry,) = json.load(index)["manifests"]
        manifest = blob(entry["digest"])
        config = blob(manifest["config"]["digest"])
    return {
        "archive": str(archive),
        "digest": entry["digest"],
        "compressedBytes": sum(layer["size"] for layer in manifest["layers"]),
        "layers": len(manifest["layers"]),
        "architecture": config["architecture"],
        "user": config["config"].get("User", ""),
        "entrypoint": config["config"].get("Entrypoint", []),
    }


def main() -> int:
    own = ARCHITECTURES.get(platform.machine(), platform.machine())
    parser = argparse.ArgumentParser(description="Builds the image of all components.")
    parser.add_argument("--base", help="any Debian image, in place of one from packages")
    parser.add_argument("--platform", default=f"linux/{own}", help="linux/amd64 or linux/arm64")
    parser.add_argument("--output", choices=["text", "json"], default="text")
    given = parser.parse_args()
    architecture = given.platform.removeprefix("linux/")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        if os.geteuid():
            raise ImageError("building the image needs root: sudo make image")
        builder = Builder(home / NAME / "image", commit_time())
        image = builder.build(given.base or builder.base(architecture), architecture)
        archive = ROOT / "dist" / f"{NAME}-{version()}-{architecture}.oci.tar"
        builder.export(image, archive)
        found = describe(archive)
    except ImageError as error:
        say(f"image: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    if given.output == "json":
        print(json.dumps(found, indent=2))
        return 0
    print(f"archive     {archive.relative_to(ROOT)}")
    print(f"digest      {found['digest']}")
    print(f"compressed  {found['compressedBytes'] / 1e6:.0f} MB in {found['layers']} layers")
    print(f"runs        {' '.join(found['entrypoint'])} as {found['user']} on {architecture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
