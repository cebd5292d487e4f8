"""The lab's process: PID 1 of its namespaces, started by ``lab.host`` and by nobody else.

Its network namespace is the router of everything inside. It serves Azure Resource Manager and the
Kubernetes API twice, on sockets that were opened on the host's loopback and on addresses inside
the lab; a client cannot tell which.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from egress_gateway_lab import pki
from egress_gateway_lab.cluster import Lab
from egress_gateway_lab.control import control_app

_DESCRIPTORS: Final = 1 << 16
_PRIVATE: Final = ("/run/netns", "/run/wireguard")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What ``lab.host`` hands over; descriptors are inherited sockets and a pipe."""

    name: str
    directory: str
    kubernetes_fd: int
    azure_fd: int
    control_fd: int
    progress_fd: int
    options: dict[str, Any]


def main() -> None:
    config = Config(**json.loads(sys.argv[1]))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for name in ("asyncio", "aiohttp.access", "pyroute2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Most of what is imported stays for ever: looking through it again and again costs
    # milliseconds of packets' time.
    gc.collect()
    gc.freeze()
    with os.fdopen(config.progress_fd, "w", buffering=1) as progress:
        try:
            _many_descriptors()
            _private_mounts()
            asyncio.run(_serve(config, lambda message: print(json.dumps(message), file=progress)))
        except Exception as error:
            log.exception("the lab ends")
            with contextlib.suppress(OSError):
                print(json.dumps({"error": str(error) or repr(error)}), file=progress)
            sys.exit(1)


def _many_descriptors() -> None:
    """A shell's usual 1,024 do not hold a lab whose pods keep a thousand connections open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _serve(config: Config, tell: Any) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    directory = Path(config.directory)
    authority = pki.Authority()
    (directory / "ca.crt").write_bytes(authority.ca)
    lab = Lab(
        name=config.name,
        directory=directory,
        authority=authority,
        kubernetes=_inherited(config.kubernetes_fd),
        azure=_inherited(config.azure_fd),
        options=config.options,
    )
    async with lab:
        runner = web.AppRunner(control_app(lab.operations()), access_log=None)
        await runner.setup()
        await web.SockSite(runner, _inherited(config.control_fd)).start()
        tell({"ready": True})
        ended = asyncio.create_task(lab.run())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            ended.result()
        ended.cancel()
        await asyncio.gather(ended, return_exceptions=True)
        await runner.cleanup()


def _inherited(descriptor: int) -> socket.socket:
    opened = socket.socket(fileno=descriptor)
    opened.setblocking(False)
    return opened


def _private_mounts() -> None:
    """What the lab writes below /run is its own; the host's stays unseen."""
    for path in _PRIVATE:
        Path(path).parent.mkdir(exist_ok=True)
        if Path(path).is_dir():
            subprocess.run(["mount", "-t", "tmpfs", "lab", path], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


if __name__ == "__main__":
    main()
