"""Reads what a ticket needs, with the caller's own rights, and says what it could not read."""

from __future__ import annotations

import asyncio
import base64
import os
import platform
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from egress_gateway import __version__
from egress_gateway.api import names
from egress_gateway.cli.bundle import pruned
from egress_gateway.cli.bundle.redact import LEAST, SECRET_NAME, Redactor
from egress_gateway.cli.diagnosis import status
from egress_gateway.cli.diagnosis.checks import check
from egress_gateway.cli.diagnosis.checks.findings import findings, misspelt
from egress_gateway.cli.diagnosis.overview import Facts, summarize
from egress_gateway.cli.once import Lists
from egress_gateway.kube import config, resources, wire
from egress_gateway.kube.errors import ApiError
from egress_gateway.kube.resources import Resource

if TYPE_CHECKING:
    from egress_gateway.kube.client import Client

T = TypeVar("T")
Object = Mapping[str, Any]

_OURS: Final[tuple[Resource[Any], ...]] = (
    resources.SGCS,
    resources.POD_ENDPOINTS,
    resources.GATEWAY_STATUSES,
)
_LOG_BYTES: Final = 2 * 1024 * 1024
"""Of one container's log: a bundle goes by mail."""
_AT_ONCE: Final = 8
_INSPECT: Final = ("egress-gateway", "inspect")


@dataclass(slots=True)
class Collected:
    """Whole objects as the API server sent them. No file gets any of them unpruned."""

    ours: dict[str, list[Object]] = field(default_factory=dict)
    nodes: list[Object] = field(default_factory=list)
    pods: list[Object] = field(default_factory=list)
    components: list[Object] = field(default_factory=list)
    workloads: list[Object] = field(default_factory=list)
    config_maps: list[Object] = field(default_factory=list)
    events: list[Object] = field(default_factory=list)
    secrets: list[Object] = field(default_factory=list)


