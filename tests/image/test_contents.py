"""What is in the image that `make image` left in dist/, and what must not be (make test-image)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from image import archives, containers

from egress_gateway.datapath.wireguard.host import release
from egress_gateway_lab import wireguard

ROOT = Path(__file__).parents[2]
FOUND = sorted((ROOT / "dist").glob("static-egress-gateway-[0-9]*.oci.tar"))
"""Not the chart, which a release has as an archive of the same kind."""
MOST = 110e6
"""Compressed bytes."""

pytestmark = [
    pytest.mark.image,
    pytest.mark.skipif(not FOUND, reason="NO IMAGE in dist/ (make image)"),
]


@pytest.fixture(scope="module", params=FOUND, ids=lambda path: path.name.split("-")[-1][:5])
def image(request: pytest.FixtureRequest) -> archives.Archive:
    return archives.read(request.param)


@pytest.fixture(scope="module")
def paths(image: archives.Archive) -> set[str]:
    return set(archives.files(image.path))


@pytest.fixture(scope="module")
def root(image: archives.Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("image") / "root"
    containers.unpack(image.path, target)
    return Path(target)


def test_it_is_small_and_nobodys(image: archives.Archive) -> None:
    assert image.compressed <= MOST
    assert image.user == "65532:65532"
    assert image.entrypoint == ("egress-gateway",)


@pytest.mark.parametrize(
    "unwanted",
    [
        r"egress_gateway_lab",
        r"(^|/)(gcc|cc|c\+\+|clang|go|ld|as|zig|tcc)(-[\d.]+)?$",
        r"/(pip|uv|setuptools|ziglang)(/|-[\d.]+)",
        r"^usr/include/",
        r"\.(a|la|deb|whl)$",
        r"^var/cache/.*/.",
        r"^var/lib/apt/.*/.",
        r"^var/log/.",
        r"(^|/)s?bin/(apt|apt-get|dpkg|perl|sh|bash|dash)$",
        r"/tests?/test_",
        r"(^|/)(\.git|\.cache|\.venv)(/|$)",
        r"^root/.",
        r"^etc/(hostname|resolv\.conf|machine-id)$",
    ],
)
def test_nothing_is_in_it_that_nobody_runs(paths: set[str], unwanted: str) -> None:
    found = sorted(path for path in paths if re.search(unwanted, path))
    allowed = r"dist-packages|/lib/python3\.11/(unittest|distutils|ensurepip|lib2to3|test)/"
    assert [path for path in found if not re.search(allowed, path)] == []


def test_the_current_wireguard_go_and_all_that_agents_load_are_in_it(
    root: Path, paths: set[str]
) -> None:
    assert release(str(root / "opt/egress-gateway/bin/wireguard-go")) == wireguard.VERSION
    assert any(re.search(r"^usr/lib/.*/libnftables\.so\.1$", path) for path in paths)
    assert {"usr/bin/setpriv", "etc/ssl/certs/ca-certificates.crt"} <= paths
    assert any(path.endswith("cni/plugin/egress-gateway-cni.x86_64") for path in paths)
    assert any(path.endswith("cni/plugin/egress-gateway-cni.aarch64") for path in paths)


def test_nothing_in_it_becomes_root_or_is_writable(root: Path) -> None:
    wrong = [
        str(path)
        for path in root.rglob("*")
        if not path.is_symlink() and path.stat().st_mode & 0o6002 and path.name != "tmp"
    ]
    assert wrong == []


def test_every_module_has_bytecode_that_no_time_makes_stale(root: Path) -> None:
    """The root is read-only: what is not there is compiled anew at each start."""
    modules = [*root.glob("opt/**/*.py"), *root.glob("usr/lib/python3.11/*.py")]
    assert len(modules) > 500
    lacking = []
    for module in modules:
        compiled = module.parent / "__pycache__" / f"{module.stem}.cpython-311.pyc"
        if not compiled.exists() or compiled.read_bytes()[4:8] != b"\x01\0\0\0":
            lacking.append(str(module.relative_to(root)))
    # Files that are no modules of this Python: templates, and syntax of others.
    assert [path for path in lacking if "/tests/" not in path and "lib2to3" not in path] == []


def test_programs_are_of_the_images_processor(root: Path, image: archives.Archive) -> None:
    wanted = {"amd64": 62, "arm64": 183}[image.architecture]  # e_machine, elf(5)
    checked = 0
    for path in [*root.glob("opt/**/*"), *root.glob("usr/bin/*"), *root.glob("usr/lib/**/*.so*")]:
        if path.is_symlink() or not path.is_file():
            continue
        with path.open("rb") as file:
            head = file.read(20)
        if head[:4] == b"\x7fELF" and "egress-gateway-cni" not in path.name:
            checked += 1
            assert int.from_bytes(head[18:20], "little") == wanted, path
    assert checked > 100
