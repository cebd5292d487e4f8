"""`make release`: everything that a release consists of, in dist/, made of this very commit.

Wheels and sdists, images of both platforms as OCI archives, the chart as ``.tgz`` and as an OCI
artefact, plain manifests, SBOMs (CycloneDX), notes of the changelog, checksums, and with
``RELEASE_KEY`` (a file with a P-256 key) signatures and a provenance statement. Made twice of one
commit on one day's packages of Debian it is the same, signatures included. docs/verify.md says how
a user verifies it.

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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from image import archives
from release import artefacts, signatures

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "dist"
NAME = "static-egress-gateway"
CHART = ROOT / "deploy/chart" / NAME
UV = ROOT / ".tools/bin/uv"
KEY = "RELEASE_KEY"


class ReleaseError(Exception):
    """The release cannot be made; the text says why, in one line."""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> str:
    """Standard output. Raises ``ReleaseError`` with the last line of what was said."""
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | (env or {})
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise ReleaseError(f"`{' '.join(command[:4])} …` failed: {' | '.join(said[-3:])}")
    return done.stdout.strip()


def git(*arguments: str) -> str:
    return run(["git", "-c", "safe.directory=*", *arguments])


def python_packages(environment: Mapping[str, str]) -> None:
    say("wheels and sdists …")
    run([str(UV), "build", "--quiet", "--all-packages", "--out-dir", str(DIST)], env=environment)
    (DIST / ".gitignore").unlink(missing_ok=True)


def images(environment: Mapping[str, str]) -> list[archives.Archive]:
    found = []
    for architecture in ("amd64", "arm64"):
        command = [sys.executable, "-m", "image.build", "--output", "json"]
        said = run(
            [*command, "--platform", f"linux/{architecture}"],
            env={**environment, "PYTHONPATH": str(ROOT / "tools")},
        )
        say(f"image of {architecture}: {json.loads(said)['tried']}")
        found.append(archives.read(Path(json.loads(said)["archive"])))
    return found


def chart_and_manifests(version: str, epoch: int) -> None:
    package = artefacts.chart(CHART, epoch=epoch)
    _write(f"{NAME}-{version}.tgz", package)
    _write(
        f"{NAME}-chart-{version}.oci.tar",
        artefacts.chart_artefact(CHART, package, epoch=epoch),
    )
    plain = artefacts.below(ROOT / "deploy/crds", "crds")
    plain |= artefacts.below(ROOT / "deploy/manifests", "manifests")
    _write(f"{NAME}-manifests-{version}.tar.gz", artefacts.packed(plain, epoch=epoch))
    changelog = (ROOT / "CHANGELOG.md").read_text()
    _write(f"release-notes-{version}.md", artefacts.notes(changelog, version).encode())


def sboms(version: str, epoch: int, built: Sequence[archives.Archive]) -> None:
    command = [str(UV), "export", "--quiet", "--locked", "--no-default-groups", "--package", NAME]
    command += ["--extra", "all", "--format", "cyclonedx1.5", "--preview-features", "sbom-export"]
    exported = run(command)
    _write(f"{NAME}-{version}.cdx.json", artefacts.sbom(exported, epoch=epoch))
    modules = artefacts.golang((ROOT / "tools/wireguard/go.mod").read_text())
    for image in built:
        of_debian = artefacts.debian(image.debian, image.architecture)
        document = artefacts.sbom(exported, epoch=epoch, more=[*of_debian, *modules])
        _write(f"{NAME}-{version}-{image.architecture}.oci.cdx.json", document)


def origin(version: str, epoch: int) -> dict[str, Any]:
    """The predicate of the provenance statement: of what, and by what, this was made."""
    locks = ("uv.lock", "tools/image/requirements.txt", "tools/wireguard/go.sum")
    revision = git("rev-parse", "HEAD")
    return {
        "buildDefinition": {
            "buildType": "https://slsa.dev/container-based-build/v0.1?draft",
            "externalParameters": {"command": "make release", "version": version},
            "internalParameters": {"SOURCE_DATE_EPOCH": epoch},
            "resolvedDependencies": [
                {"name": "source", "digest": {"gitCommit": revision}},
                *({"name": name, "digest": {"sha256": signatures.digest(ROOT / name)}}
                  for name in locks),
            ],
        },
        "runDetails": {"builder": {"id": "make release"}, "metadata": {"invocationId": revision}},
    }  # fmt: skip


def _write(name: str, data: bytes) -> None:
    (DIST / name).write_bytes(data)


def _version() -> str:
    for line in (ROOT / "pyproject.toml").read_text().splitlines():
        if line.startswith("version"):
            return line.split('"')[1]
    raise ReleaseError("pyproject.toml names no version")


def make(*, with_images: bool) -> None:
    """Raises ``ReleaseError``."""
    if git("status", "--porcelain", "--untracked-files=no"):
        raise ReleaseError("there are changes that are not committed: a release is of a commit")
    given = os.environ.get(KEY)
    try:
        private = signatures.key(Path(given).read_bytes()) if given else None
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{KEY}={given}: {error}") from error
    version, epoch = _version(), int(git("log", "-1", "--format=%ct"))
    environment = {"SOURCE_DATE_EPOCH": str(epoch)}
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    python_packages(environment)
    built = images(environment) if with_images else []
    chart_and_manifests(version, epoch)
    sboms(version, epoch, built)
    if private:
        _write("release.pub", signatures.public_pem(private))
    signatures.sign(DIST, private, origin(version, epoch))
    print((DIST / signatures.SUMS).read_text(), end="")
    if private is None:
        say(f"UNSIGNED: set {KEY} to a file with the releaser's P-256 key")


def main() -> int:
    parser = argparse.ArgumentParser(description="Makes a release of this commit, in dist/.")
    parser.add_argument("--no-images", action="store_true", help="everything else alone")
    given = parser.parse_args()
    try:
        make(with_images=not given.no_images)
    except ReleaseError as error:
        say(f"release: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
