"""Trees in the user's cache, which labs make that know nothing of each other."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from egress_gateway_lab.realcluster.filesystems.trees import filled


def test_two_labs_that_want_one_tree_at_once_make_it_once(tmp_path: Path) -> None:
    """Both are process 1 of their namespaces, as these threads are one process: what one removes
    because it bears its number was the other's."""
    begun, made = threading.Event(), []

    def fill(fresh: Path) -> None:
        made.append(fresh)
        begun.set()
        for number in range(200):
            (fresh / str(number)).write_text("x")

    with ThreadPoolExecutor() as pool:
        first = pool.submit(filled, tmp_path / "cache/tree", fill)
        assert begun.wait(60)
        second = pool.submit(filled, tmp_path / "cache/tree", fill)
        assert first.result(60) == second.result(60)
    assert len(made) == 1
    assert len(list((tmp_path / "cache/tree").iterdir())) == 200


def test_what_a_killed_lab_left_is_not_taken_for_a_tree(tmp_path: Path) -> None:
    def dying(fresh: Path) -> None:
        (fresh / "half").write_text("x")
        raise KeyError("as good as killed")

    with pytest.raises(KeyError):
        filled(tmp_path / "tree", dying)
    assert not (tmp_path / "tree").exists()
    (tmp_path / ".tree.new").mkdir()
    (tmp_path / ".tree.new/half").write_text("x")
    found = filled(tmp_path / "tree", lambda fresh: (fresh / "whole").touch())
    assert [path.name for path in found.iterdir()] == ["whole"]
