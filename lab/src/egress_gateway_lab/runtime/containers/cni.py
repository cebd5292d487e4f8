"""The container runtime's side of CNI, as containerd plays it (CNI specification 1.0).

Reads the machine's first configuration list anew for every call, so that a plugin which installs
itself is seen by the next pod. Plugins are executables run on the machine (its mount, network and
PID namespaces) with the configuration on standard input. A failed ADD is undone before it is
reported. Results are kept where libcni keeps them, for DEL and for whoever looks there.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface
from pathlib import Path
from typing import Any

from egress_gateway_lab.runtime.nodes.node import PATH, MachineError, Node

CONFIGURATIONS = "/etc/cni/net.d"
PLUGINS = "/opt/cni/bin"
CACHE = "/var/lib/cni/results"
BASE_CONFIGURATION = "10-azure.conflist"
INTERFACE = "eth0"

# containerd waits for a plugin as long as the kubelet lets it; two minutes is the kubelet's limit.
_LIMIT = 120.0


class CniError(Exception):
    """A plugin failed, or there is no usable configuration. ``code`` as in the specification
    (11: try again later; 100 and up: the plugin's own)."""

    def __init__(self, message: str, code: int = 999) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """The pod a call is about."""

    container_id: str
    netns: str
    namespace: str
    name: str
    uid: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    port_mappings: tuple[Mapping[str, Any], ...] = ()

    @property
    def args(self) -> list[tuple[str, str]]:
        return [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", self.namespace),
            ("K8S_POD_NAME", self.name),
            ("K8S_POD_INFRA_CONTAINER_ID", self.container_id),
            ("K8S_POD_UID", self.uid),
        ]

    @property
    def capability_args(self) -> dict[str, Any]:
        """What the runtime offers to plugins that declare the capability."""
        return {
            "portMappings": [dict(mapping) for mapping in self.port_mappings],
            "io.kubernetes.cri.pod-annotations": dict(self.annotations),
        }


def base_configuration(
    pod_cidr: IPv4Network, mtu: int, pod_cidr6: IPv6Network | None = None
) -> dict[str, Any]:
    """The machine image's own network: one veth per pod, addresses from the node's ranges."""
    ranges, everywhere = [[{"subnet": str(pod_cidr)}]], [{"dst": "0.0.0.0/0"}]
    if pod_cidr6 is not None:
        ranges.append([{"subnet": str(pod_cidr6)}])
        everywhere.append({"dst": "::/0"})
    return {
        "cniVersion": "1.0.0",
        "name": "azure",
        "plugins": [
            {
                "type": "ptp",
                "mtu": mtu,
                "ipam": {
                    "type": "host-local",
                    "ranges": ranges,
                    "routes": everywhere,
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        ],
    }


def install_base(
    node: Node,
    pod_cidr: IPv4Network,
    *,
    mtu: int,
    plugins: str,
    pod_cidr6: IPv6Network | None = None,
) -> None:
    """Writes the base configuration and links the distribution's plugins (host folder
    ``plugins``) into the machine's plugin folder. Raises ``MachineError``."""
    executables = sorted(Path(plugins).iterdir()) if Path(plugins).is_dir() else []
    if not any(path.name == "ptp" for path in executables):
        raise MachineError(
            f"no CNI plugins in {plugins}: apt-get install containernetworking-plugins"
        )
    folder = node.path(PLUGINS)
    folder.mkdir(parents=True, exist_ok=True)
    for path in executables:
        (folder / path.name).symlink_to(path)
    folder = node.path(CONFIGURATIONS)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(base_configuration(pod_cidr, mtu, pod_cidr6), indent=2)
    (folder / BASE_CONFIGURATION).write_text(text)
    node.path(CACHE).mkdir(parents=True, exist_ok=True)


def plugin_config(
    network: Mapping[str, Any],
    plugin: Mapping[str, Any],
    sandbox: Sandbox,
    previous: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What one plugin gets on standard input (specification, section 4)."""
    config: dict[str, Any] = {
        **{key: value for key, value in plugin.items() if key != "capabilities"},
        "cniVersion": network["cniVersion"],
        "name": network["name"],
    }
    declared = plugin.get("capabilities") or {}
    runtime = {
        name: value
        for name, value in sandbox.capability_args.items()
        if declared.get(name) and value
    }
    if runtime:
        config["runtimeConfig"] = runtime
    if previous is not None:
        config["prevResult"] = dict(previous)
    return config


def result_addresses(result: Mapping[str, Any]) -> list[IPv4Address | IPv6Address]:
    """The pod's addresses in a result, the interface's in the sandbox only."""
    interfaces = result.get("interfaces") or []
    found = []
    for entry in result.get("ips") or []:
        index = entry.get("interface")
        if index is not None and not interfaces[index].get("sandbox"):
            continue
        found.append(ip_interface(entry["address"]).ip)
    return found


class Cni:
    """CNI calls on one machine."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def network(self) -> dict[str, Any]:
        """The configuration in force. Raises ``CniError`` when there is none."""
        folder = self._node.path(CONFIGURATIONS)
        files = sorted(p for p in folder.iterdir() if p.suffix in (".conflist", ".conf", ".json"))
        for path in files:
            try:
                config: dict[str, Any] = json.loads(path.read_text())
            except ValueError:
                continue  # as containerd: a broken file is passed over
            if "plugins" not in config:
                config = {"cniVersion": config.get("cniVersion"), "name": config.get("name"),
                          "plugins": [config]}  # fmt: skip
            if config["plugins"]:
                return config
        raise CniError("cni plugin not initialized: no network configuration in " + CONFIGURATIONS)

    async def add(self, sandbox: Sandbox) -> dict[str, Any]:
        """Connects a sandbox; returns the last plugin's result. Raises ``CniError``, everything
        undone."""
        network = self.network()
        result: dict[str, Any] | None = None
        try:
            for plugin in network["plugins"]:
                config = plugin_config(network, plugin, sandbox, result)
                result = await self._call("ADD", plugin["type"], config, sandbox) or result
        except CniError:
            with contextlib.suppress(CniError):
                await self._delete(network, sandbox, None)
            raise
        if result is None:
            raise CniError(f'network "{network["name"]}" gave no result')
        self._remember(network, sandbox, result)
        return result

    async def delete(self, sandbox: Sandbox) -> None:
        """Disconnects a sandbox. Raises ``CniError`` when a plugin fails; call again later."""
        cached = self._recall(sandbox)
        try:
            network = self.network()
        except CniError:
            if cached is None:
                return
            network = json.loads(base64.b64decode(cached["config"]))
        await self._delete(network, sandbox, cached["result"] if cached else None)
        self._cache_file(sandbox).unlink(missing_ok=True)

    async def check(self, sandbox: Sandbox) -> None:
        """Asks every plugin whether the sandbox is as ADD left it."""
        cached = self._recall(sandbox)
        network = self.network()
        for plugin in network["plugins"]:
            config = plugin_config(network, plugin, sandbox, cached["result"] if cached else None)
            await self._call("CHECK", plugin["type"], config, sandbox)

    async def _delete(
        self, network: Mapping[str, Any], sandbox: Sandbox, previous: Mapping[str, Any] | None
    ) -> None:
        for plugin in reversed(network["plugins"]):
            config = plugin_config(network, plugin, sandbox, previous)
            await self._call("DEL", plugin["type"], config, sandbox)

    async def _call(
        self, command: str, plugin: str, config: Mapping[str, Any], sandbox: Sandbox
    ) -> dict[str, Any] | None:
        env = {
            "PATH": PATH,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": sandbox.container_id,
            "CNI_NETNS": sandbox.netns,
            "CNI_IFNAME": INTERFACE,
            "CNI_PATH": PLUGINS,
            "CNI_ARGS": ";".join(f"{key}={value}" for key, value in sandbox.args),
        }
        executable = f"{PLUGINS}/{plugin}"
        try:
            done = await self._node.run(
                [executable], stdin=json.dumps(config).encode(), env=env, limit=_LIMIT
            )
        except MachineError as error:
            raise CniError(
                f'failed to find plugin "{plugin}" in path [{PLUGINS}]: {error}'
            ) from error
        if done.code != 0:
            raise _failure(plugin, command, done.stdout, done.stderr, done.code)
        if not done.stdout.strip():
            return None
        try:
            answer: dict[str, Any] = json.loads(done.stdout)
        except ValueError as error:
            raise CniError(f'plugin "{plugin}" answered {command} with no JSON: {error}') from error
        return answer

    def _cache_file(self, sandbox: Sandbox, network: str = "azure") -> Path:
        return self._node.path(f"{CACHE}/{network}-{sandbox.container_id}-{INTERFACE}")

    def _remember(
        self, network: Mapping[str, Any], sandbox: Sandbox, result: Mapping[str, Any]
    ) -> None:
        cache = {
            "kind": "cniCacheV1",
            "containerId": sandbox.container_id,
            "config": base64.b64encode(json.dumps(network).encode()).decode(),
            "ifName": INTERFACE,
            "networkName": network["name"],
            "netns": sandbox.netns,
            "cniArgs": [list(pair) for pair in sandbox.args],
            "capabilityArgs": sandbox.capability_args,
            "result": dict(result),
        }
        self._cache_file(sandbox).write_text(json.dumps(cache))

    def _recall(self, sandbox: Sandbox) -> dict[str, Any] | None:
        try:
            cached: dict[str, Any] = json.loads(self._cache_file(sandbox).read_text())
        except (FileNotFoundError, ValueError):
            return None
        return cached


def _failure(plugin: str, command: str, out: bytes, err: bytes, status: int) -> CniError:
    """The plugin's own error if it wrote one (specification, section 5, "Error")."""
    try:
        error: dict[str, Any] = json.loads(out)
        message = ": ".join(str(error[key]) for key in ("msg", "details") if error.get(key))
        code = int(error.get("code", 999))
    except (ValueError, TypeError, AttributeError):
        text = (out + err).decode(errors="replace").strip()
        message, code = f"exit status {status}: {text[-400:]}", 999
    return CniError(f'plugin type="{plugin}" failed ({command.lower()}): {message}', code)
