"""What `make image` makes of packages, and how it tells two images apart."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from image import archives, build, containers, runtime

from egress_gateway_lab import host, wireguard
from egress_gateway_lab.realcluster.filesystems import shipped


def deb(folder: Path, name: str, files: Mapping[str, str], *, mode: int = 0o644) -> None:
    """A package of Debian's form."""
    tree = folder / f"{name}.tree"
    for path, text in files.items():
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN").chmod(0o755)  # dpkg-deb takes no other, whatever umask there is
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1.2-3\nArchitecture: all\nMaintainer: n <n@example.org>\n"
        "Description: one\n"
    )
    command = ["dpkg-deb", "--build", "--root-owner-group", str(tree), f"{folder}/{name}.deb"]
    subprocess.run(command, check=True, capture_output=True)


def built(folder: Path, *, epoch: int = 0) -> dict[str, tarfile.TarInfo]:
    runtime.build(folder, folder / "tree.tar", epoch=epoch)
    with tarfile.open(folder / "tree.tar") as tar:
        return {member.name: member for member in tar}


def test_files_are_where_installing_would_have_put_them(tmp_path: Path) -> None:
    deb(tmp_path, "one", {"bin/tool": "t", "lib/x/y.so": "l", "usr/share/doc/one/copyright": "c"})
    deb(tmp_path, "two", {"lib64/ld.so": "l", "sbin/d": "d", "usr/lib/x/z.so": "z"})
    found = built(tmp_path)
    assert {"usr/bin/tool", "usr/lib/x/y.so", "usr/lib64/ld.so", "usr/sbin/d"} <= found.keys()
    assert found["lib"].linkname == "usr/lib"
    assert "usr/share/doc/one/copyright" in found
    assert {"etc/passwd", "etc/ssl/certs/ca-certificates.crt", "tmp"} <= found.keys()
    assert found["tmp"].mode == 0o1777


@pytest.mark.parametrize(
    "path",
    [
        "usr/share/man/man1/tool.1.gz",
        "usr/share/doc/one/README",
        "var/lib/dpkg/info/one.list",
        "etc/apt/apt.conf.d/70debconf",
        "usr/share/perl5/Debconf.pm",
    ],
)
def test_what_nobody_reads_in_a_container_is_left_out(tmp_path: Path, path: str) -> None:
    deb(tmp_path, "one", {path: "x", "usr/bin/tool": "t"})
    found = built(tmp_path)
    assert path not in found
    assert "usr/bin/tool" in found


@pytest.mark.parametrize("name", ["debconf", "perl-base", "dpkg", "tar"])
def test_what_only_scripts_of_packages_call_is_left_out(tmp_path: Path, name: str) -> None:
    deb(tmp_path, name, {"usr/bin/x": "x"})
    found = built(tmp_path)
    assert "usr/bin/x" not in found
    assert f"var/lib/dpkg/status.d/{name}" not in found


def test_scanners_find_the_packages_and_nobody_becomes_somebody_else(tmp_path: Path) -> None:
    deb(tmp_path, "su", {"bin/su": "x"}, mode=0o4755)
    found = built(tmp_path)
    assert "var/lib/dpkg/status.d/su" in found
    assert found["usr/bin/su"].mode == 0o755


def test_the_same_packages_make_the_same_tree_whenever_and_in_whatever_order(
    tmp_path: Path,
) -> None:
    texts = []
    for name, order in (("a", ("one", "two")), ("b", ("two", "one"))):
        folder = tmp_path / name
        folder.mkdir()
        for package in order:
            deb(folder, package, {f"usr/bin/{package}": package})
        members = built(folder, epoch=7)
        assert {member.mtime for member in members.values()} == {7}
        texts.append((folder / "tree.tar").read_bytes())
    assert texts[0] == texts[1]


