"""A STUN server of one's own answers with what it sees, and to nothing else."""

from __future__ import annotations

import asyncio
import ipaddress

from egress_gateway.cli.stun import StunResponder
from egress_gateway.datapath.gateway import stun


class Asker(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.heard.put_nowait(data)


async def test_it_answers_with_the_address_that_it_sees() -> None:
    loop = asyncio.get_running_loop()
    server, _ = await loop.create_datagram_endpoint(StunResponder, local_addr=("127.0.0.1", 0))
    where = server.get_extra_info("sockname")
    transport, asker = await loop.create_datagram_endpoint(Asker, remote_addr=where)
    try:
        for garbage in (b"", b"x", bytes(2000), stun.request(b"t" * 12)[:-1]):
            transport.sendto(garbage)
        for transaction, size in ((b"a" * 12, 0), (b"b" * 12, 1400)):
            transport.sendto(stun.request(transaction, size=size))
            async with asyncio.timeout(60):
                found = stun.seen(await asker.heard.get())
            assert found == (transaction, ipaddress.ip_address("127.0.0.1"))
    finally:
        transport.close()
        server.close()
