"""A release is verified offline, and nothing of it can be changed unnoticed."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from release import artefacts, signatures

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy/chart/static-egress-gateway"
FILES = {
    "static_egress_gateway-0.1.0-py3-none-any.whl": b"wheel",
    "static-egress-gateway-0.1.0.tgz": b"chart",
    "static-egress-gateway-0.1.0-amd64.oci.tar": b"image" * 1000,
    "static-egress-gateway-0.1.0.cdx.json": b"{}",
    "release-notes-0.1.0.md": b"# 0.1.0\n",
}
ORIGIN = {
    "buildDefinition": {
        "externalParameters": {"version": "0.1.0"},
        "resolvedDependencies": [{"name": "source", "digest": {"gitCommit": "c0ffee"}}],
    }
}


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def release(tmp_path: Path, key: ec.EllipticCurvePrivateKey) -> Path:
    """A release with small files, signed as a large one is."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    signatures.sign(folder, key, ORIGIN)
    (tmp_path / "release.pub").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return folder


def verified(folder: Path) -> subprocess.CompletedProcess[str]:
    """The command that docs/install/verify.md gives."""
    key = folder.parent / "release.pub"
    return subprocess.run(
        [sys.executable, "-m", "release.verify", str(folder), "--key", str(key)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT / "tools")},
    )


def test_what_was_released_is_verified(release: Path) -> None:
    done = verified(release)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"verified: {len(FILES)} files are those of 0.1.0, commit c0ffee\n"


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n# more")


@pytest.mark.parametrize("name", [*FILES, *signatures.OWN])
@pytest.mark.parametrize("change", [_flip, _cut, _grow, Path.unlink])
def test_each_file_that_is_tampered_with_is_noticed(
    release: Path, name: str, change: Callable[[Path], None]
) -> None:
    before = (release / name).read_bytes()
    change(release / name)
    done = verified(release)
    unseen = name in (signatures.SIGNATURE, signatures.PROVENANCE) and change is _cut
    if unseen and before.endswith(b"\n"):
        assert done.returncode == 0, "the last line's end is no part of what is signed"
        return
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert name in line or name == signatures.SIGNATURE, line


def test_a_file_that_was_added_or_exchanged_is_noticed(release: Path) -> None:
    (release / "more.whl").write_bytes(b"x")
    assert "more.whl is of no release" in verified(release).stderr
    (release / "more.whl").unlink()
    first, second = sorted(FILES)[:2]
    one, other = (release / first).read_bytes(), (release / second).read_bytes()
    (release / first).write_bytes(other)
    (release / second).write_bytes(one)
    assert verified(release).returncode == 1


@pytest.mark.parametrize("kind", ["folder", "link", "dangling", "pipe", "hidden"])
def test_whatever_else_lies_in_the_folder_is_noticed(release: Path, kind: str) -> None:
    """A folder beside the files may hold a wheel of the same name."""
    name = ".more" if kind == "hidden" else "more"
    there = release / name
    if kind == "folder":
        there.mkdir()
        shutil.copy2(release / sorted(FILES)[0], there)
    elif kind == "link":
        there.symlink_to(sorted(FILES)[0])
    elif kind == "dangling":
        there.symlink_to("nowhere")
    elif kind == "pipe":
        os.mkfifo(there)
    else:
        there.write_bytes(b"")
    (line,) = verified(release).stderr.splitlines()
    assert f"{name} is of no release" in line


def test_a_file_that_became_a_link_to_itself_elsewhere_is_noticed(release: Path) -> None:
    """Whoever owns the other place can exchange it after it was verified."""
    name = sorted(FILES)[0]
    (release / name).rename(release.parent / name)
    (release / name).symlink_to(release.parent / name)
    assert f"{name} is of no release" in verified(release).stderr


def test_a_renamed_file_is_noticed(release: Path) -> None:
    name = sorted(FILES)[0]
    (release / name).rename(release / name.replace("0.1.0", "0.1.1"))
    assert verified(release).returncode == 1


def test_signatures_do_not_serve_for_each_other(release: Path) -> None:
    """The same key made both."""
    sums, statement = release / signatures.SIGNATURE, release / signatures.PROVENANCE
    envelope = json.loads(statement.read_text())
    one, other = sums.read_text(), envelope["signatures"][0]["sig"]
    sums.write_text(other)
    assert f"{signatures.SUMS} is not signed" in verified(release).stderr
    sums.write_text(one)
    statement.write_text(json.dumps(envelope | {"signatures": [{"sig": one.strip()}]}))
    assert f"{signatures.PROVENANCE} is not signed" in verified(release).stderr


