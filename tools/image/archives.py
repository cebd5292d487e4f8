"""OCI archives: what is in one, whether two are the same, and writing one in a fixed order."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

_INDEX = "index.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """An image as its archive has it; sizes in bytes."""

    path: Path
    digest: str
    compressed: int
    layers: int
    architecture: str
    user: str
    entrypoint: tuple[str, ...]
    debian: tuple[str, ...]
    python: tuple[str, ...]
    """Packages in it, each ``name version``."""
    purls: tuple[str, ...]
    """Package URLs of what pip does not know of it: of Debian and Go."""
    largest: tuple[tuple[str, int], ...]
    """Folders that hold most, with what is below them."""
    unpacked: int

    def shown(self) -> dict[str, Any]:
        return {
            "archive": str(self.path),
            "digest": self.digest,
            "compressedBytes": self.compressed,
            "unpackedBytes": self.unpacked,
            "layers": self.layers,
            "architecture": self.architecture,
            "user": self.user,
            "entrypoint": list(self.entrypoint),
            "debian": list(self.debian),
            "python": list(self.python),
        }

    def text(self) -> str:
        sizes = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in self.largest)
        parts = f"{self.compressed / 1e6:.0f} MB in {self.layers} layers"
        return "\n".join(
            (
                f"digest      {self.digest}",
                f"compressed  {parts}; unpacked {self.unpacked / 1e6:.0f} MB: {sizes}",
                f"of Debian   {len(self.debian)} packages: {', '.join(self.debian)}",
                f"of PyPI     {len(self.python)} packages: {', '.join(self.python)}",
                f"runs        {' '.join(self.entrypoint)} as {self.user} on {self.architecture}",
            )
        )


def settle(source: Path, target: Path, *, epoch: int, name: str) -> None:
    """Writes the archive ``source`` anew, sorted, with one time, without leftovers. Who loads it
    gets an image called ``name``."""
    with tarfile.open(source) as old, tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            if not member.isreg():
                continue
            content = _read(old, member.name)
            if member.name == _INDEX:
                content = _called(json.loads(content), name)
            fixed = tarfile.TarInfo(member.name)
            fixed.size, fixed.mtime, fixed.mode = len(content), epoch, 0o644
            new.addfile(fixed, io.BytesIO(content))


def _called(index: dict[str, Any], name: str) -> bytes:
    """podman asks the first, containerd the second; a node's containerd finds it by the full name
    where a pod has ``name``."""
    (entry,) = index["manifests"]
    entry["annotations"] = {
        "org.opencontainers.image.ref.name": name,
        "io.containerd.image.name": f"docker.io/library/{name}",
    }
    return json.dumps(index, sort_keys=True).encode()


def manifest(tar: tarfile.TarFile) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(digest, manifest, configuration) of the one image of an archive."""
    index = json.loads(_read(tar, _INDEX))
    (entry,) = index["manifests"]
    found = json.loads(_blob(tar, entry["digest"]))
    return entry["digest"], found, json.loads(_blob(tar, found["config"]["digest"]))


def layers(tar: tarfile.TarFile) -> Iterator[tarfile.TarFile]:
    """Each layer, the lowest first."""
    for layer in manifest(tar)[1]["layers"]:
        data = gzip.decompress(_blob(tar, layer["digest"]))
        with tarfile.open(fileobj=io.BytesIO(data)) as opened:
            yield opened


def files(path: Path) -> dict[str, tuple[str, int]]:
    """What a container of the image sees: path → (digest of everything about it, bytes)."""
    found: dict[str, tuple[str, int]] = {}
    with tarfile.open(path) as tar:
        for layer in layers(tar):
            for member in layer:
                found[member.name.strip("/")] = (_facts(layer, member), member.size)
    return found


