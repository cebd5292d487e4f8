"""What commands say on a terminal.

Guarantee: nothing that others wrote into the cluster's objects reaches a terminal as a command to
it. Agents of any node write messages, and a stolen token writes what it likes; a terminal obeys
escape sequences, which clear lines, set titles or fill the clipboard (as in CVE-2021-25743, of
kubectl).
"""

from __future__ import annotations

import re
from typing import Final

import click

from egress_gateway.service.printable import printable

_OURS: Final = re.compile(r"(\x1b\[(?:0|1|22|3[1-3])m)")
"""Red, green, yellow, bold and not bold, as ``click.style`` writes them for us. Others may use them
too. Black and white hide text on a terminal of that colour."""


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """``click.echo`` for text in which others' words may stand."""
    click.echo(plain(text), err=err, nl=nl)


def plain(text: str) -> str:
    """Colours, tabs and line ends stay; of the rest, see ``printable``."""
    parts = _OURS.split(text)
    return "".join(
        part if n % 2 else printable(part, spared="\n\t") for n, part in enumerate(parts)
    )


def one_line(text: str) -> str:
    """Others' words, which must not look like a line of ours."""
    return " ".join(text.split())
