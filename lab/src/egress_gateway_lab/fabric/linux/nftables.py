"""nftables in process: libnftables by ctypes, one context per network namespace.

A command list is one transaction: all of it or nothing. The context's netlink socket belongs to
the namespace of the thread that made it, and serves any thread afterwards, one at a time.
"""

from __future__ import annotations

import ctypes
import json
import threading
from typing import Any, Final

_OUTPUT_JSON: Final = 1 << 4
"""NFT_CTX_OUTPUT_JSON of nftables/libnftables.h"""


class NftablesError(Exception):
    """A transaction was refused; the message is the library's, with the line that it names."""


class Nftables:
    """Runs transactions in the namespace of the thread that makes the object."""

    def __init__(self) -> None:
        try:
            self._library = _library()
        except OSError as error:
            raise NftablesError(f"{error}: install Debian's libnftables1") from error
        self._context: int | None = self._library.nft_ctx_new(0)
        if not self._context:
            raise NftablesError("libnftables could not be started: is this process root?")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)
        self._lock = threading.Lock()

    def run(self, commands: str) -> None:
        """Applies commands in nft's own language as one transaction."""
        with self._lock:
            self._run(commands)

    def query(self, command: str) -> list[dict[str, Any]]:
        """The objects that a ``list`` command answers, as libnftables-json(5) has them."""
        with self._lock:
            self._library.nft_ctx_output_set_flags(self._context, _OUTPUT_JSON)
            try:
                text = self._run(command)
            finally:
                self._library.nft_ctx_output_set_flags(self._context, 0)
        return json.loads(text)["nftables"][1:] if text else []

    def close(self) -> None:
        with self._lock:
            if self._context:
                self._library.nft_ctx_free(self._context)
                self._context = None

    def _run(self, commands: str) -> bytes:
        if not self._context:
            raise NftablesError("this nftables context is closed")
        failed = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        output: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
        if failed:
            error: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
            raise NftablesError(error.decode(errors="replace").strip())
        return output


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libnftables.so.1")
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint
    library.nft_ctx_new.restype, library.nft_ctx_new.argtypes = pointer, [ctypes.c_uint32]
    library.nft_ctx_free.restype, library.nft_ctx_free.argtypes = None, [pointer]
    library.nft_ctx_output_set_flags.restype = None
    library.nft_ctx_output_set_flags.argtypes = [pointer, number]
    library.nft_run_cmd_from_buffer.argtypes = [pointer, text]
    for name in ("output", "error"):
        getattr(library, f"nft_ctx_buffer_{name}").argtypes = [pointer]
        read = getattr(library, f"nft_ctx_get_{name}_buffer")
        read.restype, read.argtypes = text, [pointer]
    return library