# -- builds


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
@pytest.mark.parametrize("fresh", [True, False], ids=["from nothing", "with what is kept"])
def test_no_layer_says_by_which_commits_build_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, fresh: bool
) -> None:
    """buildah takes a kept layer as it is: two builds of one commit differed, if the first of them
    found what an earlier commit had left."""
    monkeypatch.setattr(runtime, "build", lambda *_, **__: None)
    monkeypatch.setattr(build, "revision", lambda: "c0ffee")

    def called(epoch: int) -> list[list[str]]:
        commands = []

        def run(command: list[str], *, env: Mapping[str, str] | None = None) -> str:
            words = [str(word).replace(str(tmp_path), "") for word in command]
            # A scratch folder has a name of its own each time.
            words = [re.sub(r"/tmp\w{8}/", "/scratch/", word) for word in words]
            commands.append([*words, *(f"{k}={v}" for k, v in (env or {}).items())])
            return ""

        monkeypatch.setattr(build, "run", run)
        build.Builder(tmp_path, epoch).build(None, architecture, fresh=fresh)
        return commands

    one, other = called(1_000_000_000), called(2_000_000_000)
    pairs = [pair for a, b in zip(one, other, strict=True) for pair in zip(a, b, strict=True)]
    differing = [(a, b) for a, b in pairs if a != b]
    label = "org.opencontainers.image.created="
    assert differing == [(f"{label}2001-09-09T01:46:40Z", f"{label}2033-05-18T03:33:20Z")]
    (told,) = [command for command in one if any(label in word for word in command)]
    assert "config" in told, "of the image that is built, not of each step of the build"


@pytest.mark.root
def test_nothing_that_a_build_mounts_outlives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """buildah left a mount in the user's cache for each build."""
    monkeypatch.setattr(build, "revision", lambda: "c0ffee")
    program = tmp_path / "bin/buildah"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\nmkdir -p /mnt && mount -t tmpfs left /mnt && grep left /proc/mounts\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    said = build.Builder(tmp_path / "cache", 0).buildah("build")
    assert said.startswith("left /mnt tmpfs")
    assert "left /mnt" not in Path("/proc/mounts").read_text()


# -- archives


def layer(files: Mapping[str, str], *, mtime: int = 0) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(text), mtime
            tar.addfile(member, io.BytesIO(text.encode()))
    return gzip.compress(buffer.getvalue(), mtime=0)


def archive(path: Path, *layers: bytes, config: Mapping[str, Any] | None = None) -> Path:
    """An OCI archive."""
    blobs: dict[str, bytes] = {}

    def blob(data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"digest": f"sha256:{digest}", "size": len(data)}

    document = {"architecture": shipped.this_architecture(), "config": dict(config or {})}
    manifest = {
        "config": blob(json.dumps(document).encode()),
        "layers": [blob(one) for one in layers],
    }
    blobs["index.json"] = json.dumps({"manifests": [blob(json.dumps(manifest).encode())]}).encode()
    with tarfile.open(path, "w") as tar:
        for name, data in blobs.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_packages_are_named_as_advisories_name_them(tmp_path: Path) -> None:
    """Debian's by source package and release, Go's as linked in: not all that go.mod requires, and
    the standard library too. A carriage return in metadata is no part of a name."""
    status = "Package: {}\n{}Version: {}\n"
    built = (
        "\npath\tg.example/wg\nmod\tg.example/wg\tv0.1.0\th1:x=\n"
        "dep\tg.example/x/net\tv0.39.0\th1:y=\nbuild\tGOOS=linux\n"
    )
    metadata = "Metadata-Version: 2.4\r\nName: msal\r\nVersion: 1\r\n"
    files = {
        "var/lib/dpkg/status.d/libc6": status.format("libc6", "Source: glibc (2)\n", "1:2.36-9+b1"),
        "var/lib/dpkg/status.d/tar": status.format("tar", "", "1.34"),
        "opt/lib/msal-1.dist-info/METADATA": metadata,
        "opt/bin/wireguard-go": "\0 Go buildinf:\b\2" + "\0" * 16 + "\bgo1.26.6" + built * 2,
    }
    read = archives.read(archive(tmp_path / "image", layer(files)))
    own = shipped.this_architecture()
    assert read.debian == ("libc6 1:2.36-9+b1", "tar 1.34")
    assert read.python == ("msal 1",)
    assert read.purls == (
        f"pkg:deb/debian/libc6@1%3A2.36-9%2Bb1?arch={own}&distro=debian-12&upstream=glibc",
        f"pkg:deb/debian/tar@1.34?arch={own}&distro=debian-12&upstream=tar",
        "pkg:golang/g.example/wg@v0.1.0",
        "pkg:golang/g.example/x/net@v0.39.0",
        "pkg:golang/stdlib@1.26.6",
    )


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"a": "1", "b": "2"}, "b: "),
        ({"a": "other"}, "a: "),
        ({}, "a: "),
    ],
    ids=["more", "changed", "less"],
)
def test_what_differs_is_named(tmp_path: Path, second: dict[str, str], said: str) -> None:
    one = archive(tmp_path / "one", layer({"a": "1"}))
    other = archive(tmp_path / "other", layer(second))
    assert any(line.startswith(said) for line in archives.differences(one, other))


