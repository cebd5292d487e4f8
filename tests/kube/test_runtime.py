"""The real containerd where it gets no inotify instance: what it says is understood."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from egress_gateway_lab.realcluster import binaries, cri
from tests.kube.lab.conftest import require_programs

pytestmark = [pytest.mark.root, pytest.mark.kube]
# The limit is one of a user namespace (namespaces(7)): the machine's own is not touched.
_SCRIPT = """
set -e
echo "$1" >/proc/sys/user/max_inotify_instances
mount -t tmpfs run /run
mount -t tmpfs lib /var/lib
mkdir /run/containerd
containerd --config /dev/null --address /run/c.sock --state /run/containerd --root /var/lib/c \
    --log-level error >/run/log 2>&1 &
until ctr --address /run/c.sock version >/dev/null 2>&1; do
    kill -0 $! || { cat /run/log; exit 1; }
done
shift
ctr --address /run/c.sock "$@"
"""


@pytest.fixture
def containerd() -> Callable[[int], str]:
    """Starts one that gets so many inotify instances; what ``ctr`` says of its CRI plugin."""
    require_programs()
    folder = binaries.find(*binaries.NODE)["containerd"].parent

    def start(instances: int) -> str:
        apart = ["unshare", "--user", "--map-root-user", "--mount", "--net", "--pid", "--fork"]
        apart += ["--kill-child", "--mount-proc"]
        done = subprocess.run(
            [*apart, "sh", "-c", _SCRIPT, "sh", str(instances), *cri.QUERY],
            env={"PATH": f"{folder}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done
        return done.stdout

    return start


def test_without_inotify_instances_it_runs_and_serves_no_kubelet(
    containerd: Callable[[int], str],
) -> None:
    listed = containerd(0)
    assert not cri.is_served(listed)
    assert "inotify" in cri.refusal(listed)
    assert Path("/proc/sys/fs/inotify/max_user_instances").read_text().strip() in cri.mend(
        cri.refusal(listed)
    )


def test_with_some_it_serves(containerd: Callable[[int], str]) -> None:
    listed = containerd(50)
    assert cri.is_served(listed), listed
    assert cri.refusal(listed) == cri.mend("") == ""
