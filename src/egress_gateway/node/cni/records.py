"""Records of the node's sandboxes: the plugin's own, and those of pods that came before it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Final

import msgspec

from egress_gateway.api import names
from egress_gateway.cni.protocol import Call, NetConf, Result, ResultIP
from egress_gateway.datapath.linux import netns
from egress_gateway.kube.resources import Key, Pod
from egress_gateway.node.attachment.model import Attachment
from egress_gateway.node.attachment.store import rebuilt
from egress_gateway.node.cluster.knowledge import Knowledge, annotation
from egress_gateway.node.cni.libcni import FIRST, Results
from egress_gateway.node.sandboxes.sandbox import NodeKernel

log = logging.getLogger(__name__)

_REMEMBERED: Final = 1000
"""Sandboxes that are remembered as over, so that what libcni still says of one makes no record."""


class Records:
    """``on_found`` gets the id of a sandbox whose record was made late, ``on_missing`` a pod
    without a known sandbox. Neither must block."""

    def __init__(
        self,
        kernel: NodeKernel,
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
        self._over: dict[str, Call | None] = {}

    def living(self, sandbox_id: str, attachment: Attachment | None = None) -> Call | None:
        """The sandbox's record; None for a sandbox that is over: its runtime has deleted it, or
        its namespace is gone, whatever is left of its record.

        An attached sandbox whose namespace is there is not over, though its record may be lost,
        damaged or that of another pod: it is then written again, from what is known of it."""
        record = self._store.record(sandbox_id)
        path = attachment.netns if attachment else record.netns if record else ""
        if path and not netns.is_namespace(Path(path)):
            self.forget(sandbox_id)
            return None
        if attachment is None or (record is not None and _agree(record, attachment)):
            return record
        return self._rebuild(attachment)

    def forget(self, sandbox_id: str) -> None:
        """The sandbox is over: its runtime says so, or its namespace is gone."""
        # NB: what cannot be removed, on a read-only file system, must not bring it back.
        self._over[sandbox_id] = self._store.record(sandbox_id)
        while len(self._over) > _REMEMBERED:
            del self._over[next(iter(self._over))]
        self._store.forget_record(sandbox_id)

    def discard(self, record: Call) -> None:
        """The record is another pod's: its own is looked for like one that is missing."""
        namespace, name, _ = record.pod
        extra = {"pod": f"{namespace}/{name}", "error": "wrong addresses"}
        log.warning("found damaged record", extra=extra)
        self._store.forget_record(record.id)

    def is_over(self, sandbox_id: str) -> bool:
        """Whether the runtime has ended the sandbox, and has not added it again since."""
        if sandbox_id not in self._over:
            return False
        record = self._store.record(sandbox_id)
        if record is None or record == self._over[sandbox_id]:
            return True
        self.begin(sandbox_id)
        return False

    def begin(self, sandbox_id: str) -> None:
        """The runtime adds the sandbox, perhaps again."""
        self._over.pop(sandbox_id, None)

    def _rebuild(self, attachment: Attachment) -> Call:
        """The record of a pod that goes on running without one."""
        record = record_of(attachment)
        if self._store.keep_record(record):
            rebuilt("record", pod=f"{attachment.namespace}/{attachment.pod}")
        return record

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

    def collect(self, call: Call, attached: Iterable[Attachment]) -> list[str]:
        """CNI GC: forgets the sandboxes of the call's network that the runtime no longer knows,
        whichever file of theirs is left; returns their ids."""
        if call.config.valid_attachments is None:
            return []
        valid = {f"{a.container_id}-{a.if_name}" for a in call.config.valid_attachments}
        networks = {attachment.id: attachment.network for attachment in attached}
        records = {i: self._store.record(i) for i in self._store.record_ids()}
        networks |= {i: record.config.name for i, record in records.items() if record}
        gone = [i for i, its in networks.items() if its == call.config.name and i not in valid]
        for sandbox_id in gone:
            self.forget(sandbox_id)
        return gone

    async def find_missing(self, attached: Collection[str]) -> None:
        """Looks for the sandboxes of annotated pods that no record exists of. ``attached``: UIDs
        of pods that need none."""
        records = [r for i in self._store.record_ids() if (r := self._store.record(i))]
        recorded = {record.pod for record in records}
        for pod in self._knowledge.pods.values():
            meta = pod.metadata
            known = {(meta.namespace, meta.name, uid) for uid in (meta.uid, "")} & recorded
            if _attachable(pod) and meta.uid not in attached and not known:
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
        elif not self.is_over(record.id) and self._store.keep_record(record):
            rebuilt("record", pod=f"{record.pod[0]}/{record.pod[1]}")
            self._on_found(record.id)


def record_of(attachment: Attachment) -> Call:
    """The record that the plugin would have written of an attached sandbox."""
    annotations = {names.POD_ANNOTATION: attachment.configuration.name}
    return Call(
        command="ADD",
        container_id=attachment.container_id,
        netns=attachment.netns,
        if_name=attachment.if_name,
        args=f"IgnoreUnknown=1;K8S_POD_NAMESPACE={attachment.namespace};"
        f"K8S_POD_NAME={attachment.pod};K8S_POD_UID={attachment.uid}",
        config=NetConf(
            name=attachment.network,
            runtime_config={names.CNI_CAPABILITY: msgspec.Raw(msgspec.json.encode(annotations))},
            prev_result=Result(ips=[ResultIP(address=a) for a in attachment.addresses]),
        ),
    )


def _agree(record: Call, attachment: Attachment) -> bool:
    """Whether both are of the same sandbox of the same pod."""
    namespace, name, uid = record.pod
    return (
        (namespace, name) == (attachment.namespace, attachment.pod)
        and uid in ("", attachment.uid)
        and record.netns == attachment.netns
        and [str(address) for address in record.addresses] == attachment.addresses
    )


def _rank(interface: str) -> tuple[bool, str]:
    return interface != FIRST, interface


def _attachable(pod: Pod) -> bool:
    return pod.has_network and not pod.spec.host_network and bool(annotation(pod))
