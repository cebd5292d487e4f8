"""What a release is made of beside wheels and images: chart, manifests, SBOMs and notes.

All of them are functions of the checkout: one time, one order, no names of users or machines.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

_CHART_CONFIG = "application/vnd.cncf.helm.config.v1+json"
_CHART_LAYER = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def packed(files: Mapping[str, bytes], *, epoch: int) -> bytes:
    """A .tar.gz of ``files`` (path in it → content)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(files[name]), epoch, 0o644
            tar.addfile(member, io.BytesIO(files[name]))
    return gzip.compress(buffer.getvalue(), mtime=epoch)


def below(folder: Path, prefix: str, *, skipped: Iterable[str] = ()) -> dict[str, bytes]:
    """The files of a folder under another name; ``skipped``: patterns of names."""
    rules = [*skipped, "__pycache__", ".*"]
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        parts = path.relative_to(folder).parts
        if not any(fnmatch(part, rule) for part in parts for rule in rules):
            found["/".join((prefix, *parts))] = path.read_bytes()
    return found


def chart(folder: Path, *, epoch: int) -> bytes:
    """As ``helm package`` makes it, but for its clock."""
    ignored = (folder / ".helmignore").read_text().splitlines()
    rules = [line.strip("/") for line in ignored if line and not line.startswith("#")]
    return packed(below(folder, folder.name, skipped=rules), epoch=epoch)


def chart_artefact(folder: Path, package: bytes, *, epoch: int) -> bytes:
    """The chart as an OCI archive, as registries hold it (https://helm.sh/docs/topics/registries)."""
    described = yaml.safe_load((folder / "Chart.yaml").read_text())
    config = json.dumps(described, sort_keys=True).encode()
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        found = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{found}"] = data
        return {"mediaType": kind, "digest": f"sha256:{found}", "size": len(data)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": blob(config, _CHART_CONFIG),
        "layers": [blob(package, _CHART_LAYER)],
        "annotations": {
            "org.opencontainers.image.title": described["name"],
            "org.opencontainers.image.version": described["version"],
        },
    }
    entry = blob(json.dumps(manifest, sort_keys=True).encode(), _MANIFEST)
    entry["annotations"] = {"org.opencontainers.image.ref.name": described["version"]}
    index = {"schemaVersion": 2, "manifests": [entry]}
    blobs["index.json"] = json.dumps(index, sort_keys=True).encode()
    blobs["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    return gzip.decompress(packed(blobs, epoch=epoch))


def notes(changelog: str, version: str) -> str:
    """The section of ``version``, or of what is not released yet. Raises ``ValueError``."""
    for wanted in (version, "Unreleased"):
        found = re.search(
            rf"^## \[{re.escape(wanted)}\][^\n]*\n(.*?)(?=^## \[|\Z)", changelog, re.M | re.S
        )
        if found and found[1].strip():
            return f"# {version}\n\n{found[1].strip()}\n"
    raise ValueError(f"CHANGELOG.md has no section of {version}")


def sbom(exported: str, *, epoch: int, more: Sequence[Mapping[str, str]] = ()) -> bytes:
    """uv's CycloneDX document of the locked packages, with components that pip does not know; its
    time and its number follow from its contents."""
    document = json.loads(exported)
    document.setdefault("components", []).extend(dict(one) for one in more)
    document.get("metadata", {}).pop("timestamp", None)
    document.pop("serialNumber", None)
    text = json.dumps(document, sort_keys=True)
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, text)}"
    when = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    document.setdefault("metadata", {})["timestamp"] = when
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def components(purls: Iterable[str]) -> list[dict[str, str]]:
    """Components of package URLs of Debian and Go."""
    found = []
    for purl in purls:
        path, _, rest = purl.partition("@")
        name = unquote(path.removeprefix("pkg:deb/debian/").removeprefix("pkg:golang/"))
        version = unquote(rest.partition("?")[0])
        found.append({"type": "library", "name": name, "version": version, "purl": purl,
                      "bom-ref": purl})  # fmt: skip
    return found
