"""Ways in which a file that an agent needs becomes something else."""

from __future__ import annotations

import os
from pathlib import Path


def folder(path: Path) -> None:
    """It is a folder now, and not an empty one."""
    path.unlink()
    (path / "inside").mkdir(parents=True)


def link(path: Path) -> None:
    """It is a link now, to nothing."""
    path.unlink()
    path.symlink_to("/nowhere")


def pipe(path: Path) -> None:
    """It is a pipe now: who opens it waits for ever."""
    path.unlink()
    os.mkfifo(path)
