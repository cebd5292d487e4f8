"""A pod's volumes as folders of its machine.

Contents that come from the API (ConfigMaps, Secrets, tokens, fields) live below
``/var/lib/kubelet/pods/<uid>/volumes/<name>`` in the machine's memory, are written whole before a
container starts, and are written again file by file (rename) when ``refresh`` finds them changed
or a token past four fifths of its life.
"""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from egress_gateway_lab.runtime.kubelet.api import Api, ApiError
from egress_gateway_lab.runtime.kubelet.environment import MissingSource, field_value
from egress_gateway_lab.runtime.nodes.node import Mount, Node

Object = dict[str, Any]

_PROPAGATION = {None: "none", "None": "none", "HostToContainer": "slave", "Bidirectional": "shared"}


class VolumeError(Exception):
    """A volume cannot be set up (now); the message goes into a FailedMount Event."""


@dataclass(frozen=True, slots=True)
class Content:
    """A file of a volume."""

    data: bytes
    mode: int


class Volumes:
    """The volumes of one pod."""

    def __init__(self, node: Node, api: Api, *, address: IPv4Address, ca: str) -> None:
        self._node = node
        self._api = api
        self._address = address
        self._ca = ca
        self._paths: dict[str, str] = {}  # volume -> path on the machine
        self._written: dict[str, dict[str, Content]] = {}
        self._tokens: dict[tuple[str, str], tuple[str, float]] = {}  # -> token, when to renew

    async def prepare(self, pod: Object) -> None:
        """Sets all volumes up. Raises ``VolumeError``."""
        base = f"/var/lib/kubelet/pods/{pod['metadata']['uid']}/volumes"
        for volume in pod["spec"].get("volumes") or []:
            name = volume["name"]
            if volume.get("hostPath"):
                self._paths[name] = self._host_path(volume["hostPath"])
                continue
            self._paths[name] = f"{base}/{name}"
            folder = self._node.path(self._paths[name])
            folder.mkdir(parents=True, exist_ok=True)
            if volume.get("emptyDir") is not None:
                folder.chmod(0o777)
        await self.refresh(pod)

    async def refresh(self, pod: Object) -> None:
        """Brings contents up to date. Raises ``VolumeError``."""
        for volume in pod["spec"].get("volumes") or []:
            if "hostPath" in volume or "emptyDir" in volume:
                continue
            try:
                contents = await self._contents(pod, volume)
            except (MissingSource, ApiError) as error:
                raise VolumeError(
                    f'MountVolume.SetUp failed for volume "{volume["name"]}": {error}'
                ) from error
            known = self._written.get(volume["name"], {})
            folder = self._node.path(self._paths[volume["name"]])
            for path, content in contents.items():
                if known.get(path) != content:
                    _write(folder / path, content)
            for path in known.keys() - contents.keys():
                (folder / path).unlink(missing_ok=True)
            self._written[volume["name"]] = contents

    def mounts(self, container: Object) -> tuple[Mount, ...]:
        """A container's mounts. Raises ``VolumeError`` for an unknown volume, and for what is in
        the place of a folder of the machine."""
        found = []
        for mount in container.get("volumeMounts") or []:
            if mount["name"] not in self._paths:
                raise VolumeError(f'volumeMount "{mount["name"]}" has no volume')
            source = self._paths[mount["name"]]
            if mount.get("subPath"):
                source = f"{source}/{mount['subPath'].strip('/')}"
            if not self._node.path(source).exists():
                # As container runtimes do, at each start of a container: somebody may have removed
                # a folder of the machine since its pod began.
                try:
                    self._node.path(source).mkdir(parents=True)
                except OSError as error:
                    raise VolumeError(f"{source}: {error.strerror}") from error
            found.append(
                Mount(
                    source=source,
                    target=mount["mountPath"],
                    read_only=bool(mount.get("readOnly")),
                    propagation=_PROPAGATION[mount.get("mountPropagation")],
                )
            )
        return tuple(found)

    def remove(self, uid: str) -> None:
        """Forgets everything, secrets first of all."""
        shutil.rmtree(self._node.path(f"/var/lib/kubelet/pods/{uid}"), ignore_errors=True)

    def _host_path(self, source: Object) -> str:
        path: str = source["path"]
        kind = source.get("type") or ""
        there = self._node.path(path)
        if kind == "DirectoryOrCreate":
            there.mkdir(parents=True, exist_ok=True)
        elif kind == "FileOrCreate":
            there.touch()
        checks = {
            "Directory": there.is_dir,
            "File": there.is_file,
            "Socket": there.is_socket,
            "CharDevice": there.is_char_device,
            "BlockDevice": there.is_block_device,
        }
        if kind in checks and not checks[kind]():
            raise VolumeError(f"hostPath type check failed: {path} is not a {kind.lower()}")
        if not there.exists():
            if kind:
                raise VolumeError(f"hostPath {path} does not exist")
            there.mkdir(parents=True)  # as container runtimes do for an unchecked path
        return path

    async def _contents(self, pod: Object, volume: Object) -> dict[str, Content]:
        if volume.get("projected") is not None:
            source = volume["projected"]
            mode = source.get("defaultMode", 0o644)
            contents: dict[str, Content] = {}
            for part in source.get("sources") or []:
                contents.update(await self._source(pod, part, mode))
            return contents
        for key in ("configMap", "secret", "downwardAPI"):
            if volume.get(key) is not None:
                source = dict(volume[key])
                if "secretName" in source:
                    source["name"] = source["secretName"]
                return await self._source(pod, {key: source}, source.get("defaultMode", 0o644))
        raise MissingSource("the lab has hostPath, emptyDir, configMap, secret, downwardAPI "
                            "and projected volumes only")  # fmt: skip

    async def _source(self, pod: Object, part: Object, mode: int) -> dict[str, Content]:
        namespace = pod["metadata"]["namespace"]
        if part.get("serviceAccountToken"):
            wanted = part["serviceAccountToken"]
            token = await self._token(pod, wanted)
            return {wanted["path"]: Content(token.encode(), mode)}
        if part.get("downwardAPI"):
            return {
                item["path"]: Content(self._field(pod, item).encode(), item.get("mode", mode))
                for item in part["downwardAPI"].get("items") or []
            }
        kind, source = next(
            (kind, part[kind]) for kind in ("configMap", "secret") if part.get(kind)
        )
        plural = {"configMap": "configmaps", "secret": "secrets"}[kind]
        path = f"/api/v1/namespaces/{namespace}/{plural}/{source['name']}"
        stored = await self._api.get(path)
        if stored is None and kind == "configMap" and source["name"] == "kube-root-ca.crt":
            stored = {"data": {"ca.crt": self._ca}}
        if stored is None:
            if source.get("optional"):
                return {}
            raise MissingSource(f'{kind.lower()} "{source["name"]}" not found')
        return _files(stored, source, mode, secret=kind == "secret")

    def _field(self, pod: Object, item: Object) -> str:
        if not item.get("fieldRef"):
            return "0"
        path = item["fieldRef"]["fieldPath"]
        ips = [entry["ip"] for entry in pod.get("status", {}).get("podIPs") or []]
        return field_value(pod, path, host_ip=str(self._address), pod_ips=ips)

    async def _token(self, pod: Object, wanted: Object) -> str:
        audience = wanted.get("audience", "")
        key = (audience, wanted["path"])
        token, renew = self._tokens.get(key, ("", 0.0))
        if time.monotonic() < renew:
            return token
        seconds = wanted.get("expirationSeconds", 3600)
        meta = pod["metadata"]
        account = pod["spec"].get("serviceAccountName") or "default"
        request: Object = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "expirationSeconds": seconds,
                "boundObjectRef": {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "name": meta["name"],
                    "uid": meta["uid"],
                },
            },
        }
        if audience:
            request["spec"]["audiences"] = [audience]
        try:
            answer = await self._api.create(
                f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/{account}/token", request
            )
        except LookupError:
            raise MissingSource(f'serviceaccount "{account}" not found') from None
        token = str(answer["status"]["token"])
        self._tokens[key] = (token, time.monotonic() + 0.8 * seconds)
        return token


def _files(stored: Object, source: Object, mode: int, *, secret: bool) -> dict[str, Content]:
    if secret:
        data = {k: base64.b64decode(v) for k, v in (stored.get("data") or {}).items()}
    else:
        data = {k: v.encode() for k, v in (stored.get("data") or {}).items()}
        data.update({k: base64.b64decode(v) for k, v in (stored.get("binaryData") or {}).items()})
    items: list[Mapping[str, Any]] | None = source.get("items")
    if not items:
        return {key: Content(value, mode) for key, value in data.items()}
    contents = {}
    for item in items:
        if item["key"] in data:
            contents[item["path"]] = Content(data[item["key"]], item.get("mode", mode))
        elif not source.get("optional"):
            raise MissingSource(f"references non-existent key: {item['key']}")
    return contents


def _write(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content.data)
    fresh.chmod(content.mode)
    fresh.replace(path)
