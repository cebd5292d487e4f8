"""What is made from the code is what the code says, and a file that is not is named."""

from __future__ import annotations

from pathlib import Path

import generated
import pytest

FILES = sorted(path for maker in generated.MAKERS for path in maker())


def test_every_file_is_what_it_is_made_from() -> None:
    assert generated.main(["--check"]) == 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(generated.ROOT)))
@pytest.mark.parametrize("there", [True, False], ids=["other text", "not there"])
def test_one_that_differs_is_named_and_can_be_written(
    path: Path,
    there: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = path.read_text()
    copy = tmp_path / path.name
    if there:
        copy.write_text(text + "\n")
    monkeypatch.setattr(generated, "ROOT", tmp_path)
    monkeypatch.setattr(generated, "MAKERS", (lambda: {copy: text},))

    assert generated.main(["--check"]) == 1
    assert copy.name in capsys.readouterr().err
    assert generated.main(["--write"]) == 0
    assert generated.main(["--check"]) == 0
    assert copy.read_text() == text


@pytest.mark.parametrize("arguments", [[], ["--chek"], ["--write", "--check"]])
def test_a_wrong_word_writes_nothing(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert generated.main(arguments) == 2
    assert capsys.readouterr().err.startswith("usage:")
