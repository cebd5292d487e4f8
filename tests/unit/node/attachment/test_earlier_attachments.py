"""Files of running pods that an agent wrote before a pod's two tunnels had one model.

``earlier_attachments.json`` was written by that agent's own code.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from egress_gateway.node.attachment import earlier
from egress_gateway.node.attachment.choose import BalancerAddress, GatewayNode
from egress_gateway.node.attachment.model import (
    Attachment,
    Joining,
    Parting,
    ServerKey,
    TunnelRecord,
    pod_desired,
)
from egress_gateway.node.attachment.moves import retarget
from egress_gateway.node.attachment.store import AttachmentStore
from tests.unit.node.node_values import FACTS, GW1, at

RECORDED: dict[str, msgspec.Raw] = msgspec.json.decode(
    Path(__file__).with_name("earlier_attachments.json").read_bytes(), type=dict[str, msgspec.Raw]
)
FIRST = ServerKey("QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=", 6000)
SECOND = ServerKey("QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=", 6001)
GW2 = GatewayNode("gw-2", "10.224.0.11", ipv6=True)
AT_GW1 = TunnelRecord(to=GW1, server=FIRST, listen_port=20000, verified=True)
AT_GW2 = TunnelRecord(to=GW2, server=FIRST, listen_port=30000, link="wg1", verified=True)


def read(name: str) -> Attachment:
    return earlier.decode(bytes(RECORDED[name]))


@pytest.mark.parametrize(
    ("name", "active", "standby"),
    [
        ("at a gateway", AT_GW1, None),
        (
            "at the load balancer",
            TunnelRecord(to=BalancerAddress("10.224.0.99"), server=FIRST, listen_port=20000),
            None,
        ),
        ("without a gateway", None, None),
        ("held back", None, None),
        (
            "leaving a gateway",
            AT_GW1,
            Joining(msgspec.structs.replace(AT_GW2, verified=False)),
        ),
        ("left a gateway", AT_GW2, Parting(AT_GW1, 160.0)),
        (
            "at the next key",
            msgspec.structs.replace(
                AT_GW1, server=SECOND, listen_port=30001, link="wg1", verified=True
            ),
            Parting(AT_GW1, 160.0),
        ),
        (
            "at the previous key",
            AT_GW1,
            Joining(
                msgspec.structs.replace(
                    AT_GW1, server=SECOND, listen_port=30002, link="wg1", verified=False
                )
            ),
        ),
    ],
)
def test_tunnels_are_those_that_the_pod_has(
    name: str, active: TunnelRecord | None, standby: Joining | Parting | None
) -> None:
    found = read(name)
    assert (found.active, found.standby) == (active, standby)


@pytest.mark.parametrize("name", list(RECORDED))
def test_what_is_read_is_written_in_todays_form_and_read_again(name: str, tmp_path: Path) -> None:
    (tmp_path / "attached").mkdir()
    (tmp_path / "attached" / "c-eth0.json").write_bytes(RECORDED[name])
    store = AttachmentStore(tmp_path)
    [found] = store.attachments()
    store.keep(found)
    assert store.attachments() == [found]


@pytest.mark.parametrize("name", ["at a gateway", "left a gateway", "at the next key"])
def test_a_new_agent_moves_nobody_whom_it_takes_over(name: str) -> None:
    found = read(name)

    def none_needed() -> int:
        raise AssertionError("the pod was moved")

    after = retarget(
        found, found.configuration, doubt=lambda a: 0.0, free_port=none_needed, now=100.0
    )
    assert after == found
    assert pod_desired(after, FACTS).tunnels


def test_a_configuration_of_which_nothing_was_known_is_still_that() -> None:
    found = read("held back").configuration
    assert (found.uid, found.server, found.balancer, found.gateways) == (None, None, None, [])


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"null", b'{"configuration": 1}', b'{"id"'])
def test_neither_form_is_an_error_of_decoding(raw: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        earlier.decode(raw)


def test_every_truncation_of_either_form_is_an_error_of_decoding() -> None:
    for raw in (bytes(RECORDED["left a gateway"]), msgspec.json.encode(at(GW1))):
        for length in range(len(raw)):
            with pytest.raises(msgspec.MsgspecError):
                earlier.decode(raw[:length])