def test_an_older_release_says_that_it_is_one(
    release: Path, key: ec.EllipticCurvePrivateKey
) -> None:
    """It is as well signed. Its list alone does not fit; in a whole, the version tells."""
    newer = json.loads(json.dumps(ORIGIN).replace("0.1.0", "0.2.0").replace("c0ffee", "facade"))
    before = {name: (release / name).read_bytes() for name in signatures.OWN}
    (release / sorted(FILES)[0]).write_bytes(b"newer")
    signatures.sign(release, key, newer)
    assert "0.2.0, commit facade" in verified(release).stdout
    (release / signatures.SUMS).write_bytes(before[signatures.SUMS])
    assert f"{signatures.SUMS} is not signed" in verified(release).stderr
    (release / signatures.SIGNATURE).write_bytes(before[signatures.SIGNATURE])
    assert "its checksum differs" in verified(release).stderr


@pytest.mark.parametrize(
    "written",
    [
        "",
        "[]",
        "5",
        "[" * 100_000,
        '{"payloadType": 1, "payload": 2, "signatures": 3}',
        '{"payloadType": "", "payload": "e30=", "signatures": []}',
        '{"payloadType": "", "payload": "e30=", "signatures": [{"sig": 5}]}',
        '{"payloadType": "", "payload": "e30=", "signatures": [{"sig": ""}, {"sig": ""}]}',
        '{"payloadType": "", "payload": "\u00e9", "signatures": [{"sig": ""}]}',
    ],
)
def test_a_statement_of_any_form_ends_in_one_line(release: Path, written: str) -> None:
    (release / signatures.PROVENANCE).write_text(written)
    done = verified(release)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert signatures.PROVENANCE in line


def test_anothers_key_and_anothers_checksums_do_not_help(
    release: Path, key: ec.EllipticCurvePrivateKey
) -> None:
    """Whoever changes a file and makes new checksums has not the key."""
    (release / sorted(FILES)[0]).write_bytes(b"evil")
    signatures.sign(release, ec.generate_private_key(ec.SECP256R1()), ORIGIN)
    assert "not signed with this key" in verified(release).stderr


def test_a_statement_of_another_release_is_noticed(
    release: Path, key: ec.EllipticCurvePrivateKey, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(release, other)
    (other / sorted(FILES)[0]).write_bytes(b"older")
    signatures.sign(other, key, ORIGIN)
    shutil.copy2(other / signatures.PROVENANCE, release)
    assert "speaks of other files" in verified(release).stderr


def test_signed_twice_it_is_the_same(release: Path, key: ec.EllipticCurvePrivateKey) -> None:
    before = {name: (release / name).read_bytes() for name in signatures.OWN}
    signatures.sign(release, key, ORIGIN)
    assert {name: (release / name).read_bytes() for name in signatures.OWN} == before


def test_openssl_and_sha256sum_verify_it_without_us(release: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    page = (ROOT / "docs/install/verify.md").read_text()
    script = page.partition("```sh\n")[2].partition("```")[0]
    done = subprocess.run(
        ["bash", "-euc", script], cwd=release, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "KEY": str(release.parent / "release.pub")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Verified OK" in done.stdout
    assert done.stdout.count(": OK") == len(FILES)
    _flip(release / sorted(FILES)[0])
    done = subprocess.run(
        ["bash", "-euc", script], cwd=release, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "KEY": str(release.parent / "release.pub")},
    )  # fmt: skip
    assert done.returncode != 0


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP256K1()])
def test_a_key_of_another_kind_is_refused_with_what_to_do(curve: ec.EllipticCurve) -> None:
    pem = ec.generate_private_key(curve).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with pytest.raises(ValueError, match="openssl ecparam"):
        signatures.key(pem)


# -- what it is made of


def test_the_chart_is_packed_the_same_twice_and_helm_reads_it(tmp_path: Path, helm: object) -> None:
    package = artefacts.chart(CHART, epoch=7)
    assert package == artefacts.chart(CHART, epoch=7)
    with tarfile.open(fileobj=io.BytesIO(package)) as tar:
        members = {member.name: member for member in tar}
    assert {member.mtime for member in members.values()} == {7}
    assert {"static-egress-gateway/Chart.yaml", "static-egress-gateway/templates/NOTES.txt"} <= (
        members.keys()
    )
    path = tmp_path / "chart.tgz"
    path.write_bytes(package)
    assert callable(helm)
    assert yaml.safe_load(helm("show", "chart", str(path)))["name"] == "static-egress-gateway"


def test_the_charts_artefact_holds_the_package() -> None:
    package = artefacts.chart(CHART, epoch=0)
    archive = artefacts.chart_artefact(CHART, package, epoch=0)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:

        def read(name: str) -> bytes:
            opened = tar.extractfile(name)
            assert opened
            return opened.read()

        (entry,) = json.loads(read("index.json"))["manifests"]
        manifest = json.loads(read("blobs/" + entry["digest"].replace(":", "/")))
        (layer,) = manifest["layers"]
        assert layer["mediaType"].startswith("application/vnd.cncf.helm.chart.content.v1")
        assert read("blobs/" + layer["digest"].replace(":", "/")) == package


