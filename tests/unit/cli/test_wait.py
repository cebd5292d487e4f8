"""What ends the wait for a tunnel: a tunnel's link, by its whole name."""

from __future__ import annotations

import pytest

from egress_gateway.cli.wait import attached

HEAD = """Inter-|   Receive                            |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo
"""


@pytest.mark.parametrize(
    ("links", "there"),
    [
        ((), False),
        (("lo", "eth0"), False),
        (("lo", "eth0", "wg0"), True),
        (("wg1",), True),
        (("wg00", "xwg0", "wg", "wg2"), False),
    ],
)
def test_only_a_tunnels_link_counts(links: tuple[str, ...], there: bool) -> None:
    assert attached(HEAD + "".join(f"{name:>6}: 84 1 0 0 0 0 0 0\n" for name in links)) == there
