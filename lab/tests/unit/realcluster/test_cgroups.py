"""Cgroup folders on v1 and v2, on trees of plain folders that stand for the file systems."""

from __future__ import annotations

from pathlib import Path

import pytest

from egress_gateway_lab.realcluster import cgroups
from egress_gateway_lab.realcluster.cgroups import Hierarchy

_V1 = """
30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
""".strip()
_V2 = "35 24 0:31 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot"


def test_v1_is_found_and_mounted_again_with_the_names_that_programs_look_under() -> None:
    found = cgroups.hierarchies(_V1)
    assert [(h.point.name, h.kind) for h in found] == [
        ("cpu,cpuacct", "cgroup"),
        ("memory", "cgroup"),
        ("systemd", "cgroup"),
        ("unified", "cgroup2"),
    ]
    script = cgroups.mount_script(found)
    assert "mount -t cgroup -o cpu,cpuacct cgroup /sys/fs/cgroup/cpu,cpuacct\n" in script
    assert "ln -s cpu,cpuacct /sys/fs/cgroup/cpuacct\n" in script
    assert "mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd\n" in script
    assert "mount -t cgroup2 cgroup /sys/fs/cgroup/unified\n" in script


def test_v2_is_one_mount() -> None:
    script = cgroups.mount_script(cgroups.hierarchies(_V2))
    assert script == "mount -t cgroup2 cgroup2 /sys/fs/cgroup\n"


def test_a_machine_without_cgroups_has_none() -> None:
    assert cgroups.hierarchies("30 23 0:26 / /run rw - tmpfs tmpfs rw") == []


def v1(folder: Path) -> list[Hierarchy]:
    for name in ("cpuset", "memory"):
        (folder / name).mkdir()
    (folder / "cpuset/cpuset.cpus").write_text("0-1\n")
    (folder / "cpuset/cpuset.mems").write_text("0\n")
    return [Hierarchy(folder / n, "cgroup", n) for n in ("cpuset", "memory")]


def test_v2_hands_every_controller_down_to_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, str]] = []
    kernel = Path.mkdir

    def mkdir(self: Path, *, exist_ok: bool) -> None:
        """As the kernel makes a cgroup: with its files."""
        kernel(self, exist_ok=exist_ok)
        (self / "cgroup.controllers").write_text("cpu memory pids\n")

    def write(self: Path, text: str) -> int:
        written.append((str(self.relative_to(tmp_path)), text))
        return len(text)

    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", mkdir)
        ours = Path.write_text
        patched.setattr(
            Path,
            "write_text",
            lambda self, text: (
                write(self, text) if self.name == "cgroup.subtree_control" else ours(self, text)
            ),
        )
        cgroups.create("one/node", [Hierarchy(tmp_path, "cgroup2", "nsdelegate")])
    folders = ["", f"{cgroups.ROOT}/", f"{cgroups.ROOT}/one/"]
    assert written == [
        (f"{folder}cgroup.subtree_control", f"+{name}")
        for folder in folders
        for name in ("cpu", "memory", "pids")
    ]


def test_v2_beside_v1_has_no_controllers_to_hand_down(tmp_path: Path) -> None:
    (tmp_path / "unified").mkdir()
    beside = Hierarchy(tmp_path / "unified", "cgroup2", "")
    cgroups.create("one/node", [beside, Hierarchy(tmp_path, "cgroup", "memory")])
    assert (tmp_path / "unified" / cgroups.ROOT / "one/node").is_dir()


def test_removal_is_from_the_bottom_and_leaves_other_labs_alone(tmp_path: Path) -> None:
    mounted = v1(tmp_path)
    for path in ("one/node", "two/node"):
        cgroups.create(path, [h for h in mounted if h.options == "memory"])
    deep = tmp_path / "memory" / cgroups.ROOT / "one/node/kubepods/pod1/container"
    deep.mkdir(parents=True)
    cgroups.remove("one", mounted)
    assert [p.name for p in (tmp_path / "memory" / cgroups.ROOT).iterdir()] == ["two"]
    cgroups.remove("two", mounted)
    assert not (tmp_path / "memory" / cgroups.ROOT).exists()
    cgroups.remove("two", mounted)
