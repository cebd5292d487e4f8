"""`make test-kernel` gives the command's exit code, and says at once where no kernel runs."""

from __future__ import annotations

import itertools
import os
import shlex
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parents[4] / "tools/uml/run.sh"
# What a kernel does as far as run.sh sees it: runs the script that its command line names.
WORKS = """\
for word; do case $word in job=*) job=${word#job=} ;; esac; done
bash "$job"
echo "kernel tests: exit code $?"
"""
TESTS_END_IT = f"""\
case "$*" in *job=*/nothing*) {WORKS} ;; *) echo Kernel panic; exit 1 ;; esac
"""
TAKES_LONG = f"""\
case "$*" in *job=*/nothing*) {WORKS} ;; *)
    for word; do case $word in job=*) job=${{word#job=}} ;; esac; done
    until [ -e "$job.over" ]; do sleep 0.1; done
    echo 1 failed so far
    echo "kernel tests: exit code 2" ;;
esac
"""
# Says what it was to run, then what pytest says as long as it goes on; then it ends as told.
SAYS_RESULTS = f"""\
case "$*" in *job=*/nothing*) {WORKS} ;; *)
    for word; do case $word in job=*) cat "${{word#job=}}" >>"$0.ran" ;; esac; done
    # Its console is a terminal: pytest's words have colours there.
    green=$(grep -q -e --color=no "$0.ran" || printf '\\033[32m')
    printf '%s\\r\\n' "tests/node/test_a.py::test_one ${{green}}PASSED 3.213s" \\
        "tests/node/test_a.py::test_two[a b] ${{green}}PASSED  1m 2s" \\
        'tests/node/test_a.py::test_three FAILED     10.048s' \\
        'tests/node/test_a.py::test_four SKIPPED (no) 0.002s' \\
        'FAILED tests/node/test_a.py::test_three - PASSED is not said'
    echo 'tests/node/test_a.py::test_five '
    %s ;;
esac
"""
ALL_BUT_TWO = [
    "tests/node/test_a.py::test_one",
    "tests/node/test_a.py::test_two[a b]",
    "tests/node/test_a.py::test_four",
]


def ran(
    tmp_path: Path, kernel: str, *command: str, seconds: int = 60, limit: int = 600, **more: str
) -> subprocess.CompletedProcess[str]:
    program = tmp_path / "linux"
    program.write_text(f"#!/bin/bash\n{kernel}")
    program.chmod(0o755)
    return subprocess.run(
        [str(RUN), *command],
        env={
            **os.environ,
            "UML_KERNEL": str(program),
            "UML_BOOT_SECONDS": str(seconds),
            "KERNEL_SECONDS": str(limit),
            **more,
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "said", "code"),
    [
        (["echo", "it's", "a  b"], "it's a  b\n", 0),
        (["bash", "-c", "echo $0 $1; exit 3", "a b", "$x"], "a b $x\n", 3),
        (["false"], "", 1),
    ],
)
def test_the_commands_output_and_exit_code_come_out(
    tmp_path: Path, command: list[str], said: str, code: int
) -> None:
    done = ran(tmp_path, WORKS, *command)
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout == f"{said}kernel tests: exit code {code}\n"


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (
            "echo 'userspace - ptrace set fp regs failed, errno = 14' >&2; exit 1",
            "floating point state",
        ),
        ("echo 'userspace - ptrace set fp regs failed, errno = 14'", "floating point state"),
        ("echo 'check_ptrace: ptrace is not permitted' >&2; exit 1", "ptrace is not permitted"),
        ("kill -SEGV $$", "does not run on this machine"),
        ("echo 'kernel tests: exit code 125'", "does not run on this machine"),
        ("exec tail -f /dev/null", "it had 2 s"),
    ],
)
def test_a_kernel_that_does_not_run_is_told_of_before_the_command_begins(
    tmp_path: Path, kernel: str, said: str
) -> None:
    began = tmp_path / "began"
    # Only one that says nothing is waited for; the others have the time that they need.
    done = ran(tmp_path, kernel, "touch", str(began), seconds=2 if "tail" in kernel else 60)
    assert done.returncode == 1
    assert "NOTHING was tested" in done.stderr
    assert said in done.stderr
    assert not began.exists()


def test_a_kernel_that_ends_during_the_command_is_no_success(tmp_path: Path) -> None:
    done = ran(tmp_path, TESTS_END_IT, "true")
    assert done.returncode == 1
    assert "ended early" in done.stderr
    assert "Kernel panic" in done.stderr


def test_a_command_that_takes_too_long_is_told_to_end_and_its_code_counts(tmp_path: Path) -> None:
    """As the kernel's first process does: it looks for a file of the host's."""
    done = ran(tmp_path, TAKES_LONG, "true", limit=1)
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout == "1 failed so far\nkernel tests: exit code 2\n"


@pytest.mark.parametrize("end", ["echo kernel tests: exit code 1", "echo Kernel panic"])
def test_what_has_passed_is_not_run_again_if_a_file_is_named_for_it(
    tmp_path: Path, end: str
) -> None:
    kernel, file = SAYS_RESULTS.replace("%s ;;", f"{end} ;;"), tmp_path / "passed"
    for _ in range(2):
        assert ran(tmp_path, kernel, KERNEL_PASSED=str(file)).returncode == 1
    assert file.read_text().splitlines()[:3] == ALL_BUT_TWO
    first, second = (
        shlex.split(line)
        for line in (tmp_path / "linux.ran").read_text().splitlines()
        if "pytest" in line
    )
    left_out = [after for word, after in itertools.pairwise(second) if word == "--deselect"]
    assert "--deselect" not in first
    assert left_out == ALL_BUT_TWO


def test_other_commands_leave_no_word_of_what_has_passed(tmp_path: Path) -> None:
    file = tmp_path / "passed"
    kernel = SAYS_RESULTS.replace("%s ;;", "echo kernel tests: exit code 0 ;;")
    assert ran(tmp_path, kernel, "true", KERNEL_PASSED=str(file)).returncode == 0
    assert not file.exists()


def test_the_kernels_command_line_takes_more_words(tmp_path: Path) -> None:
    words = "time-travel=inf-cpu nosmp"
    done = ran(tmp_path, f'echo "$*" >>"$0.ran"\n{WORKS}', "true", UML_OPTIONS=words)
    assert done.returncode == 0
    boots = (tmp_path / "linux.ran").read_text().splitlines()
    assert [boot.endswith(f" {words}") for boot in boots] == [True, True]