def _facts(layer: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    opened = layer.extractfile(member) if member.isreg() else None
    content = hashlib.sha256(opened.read()).hexdigest()[:16] if opened else member.linkname
    return f"{member.type!r} {member.mode:o} {member.uid}:{member.gid} {member.mtime} {content}"


def differences(first: Path, second: Path) -> list[str]:
    """What two images have that is not the same, in words."""
    one, other = files(first), files(second)
    lines = [
        f"{name}: {one.get(name, ('absent', 0))[0]} → {other.get(name, ('absent', 0))[0]}"
        for name in sorted(one.keys() | other.keys())
        if one.get(name, ("", 0))[0] != other.get(name, ("", 0))[0]
    ]
    with tarfile.open(first) as a, tarfile.open(second) as b:
        here, there = manifest(a)[2], manifest(b)[2]
    keys = here.keys() | there.keys()
    lines += [
        f"configuration, {key}: {here.get(key)} → {there.get(key)}"
        for key in sorted(keys)
        if here.get(key) != there.get(key)
    ]
    return lines or ["nothing but the order or the compression of layers"]


def read(path: Path) -> Archive:
    with tarfile.open(path) as tar:
        digest, found, config = manifest(tar)
        debian, python, golang = (sorted(set(found)) for found in _contents(tar))
    seen = files(path)
    return Archive(
        path=path,
        digest=digest,
        compressed=sum(layer["size"] for layer in found["layers"]),
        layers=len(found["layers"]),
        architecture=config["architecture"],
        user=config["config"].get("User", ""),
        entrypoint=tuple(config["config"].get("Entrypoint", ())),
        debian=tuple(f"{name} {version}" for name, version, _ in debian),
        python=tuple(f"{name} {version}" for name, version in python),
        purls=(
            *(_purl(*one, architecture=config["architecture"]) for one in debian),
            *(f"pkg:golang/{name}@{version}" for name, version in golang),
        ),
        largest=_largest(seen),
        unpacked=sum(size for _, size in seen.values()),
    )


def _largest(seen: dict[str, tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    sizes: dict[str, int] = {}
    for name, (_, size) in seen.items():
        parts = name.split("/")
        depth = 6 if name.startswith("opt/") else 3
        place = "/".join(parts[: min(depth, len(parts) - 1)])
        sizes[place] = sizes.get(place, 0) + size
    return tuple(sorted(sizes.items(), key=lambda item: -item[1])[:6])


def _contents(tar: tarfile.TarFile) -> tuple[list[tuple[str, ...]], ...]:
    """Debian's packages (name, version, source), Python's and Go's (name, version)."""
    debian: list[tuple[str, ...]] = []
    python: list[tuple[str, ...]] = []
    golang: list[tuple[str, ...]] = []
    for layer in layers(tar):
        for member in filter(tarfile.TarInfo.isreg, layer):
            if re.search(r"var/lib/dpkg/status\.d/[^/]+$|var/lib/dpkg/status$", member.name):
                for found in map(_fields, _text(layer, member).split("\n\n")):
                    if "Package" in found:
                        source = found.get("Source", found["Package"]).partition(" ")[0]
                        debian.append((found["Package"], found["Version"], source))
            elif member.name.endswith(".dist-info/METADATA"):
                found = _fields(_text(layer, member))
                python.append((found["Name"], found["Version"]))
            elif member.name.rpartition("/")[2] == "wireguard-go":
                golang += _modules(_text(layer, member))
    return debian, python, golang


def _fields(text: str) -> dict[str, str]:
    """The first value of each field of a stanza."""
    return dict(re.findall(r"^(\w+): *(.*?)\s*$", text, re.MULTILINE)[::-1])


def _modules(program: str) -> list[tuple[str, str]]:
    """(name, version) of what a program of Go was built of, its standard library first
    (https://pkg.go.dev/debug/buildinfo)."""
    library = re.search(r"Go buildinf:.{,40}?go(1\.[\d.]+)", program, re.DOTALL)
    found = re.findall(r"^(?:mod|dep)\t(\S+)\t(v\S+)", program, re.MULTILINE)
    return [("stdlib", library[1]), *found] if library else found


def _purl(name: str, version: str, source: str, *, architecture: str) -> str:
    """As scanners look it up: advisories of Debian are by release and source package
    (https://github.com/package-url/purl-spec)."""
    known = f"arch={architecture}&distro=debian-12&upstream={quote(source, safe='')}"
    return f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe='')}?{known}"


def _text(layer: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    opened = layer.extractfile(member)
    return opened.read().decode(errors="replace") if opened else ""


def _blob(tar: tarfile.TarFile, digest: str) -> bytes:
    return _read(tar, "blobs/" + digest.replace(":", "/"))


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    opened = tar.extractfile(name)
    assert opened is not None
    return opened.read()