class Collector:
    """``files`` yields the bundle's files, one by one. ``unseen`` grows meanwhile. ``facts`` were
    read from ``lists`` too, so that nothing is read twice."""

    def __init__(
        self,
        client: Client,
        lists: Lists,
        facts: Facts,
        *,
        namespace: str | None,
        system: str,
        lines: int,
        credentials: Iterable[str],
    ) -> None:
        self._client = client
        self._lists = lists
        self._facts = facts
        self._namespace = namespace
        self._system = system
        self._lines = lines
        self._credentials = list(credentials)
        self._room = asyncio.Semaphore(_AT_ONCE)
        self.unseen: list[str] = list(facts.unseen)

    async def files(self, *, execute: bool) -> AsyncGenerator[tuple[str, str], None]:
        """Name and text. ``execute``: look into our pods too."""
        cluster = await self._read()
        redactor = self._redactor(cluster)
        yield "versions.json", redactor.text(_json(await self._versions(cluster)))
        for name, text in self._judged():
            yield name, redactor.text(text)
        for name, value in _pruned(cluster):
            yield name, _json(redactor.value(value))
        looks = [self._logs(pod) for pod in cluster.components]
        looks += [self._inspected(pod) for pod in cluster.components if execute]
        asked = [asyncio.ensure_future(look) for look in looks]
        try:
            for look in asyncio.as_completed(asked):
                for name, text in await look:
                    yield name, redactor.text(text)
        finally:  # an interrupt must not wait for further answers
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        yield "not-read.txt", redactor.text("".join(f"{u}\n" for u in sorted(set(self.unseen))))

    async def _read(self) -> Collected:
        cluster = Collected()
        for kind in _OURS:
            where = self._system if kind is resources.GATEWAY_STATUSES else self._namespace
            cluster.ours[kind.plural] = await self._list(kind, where)
        pods = await self._list(resources.PODS, self._namespace)
        cluster.components = await self._list(resources.PODS, self._system, labels=names.COMPONENTS)
        cluster.pods = [p for p in pods if _concerns_us(p)]
        cluster.nodes = await self._list(resources.NODES, None)
        for kind in (resources.DEPLOYMENTS, resources.DAEMON_SETS):
            cluster.workloads += await self._list(kind, self._system, labels=names.COMPONENTS)
        cluster.config_maps = await self._list(resources.CONFIG_MAPS, self._system)
        cluster.events = await self._list(resources.EVENTS, self._namespace)
        if self._namespace not in (None, self._system):
            cluster.events += await self._list(resources.EVENTS, self._system)
        # Read to be recognised where somebody has written one, and left out.
        cluster.secrets = await self._list(resources.SECRETS, self._system)
        return cluster

    async def _list(
        self, kind: Resource[Any], namespace: str | None, labels: str | None = None
    ) -> list[Object]:
        where = f" in {namespace}" if namespace else ""
        reading = self._lists.list(kind.untyped(), namespace, labels=labels)
        page = await self._tried(f"{kind.kind}s{where}", reading)
        if page is None:
            return []
        # The items of a list carry no kind (Kubernetes API conventions).
        return [{"apiVersion": kind.api_version, "kind": kind.kind, **o} for o in page.items]

    async def _tried(self, what: str, reading: Awaitable[T]) -> T | None:
        try:
            async with self._room:
                return await reading
        except ApiError as error:
            self.unseen.append(f"{what}: {error}")
            return None

    def _redactor(self, cluster: Collected) -> Redactor:
        everything = [*(o for found in cluster.ours.values() for o in found), *cluster.nodes]
        everything += [*cluster.pods, *cluster.components, *cluster.workloads, *cluster.config_maps]
        known = [v for o in cluster.secrets for v in _secret_values(o)]
        known += self._credentials
        known += filter(_telling, pruned.left_out(everything))
        public = {key for o in everything for key in pruned.public_keys(o)}
        public |= {str((o.get("metadata") or {}).get("name")) for o in everything}
        return Redactor(known, public)

    async def _versions(self, cluster: Collected) -> dict[str, Any]:
        what = "the API server's version"
        server = await self._tried(what, self._version(what))
        running = [
            f"{c.get('image')} {c.get('imageID', '')}".strip()
            for pod in cluster.components
            for c in pod.get("status", {}).get("containerStatuses") or []
        ]
        return {
            "command": __version__,
            "python": platform.python_version(),
            "system": platform.platform(),
            "server": server,
            "images": sorted(set(running)),
        }

    async def _version(self, what: str) -> dict[str, Any]:
        return wire.decode_answer(dict, await self._client.request("GET", "/version"), what)

    def _judged(self) -> list[tuple[str, str]]:
        overview = summarize(self._facts)
        found = findings(self._facts, overview)
        return [
            ("status.txt", status.render(overview, width=100, wide=True)),
            ("status.json", _json(overview)),
            ("check.txt", check.text(found, list(self._facts.unseen))),
            ("check.json", _json(found)),
        ]

    async def _logs(self, pod: Object) -> list[tuple[str, str]]:
        found = []
        for container, previous in _containers(pod):
            meta = pod["metadata"]
            path = resources.PODS.path(meta["namespace"], meta["name"], "log")
            params = {"container": container, "tailLines": str(self._lines)}
            params |= {"limitBytes": str(_LOG_BYTES), "timestamps": "true"}
            params |= {"previous": "true"} if previous else {}
            which = f"{meta['name']}/{container}{'.previous' if previous else ''}"
            log = await self._tried(
                f"log of {which}", self._client.request("GET", path, params=params)
            )
            if log is not None:
                found.append((f"logs/{which}.log", log[-_LOG_BYTES:].decode(errors="replace")))
        return found

    async def _inspected(self, pod: Object) -> list[tuple[str, str]]:
        meta, container = pod["metadata"], pod["spec"]["containers"][0]["name"]
        running = self._client.execute(meta["namespace"], meta["name"], container, _INSPECT)
        ended = await self._tried(f"inspection of {meta['name']}", running)
        if ended is None:
            return []
        code, out, error = ended
        if code:
            last = (error or out).decode(errors="replace").strip().splitlines()[-1:]
            self.unseen.append(f"inspection of {meta['name']}: exit code {code}: {''.join(last)}")
            return []
        node = pod["spec"].get("nodeName", "")
        return split_inspection(f"nodes/{node}/{meta['name']}", out)


def split_inspection(name: str, out: bytes) -> list[tuple[str, str]]:
    """What an agent's ``inspect`` printed, as names and texts of files: the metrics in one of their
    own, as Prometheus has them. What is no object of JSON stays as it is."""
    try:
        found = msgspec.json.decode(out, type=dict[str, Any])
        metrics = found.pop("metrics", "")
        return [(f"{name}.json", _json(found)), (f"{name}.metrics.txt", str(metrics))]
    except (ValueError, RecursionError):
        return [(f"{name}.txt", out.decode(errors="replace"))]


