"""nftables of one namespace, through libnftables: whole rulesets in, one atomic change each.

The library costs a fraction of a millisecond where the ``nft`` program costs sixteen. A ruleset is
nft's own text; ``add table`` + ``delete table`` + ``table {…}`` in one call replaces a table
without an instant in which it is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import ipaddress
import json
import os
import re
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from egress_gateway.datapath.errors import DatapathError, KernelRefused
from egress_gateway.datapath.linux import netlink
from egress_gateway.datapath.linux.netlink import Message, NetlinkSocket
from egress_gateway.datapath.linux.netns import NetNS

_OUTPUT_JSON: Final = 1 << 4
_GET_GENERATION: Final = (10 << 8) | 16  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN
_GENERATION_ID: Final = 1
# The library keeps state outside its contexts (scanner, symbol tables).
_lock: Final = threading.Lock()
_libc: Final = ctypes.CDLL(None, use_errno=True)
_CLONE_FILES: Final = 0x400
_SELECTABLE: Final = 1000
"""Descriptors below FD_SETSIZE (1,024), with room for the few that the library opens."""
_ANY_DESCRIPTOR: Final = 1 << 30
_library: list[ctypes.CDLL] = []


class Nftables:
    """nftables of one namespace. Each call has a context of its own; thread-safe."""

    def __init__(self, netns: NetNS) -> None:
        self._netns = netns

    def apply(self, ruleset: str) -> None:
        """Applies ``ruleset`` as one transaction. Raises ``DatapathError`` with nft's words."""
        failure, output = self._run(ruleset, json_output=False)
        if failure:
            first = next(iter(failure.strip().splitlines()), "no reason given")
            raise DatapathError(f"nftables in {self._netns.path}: {first}{output}")

    def table(self, family: str, name: str) -> list[dict[str, Any]] | None:
        """The table's objects as nft's JSON has them; None if there is no such table."""
        failure, output = self._run(f"list table {family} {name}", json_output=True)
        if failure:
            if "No such file or directory" in failure:
                return None
            raise DatapathError(f"nftables in {self._netns.path}: {failure.strip()}")
        listed: list[dict[str, Any]] = json.loads(output)["nftables"]
        return [item for item in listed if "metainfo" not in item]

    def generation(self) -> int:
        """Changes with every change of any rule or set by anybody in the namespace; far cheaper
        than looking at them. Packets that count or fill sets do not change it."""
        connection = NetlinkSocket(netlink.NETFILTER, self._netns)
        try:
            asked = Message(_GET_GENERATION, 0, struct.pack("!BBH", 0, 0, 0))
            answers = connection.query(asked, f"nftables in {self._netns.path}")
        finally:
            connection.close()
        found = netlink.attributes(answers[0].payload, 4)
        return int.from_bytes(found[_GENERATION_ID])

    def counter(self, family: str, table: str, name: str) -> int | None:
        """Packets of a named counter; None if it does not exist."""
        failure, output = self._run(f"list counter {family} {table} {name}", json_output=True)
        if failure:
            return None
        for item in json.loads(output)["nftables"]:
            if "counter" in item:
                return int(item["counter"]["packets"])
        return None

    def elements(self, family: str, table: str, name: str) -> list[Any]:
        """Elements of a set, as nft's JSON has their values; none if it does not exist."""
        failure, output = self._run(f"list set {family} {table} {name}", json_output=True)
        found = [] if failure else json.loads(output)["nftables"]
        listed = [e for item in found if "set" in item for e in item["set"].get("elem", [])]
        return [e["elem"]["val"] if isinstance(e, dict) and "elem" in e else e for e in listed]

    def _run(self, command: str, *, json_output: bool) -> tuple[str, str]:
        with _lock:
            return self._netns.run(lambda: _execute_selectable(command, json_output))


def fingerprint(listing: list[dict[str, Any]] | None, *, without: tuple[str, ...] = ()) -> str:
    """A listing as text that changes when somebody changes the rules, and only then: handles
    and counts are left out, and so are the elements of the sets named ``without``."""
    return json.dumps(_strip(listing or [], without), sort_keys=True)


def amend(
    table: str, sets: Iterable[str], ruleset: str, listing: Sequence[Mapping[str, Any]] | None
) -> str:
    """A transaction that makes an existing ``inet`` table, whose state is ``listing``, equal
    ``ruleset``. It replaces rules, changes only the differences of the named sets and maps, keeps
    counters and other sets, and removes what ``ruleset`` does not declare. Packets see the old
    rules or the new.

    It does not touch elements that stay: kernels before 6.17 may find neither the old nor the new
    one at the instant of the change (kernel commit "netfilter: nf_tables: restart set lookup on
    base_seq change"). For the same reason ``ruleset`` must have no anonymous verdict map:
    its elements go with its rule, before packets that are at that rule have left it."""
    declared = set(re.findall(r"^ *(?:chain|counter|map|set) (\S+) \{", ruleset, re.MULTILINE))
    there = [
        (kind, item)
        for entry in listing or ()
        for kind, item in entry.items()
        if kind in ("chain", "counter", "map", "set")
    ]
    strange = [
        f"delete {kind} inet {table} {item['name']}"
        for kind, item in there
        if item["name"] not in declared
    ]
    found = {
        item["name"]: (kind, _listed(item.get("elem", [])))
        for kind, item in there
        if kind in ("map", "set")
    }
    changes = [
        change
        for name in sets
        if name in found
        for change in _changes(f"inet {table} {name}", *found[name], _written(name, ruleset))
    ]
    return "\n".join([f"flush table inet {table}", *strange, *changes, ruleset])


