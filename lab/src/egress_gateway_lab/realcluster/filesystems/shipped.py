"""The image that users get, as the image of our components in labs on real Kubernetes.

Its archive (``make image``) is unpacked once, into the user's cache under its digest, and its
configuration is taken over: entry point, environment, user. Nodes show the files read-only,
as they do with every image of the lab, so five nodes hold them once and start as soon as without.
Which image: ``LAB_IMAGE``, else the one that was built of this very commit, else none, and
components run from the checkout::

    LAB_IMAGE=dist/static-egress-gateway-0.1.0-amd64.oci.tar   an archive
    LAB_IMAGE=checkout                                         none
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import egress_gateway
from egress_gateway_lab import golang
from egress_gateway_lab.realcluster.filesystems.images import ARCHITECTURES, Image
from egress_gateway_lab.realcluster.filesystems.trees import SHIPPED, filled

VARIABLE: Final = "LAB_IMAGE"
REVISION: Final = "org.opencontainers.image.revision"
"""The commit that an image was built of
(https://github.com/opencontainers/image-spec/blob/main/annotations.md)."""
_CHECKOUT: Final = "checkout"


class NotAnImage(Exception):
    """What was given is no image for this machine; the text says what it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """An archive's image: where it is, its digest, its configuration."""

    archive: Path
    digest: str
    config: dict[str, Any]

    def image(self) -> Image:
        given = self.config["config"]
        return Image(
            layers=(SHIPPED,),
            entrypoint=tuple(given.get("Entrypoint", ())),
            command=tuple(given.get("Cmd", ())),
            env=dict(word.split("=", 1) for word in given.get("Env", ())),
            user=given.get("User", ""),
        )


def chosen() -> Shipped | None:
    """The image to use; None: the checkout. Raises ``NotAnImage`` for an impossible choice."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted == _CHECKOUT:
        return None
    if wanted:
        return read(Path(wanted).absolute())
    root = Path(egress_gateway.__file__).parents[2]
    for archive in sorted((root / "dist").glob(f"*-{this_architecture()}.oci.tar")):
        found = read(archive)
        if found.config["config"].get("Labels", {}).get(REVISION) == _revision(root):
            return found
    return None


def describe() -> str:
    """One line: what the components of a lab on real Kubernetes are."""
    found = chosen()
    if found:
        return f"components: the image {found.digest[:19]} ({found.archive.name})"
    if os.environ.get(VARIABLE) == _CHECKOUT:
        return "components: this checkout"
    return "components: this checkout, for there is no image of this commit (`make image`)"


def read(archive: Path) -> Shipped:
    """Raises ``NotAnImage``."""
    try:
        with tarfile.open(archive) as tar:
            digest, _, config = _documents(tar)
        architecture, _ = config["architecture"], config["config"]
    except (
        OSError,
        tarfile.TarError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        # Whatever JSON it holds, or none.
        why = str(error).partition("\n")[0]
        raise NotAnImage(f"{VARIABLE}: {archive} is no OCI archive: {why}") from error
    if architecture != this_architecture():
        raise NotAnImage(
            f"{VARIABLE}: {archive} is of {architecture}, this machine is {this_architecture()}"
        )
    return Shipped(archive=archive, digest=digest, config=config)


def tree(shipped: Shipped) -> Path:
    """The image's files, unpacked once. Raises ``NotAnImage`` if a blob is not what its digest
    says."""

    def fill(fresh: Path) -> None:
        try:
            with tarfile.open(shipped.archive) as tar:
                for layer in _layers(tar):
                    layer.extractall(fresh, **_as_it_is())  # noqa: S202 (links are meant)
        except (tarfile.TarError, KeyError, ValueError) as error:
            raise NotAnImage(f"{VARIABLE}: {shipped.archive}: {error}") from error

    name = f"{SHIPPED}-{shipped.digest.removeprefix('sha256:')[:16]}"
    return filled(golang.cache() / "lab-images" / name, fill)


def _layers(tar: tarfile.TarFile) -> Iterator[tarfile.TarFile]:
    for layer in _documents(tar)[1]["layers"]:
        data = gzip.decompress(_blob(tar, layer["digest"]))
        with tarfile.open(fileobj=io.BytesIO(data)) as opened:
            yield opened


def _documents(tar: tarfile.TarFile) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(digest, manifest, configuration) of an archive's one image."""
    (entry,) = json.loads(_read(tar, "index.json"))["manifests"]
    manifest = json.loads(_blob(tar, entry["digest"]))
    return entry["digest"], manifest, json.loads(_blob(tar, manifest["config"]["digest"]))


def _blob(tar: tarfile.TarFile, digest: str) -> bytes:
    """Raises ``ValueError`` for a blob that is not what its digest says."""
    data = _read(tar, "blobs/" + digest.replace(":", "/"))
    if digest != "sha256:" + hashlib.sha256(data).hexdigest():
        raise ValueError(f"{digest} is damaged")
    return data


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    opened = tar.extractfile(name)
    if opened is None:
        raise ValueError(f"{name} is no file")
    return opened.read()


def _as_it_is() -> dict[str, Any]:
    """Debian's Python 3.11.2 knows no filters yet."""
    return {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}


def this_architecture() -> str:
    return ARCHITECTURES.get(platform.machine(), platform.machine())


def _revision(root: Path) -> str:
    """The checkout's commit; nothing where it is none, or is changed: it is of no commit then."""
    try:
        changed = _git(root, "status", "--porcelain", "--", "src", "deploy", "uv.lock")
        return "" if changed else _git(root, "rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-c", "safe.directory=*", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()
