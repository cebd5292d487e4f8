"""Records of the node's sandboxes: the plugin's own, and those of pods that came before it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from egress_gateway.cni.protocol import Call
from egress_gateway.datapath.linux import netns
from egress_gateway.kube.resources import Key, Pod
from egress_gateway.node.cni.libcni import FIRST, Results
from egress_gateway.node.knowledge import Knowledge, annotation
from egress_gateway.node.sandbox import Kernel

log = logging.getLogger(__name__)


class Records:
    """``on_found`` is told the id of a sandbox whose record was made up late, ``on_missing`` the
    pod of which nobody knows a sandbox. Neither may block."""

    def __init__(
        self,
        kernel: Kernel,
        knowledge: Knowledge,
        results: Results,
        *,
        on_found: Callable[[str], None],
        on_missing: Callable[[Pod], None],
    ) -> None:
        self._kernel = kernel
        self._store = kernel.store
        self._knowledge = knowledge
        self._results = results
        self._on_found = on_found
        self._on_missing = on_missing

    def living(self, sandbox_id: str) -> Call | None:
        """The sandbox's record; one whose namespace is gone is forgotten: its runtime lost it
        without a DEL."""
        record = self._store.record(sandbox_id)
        if record is None or netns.is_namespace(Path(record.netns)):
            return record
        self._store.forget_record(sandbox_id)
        return None

    def of(self, pod: Key) -> list[str]:
        """Ids of the pod's recorded sandboxes."""
        records = {i: self._store.record(i) for i in self._store.record_ids()}
        return [i for i, record in records.items() if record and record.pod[:2] == pod]

    def is_first(self, record: Call) -> bool:
        """Whether the record is that of its pod's first interface: the one that Kubernetes knows
        the address of, and so do gateways."""
        ids = (i for i in self._store.record_ids() if i.startswith(f"{record.container_id}-"))
        others = (found for i in ids if (found := self._store.record(i)))
        interfaces = {r.if_name for r in others if r.container_id == record.container_id}
        return record.if_name == min(interfaces | {record.if_name}, key=_rank)

    def collect(self, call: Call) -> list[str]:
        """CNI GC: forgets records of the call's network whose sandbox the runtime no longer
        knows; returns their ids."""
        if call.config.valid_attachments is None:
            return []
        valid = {f"{a.container_id}-{a.if_name}" for a in call.config.valid_attachments}
        gone = []
        for sandbox_id in self._store.record_ids() - valid:
            record = self._store.record(sandbox_id)
            if record and record.config.name == call.config.name:
                self._store.forget_record(sandbox_id)
                gone.append(sandbox_id)
        return gone

    async def find_missing(self) -> None:
        """Looks for the sandboxes of annotated pods that no record exists of."""
        records = (self._store.record(sandbox_id) for sandbox_id in self._store.record_ids())
        recorded = {record.pod[:2] for record in records if record}
        for pod in self._knowledge.pods.values():
            meta = pod.metadata
            if _attachable(pod) and (meta.namespace, meta.name) not in recorded:
                await self._make_up(pod)

    async def look_for(self, key: str) -> None:
        """The same for one pod, ``namespace/name``."""
        namespace, _, name = key.partition("/")
        pod = self._knowledge.pods.get(namespace, name)
        if pod is not None and _attachable(pod):
            await self._make_up(pod)

    async def _make_up(self, pod: Pod) -> None:
        record = await self._kernel.run(self._results.find, pod)
        if record is None:
            self._on_missing(pod)
            return
        log.info("found a pod from before the plugin", extra={"pod": record.pod[1]})
        self._store.keep_record(record)
        self._on_found(record.id)


def _rank(interface: str) -> tuple[bool, str]:
    return interface != FIRST, interface


def _attachable(pod: Pod) -> bool:
    running = pod.status.phase == "Running" and not pod.spec.host_network
    return running and bool(annotation(pod))
