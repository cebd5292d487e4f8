"""The plugin's C under sanitizers and mutated input: see ``fuzz/fuzz_plugin.c``. ``make fuzz`` goes
on for longer, guided by coverage; what it found is mutated here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cni.fuzz import corpus

SOURCE = Path(__file__).parent / "fuzz" / "fuzz_plugin.c"
FLAGS = "-g -O1 -std=gnu11 -w -fsanitize=address,undefined -fno-sanitize-recover=all"
RUNS = 50_000


@pytest.mark.skipif(not shutil.which("gcc"), reason="wants gcc and its sanitizers")
@pytest.mark.parametrize("seed", [1, 2])
def test_no_input_makes_the_scanner_misbehave(tmp_path: Path, seed: int) -> None:
    program = tmp_path / "fuzz"
    command = ["gcc", *FLAGS.split(), "-o", str(program), str(SOURCE)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if "cannot find -lasan" in built.stderr:
        pytest.skip("gcc has no sanitizers here")
    assert built.returncode == 0, built.stderr
    found = corpus.unpack(tmp_path / "corpus")
    done = subprocess.run(
        [program, str(RUNS), str(seed), *found],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert f"{RUNS} inputs" in done.stderr
    assert len(found) > 100
