"""The current ``wireguard-go`` for lab, tests and benches: built once, from the go.mod here.

Prints where it is. Where it cannot be had one line says why, the status is 1, and Debian's serves
(``egress_gateway_lab.wireguard``). A machine whose kernel has WireGuard needs neither.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from egress_gateway_lab import golang, wireguard
from egress_gateway_lab.golang import Unavailable, say

PACKAGE = "golang.zx2c4.com/wireguard"


def ensure() -> Path:
    """Raises ``Unavailable``."""
    target = wireguard.built()
    if os.access(target, os.X_OK):
        return target
    with golang.one_at_a_time(target.parent):
        if not os.access(target, os.X_OK):
            go = golang.find()
            say(f"building wireguard-go {wireguard.VERSION} (once, about a minute)")
            golang.build(PACKAGE, target, go=go, module=Path(__file__).resolve().parent)
    return target


def main() -> int:
    try:
        print(ensure())
    except Unavailable as error:
        say(f"OLD WIREGUARD-GO: Debian's is taken, a quarter as fast: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
