"""One question to one DNS server."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from egress_gateway.cli.proof import dns


def answer(query: bytes, code: int) -> bytes:
    return query[:2] + struct.pack("!5H", 0x8180 | code, 1, 0, 0, 0) + query[12:]


def asked(
    monkeypatch: pytest.MonkeyPatch, respond: Callable[[bytes], list[bytes]], name: str = "a.b"
) -> tuple[str, list[bytes]]:
    """What ``ask`` says of a server on loopback, and what came there."""
    got: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        monkeypatch.setattr(dns, "_PORT", server.getsockname()[1])

        def serve() -> None:
            query, peer = server.recvfrom(4096)
            got.append(query)
            for part in respond(query):
                server.sendto(part, peer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        said = dns.ask("127.0.0.1", name, 60 if respond(b"x" * 17) else 0.1)
        thread.join(60)
    return said, got


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("a.b", 0, ""),
        ("a.b", 3, ""),
        ("a.b", 2, "it answers SERVFAIL"),
        ("a.b", 5, "it answers REFUSED"),
        ("", 5, ""),
    ],
)
def test_what_a_server_answers(
    monkeypatch: pytest.MonkeyPatch, name: str, code: int, said: str
) -> None:
    assert asked(monkeypatch, lambda query: [answer(query, code)], name)[0] == said


def test_answers_to_other_questions_and_garbage_are_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def respond(query: bytes) -> list[bytes]:
        other = bytes([query[0] ^ 1, query[1]]) + query[2:]
        return [b"", b"x", query, answer(other, 2), answer(query, 0)]

    assert asked(monkeypatch, respond)[0] == ""


def test_silence_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, lambda query: [])[0].startswith("no answer in ")


def test_the_question_is_of_rfc_1035() -> None:
    assert dns.question(7, "a.bc") == (b"\0\7\1\0\0\1\0\0\0\0\0\0" + b"\1a\2bc\0" + b"\0\1\0\1")
    assert dns.question(7, "")[12:] == b"\0" + b"\0\2\0\1"


def test_the_nodes_servers_are_those_of_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "resolv.conf"
    monkeypatch.setattr(dns, "_RESOLV_CONF", file)
    assert dns.servers(["node", "10.0.0.10"]) == ["10.0.0.10"]
    file.write_text("# x\nsearch a\nnameserver 1.2.3.4\nnameserver nonsense\nnameserver\n")
    assert dns.servers(["10.0.0.10", "node", "1.2.3.4"]) == ["10.0.0.10", "1.2.3.4"]
