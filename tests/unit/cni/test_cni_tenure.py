"""The claim to a node: the latest agent's, whatever happens to the file that holds it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from egress_gateway.cni.tenure import FILE, Tenure
from tests.unit import damages


def stands(tenure: Tenure) -> bool:
    with tenure.held() as ours:
        return ours


def _with_its_folder(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()


DAMAGES: list[Callable[[Path], object]] = [
    Path.unlink,
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(path.read_bytes()[:-5]),
    lambda path: path.write_bytes(b"\xff" * 300),
    lambda path: path.write_text("9" * 40 + " from the future"),
    lambda path: path.write_text("0123456789abcdef0123456789abcdef"),  # an earlier version's
    _with_its_folder,
    damages.folder,
    damages.link,
    damages.pipe,
]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("earlier_looks_first", [False, True])
def test_the_latest_agent_has_it_again(
    tmp_path: Path, damage: Callable[[Path], object], earlier_looks_first: bool
) -> None:
    folder = tmp_path / "run"
    earlier, latest = Tenure(folder), Tenure(folder)
    assert not stands(earlier)
    assert stands(latest)
    damage(folder / FILE)
    if earlier_looks_first:
        stands(earlier)
    assert stands(latest)
    assert not stands(earlier)
    assert stands(latest)


@pytest.mark.root
def test_a_claim_that_could_not_be_made_at_first_is_made_later(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.write_text("a file in its place")
    tenure = Tenure(folder)
    with pytest.raises(OSError, match=r"exists|directory"), tenure.held():
        pass
    folder.unlink()
    assert stands(tenure)
