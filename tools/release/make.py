"""`make release`: everything that a release consists of, in dist/, made of this very commit.

Wheels and sdists, images of both platforms as OCI archives, the chart as ``.tgz`` and as an OCI
artefact, plain manifests, SBOMs (CycloneDX), notes of the changelog, checksums, and with
``RELEASE_KEY`` (a file with a P-256 key) signatures and a provenance statement. Made twice of one
commit on one day's packages of Debian it is the same, signatures included. docs/install/verify.md
says how a user verifies it.

It is made in a fresh clone: what else lies in the checkout is of no commit. Where that is, whose it
is, and in which zone and language its user lives, shows nowhere.

    make.py [--no-images]

One line on standard error and status 1 where something of it cannot be made.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image import archives
from release import artefacts, signatures

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "dist"
NAME = "static-egress-gateway"
UV = ROOT / ".tools/bin/uv"
KEY = "RELEASE_KEY"
_TOOLS = "tools/image/requirements.txt"
"""Versions of what builds: the image's and the wheels' tools are the same."""
_BUILD = "urn:uuid:47b962ef-ede9-4da1-a10c-976e9ab0daeb"
"""`make release`, as docs/install/verify.md describes it. (SLSA names kinds of builds by URI.)"""
_LOCKS = ("uv.lock", _TOOLS, "tools/wireguard/go.sum")


class ReleaseError(Exception):
    """The release cannot be made; the text says why, in one line."""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def git(folder: Path, *arguments: str) -> str:
    return _run(["git", "-c", "safe.directory=*", *arguments], folder)


def _run(command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> str:
    """Standard output. Raises ``ReleaseError`` with the last lines of what was said."""
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TZ": "UTC", "LC_ALL": "C.UTF-8", **(env or {})},
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise ReleaseError(f"`{' '.join(command[:4])} …` failed: {' | '.join(said[-3:])}")
    return done.stdout.strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A clone of the commit that the release is of."""

    folder: Path
    version: str
    epoch: int
    """When the commit was made, in seconds since 1970."""

    def run(self, *command: str) -> str:
        """Standard output of what is run in it. Raises ``ReleaseError``."""
        told = {"SOURCE_DATE_EPOCH": str(self.epoch), "PYTHONPATH": str(self.folder / "tools")}
        return _run(command, self.folder, told)

    def python_packages(self, target: Path) -> None:
        say("wheels and sdists …")
        build = ("build", "--quiet", "--all-packages", "--build-constraints", _TOOLS)
        self.run(str(UV), *build, "--out-dir", str(target))
        (target / ".gitignore").unlink(missing_ok=True)

    def images(self, target: Path) -> list[archives.Archive]:
        found = []
        for architecture in ("amd64", "arm64"):
            command = (sys.executable, "-m", "image.build", "--output", "json")
            said = json.loads(self.run(*command, "--platform", f"linux/{architecture}"))
            say(f"image of {architecture}: {said['tried']}")
            moved = shutil.move(said["archive"], target / Path(said["archive"]).name)
            found.append(archives.read(Path(moved)))
        return found

    def texts(self) -> dict[str, bytes]:
        """Chart, manifests and notes, by name."""
        chart = self.folder / "deploy/chart" / NAME
        package = artefacts.chart(chart, epoch=self.epoch)
        plain = artefacts.below(self.folder / "deploy/crds", "crds")
        plain |= artefacts.below(self.folder / "deploy/manifests", "manifests")
        changelog = (self.folder / "CHANGELOG.md").read_text()
        return {
            f"{NAME}-{self.version}.tgz": package,
            f"{NAME}-chart-{self.version}.oci.tar": artefacts.chart_artefact(
                chart, package, epoch=self.epoch
            ),
            f"{NAME}-manifests-{self.version}.tar.gz": artefacts.packed(plain, epoch=self.epoch),
            f"release-notes-{self.version}.md": artefacts.notes(changelog, self.version).encode(),
        }

    def sboms(self, built: Sequence[archives.Archive]) -> dict[str, bytes]:
        export = ("export", "--quiet", "--locked", "--no-default-groups", "--package", NAME)
        form = ("--extra", "all", "--format", "cyclonedx1.5", "--preview-features", "sbom-export")
        exported = self.run(str(UV), *export, *form)
        found = {f"{NAME}-{self.version}.cdx.json": artefacts.sbom(exported, epoch=self.epoch)}
        for image in built:
            more = artefacts.components(image.purls)
            document = artefacts.sbom(exported, epoch=self.epoch, more=more)
            found[f"{NAME}-{self.version}-{image.architecture}.oci.cdx.json"] = document
        return found

    def origin(self, builder: str) -> dict[str, Any]:
        """The predicate of the provenance statement: of what, and by whom, this was made."""
        revision = git(self.folder, "rev-parse", "HEAD")
        return {
            "buildDefinition": {
                "buildType": _BUILD,
                "externalParameters": {"command": "make release", "version": self.version},
                "internalParameters": {"SOURCE_DATE_EPOCH": self.epoch},
                "resolvedDependencies": [
                    {"name": "source", "digest": {"gitCommit": revision}},
                    *({"name": name, "digest": {"sha256": signatures.digest(self.folder / name)}}
                      for name in _LOCKS),
                ],
            },
            "runDetails": {
                "builder": {"id": builder},
                "metadata": {"invocationId": revision},
            },
        }  # fmt: skip


