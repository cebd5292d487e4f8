"""What libcni remembers of sandboxes: pods that were started before our plugin was in the chain.

containerd and CRI-O keep the result of each ADD in ``/var/lib/cni/results``, one file a network and
sandbox, until DEL (libcni's ``cachedInfo``, https://github.com/containernetworking/cni, api.go).
That is all that is needed to attach such a pod while it runs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from egress_gateway.cni.protocol import Call, NetConf, Result
from egress_gateway.datapath.linux import netns
from egress_gateway.kube.resources import Pod

log = logging.getLogger(__name__)

RESULTS: Final = "results"
FIRST: Final = "eth0"
"""The pod's interface towards the cluster, as Kubernetes' runtimes name it."""


class _Interface(msgspec.Struct, frozen=True):
    name: str = ""
    sandbox: str = ""


class _Result(msgspec.Struct, frozen=True):
    interfaces: list[_Interface] | None = None


class _Cached(msgspec.Struct, frozen=True, rename="camel"):
    container_id: str = msgspec.field(name="containerId", default="")
    if_name: str = ""
    network_name: str = ""
    netns: str = ""
    cni_args: list[tuple[str, str]] | None = None
    result: msgspec.Raw = msgspec.Raw(b"{}")


def parse(content: bytes) -> Call:
    """The file's content as the record that our plugin would have written. Raises
    ``msgspec.MsgspecError``."""
    try:
        cached = msgspec.json.decode(content, type=_Cached)
    except RecursionError:
        raise msgspec.DecodeError("it is nested too deeply") from None
    interfaces = msgspec.json.decode(cached.result, type=_Result).interfaces or []
    inside = (i.sandbox for i in interfaces if i.name == cached.if_name and i.sandbox)
    return Call(
        command="ADD",
        container_id=cached.container_id,
        netns=cached.netns or next(inside, ""),
        if_name=cached.if_name,
        args=";".join(f"{key}={value}" for key, value in cached.cni_args or []),
        config=NetConf(
            name=cached.network_name,
            prev_result=msgspec.json.decode(cached.result, type=Result),
        ),
    )


class Results:
    """The cache below ``folder`` (libcni's, ``/var/lib/cni``). Blocking; for rare use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / RESULTS

    def find(self, pod: Pod) -> Call | None:
        """The record of the pod's living sandbox, its first interface; None if there is none."""
        meta = pod.metadata
        found = [
            call
            for call in self._calls()
            if call.pod[:2] == (meta.namespace, meta.name)
            and call.pod[2] in ("", meta.uid)
            and call.addresses
            and netns.is_namespace(Path(call.netns))
        ]
        found.sort(key=lambda call: (call.if_name != FIRST, call.if_name))
        return found[0] if found else None

    def _calls(self) -> Iterator[Call]:
        if not self._folder.is_dir():
            return
        for path in sorted(self._folder.iterdir()):
            try:
                call = parse(path.read_bytes())
            except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
                log.debug("skipped libcni result", extra={"file": str(path), "error": str(error)})
                continue
            yield msgspec.structs.replace(call, netns=_reachable(call.netns))


def _reachable(path: str) -> str:
    """Where a container has no /var/run the same file is under /run."""
    other = path.removeprefix("/var")
    return other if path.startswith("/var/run/") and not Path(path).exists() else path
