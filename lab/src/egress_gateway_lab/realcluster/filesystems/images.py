"""The lab's images as OCI documents, and the registry that has them.

Manifests and configurations are what any registry serves; each layer is an archive of one small
file that names it. On a node the layer's unpacked folder is then covered by the layer's tree, one
read-only mount of the same files for all nodes (``SNAPSHOTS``): five nodes hold no copies, and a
pod's image is there at once. Containers see an ordinary overlay of ordinary layers.

The registry answers for every tag and every registry's name, so that ``nginx`` with the pull policy
that a missing tag implies (Always) works as it is written in the walk-through. Unknown names are
"not found", as elsewhere.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from egress_gateway_lab.realcluster.filesystems.trees import COMMAND, CURL, NGINX, PYTHON

if TYPE_CHECKING:
    from aiohttp import web

PAUSE: Final = "registry.k8s.io/pause:3.10"
MARK: Final = ".layer"
"""The one file of a layer's archive; its text is the layer's name."""
SNAPSHOTS: Final = "io.containerd.snapshotter.v1.overlayfs/snapshots"
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image as its Containerfile would say it. ``layers`` from the lowest up."""

    layers: tuple[str, ...]
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""


_OURS: Final = Image(
    layers=("python", "project"),
    entrypoint=(COMMAND,),
    command=("--help",),
    env={
        "PATH": f"{PurePosixPath(COMMAND).parent}:{_PATH}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    },
    user="65532:65532",
)
_CURL: Final = Image(layers=("commands",), entrypoint=(CURL,), command=("curl",))
IMAGES: Final[Mapping[str, Image]] = {
    "static-egress-gateway": _OURS,
    "egress-gateway": _OURS,
    "nginx": Image(layers=("commands",), command=(PYTHON, "-I", "-S", NGINX)),
    "curl": _CURL,
    "busybox": Image(layers=("commands",), command=("sh",)),
    "pause": Image(layers=("commands",), entrypoint=("sleep", "infinity")),
}
"""By the last part of the name."""
_PRELOADED: Final = (
    "docker.io/library/static-egress-gateway:latest",
    "docker.io/library/nginx:latest",
    "docker.io/library/curl:latest",
    "docker.io/library/busybox:latest",
    PAUSE,
)


@dataclass(frozen=True, slots=True)
class Blob:
    """A document or archive with its digest."""

    content: bytes
    media_type: str

    @property
    def digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.content).hexdigest()

    def descriptor(self, **more: Any) -> dict[str, Any]:
        return {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": len(self.content),
            **more,
        }


class Store:
    """Every image's blobs; ``ours`` in place of what is taken from the checkout."""

    def __init__(self, ours: Image | None = None) -> None:
        self.manifests: dict[str, Blob] = {}
        self.blobs: dict[str, Blob] = {}
        for name, known in IMAGES.items():
            image = ours if ours and known is _OURS else known
            layers = [_layer(layer) for layer in image.layers]
            config = _document(_config(image, layers), _CONFIG)
            manifest = _document(
                {
                    "schemaVersion": 2,
                    "mediaType": _MANIFEST,
                    "config": config.descriptor(),
                    "layers": [layer.descriptor() for layer in layers],
                },
                _MANIFEST,
            )
            self.manifests[name] = manifest
            self.blobs |= {blob.digest: blob for blob in (*layers, config, manifest)}

    def manifest(self, repository: str, reference: str) -> Blob | None:
        """A manifest by tag (any) or digest."""
        if reference.startswith("sha256:"):
            return self.blobs.get(reference)
        return self.manifests.get(repository.rsplit("/", 1)[-1])

    def archive(self) -> bytes:
        """All images as one OCI archive, for ``ctr images import``."""
        entries = []
        for reference in _PRELOADED:
            manifest = self.manifests[_name(reference)]
            named = {"io.containerd.image.name": reference}
            entries.append(manifest.descriptor(annotations=named))
        index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": entries}
        files = {
            "oci-layout": json.dumps({"imageLayoutVersion": "1.0.0"}).encode(),
            "index.json": json.dumps(index).encode(),
        }
        for digest, blob in self.blobs.items():
            files[f"blobs/{digest.replace(':', '/')}"] = blob.content
        return _archive(files)


def _name(reference: str) -> str:
    return reference.rsplit("/", 1)[-1].split(":")[0]


def _layer(name: str) -> Blob:
    return Blob(_archive({MARK: name.encode()}), _LAYER)


def _document(value: Any, media_type: str) -> Blob:
    return Blob(json.dumps(value, sort_keys=True).encode(), media_type)


def _config(image: Image, layers: Sequence[Blob]) -> dict[str, Any]:
    environment = {"PATH": _PATH, **image.env}
    config: dict[str, Any] = {"Env": [f"{key}={value}" for key, value in environment.items()]}
    if image.entrypoint:
        config["Entrypoint"] = list(image.entrypoint)
    if image.command:
        config["Cmd"] = list(image.command)
    if image.user:
        config["User"] = image.user
    machine = platform.machine()
    return {
        "architecture": ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": config,
        # Uncompressed, so a layer's digest is its diff id.
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        "history": [{"created_by": f"layer {name}"} for name in image.layers],
    }


def _archive(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def registry(store: Store) -> web.Application:
    """The pull half of a registry (OCI distribution specification 1.1, sections 3 and 4)."""
    from aiohttp import web  # takes half of the start of a command that serves nothing

    async def base(_: web.Request) -> web.Response:
        return web.json_response({})

    async def answer(request: web.Request) -> web.Response:
        what, reference = request.match_info["what"], request.match_info["reference"]
        found = (
            store.manifest(request.match_info["name"], reference)
            if what == "manifests"
            else store.blobs.get(reference)
        )
        if found is None:
            known = ", ".join(sorted(IMAGES))
            message = f"the lab's registry has no such image; it has {known}"
            error = {"code": "MANIFEST_UNKNOWN", "message": message}
            return web.json_response({"errors": [error]}, status=404)
        headers = {"Docker-Content-Digest": found.digest, "Content-Type": found.media_type}
        return web.Response(body=found.content, headers=headers)

    app = web.Application()
    app.router.add_get("/v2/", base)
    app.router.add_get(r"/v2/{name:.+}/{what:manifests|blobs}/{reference}", answer)
    return app
