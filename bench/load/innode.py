"""Runs on one machine of the lab: plays the container runtime for pods without containers.

``python -m bench.load.innode`` reads one JSON object a line and answers each with one line. Network
namespaces, the node's CNI chain and its plugins are the real ones; the calls are made as
containerd makes them. Times are seconds; moments are CLOCK_MONOTONIC, one clock for all processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench.figures import spread
from bench.load.longlived import LongLived
from bench.load.opener import Kind, Opener
from bench.load.traffic import Datagrams, Requests, ask_once
from egress_gateway.api import names
from egress_gateway.datapath.linux import netns
from egress_gateway.datapath.linux.link import Links
from egress_gateway_lab.runtime.containers.cni import Sandbox, plugin_config, result_addresses
from tests.node.flooder import Flood

_CONFIGURATIONS: Final = Path("/etc/cni/net.d")
_PLUGINS: Final = "/opt/cni/bin"
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Refused(Exception):
    """An operation failed; the text goes back to whoever asked."""


class Runtime:
    """Sandboxes by pod name."""

    def __init__(self) -> None:
        self._sandboxes: dict[str, tuple[Sandbox, dict[str, Any], dict[str, Any]]] = {}

    def add(
        self, name: str, uid: str, annotations: dict[str, str], plain_chain: bool
    ) -> dict[str, Any]:
        """Namespace and ADD; how long the chain took, and how long our plugin in it."""
        self.delete(name)
        sandbox = Sandbox(
            container_id=f"bench{uid.replace('-', '')}",
            netns=f"/run/netns/cni-{name}",
            namespace="default",
            name=name,
            uid=uid,
            annotations=annotations,
        )
        with netns.create(f"cni-{name}") as made:
            links = Links(made)
            links.set_up("lo")
        network = _network(without_us=plain_chain)
        ours, result = 0.0, None
        started = time.monotonic()
        for plugin in network["plugins"]:
            before = time.monotonic()
            try:
                result = _call("ADD", plugin, network, sandbox, result) or result
            except Refused:
                self._undo(network, sandbox)
                raise
            if plugin["type"] == names.CNI_PLUGIN:
                ours = time.monotonic() - before
        seconds = time.monotonic() - started
        assert result is not None
        self._sandboxes[name] = (sandbox, network, result)
        address = str(result_addresses(result)[0])
        return {"seconds": seconds, "ours": ours, "address": address}

    def delete(self, name: str) -> dict[str, Any]:
        """DEL and the end of the namespace; nothing happens if there is none."""
        known = self._sandboxes.pop(name, None)
        if known is not None:
            sandbox, network, result = known
            for plugin in reversed(network["plugins"]):
                _call("DEL", plugin, network, sandbox, result)
            netns.delete(f"cni-{name}")
        return {}

    def _undo(self, network: dict[str, Any], sandbox: Sandbox) -> None:
        """As a runtime does after a failed ADD."""
        for plugin in reversed(network["plugins"]):
            with contextlib.suppress(Refused):
                _call("DEL", plugin, network, sandbox, None)
        netns.delete(f"cni-{sandbox.name}")

    def first_request(self, name: str, url: str) -> dict[str, Any]:
        """A process starts in the pod and makes a request: seconds from its start to its end."""
        sandbox, _, _ = self._sandboxes[name]
        command = ["nsenter", f"--net={sandbox.netns}", "curl", "-sS", "--max-time", "1", url]
        started, failures = time.monotonic(), 0
        while True:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                break
            failures += 1
            if failures == 10:
                raise Refused(f"no request of {name} succeeded: {done.stderr.strip()}")
        seconds = time.monotonic() - started
        return {"seconds": seconds, "failures": failures, "source": done.stdout.strip()}

    def path(self, name: str) -> str:
        return self._sandboxes[name][0].netns


class Program:
    """The operations, by name."""

    def __init__(self) -> None:
        self._runtime = Runtime()
        self._traffic: Requests | Datagrams | None = None
        self._held: LongLived | None = None
        self._flood: Flood | None = None

    def answer(self, request: dict[str, Any]) -> Any:
        operations: dict[str, Callable[..., Any]] = {
            "add": self._runtime.add,
            "del": self._runtime.delete,
            "first": self._runtime.first_request,
            "process": self.process,
            "start": self.start,
            "answered": self.answered,
            "stop": self.stop,
            "ask": self.ask,
            "hold": self.hold,
            "alive": self.alive,
            "release": self.release,
            "open": self.open,
            "flood": self.flood,
            "ebb": self.ebb,
        }
        return operations[request.pop("op")](**request)

    def process(self) -> dict[str, float]:
        """What starting any process at all costs here."""
        started = time.monotonic()
        subprocess.run(["/bin/true"], input=b"{}", capture_output=True, check=True)
        return {"seconds": time.monotonic() - started}

    def start(self, pods: list[str], destination: str, rate: float, kind: str) -> dict[str, Any]:
        """Begins steady traffic from ``pods``, ``rate`` a second from each."""
        paths = {pod: self._runtime.path(pod) for pod in pods}
        self._traffic = (Requests if kind == "requests" else Datagrams)(paths, destination, rate)
        self._traffic.start()
        return {}

    def answered(self, since: float) -> dict[str, list[str]]:
        """Pods of which something sent after ``since`` was answered."""
        assert self._traffic is not None
        return {"pods": self._traffic.answered(since)}

    def stop(self) -> dict[str, Any]:
        """Ends traffic; every request: when sent, when answered, what the Internet saw."""
        assert self._traffic is not None
        found, self._traffic = self._traffic.stop(), None
        return found

    def ask(self, pods: list[str], destination: str) -> dict[str, str | None]:
        """The address that the Internet sees of each pod; None without an answer."""
        return {pod: ask_once(self._runtime.path(pod), destination) for pod in pods}

    def hold(self, pods: list[str], destination: str, count: int, period: float) -> dict[str, Any]:
        """Opens ``count`` long connections from ``pods``, each used every ``period`` seconds."""
        paths = {pod: self._runtime.path(pod) for pod in pods}
        self._held = LongLived(paths, destination, count, period)
        self._held.start()
        return {}

    def alive(self, since: float) -> dict[str, int]:
        """How many of them have answered what they were asked after ``since``."""
        return {"alive": self._held.alive(since) if self._held else 0}

    def release(self) -> dict[str, int]:
        """Closes them."""
        over = self._held.stop() if self._held else 0
        self._held = None
        return {"over": over}

    def open(
        self, pods: list[str], destination: str, kind: Kind, seconds: float, at_once: int
    ) -> dict[str, Any]:
        """Opens new flows from ``pods`` as fast as they are answered, ``at_once`` at a time."""
        found = Opener([self._runtime.path(p) for p in pods], destination, kind).run(
            seconds, at_once
        )
        times = spread(found.seconds, "p50", "p99")
        return {"opened": len(found.seconds), "unanswered": found.failed, **times}

    def flood(self, pod: str, public_key: str, addresses: list[str], rate: int) -> dict[str, Any]:
        """A pod floods gateways with handshakes, ``rate`` a second each; returns when more than any
        queue holds is out."""
        self._flood = Flood(self._runtime.path(pod), public_key, addresses, rate=rate)
        self._flood.begun()
        return {}

    def ebb(self) -> dict[str, int]:
        """Ends it; initiations a second to all gateways together."""
        assert self._flood is not None
        found = self._flood.end()
        self._flood.kill()
        return {"initiations_per_second": found}


def _network(*, without_us: bool) -> dict[str, Any]:
    """The first configuration list, as every call of a runtime reads it."""
    path = min(p for p in _CONFIGURATIONS.iterdir() if p.suffix == ".conflist")
    network: dict[str, Any] = json.loads(path.read_text())
    ours = [p for p in network["plugins"] if p["type"] == names.CNI_PLUGIN]
    if not ours:
        raise Refused("the node agent has not installed the plugin")
    if without_us:
        network["plugins"] = [p for p in network["plugins"] if p["type"] != names.CNI_PLUGIN]
    return network


def _call(
    command: str,
    plugin: dict[str, Any],
    network: dict[str, Any],
    sandbox: Sandbox,
    previous: dict[str, Any] | None,
) -> dict[str, Any] | None:
    environment = {
        "PATH": _PATH,
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": sandbox.container_id,
        "CNI_NETNS": sandbox.netns,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": _PLUGINS,
        "CNI_ARGS": ";".join(f"{key}={value}" for key, value in sandbox.args),
    }
    config = json.dumps(plugin_config(network, plugin, sandbox, previous)).encode()
    executable = f"{_PLUGINS}/{plugin['type']}"
    done = subprocess.run(
        [executable], input=config, env=environment, capture_output=True, check=False
    )
    if done.returncode != 0:
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        raise Refused(f"plugin {plugin['type']} {command}: {said}")
    answer: dict[str, Any] | None = json.loads(done.stdout) if done.stdout.strip() else None
    return answer


def main() -> None:
    os.environ["PATH"] = _PATH
    program = Program()
    for line in sys.stdin:
        try:
            answer = program.answer(json.loads(line))
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
