"""Workloads that carry the annotation themselves, where nobody reads it: their pods lack it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from egress_gateway.api import names
from egress_gateway.cli.diagnosis.checks.findings import Finding
from egress_gateway.kube import resources
from egress_gateway.kube.errors import ApiError, NotFound
from egress_gateway.kube.resources import Untyped

if TYPE_CHECKING:
    from egress_gateway.kube.client import Client

_STATEFUL_SETS: Final = resources.v1("statefulsets", "StatefulSet", dict, group="apps")
_KINDS: Final = (
    resources.DEPLOYMENTS,
    resources.DAEMON_SETS.untyped(),
    _STATEFUL_SETS,
    resources.v1("jobs", "Job", dict, group="batch"),
    resources.v1("cronjobs", "CronJob", dict, group="batch"),
)


async def look(client: Client, namespace: str) -> tuple[list[Finding], list[str]]:
    """What is amiss in one namespace, and what was not to be seen: of a whole cluster, these are
    more bytes than all that is read besides."""
    found: list[Finding] = []
    unseen: list[str] = []

    async def read(kind: resources.Resource[Untyped]) -> None:
        try:
            listed = await client.list(kind, namespace)
        except NotFound:
            pass  # an API server may leave a kind out
        except ApiError:
            unseen.append(f"{kind.kind}s in {namespace}")
        else:
            found.extend(misplaced(kind.kind, listed.items))

    await asyncio.gather(*map(read, _KINDS))
    return found, unseen


def misplaced(kind: str, workloads: Sequence[Untyped]) -> Iterator[Finding]:
    """Those of one kind whose pods' template lacks what they carry, or what the template of a
    CronJob's Jobs does. Pure."""
    key = names.POD_ANNOTATION
    for workload in workloads:
        meta, spec, path = workload["metadata"], workload["spec"], "spec.template"
        outer = [meta]
        if kind == "CronJob":
            outer.append(spec["jobTemplate"].get("metadata") or {})
            spec, path = spec["jobTemplate"]["spec"], "spec.jobTemplate.spec.template"
        own = (spec["template"].get("metadata") or {}).get("annotations") or {}
        asks = any(key in (each.get("annotations") or {}) for each in outer)
        makers = {owner["kind"] for owner in meta.get("ownerReferences") or []}
        if asks and key not in own and "CronJob" not in makers:  # that is told itself
            yield Finding(
                code="EG110",
                object=f"{kind} {meta['namespace']}/{meta['name']}",
                evidence=f"it has the annotation {key} itself, where nobody reads it: its pods "
                "leave as the cluster does",
                mend=f"write it into {path}.metadata.annotations",
            )
