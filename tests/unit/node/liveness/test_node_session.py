"""Whether a session lives is asked on the way to whether a path does: no error may end that."""

from __future__ import annotations

import socket
from typing import cast

import pytest

from egress_gateway.datapath.errors import NoSuchNamespace
from egress_gateway.node.liveness import session
from egress_gateway.node.sandboxes.sandbox import Sandbox


class Leaving:
    """A sandbox whose link goes while it is asked."""

    def __init__(self, opened: socket.socket | Exception | None) -> None:
        self.opened = opened

    async def open_echo(self) -> socket.socket | None:
        if isinstance(self.opened, Exception):
            raise self.opened
        return self.opened


def broken() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.close()
    return made


@pytest.mark.parametrize("opened", [None, OSError("no link"), NoSuchNamespace("gone"), broken()])
async def test_what_cannot_be_asked_is_no_lost_session(
    opened: socket.socket | Exception | None,
) -> None:
    assert await session.lives(cast("Sandbox", Leaving(opened))) is True
