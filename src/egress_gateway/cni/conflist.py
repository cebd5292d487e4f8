"""The plugin's place in a node's CNI chain: pure functions over configuration files.

Whatever else a file says stays as it is. The plugin goes last, since it passes on what the plugins
before it answered. It takes the place of its predecessor's, which fails the start of every pod of
the node where the program is gone that it asks.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final

from egress_gateway.api import names
from egress_gateway.cni.protocol import SUPPORTED_VERSIONS
from egress_gateway.service.errors import ExpectedError, understood

EXTENSIONS: Final = (".conf", ".conflist", ".json")
"""What libcni takes for a configuration; the first in the folder by name is the network."""
_WHOLE: Final = ("cniVersion", "cniVersions", "name")
"""What belongs to the whole chain, and not to the plugin that a single configuration is of."""


class ConflistError(ExpectedError, ValueError):
    """A CNI configuration cannot carry the plugin; the text says why and what mends it."""


def entry(*, run_dir: str, agent_timeout: float) -> dict[str, Any]:
    """The plugin's configuration. ``agent_timeout``: seconds it waits for the agent on ADD."""
    return {
        "type": names.CNI_PLUGIN,
        "capabilities": {names.CNI_CAPABILITY: True},
        "runDir": run_dir,
        "agentTimeoutMilliseconds": round(agent_timeout * 1000),
    }


@understood(ConflistError, "the CNI configuration")
def with_plugin(content: bytes, plugin: dict[str, Any]) -> bytes | None:
    """``content`` (a conflist, or a single configuration) with ``plugin`` last in the chain, and
    without the predecessor's; None if it is so already. Raises ``ConflistError``."""
    network: dict[str, Any] = _parse(content)
    if "plugins" not in network:
        whole = {key: network.pop(key) for key in _WHOLE if key in network}
        network = whole | {"plugins": [network]}
    for version in _versions(network):
        if version not in SUPPORTED_VERSIONS:
            raise ConflistError(
                f"cniVersion {version!r} cannot chain {names.CNI_PLUGIN}; "
                f"use one of {', '.join(SUPPORTED_VERSIONS)}"
            )
    going = (names.CNI_PLUGIN, names.PREDECESSOR_CNI_PLUGIN)
    chain = [plugin for plugin in network["plugins"] if not _is(plugin, *going)]
    if not chain:
        raise ConflistError("the chain is empty; the network's own plugin must come first")
    wanted = [*chain, plugin]
    if network["plugins"] == wanted:
        return None
    return _text({**network, "plugins": wanted})


def _versions(network: dict[str, Any]) -> list[Any]:
    """Those that a runtime may choose: ``cniVersion`` is what older ones know, newer ones take the
    highest of the list as well (CNI 1.1)."""
    single, named = network.get("cniVersion"), network.get("cniVersions")
    listed = sorted(named, key=_number) if isinstance(named, list) and named else []
    return listed[-1:] if listed and single is None else [single, *listed[-1:]]


def _number(version: Any) -> list[int]:
    try:
        return [int(part) for part in version.split(".")]
    except (AttributeError, ValueError):
        return [sys.maxsize]  # what cannot be read is what we cannot chain


@understood(ConflistError, "the CNI configuration")
def without_plugin(content: bytes) -> bytes | None:
    """``content`` without the plugin; None if it is not in there."""
    network = _parse(content)
    plugins = network.get("plugins", [])
    chain = [plugin for plugin in plugins if not _is(plugin, names.CNI_PLUGIN)]
    return None if chain == plugins else _text({**network, "plugins": chain})


@understood(ConflistError, "the CNI configuration")
def has_plugin(content: bytes) -> bool:
    """Whether the chain names the plugin, wherever. Raises ``ConflistError``."""
    return any(_is(plugin, names.CNI_PLUGIN) for plugin in _parse(content).get("plugins", []))


def _is(plugin: Any, *types: str) -> bool:
    return isinstance(plugin, dict) and plugin.get("type") in types


def _parse(content: bytes) -> dict[str, Any]:
    try:
        network = json.loads(content)
    except ValueError as error:
        raise ConflistError(f"not JSON: {error}") from error
    if not isinstance(network, dict) or not isinstance(network.get("plugins", []), list):
        raise ConflistError("not a CNI network configuration")
    return network


def _text(network: dict[str, Any]) -> bytes:
    return json.dumps(network, indent=2, ensure_ascii=False).encode() + b"\n"