def test_a_time_or_a_setting_that_differs_is_named(tmp_path: Path) -> None:
    one = archive(tmp_path / "one", layer({"a": "1"}))
    later = archive(tmp_path / "later", layer({"a": "1"}, mtime=1))
    set_ = archive(tmp_path / "set", layer({"a": "1"}), config={"User": "0"})
    assert [line[:2] for line in archives.differences(one, later)] == ["a:"]
    assert [line[:21] for line in archives.differences(one, set_)] == ["configuration, config"]


def test_an_archive_is_settled_whatever_wrote_it(tmp_path: Path) -> None:
    one = archive(tmp_path / "one", layer({"a": "1"}), layer({"b": "1"}))
    shuffled = tmp_path / "shuffled"
    with tarfile.open(one) as old, tarfile.open(shuffled, "w") as new:
        for member in reversed(old.getmembers()):
            data = old.extractfile(member)
            member.mtime, member.uid = 99, 7
            new.addfile(member, data)
    for source in (one, shuffled):
        archives.settle(source, tmp_path / f"{source.name}.settled", epoch=5, name="n:1")
    settled = [(tmp_path / f"{n}.settled").read_bytes() for n in ("one", "shuffled")]
    assert settled[0] == settled[1]
    assert archives.read(tmp_path / "one.settled").digest == archives.read(one).digest
    with tarfile.open(tmp_path / "one.settled") as settled_tar:
        index = settled_tar.extractfile("index.json")
        assert index
        (entry,) = json.loads(index.read())["manifests"]
    # podman made "localhost/1:latest" of a version alone, and containerd "import-<today>:1".
    assert entry["annotations"] == {
        "org.opencontainers.image.ref.name": "n:1",
        "io.containerd.image.name": "docker.io/library/n:1",
    }


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_whoever_a_container_runs_as_enters_its_root(tmp_path: Path, umask: int) -> None:
    """With umask 077 `make image` said that its program was not in the image that it had built."""
    made = archive(tmp_path / "image", layer({"a": "1"}))
    before = os.umask(umask)
    try:
        containers.unpack(made, tmp_path / "root")
    finally:
        os.umask(before)
    assert (tmp_path / "root").stat().st_mode & 0o777 == 0o755


# -- the lab takes such an archive


def test_the_lab_runs_what_the_image_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said = {"Entrypoint": ["egress-gateway"], "Env": ["A=b=c"], "User": "7:7", "Cmd": ["--help"]}
    made = archive(tmp_path / "image", layer({"a": "1"}), layer({"a": "2", "b": "3"}), config=said)
    monkeypatch.setenv(shipped.VARIABLE, str(made))
    found = shipped.chosen()
    assert found is not None
    image = found.image()
    assert (image.entrypoint, image.command, image.user) == (
        ("egress-gateway",),
        ("--help",),
        "7:7",
    )
    assert image.env == {"A": "b=c"}
    tree = shipped.tree(found)
    assert (tree / "a").read_text() == "2"
    assert shipped.tree(found) == tree
    assert found.digest[:19] in shipped.describe()