_Key = tuple[str, ...]


def _changes(where: str, kind: str, have: frozenset[_Key], want: frozenset[_Key]) -> list[str]:
    gone = have - want
    if not gone:
        return []
    if all(len(key) == 1 and _is_network(key[0]) for key in gone):
        networks = ", ".join(sorted(key[0] for key in gone))
        return [f"delete element {where} {{ {networks} }}"]
    return [f"flush {kind} {where}"]


def _written(name: str, ruleset: str) -> frozenset[_Key]:
    """The elements of a set or map in nft's text."""
    found = re.search(
        rf"(?:set|map) {re.escape(name)} \{{[^{{}}]*elements = \{{([^{{}}]*)\}}", ruleset
    )
    elements = found[1].split(",") if found else []
    return frozenset(
        tuple(_plain(part.strip(' "')) for part in re.split(r" [.:] ", element.strip()))
        for element in elements
    )


def _listed(elements: Iterable[Any]) -> frozenset[_Key]:
    """The same of nft's JSON: values, networks, concatenations of them; pairs in maps."""
    return frozenset(tuple(_parts(element)) for element in elements)


def _parts(element: Any) -> Iterator[str]:
    match element:
        case {"elem": {"val": value}}:
            yield from _parts(value)
        case {"prefix": {"addr": address, "len": length}}:
            yield _plain(f"{address}/{length}")
        case {"concat": parts} | [*parts]:
            for part in parts:
                yield from _parts(part)
        case str() | int():
            yield _plain(str(element))
        case _:
            yield json.dumps(element)  # equals nothing that we write


def _plain(text: str) -> str:
    """Numbers as decimals, addresses without a length, networks with one, all else as it is."""
    with contextlib.suppress(ValueError):
        return str(int(text, 0))
    with contextlib.suppress(ValueError):
        network = ipaddress.ip_network(text)
        alone = network.prefixlen == network.max_prefixlen
        return str(network.network_address if alone else network)
    return text


def _is_network(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_network(text))
    return False


def _strip(value: Any, without: tuple[str, ...]) -> Any:
    if isinstance(value, list):
        return [_strip(item, without) for item in value]
    if not isinstance(value, dict):
        return value
    left_out = {"handle", "packets", "bytes"}
    if value.get("name") in without:
        left_out.add("elem")
    return {k: _strip(v, without) for k, v in value.items() if k not in left_out}


def _load() -> ctypes.CDLL:
    if _library:
        return _library[0]
    try:
        loaded = ctypes.CDLL(ctypes.util.find_library("nftables") or "libnftables.so.1")
    except OSError as error:
        raise DatapathError(
            "libnftables.so.1 cannot be loaded; install the package libnftables1"
        ) from error
    loaded.nft_ctx_new.restype = ctypes.c_void_p
    loaded.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for name in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(loaded, name).argtypes = [ctypes.c_void_p]
    loaded.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    loaded.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        function = getattr(loaded, name)
        function.argtypes = [ctypes.c_void_p]
        function.restype = ctypes.c_char_p
    _library.append(loaded)
    return loaded


def _execute_selectable(command: str, json_output: bool) -> tuple[str, str]:
    """The library waits by select(2), which ends the process at descriptors from 1,024 on, as an
    agent of many pods has. A thread with a table of descriptors of its own starts at the low
    numbers again, and is in its parent's namespaces."""
    lowest = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    os.close(lowest)
    if lowest < _SELECTABLE:
        return _execute(command, json_output)
    with ThreadPoolExecutor(1, "nft", initializer=_descriptors_of_its_own) as thread:
        return thread.submit(_execute, command, json_output).result()


def _descriptors_of_its_own() -> None:
    if _libc.unshare(_CLONE_FILES):
        raise KernelRefused("unsharing descriptors", ctypes.get_errno())
    os.closerange(3, _ANY_DESCRIPTOR)


def _execute(command: str, json_output: bool) -> tuple[str, str]:
    library = _load()
    context = library.nft_ctx_new(0)
    if not context:
        raise DatapathError("libnftables gave no context; run with CAP_NET_ADMIN")
    try:
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        if json_output:
            library.nft_ctx_output_set_flags(context, _OUTPUT_JSON)
        result = library.nft_run_cmd_from_buffer(context, command.encode())
        output = library.nft_ctx_get_output_buffer(context) or b""
        error = library.nft_ctx_get_error_buffer(context) or b""
        failure = (error.decode(errors="replace") or "refused") if result else ""
        return failure, output.decode(errors="replace")
    finally:
        library.nft_ctx_free(context)