def cloned(checkout: Path, scratch: Path) -> Source:
    """The checkout's commit, alone. Raises ``ReleaseError`` where something else is meant."""
    if git(checkout, "status", "--porcelain", "--untracked-files=no"):
        raise ReleaseError("there are changes that are not committed: a release is of a commit")
    # In place of the user's own, which may give files other line ends. NB: git asks this file, and
    # no option, whether to read another user's checkout.
    settings = scratch / "gitconfig"
    settings.write_text("[safe]\n\tdirectory = *\n")
    folder = scratch / NAME
    _run(
        ["git", "clone", "--quiet", "--no-hardlinks", str(checkout), str(folder)],
        scratch,
        {"GIT_CONFIG_GLOBAL": str(settings), "GIT_CONFIG_NOSYSTEM": "1"},
    )
    return Source(
        folder=folder,
        version=_version((folder / "pyproject.toml").read_text()),
        epoch=int(git(folder, "log", "-1", "--format=%ct")),
    )


def _version(project: str) -> str:
    for line in project.splitlines():
        if line.startswith("version"):
            return line.split('"')[1]
    raise ReleaseError("pyproject.toml names no version")


def make(checkout: Path, target: Path, *, with_images: bool) -> None:
    """Fills ``target``. Raises ``ReleaseError``."""
    given = os.environ.get(KEY)
    try:
        private = signatures.key(Path(given).read_bytes()) if given else None
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{KEY}={given}: {error}") from error
    os.umask(0o022)  # others read dist/
    with tempfile.TemporaryDirectory() as scratch:
        source = cloned(checkout, Path(scratch))
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        source.python_packages(target)
        built = source.images(target) if with_images else []
        for name, content in (source.texts() | source.sboms(built)).items():
            (target / name).write_bytes(content)
        builder = signatures.identity(private) if private else ""
        signatures.sign(target, private, source.origin(builder))
    print((target / signatures.SUMS).read_text(), end="")
    if private is None:
        say(f"UNSIGNED: set {KEY} to a file with the releaser's P-256 key")


def main() -> int:
    parser = argparse.ArgumentParser(description="Makes a release of this commit, in dist/.")
    parser.add_argument("--no-images", action="store_true", help="everything else alone")
    given = parser.parse_args()
    try:
        make(ROOT, DIST, with_images=not given.no_images)
    except ReleaseError as error:
        say(f"release: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
