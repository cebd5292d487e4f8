"""A cgroup folder of its own for every node of every lab.

A kubelet takes what it finds below its cgroup root for its own pods and removes what it does not
know, so several kubelets on one machine need separate roots. Folders are
``egress-gateway-lab/<lab>/<node>`` in the one hierarchy of cgroup v2 or in each of v1's.

They are the only thing of a lab that the kernel does not remove by itself when the lab is killed:
``remove`` takes them away after a node's end, ``sweep`` those of labs that are no more, at the
next ``lab up`` or ``lab down``. An empty cgroup costs a few kilobytes and does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = "egress-gateway-lab"
_CPUSET: Final = ("cpuset.cpus", "cpuset.mems")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A mounted cgroup file system: where, its type (cgroup, cgroup2) and mount options."""

    point: Path
    kind: str
    options: str


def hierarchies(mountinfo: str | None = None) -> list[Hierarchy]:
    """Those that are mounted (proc(5), mountinfo), in the order of their mount points."""
    text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    found = {}
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            point = left.split()[4].replace("\\040", " ")
            chosen = [o for o in options.split(",") if o not in ("rw", "ro", "xattr")]
            chosen = [o for o in chosen if not o.startswith(("release_agent=", "clone_children"))]
            found[point] = Hierarchy(Path(point), kind, ",".join(chosen))
    return [found[point] for point in sorted(found)]


def mount_script(mounted: list[Hierarchy]) -> str:
    """A shell script that mounts the same hierarchies in a mount namespace whose /sys is new."""
    if [h.kind for h in mounted] == ["cgroup2"]:
        return "mount -t cgroup2 cgroup2 /sys/fs/cgroup\n"
    lines = ["set -e", "mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup"]
    for hierarchy in mounted:
        point = hierarchy.point
        options = hierarchy.options if "name=" not in hierarchy.options else (
            "none," + hierarchy.options)  # fmt: skip
        given = f"-o {options} " if hierarchy.kind == "cgroup" else ""
        lines += [f"mkdir -p {point}", f"mount -t {hierarchy.kind} {given}cgroup {point}"]
        # cpu,cpuacct and the like: programs look under each controller's own name.
        if "," in point.name:
            lines += [f"ln -s {point.name} {point.parent}/{name}" for name in point.name.split(",")]
    return "\n".join(lines) + "\n"


def create(path: str, mounted: list[Hierarchy]) -> None:
    """Makes the folder ``path`` (``lab/node``) below ``ROOT`` in every hierarchy, ready for a
    kubelet. Raises ``OSError``."""
    for hierarchy in mounted:
        here = hierarchy.point
        for part in (ROOT, *path.split("/")):
            if hierarchy.kind == "cgroup2" and _is_delegating(mounted):
                _delegate(here)
            parent, here = here, here / part
            here.mkdir(exist_ok=True)
            _inherit_cpuset(parent, here)


def remove(path: str, mounted: list[Hierarchy] | None = None) -> None:
    """Removes the folder and all below it, deepest first; what still holds a process stays."""
    for hierarchy in hierarchies() if mounted is None else mounted:
        top = hierarchy.point / ROOT
        _remove_tree(top / path)
        for folder in (top / path).parents:
            if folder == hierarchy.point:
                break
            with suppress(OSError):
                folder.rmdir()


def sweep(alive: Collection[str]) -> None:
    """Removes the folders of all labs but those that are ``alive``."""
    for hierarchy in hierarchies():
        for folder in _folders(hierarchy.point / ROOT):
            if folder.name not in alive:
                remove(folder.name, [hierarchy])


def _is_delegating(mounted: list[Hierarchy]) -> bool:
    """Whether cgroup v2 is what controls: beside v1 it has no controllers."""
    return all(h.kind == "cgroup2" for h in mounted)


def _delegate(folder: Path) -> None:
    """Hands every controller that a folder has on to its children (cgroups(7))."""
    controllers = (folder / "cgroup.controllers").read_text().split()
    for name in controllers:
        with suppress(OSError):  # cpu is refused below threads, others on odd kernels
            (folder / "cgroup.subtree_control").write_text(f"+{name}")


def _inherit_cpuset(parent: Path, folder: Path) -> None:
    """A new cpuset of v1 is empty, and an empty one takes no process."""
    for name in _CPUSET:
        file = folder / name
        if file.exists() and not file.read_text().strip():
            with suppress(OSError):
                file.write_text((parent / name).read_text())


def _folders(folder: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from (Path(e.path) for e in os.scandir(folder) if e.is_dir(follow_symlinks=False))


def _remove_tree(folder: Path) -> None:
    for child in list(_folders(folder)):
        _remove_tree(child)
    with suppress(OSError):
        folder.rmdir()