@pytest.mark.parametrize("kind", ["nothing", "no archive", "no image", "another machine's"])
def test_what_is_no_image_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    given = tmp_path / "given"
    if kind == "no archive":
        given.write_text("x")
    elif kind == "no image":
        tarfile.open(given, "w").close()
    elif kind == "another machine's":
        archive(given, layer({}))
        monkeypatch.setattr("platform.machine", lambda: "riscv64")
    monkeypatch.setenv(shipped.VARIABLE, str(given))
    with pytest.raises(shipped.NotAnImage, match=str(given)) as caught:
        shipped.chosen()
    assert len(str(caught.value).splitlines()) == 1


def test_a_damaged_layer_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = layer({"a": "1"})
    made = archive(tmp_path / "image", data)
    made.write_bytes(made.read_bytes().replace(data, data[:-8] + bytes(8)))
    with pytest.raises(shipped.NotAnImage, match="damaged"):
        shipped.tree(shipped.read(made))


@pytest.mark.parametrize("what", [b'"User": "7:7"', b'"layers"'], ids=["config", "manifest"])
def test_documents_that_are_not_what_was_signed_are_not_believed(
    tmp_path: Path, what: bytes
) -> None:
    """As valid as before, and the digest that the lab shows is that of before."""
    made = archive(tmp_path / "image", layer({"a": "1"}), config={"User": "7:7"})
    data = made.read_bytes()
    changed = what.replace(b"7:7", b"0:0").replace(b"layers", b"Layers")
    assert data.count(what) == 1
    made.write_bytes(data.replace(what, changed))
    with pytest.raises(shipped.NotAnImage, match="damaged"):
        shipped.read(made)


@pytest.mark.parametrize(
    "index", ["", "[]", "{}", "5", "[" * 100_000, '{"manifests": [{"digest": 5}]}',
              '{"manifests": [{"digest": "sha256:../../etc/passwd"}]}'],
)  # fmt: skip
def test_an_index_of_any_form_ends_in_one_line(tmp_path: Path, index: str) -> None:
    made = tmp_path / "image"
    with tarfile.open(made, "w") as tar:
        member = tarfile.TarInfo("index.json")
        member.size = len(index)
        tar.addfile(member, io.BytesIO(index.encode()))
    with pytest.raises(shipped.NotAnImage, match="no OCI archive") as caught:
        shipped.read(made)
    assert len(str(caught.value).splitlines()) == 1


def test_the_checkout_runs_where_there_is_no_image_of_this_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shipped, "_revision", lambda _: "none such")
    monkeypatch.delenv(shipped.VARIABLE, raising=False)
    assert shipped.chosen() is None
    assert "make image" in shipped.describe()
    monkeypatch.setenv(shipped.VARIABLE, "checkout")
    assert shipped.chosen() is None
    assert shipped.describe() == "components: this checkout"


@pytest.mark.parametrize(
    "variable", [shipped.VARIABLE, wireguard.VARIABLE, "KUBEBUILDER_ASSETS", "KUBERNETES_CLIENTS"]
)
@pytest.mark.parametrize("given", ["one/file", "./one/file", "../here/one/file", "file"])
def test_a_path_from_where_the_user_stands_reaches_the_lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, given: str
) -> None:
    """The lab's process works in /: make test-image started none, for want of /dist."""
    for file in (tmp_path / "here/one/file", tmp_path / "here/file"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv(variable, given)
    there = Path(host.environment()[variable])
    assert there.is_absolute()
    assert there.samefile(given)


@pytest.mark.parametrize(
    ("variable", "word"),
    [(shipped.VARIABLE, "checkout"), (wireguard.VARIABLE, "system"), (shipped.VARIABLE, "")],
)
def test_a_word_stays_a_word_whatever_files_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, word: str
) -> None:
    (tmp_path / (word or "x")).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, word)
    assert host.environment()[variable] == word