def _concerns_us(pod: Object) -> bool:
    meta = pod.get("metadata") or {}
    annotations, labels = meta.get("annotations") or {}, meta.get("labels") or {}
    return (
        names.POD_ANNOTATION in annotations
        or names.POD_ANNOTATION in labels
        or any(map(misspelt, annotations))
    )


def _containers(pod: Object) -> list[tuple[str, bool]]:
    """Containers with a log, and whether it is the log of one that ended before."""
    statuses = [
        s
        for group in ("initContainerStatuses", "containerStatuses")
        for s in (pod.get("status") or {}).get(group) or []
    ]
    return [
        (s["name"], previous)
        for s in statuses
        for previous in ((False, True) if s.get("restartCount") else (False,))
    ]


def _pruned(cluster: Collected) -> list[tuple[str, Any]]:
    shapes: list[tuple[str, Sequence[Object], Callable[[Object], dict[str, Any]]]] = [
        *((kind, found, pruned.ours) for kind, found in cluster.ours.items()),
        ("nodes", cluster.nodes, pruned.node),
        ("pods", cluster.pods, pruned.pod),
        ("components", cluster.components, lambda o: pruned.pod(o, whole=True)),
        ("workloads", cluster.workloads, pruned.workload),
        (
            "configmaps",
            [o for o in cluster.config_maps if o["metadata"]["name"] == "egress-gateway"],
            pruned.config_map,
        ),
    ]
    files: list[tuple[str, Any]] = [
        (f"objects/{kind}.json", [prune(o) for o in found]) for kind, found, prune in shapes
    ]
    return [*files, ("objects/events.json", [*map(pruned.event, _told(cluster))])]


def _told(cluster: Collected) -> list[Object]:
    """Events about what is in the bundle."""
    kept = {
        (o.get("kind"), (o["metadata"].get("namespace") or ""), o["metadata"]["name"])
        for group in (*cluster.ours.values(), cluster.pods, cluster.components, cluster.workloads)
        for o in group
    }
    kinds = {kind.kind for kind in _OURS}

    def told(event: Object) -> bool:
        about = event.get("involvedObject") or {}
        source = str((event.get("source") or {}).get("component") or "")
        ours = (event.get("reportingComponent") or source).startswith("static-egress-gateway")
        key = (about.get("kind"), about.get("namespace", ""), about.get("name"))
        return ours or about.get("kind") in kinds or key in kept

    return [e for e in cluster.events if told(e)]


def _secret_values(secret: Object) -> list[str]:
    found: list[str] = []
    for coded in (secret.get("data") or {}).values():
        try:
            text = base64.b64decode(coded).decode()
        except ValueError:
            continue  # binary; its base64 looks random, which is enough
        # Of a document (azure.json, a kubeconfig) each word; of a key the whole.
        found += [text.strip(), *(w for w in _words(text) if _telling(w))]
    return found


def _words(text: str) -> list[str]:
    return [w for w in text.replace('"', " ").replace(",", " ").replace("'", " ").split()]


def _telling(value: str) -> bool:
    """Whether a value that was left out is worth to be looked for: not a word, nor an address, that
    others have for reasons of their own."""
    if len(value) < max(LEAST, 8) or value.startswith(("{", "[")):
        return False
    address = set(value) <= set("0123456789abcdefABCDEF.:/,[]") and set(value) & set(".:")
    return not address and any(map(str.isdigit, value)) and any(map(str.isalpha, value))


def credentials(kubeconfig: str | None, token: str | None) -> list[str]:
    """What this process itself must not give away: its way into the cluster (``token`` is what it
    shows there), every user's of its kubeconfigs, and its environment."""
    found = [v for k, v in os.environ.items() if SECRET_NAME.search(k) and len(v) >= LEAST]
    found += [token] if token else []
    return [*found, *(v for path in config.files(kubeconfig) for v in _of_users(path))]


def _of_users(path: Path) -> Iterator[str]:
    import yaml

    try:
        document = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError):
        return
    for entry in (document or {}).get("users") or ():
        user = dict(entry.get("user") or {})
        for added in (user.pop("exec", None) or {}).get("env") or ():
            user[str(added.get("name"))] = added.get("value")
        for key, value in user.items():
            if isinstance(value, str) and len(value) >= LEAST and not Path(value).is_absolute():
                yield value
                if key.endswith("-data"):
                    yield base64.b64decode(value).decode(errors="replace").strip()


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=str)).decode() + "\n"
