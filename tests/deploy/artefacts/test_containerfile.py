"""The image's recipe, as far as it can be held without a registry."""

from __future__ import annotations

import re
import shlex
from fnmatch import fnmatch

from tests.deploy.conftest import ROOT, tool

CONTAINERFILE = ROOT / "deploy/Containerfile"


def instructions() -> list[tuple[str, str]]:
    """Instruction and arguments, continued lines joined."""
    lines = [
        line
        for line in CONTAINERFILE.read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split()[0], line.partition(" ")[2]) for line in joined.splitlines()]


def stages() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for instruction, rest in instructions():
        if instruction == "FROM":
            name = rest.split(" AS ")[1] if " AS " in rest else "final"
            found[name] = []
        elif name:
            found[name].append((instruction, rest))
    return found


def copied() -> list[str]:
    """What is copied from the checkout."""
    paths = []
    for instruction, rest in instructions():
        words = shlex.split(rest)
        if instruction == "COPY" and not words[0].startswith("--from="):
            paths += words[:-1]
    return paths


def ignored(path: str) -> bool:
    """By ``.dockerignore``: the last rule that fits a path or a folder above it."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        rule = line.removeprefix("!").removeprefix("**/")
        parts = path.split("/")
        above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        if any(fnmatch(p, rule) and p.count("/") == rule.count("/") for p in above):
            verdict = not line.startswith("!")
    return verdict


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    assert set(copied()) >= {"pyproject.toml", "uv.lock", "src", "deploy"}
    for path in copied():
        assert (ROOT / path).exists(), path
        assert not ignored(path), path
    assert ignored(".git")
    assert ignored(".venv/bin/python")
    assert ignored("src/egress_gateway/cni/plugin/egress-gateway-cni.x86_64")
    assert not ignored("src/egress_gateway/cni/plugin/egress-gateway-cni.c")


def test_azures_builder_gets_lines_that_it_understands() -> None:
    """It refuses `FROM --platform` (Azure/acr#697), and gives no TARGETARCH."""
    page = (ROOT / "docs/install/aks.md").read_text()
    (pattern,) = re.findall(r"sed 's/(.*)//' deploy/Containerfile >Containerfile.acr\n", page)
    said = CONTAINERFILE.read_text().replace(pattern, "")
    lines = [line for line in said.splitlines() if line.startswith("FROM")]
    assert len(lines) == 4
    assert [line for line in lines if not re.fullmatch(r"FROM \S+( AS \w+)?", line)] == []
    assert "--build-arg TARGETARCH=amd64" in page


def test_stages_copy_from_earlier_ones() -> None:
    earlier: list[str] = []
    for name, body in stages().items():
        for instruction, rest in body:
            if instruction == "COPY" and rest.startswith("--from="):
                assert rest.split()[0].removeprefix("--from=") in earlier
        earlier.append(name)
    assert earlier == ["runtime", "begun", "build", "final"]


def test_final_image_is_nobodys_and_has_what_the_agents_load() -> None:
    final, runtime = stages()["final"], stages()["runtime"]
    assert ("USER", "65532:65532") in final
    assert ("ENTRYPOINT", '["egress-gateway"]') in final
    assert "RUN" not in [instruction for instruction, _ in final], "it may be another processor's"
    installed = next(rest for instruction, rest in runtime if instruction == "RUN")
    (packages,) = re.findall(r'packages="([^"]*)"', installed)
    assert tuple(packages.split()) == tool("image/build").PACKAGES
    assert "wireguard-go" not in installed, "Debian 12's is of 2022; ours is built"


def test_nothing_but_debian_comes_without_a_hash() -> None:
    steps = " ".join(rest for body in stages().values() for _, rest in body)
    assert steps.count("--require-hashes") == 2
    for install in re.findall(r"pip[^&]* install [^&]*", steps):
        own = "--no-deps" in install and install.split()[-1].startswith("/out/")
        assert "--require-hashes" in install or own, install
    assert "-mod=readonly" in steps
    assert "--no-build-isolation" in steps, "else the build's own tools come unlocked"


def test_dependencies_are_the_locked_ones() -> None:
    steps = " ".join(rest for body in stages().values() for _, rest in body)
    assert re.search(r"uv export [^&]*--locked", steps)
    assert "--require-hashes" in steps
