"""Images without a registry's help: what `ctr images import` and a pull are given fits together."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from egress_gateway_lab.realcluster.filesystems import images


def opened(archive: bytes) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar.getmembers():
            content = tar.extractfile(member)
            assert content is not None
            found[member.name] = content.read()
    return found


def test_the_archive_is_a_whole_oci_layout() -> None:
    store = images.Store()
    files = opened(store.archive())
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads(files["index.json"])
    named = {m["annotations"]["io.containerd.image.name"]: m for m in index["manifests"]}
    assert images.PAUSE in named
    assert "docker.io/library/static-egress-gateway:latest" in named

    def blob(descriptor: dict[str, Any]) -> bytes:
        content = files["blobs/" + descriptor["digest"].replace(":", "/")]
        assert len(content) == descriptor["size"]
        assert "sha256:" + hashlib.sha256(content).hexdigest() == descriptor["digest"]
        return content

    for entry in named.values():
        manifest = json.loads(blob(entry))
        config = json.loads(blob(manifest["config"]))
        layers = [blob(layer) for layer in manifest["layers"]]
        digests = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
        assert config["rootfs"]["diff_ids"] == digests
        assert all(list(opened(layer)) == [images.MARK] for layer in layers)


def test_our_image_is_what_the_containerfile_says() -> None:
    ours = images.IMAGES["static-egress-gateway"]
    assert ours.user == "65532:65532"
    assert ours.env["PYTHONDONTWRITEBYTECODE"] == "1"
    assert ours.env["PATH"].startswith("/opt/egress-gateway/bin:")
    assert ours.layers == ("python", "project")


@pytest.mark.parametrize("reference", ["latest", "1.27", "anything"])
async def test_a_pull_of_any_tag_finds_the_same_manifest(reference: str) -> None:
    store = images.Store()
    async with TestClient(TestServer(images.registry(store))) as client:
        assert (await client.get("/v2/")).status == 200
        for method in ("HEAD", "GET"):
            answer = await client.request(
                method, f"/v2/library/nginx/manifests/{reference}?ns=docker.io"
            )
            assert answer.status == 200
            digest = answer.headers["Docker-Content-Digest"]
        manifest = json.loads(await answer.read())
        by_digest = await client.get(f"/v2/library/nginx/manifests/{digest}")
        assert json.loads(await by_digest.read()) == manifest
        config = await client.get(f"/v2/library/nginx/blobs/{manifest['config']['digest']}")
        assert json.loads(await config.read())["os"] == "linux"


async def test_an_unknown_image_is_not_found_and_the_known_ones_are_named() -> None:
    async with TestClient(TestServer(images.registry(images.Store()))) as client:
        answer = await client.get("/v2/library/postgres/manifests/16")
        assert answer.status == 404
        (error,) = (await answer.json())["errors"]
        assert error["code"] == "MANIFEST_UNKNOWN"
        assert "nginx" in error["message"]
