"""Calls a node's CNI chain as libcni does, which containerd and CRI-O use.

What a plugin is given and in which order: https://www.cni.dev/docs/spec/, section 4. One instance
is one runtime: it remembers results until DEL, as libcni's cache does.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EXTENSIONS = (".conf", ".conflist", ".json")
REAL_PLUGINS = Path("/usr/lib/cni")


class CniError(Exception):
    """What a plugin printed when it failed."""

    def __init__(self, plugin: str, answer: dict[str, Any]) -> None:
        super().__init__(f"{plugin}: {answer}")
        self.plugin = plugin
        self.answer = answer
        self.code: int = answer["code"]


@dataclass(frozen=True)
class Sandbox:
    """An attachment of a pod: what a runtime knows of it."""

    container: str
    netns: str = ""
    interface: str = "eth0"
    capabilities: dict[str, Any] = field(default_factory=dict)
    args: str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=u-1"

    @property
    def key(self) -> tuple[str, str]:
        return self.container, self.interface


class Runtime:
    def __init__(self, conf_dir: Path, *bin_dirs: Path) -> None:
        self._conf_dir = conf_dir
        self._bin_dirs = bin_dirs
        self._results: dict[tuple[str, str], Any] = {}
        self.printed: list[tuple[str, bytes]] = []
        """Plugin and standard output of each call of the last verb."""

    @property
    def network(self) -> dict[str, Any]:
        """The first configuration by name; a single one counts as a chain."""
        found = sorted(p for p in self._conf_dir.iterdir() if p.name.endswith(EXTENSIONS))
        content: dict[str, Any] = json.loads(found[0].read_bytes())
        if "plugins" in content:
            return content
        return {"name": content["name"], "cniVersion": content["cniVersion"], "plugins": [content]}

    def add(self, sandbox: Sandbox) -> Any:
        """The result; the runtime would answer a failure with DEL."""
        self.printed = []
        result = None
        for plugin in self.network["plugins"]:
            result = json.loads(self._call("ADD", plugin, sandbox, prevResult=result))
        self._results[sandbox.key] = result
        return result

    def check(self, sandbox: Sandbox) -> None:
        self.printed = []
        for plugin in self.network["plugins"]:
            self._call("CHECK", plugin, sandbox, prevResult=self._results[sandbox.key])

    def delete(self, sandbox: Sandbox) -> None:
        self.printed = []
        for plugin in reversed(self.network["plugins"]):
            self._call("DEL", plugin, sandbox, prevResult=self._results.get(sandbox.key))
        self._results.pop(sandbox.key, None)

    def collect(self, valid: Iterable[Sandbox]) -> None:
        """GC, of configurations of 1.1.0."""
        self.printed = []
        listed = [{"containerID": s.container, "ifname": s.interface} for s in valid]
        for plugin in self.network["plugins"]:
            self._call("GC", plugin, None, **{"cni.dev/valid-attachments": listed})

    def status(self) -> None:
        """STATUS, of configurations of 1.1.0."""
        self.printed = []
        for plugin in self.network["plugins"]:
            self._call("STATUS", plugin, None)

    def _call(
        self, verb: str, plugin: dict[str, Any], sandbox: Sandbox | None, **more: Any
    ) -> bytes:
        network = self.network
        conf = plugin | {"name": network["name"], "cniVersion": network["cniVersion"]}
        conf |= {key: value for key, value in more.items() if value is not None}
        environment = {
            "CNI_COMMAND": verb,
            "CNI_PATH": ":".join(map(str, self._bin_dirs)),
            "PATH": os.environ["PATH"],
        }
        if sandbox is not None:
            able = plugin.get("capabilities", {})
            given = {k: v for k, v in sandbox.capabilities.items() if able.get(k)}
            if given:
                conf["runtimeConfig"] = given
            environment |= {
                "CNI_CONTAINERID": sandbox.container,
                "CNI_NETNS": sandbox.netns,
                "CNI_IFNAME": sandbox.interface,
                "CNI_ARGS": sandbox.args,
            }
        done = subprocess.run(
            [self._program(plugin["type"])],
            input=json.dumps(conf).encode(),
            env=environment,
            capture_output=True,
            timeout=120,
            check=False,
        )
        self.printed.append((plugin["type"], done.stdout))
        if done.returncode:
            raise CniError(plugin["type"], json.loads(done.stdout))
        return done.stdout

    def _program(self, kind: str) -> Path:
        return next(folder / kind for folder in self._bin_dirs if (folder / kind).exists())
