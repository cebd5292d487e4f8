"""Which ``wireguard-go`` the lab, the tests of the data path and the benches run.

The current one, where ``make`` has built it (``tools/wireguard/build.py``: from the Go module
proxy, once, into the user's cache). It is what the image carries, and four times as fast as Debian
12's. Else the machine's own, and ``describe`` says so in one line. ``LAB_WIREGUARD_GO`` chooses::

    LAB_WIREGUARD_GO=system             the machine's own, Debian's package
    LAB_WIREGUARD_GO=/a/wireguard-go    any other

Programs find it by name: whoever starts some puts ``path()`` into their environment.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from egress_gateway_lab import golang

VARIABLE: Final = "LAB_WIREGUARD_GO"
NAME: Final = "wireguard-go"
VERSION: Final = "v0.0.0-20260522210424-ecfc5a8d5446"
"""``tools/wireguard/go.mod`` names the same one (a test holds that)."""
_SYSTEM: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def built() -> Path:
    """Where the current one is, or would be put."""
    return golang.cache() / NAME / VERSION / NAME


def program() -> Path | None:
    """The one to run; None where there is none. Raises ``Unavailable`` for an impossible choice."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", "system"):
        chosen = Path(wanted)
        if chosen.name != NAME or not os.access(chosen, os.X_OK):
            raise golang.Unavailable(
                f"{VARIABLE}={wanted}: no program called {NAME} is there; give the path of one, "
                "`system` for the machine's own, or nothing for the current one"
            )
        return chosen.absolute()
    if not wanted and os.access(built(), os.X_OK):
        return built()
    found = shutil.which(NAME, path=_SYSTEM)
    return Path(found) if found else None


def path(rest: str = _SYSTEM) -> str:
    """``PATH`` with the one to run before all others."""
    found = program()
    return f"{found.parent}:{rest}" if found and str(found.parent) not in _SYSTEM else rest


def describe() -> str:
    """One line for a person who would wonder; empty where the current one or the kernel's runs."""
    found = program()
    if found == built() or Path("/sys/module/wireguard").exists():
        return ""
    if os.environ.get(VARIABLE):
        return f"{NAME} is {found}, as {VARIABLE} says; the current one is {VERSION}"
    return (
        f"{NAME} is the machine's own ({found}), not the current {VERSION}: "
        "`make install` builds that, from the Go module proxy"
    )