@pytest.mark.parametrize(
    ("changelog", "expected"),
    [
        ("## [1.0.0] - 2026\n\n- a\n\n## [0.9.0]\n\n- b\n", "# 1.0.0\n\n- a\n"),
        ("## [Unreleased]\n\n- c\n\n## [0.9.0]\n\n- b\n", "# 1.0.0\n\n- c\n"),
        ("## [Unreleased]\n\n## [1.0.0]\n\n### Added\n\n- d\n", "# 1.0.0\n\n### Added\n\n- d\n"),
    ],
    ids=["its own", "not released yet", "the last one"],
)
def test_notes_are_cut_from_the_changelog(changelog: str, expected: str) -> None:
    assert artefacts.notes(changelog, "1.0.0") == expected


@pytest.mark.parametrize("changelog", ["", "## [0.9.0]\n\n- b\n", "## [Unreleased]\n\n"])
def test_a_release_without_notes_is_refused(changelog: str) -> None:
    with pytest.raises(ValueError, match="CHANGELOG"):
        artefacts.notes(changelog, "1.0.0")


def test_an_sbom_is_the_same_twice_and_names_what_pip_does_not_know() -> None:
    exported = '{"serialNumber": "urn:uuid:1", "metadata": {"timestamp": "now"}, "components": []}'
    more = artefacts.components(
        [
            "pkg:deb/debian/libstdc%2B%2B6@1%3A12.2.0-14%2Bdeb12u1?arch=arm64&distro=debian-12",
            "pkg:golang/golang.org/x/sys@v0.32.0",
        ]
    )
    one = artefacts.sbom(exported, epoch=0, more=more)
    assert one == artefacts.sbom(exported.replace("now", "later"), epoch=0, more=more)
    document = json.loads(one)
    assert [(part["name"], part["version"]) for part in document["components"]] == [
        ("libstdc++6", "1:12.2.0-14+deb12u1"),
        ("golang.org/x/sys", "v0.32.0"),
    ]
    assert document["metadata"]["timestamp"] == "1970-01-01T00:00:00Z"


def test_two_releases_of_one_commit_are_the_same_wherever_they_are_made(tmp_path: Path) -> None:
    """Elsewhere, of a checkout that is another user's, whatever lies about in it and whatever git
    makes of line ends there. Images are compared by make test-image."""
    private = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (tmp_path / "key").write_bytes(private)
    made: list[dict[str, bytes]] = []
    for place, umask, zone in (("one", 0o022, "UTC"), ("another/place", 0o077, "Asia/Kathmandu")):
        checkout = tmp_path / place
        subprocess.run(
            ["git", "-c", "safe.directory=*", "clone", "-q", str(ROOT), str(checkout)],
            check=True,
            umask=umask,
        )
        settings = {"GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig")} if made else {}
        if made:
            for litter in ("src/egress_gateway/mine.py", "deploy/chart/static-egress-gateway/m"):
                (checkout / litter).write_text("x")
            if not os.geteuid():
                for path in (checkout, *checkout.rglob("*")):
                    os.chown(path, 12345, 12345, follow_symlinks=False)
            (tmp_path / "gitconfig").write_text("[core]\n\tautocrlf = true\n")
        target = tmp_path / f"dist-{zone.partition('/')[0]}"
        subprocess.run(
            [sys.executable, "-c", _MAKE, str(checkout), str(target)],
            check=True,
            umask=umask,
            env={**os.environ, "PYTHONPATH": str(ROOT / "tools"), "TZ": zone,
                 "RELEASE_KEY": str(tmp_path / "key"), "HATCH_BUILD_NO_HOOKS": "true", **settings},
        )  # fmt: skip
        made.append({path.name: path.read_bytes() for path in target.iterdir()})
    one, other = made
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []
    assert len(one) > 10
    envelope = json.loads(one[signatures.PROVENANCE])
    predicate = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
    # URIs, as SLSA wants them, and of no kind of build whose parameters ours has not.
    assert predicate["buildDefinition"]["buildType"].startswith("urn:uuid:")
    der = subprocess.run(
        ["openssl", "pkey", "-in", str(tmp_path / "key"), "-pubout", "-outform", "DER"],
        check=True,
        capture_output=True,
    ).stdout
    named = base64.urlsafe_b64encode(hashlib.sha256(der).digest()).decode().rstrip("=")
    assert predicate["runDetails"]["builder"] == {"id": f"ni:///sha-256;{named}"}


_MAKE = """
import sys
from pathlib import Path
from release.make import make
make(Path(sys.argv[1]), Path(sys.argv[2]), with_images=False)
"""


def test_what_is_packed_has_no_clock_and_no_order_of_its_own() -> None:
    one = artefacts.packed({"b": b"2", "a": b"1"}, epoch=5)
    assert one == artefacts.packed({"a": b"1", "b": b"2"}, epoch=5)
    assert gzip.decompress(one) != b""
