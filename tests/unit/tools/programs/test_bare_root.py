"""A bare root shows nothing of the machine, and nothing of it is left, however it ends.

mmdebstrap stands aside here: in its place a few of this machine's own programs are copied.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
SCRIPT = ROOT / "tools/bare_root.sh"
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it mounts"),
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no clone: nothing to clone"),
]
INSIDE = ("bash", "cat", "env", "git", "ls", "mkdir", "rmdir", "sleep", "umount")
FAKE = f"""#!/bin/bash
set -e
for last in "$@"; do case $last in -*) ;; */root) root=$last ;; esac; done
cd "$root"
mkdir -p usr/bin usr/lib usr/lib64 etc proc sys dev run tmp root usr/local/share
ln -s usr/bin bin; ln -s usr/bin sbin; ln -s usr/lib lib; ln -s usr/lib64 lib64
for name in {" ".join(INSIDE)}; do
    cp "$(command -v "$name")" usr/bin/
    for library in $(ldd "usr/bin/$name" | grep -o '/[^ ]*'); do
        mkdir -p "./$(dirname "$library")"
        cp -n "$library" "./$library"
    done
done
ln -s bash usr/bin/sh
"""


@dataclass(frozen=True)
class Start:
    """Starts a shell script in a bare root; nothing of the environment but what is given."""

    environment: dict[str, str]

    def __call__(self, script: str, *options: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(SCRIPT), *options, "--", "bash", "-c", script],
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def start(tmp_path: Path) -> Start:
    programs = tmp_path / "programs"
    programs.mkdir()
    fake = programs / "mmdebstrap"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()

    path = f"{programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return Start({"PATH": path, "HOME": str(home), "TMPDIR": str(tmp_path)})


def left(tmp_path: Path) -> list[str]:
    """Folders, mounts and processes of bare roots in ``tmp_path``."""
    found = [str(path) for path in tmp_path.glob("bare-root.*")]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [mount for mount in mounts if f"{tmp_path}/bare-root" in mount]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(tmp_path) in command and process.name != str(os.getpid()):
            found.append(command)
    return found


def test_a_command_finds_the_commit_and_nothing_of_the_machine(
    start: Start, tmp_path: Path
) -> None:
    script = f"git rev-parse HEAD; ls / /dev; env; ls -d {tmp_path} {ROOT} || exit 7"
    process = start(script, PIP_INDEX_URL="https://mirror.example/simple", SECRET="s3cret")
    out, err = process.communicate()
    assert process.returncode == 7, err
    head = subprocess.run(
        ["git", "-c", "safe.directory=*", "-C", str(ROOT), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert out.startswith(head)
    words = out.split()
    assert {"null", "pts", "PIP_INDEX_URL=https://mirror.example/simple", "HOME=/root"} <= {*words}
    assert ".machine" not in words
    assert "s3cret" not in out
    assert left(tmp_path) == []


def test_a_cache_is_the_machines(start: Start, tmp_path: Path) -> None:
    process = start("echo kept >/root/.cache/x/file", "--cache", ".cache/x")
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert (tmp_path / "home/.cache/x/file").read_text() == "kept\n"
    assert left(tmp_path) == []


@pytest.mark.parametrize("closed", [False, True])
def test_standard_input_is_the_commands(start: Start, tmp_path: Path, closed: bool) -> None:
    if closed:
        command = ["bash", "-c", f"{SCRIPT} -- cat <&-"]
        done = subprocess.run(command, env=start.environment, capture_output=True, text=True)
    else:
        command = [str(SCRIPT), "--", "cat"]
        done = subprocess.run(
            command, env=start.environment, input="words", capture_output=True, text=True
        )
    assert (done.returncode, done.stdout) == (0, "" if closed else "words"), done.stderr
    assert left(tmp_path) == []


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_leaves_nothing(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    process = start("trap '' INT TERM HUP; echo up; sleep 1000 & sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    process.communicate()
    assert process.returncode != 0
    assert left(tmp_path) == []


def test_killed_it_leaves_no_process_and_no_mount(start: Start, tmp_path: Path) -> None:
    process = start("echo up; sleep 1000 & sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.kill()
    process.communicate()  # ends when nobody holds its output any more
    deadline = time.monotonic() + 60
    while len(left(tmp_path)) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [Path(path).parent for path in left(tmp_path)] == [tmp_path]


def test_it_says_what_it_cannot_do(start: Start, tmp_path: Path) -> None:
    (tmp_path / "programs/mmdebstrap").write_text(
        "#!/bin/sh\necho E: no such suite >&2\nexit 100\n"
    )
    process = start("true", "--suite", "nosuch")
    _, err = process.communicate()
    assert process.returncode == 2
    assert err.splitlines()[-2:] == [
        "E: no such suite",
        "bare root: mmdebstrap could not make a root of nosuch",
    ]
    assert left(tmp_path) == []
