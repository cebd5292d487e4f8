"""The image's program in a container: as nobody, on a read-only root, with 1,024 files to open.

For another processor than this machine's, qemu-user stands in for it, in a chroot: the root is then
the image's, the limits are those of a process, and no kernel has to know of foreign programs.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import tarfile
import tempfile
import uuid
from pathlib import Path
from typing import Any

from image import archives
from image.archives import Archive

FILES = 1024
"""What podman and buildah let a container open by default."""
_QEMU = "qemu-aarch64-static"
_UNTRIED = "NOT TRIED: this machine has nothing that stands in for the image's processor"
_PROGRAM = "/opt/egress-gateway/bin/python"


class ContainerError(Exception):
    """The image does not run; the text says what was tried and what came of it."""


def try_version(archive: Archive, own: str) -> str:
    """What ``egress-gateway --version`` said, and how it was tried. Raises ``ContainerError``."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch, "rootfs")
        unpack(archive.path, root)
        if archive.architecture == own:
            return _contained(Path(scratch))
        return _emulated(root) if archive.architecture == "arm64" else _UNTRIED


def unpack(archive: Path, root: Path) -> None:
    """The root as a container sees it; no layer of ours removes what is below it."""
    root.mkdir(parents=True)
    root.chmod(0o755)  # whatever the umask: the container's user enters it
    with tarfile.open(archive) as tar:
        for layer in archives.layers(tar):
            layer.extractall(root, **_as_it_is())  # noqa: S202 (built here; links are meant)


def _as_it_is() -> dict[str, Any]:
    """Links to absolute paths are meant; Debian's Python 3.11.2 asks for no filter yet."""
    return {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}


def _contained(bundle: Path) -> str:
    arguments = ["egress-gateway", "--version"]
    (bundle / "config.json").write_text(json.dumps(specification(arguments)))
    command = ["runc", "--root", str(bundle / "state"), "run", "--bundle", str(bundle)]
    said = _said([*command, f"image-{uuid.uuid4().hex[:12]}"])
    return f"{said} (runc: user 65532, read-only root, {FILES} files)"


def _emulated(root: Path) -> str:
    found = shutil.which(_QEMU)
    if found is None:
        return f"{_UNTRIED} (apt-get install qemu-user-static)"
    shutil.copy2(found, root / _QEMU)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))

    inside = [
        "/qemu-aarch64-static",
        _PROGRAM,
        "-I",
        "/opt/egress-gateway/bin/egress-gateway",
        "--version",
    ]
    command = ["chroot", "--userspec=65532:65532", str(root), *inside]
    return f"{_said(command, limited)} ({_QEMU} in a chroot: user 65532, {FILES} files)"


def _said(command: list[str], prepare: Any = None) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, preexec_fn=prepare, timeout=300
    )
    if done.returncode or not done.stdout.startswith("egress-gateway"):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ContainerError(f"`egress-gateway --version` failed in the image: {last}")
    return done.stdout.strip()


def specification(arguments: list[str]) -> dict[str, Any]:
    """A runtime's configuration (https://github.com/opencontainers/runtime-spec)."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 65532, "gid": 65532},
            "args": arguments,
            "env": [
                "PATH=/opt/egress-gateway/bin:/usr/sbin:/usr/bin",
                "PYTHONDONTWRITEBYTECODE=1",
            ],
            "cwd": "/",
            "capabilities": {},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": FILES, "soft": FILES}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        ],
        "linux": {"namespaces": [{"type": t} for t in ("pid", "mount", "ipc", "uts", "network")]},
    }
