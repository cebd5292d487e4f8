"""Create, read, update, patch, delete: the semantics that all resources share.

Everything is synchronous, so each operation is atomic. The order of an update is that of
kube-apiserver's generic registry: preconditions, what clients may not change, subresource
isolation, defaults, validation, generation, field ownership, and last the question whether
anything changed at all (a no-op writes nothing) or the last finalizer is gone.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from egress_gateway_lab.apiserver import errors
from egress_gateway_lab.apiserver.admission.chain import Admission
from egress_gateway_lab.apiserver.objects import Key, Object, clone, now, suffix
from egress_gateway_lab.apiserver.requests import Request
from egress_gateway_lab.apiserver.storage.options import check_deletion
from egress_gateway_lab.apiserver.storage.registry import ResourceType
from egress_gateway_lab.apiserver.storage.store import Store
from egress_gateway_lab.apiserver.writes import apply as ssa
from egress_gateway_lab.apiserver.writes import patch, strategies
from egress_gateway_lab.apiserver.writes.lists import list_keys

_SYSTEM_METADATA = (
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
_NAME_LIMIT = 63
_IMMORTAL = ("default", "kube-system", "kube-public")
"""Namespaces (NamespaceLifecycle)."""


def keys_of(rt: ResourceType) -> ssa.ListKeys:
    if rt.custom is not None:
        return rt.custom.list_keys
    return lambda path: list_keys(rt.kind, path)


class Crud:
    """The operations on stored objects. Raises ``StatusError``; returns stored objects, which
    the caller must not change."""

    def __init__(self, store: Store, admission: Admission) -> None:
        self.store = store
        self.admission = admission
        self.warnings: list[str] = []

    def get(self, rt: ResourceType, key: Key) -> Object:
        found = self.store.get(rt.storage, key)
        if found is None:
            raise errors.not_found(rt.plural, rt.group, key[1])
        return found

    # -- create

    def create(self, rt: ResourceType, namespace: str, obj: Any, request: Request) -> Object:
        obj = clone(self._checked_body(rt, obj))
        meta = obj["metadata"] = dict(obj.get("metadata") or {})
        self._settle_namespace(rt, namespace, meta)
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"][: _NAME_LIMIT - 5] + suffix()
        for name in ("resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds"):
            meta.pop(name, None)
        if rt.has_status:
            obj.pop("status", None)
        return self._insert(rt, obj, request, managed=None)

    def _insert(
        self, rt: ResourceType, obj: Object, request: Request, managed: list[Object] | None
    ) -> Object:
        meta = obj["metadata"]
        key = (meta.get("namespace", ""), meta.get("name", ""))
        if key[1] and self.store.get(rt.storage, key) is not None:
            raise errors.already_exists(rt.plural, rt.group, key[1])
        self._prepare(rt, obj, None, request)
        meta["uid"] = str(uuid.uuid4())
        meta["creationTimestamp"] = now()
        meta.pop("generation", None)
        if rt.generation:
            meta["generation"] = 1
        self.admission.create(rt, obj, request)
        obj = self._mutated(rt, obj, None, request)
        meta = obj["metadata"]
        self._validate(rt, obj, None)
        self.warnings += self.admission.policies.validate("CREATE", rt, obj, None, request)
        if managed is None:
            managed = ssa.track_update(
                None, obj, keys_of(rt), manager=request.manager, subresource=""
            )
        meta["managedFields"] = managed
        if request.dry_run:
            return obj
        return self.store.create(rt.storage, key, obj)

    def _checked_body(self, rt: ResourceType, obj: Any) -> Object:
        if not isinstance(obj, dict):
            raise errors.bad_request("the request's body is not an object")
        wanted = (rt.api_version, rt.kind)
        # Clients with typed structs may leave both out; kubectl and ours send them.
        given = (obj.get("apiVersion") or wanted[0], obj.get("kind") or wanted[1])
        if given != wanted:
            raise errors.bad_request(
                f"{given[0]}, Kind={given[1]} does not match the resource "
                f"{rt.api_version}, Kind={rt.kind}"
            )
        if not isinstance(obj.get("metadata") or {}, dict):
            raise errors.bad_request("metadata is not an object")
        return {**obj, "apiVersion": wanted[0], "kind": wanted[1]}

    def _settle_namespace(self, rt: ResourceType, namespace: str, meta: Object) -> None:
        given = meta.get("namespace") or ""
        if not rt.namespaced:
            meta.pop("namespace", None)
            return
        if given and namespace and given != namespace:
            raise errors.bad_request(
                f"the namespace of the provided object does not match the namespace sent on the "
                f"request: {given} != {namespace}"
            )
        if not (given or namespace):
            raise errors.bad_request("an empty namespace may not be set during creation")
        meta["namespace"] = namespace or given

    # -- update

    def update(
        self, rt: ResourceType, key: Key, obj: Any, request: Request, subresource: str = ""
    ) -> Object:
        """Replaces an object (PUT)."""
        new = clone(self._checked_body(rt, obj))
        meta = new.setdefault("metadata", {})
        old = self.get(rt, key)
        if rt.custom is not None and not meta.get("resourceVersion"):
            raise errors.invalid(
                rt.kind,
                rt.group,
                key[1],
                [
                    errors.Cause(
                        "metadata.resourceVersion",
                        "Invalid value: 0: must be specified for an update",
                    )
                ],
            )
        meta.setdefault("name", key[1])
        meta["managedFields"] = old["metadata"].get("managedFields")
        return self._replace(rt, key, old, new, request, subresource)

    def patch(
        self, rt: ResourceType, key: Key, body: Any, request: Request, subresource: str = ""
    ) -> tuple[Object, bool]:
        """Any of the four patches; the second value tells whether apply created the object."""
        kind = request.content_type
        if kind == patch.APPLY_PATCH:
            return self._apply(rt, key, body, request, subresource)
        old = self.get(rt, key)
        match kind:
            case patch.JSON_PATCH:
                new = patch.json_patch(old, body)
            case patch.MERGE_PATCH:
                new = patch.merge_patch(old, body)
            case patch.STRATEGIC_PATCH if rt.custom is None:
                new = patch.strategic_patch(rt.kind, old, body)
            case _:
                raise errors.unsupported_media(kind)
        new = clone(self._checked_body(rt, new))
        new["metadata"]["managedFields"] = old["metadata"].get("managedFields")
        return self._replace(rt, key, old, new, request, subresource), False

    def modify(
        self,
        rt: ResourceType,
        key: Key,
        change: Callable[[Object], None],
        request: Request,
        subresource: str = "",
    ) -> Object:
        """``change`` edits a copy of the object in place; for controllers in this process."""
        old = self.get(rt, key)
        new = clone(old)
        change(new)
        return self._replace(rt, key, old, new, request, subresource)

    def _apply(
        self, rt: ResourceType, key: Key, body: Any, request: Request, subresource: str
    ) -> tuple[Object, bool]:
        if not request.query.get("fieldManager"):
            cause = errors.Cause("fieldManager", "Required value: is required for apply patch")
            raise errors.invalid("PatchOptions", "meta.k8s.io", "", [cause])
        applied = clone(self._checked_body(rt, body))
        meta = applied.setdefault("metadata", {})
        if meta.get("name", key[1]) != key[1]:
            raise errors.bad_request("metadata.name does not match the name in the URL")
        meta["name"] = key[1]
        self._settle_namespace(rt, key[0], meta)
        if meta.get("managedFields"):
            raise errors.bad_request("metadata.managedFields must be nil")
        if rt.has_status:
            applied = _only(applied, subresource)
        live = self.store.get(rt.storage, key)
        if live is None and subresource:
            raise errors.not_found(rt.plural, rt.group, key[1])
        new = ssa.apply(
            live,
            applied,
            keys_of(rt),
            manager=request.manager,
            subresource=subresource,
            force=request.query.get("force") in ("1", "true"),
        )
        if live is None:
            managed = new["metadata"].pop("managedFields")
            return self._insert(rt, new, request, managed), True
        if version := meta.get("resourceVersion"):
            new["metadata"]["resourceVersion"] = version
        return self._replace(rt, key, live, new, request, subresource, applied=True), False

    def _replace(
        self,
        rt: ResourceType,
        key: Key,
        old: Object,
        new: Object,
        request: Request,
        subresource: str,
        *,
        applied: bool = False,
    ) -> Object:
        self._check_preconditions(rt, key, old, new)
        meta = new["metadata"]
        for name in _SYSTEM_METADATA:
            meta.pop(name, None)
            if name in old["metadata"]:
                meta[name] = old["metadata"][name]
        new = _isolate(rt, old, new, subresource)
        if not subresource:
            self._prepare(rt, new, old, request)
            self.admission.update(rt, new, old, request)
            new = self._mutated(rt, new, old, request)
        elif rt.custom is not None:
            self._prepare(rt, new, old, request)
        # A pod's specification is fixed but for its node, which binding alone may set.
        self._validate(rt, new, old if subresource != "binding" else None)
        if subresource != "binding":
            policies = self.admission.policies
            self.warnings += policies.validate("UPDATE", rt, new, old, request, subresource)
        counted = rt.generation and subresource != "binding"
        if counted and _specification(rt, new) != _specification(rt, old):
            new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        if not applied:
            new["metadata"]["managedFields"] = ssa.track_update(
                old, new, keys_of(rt), manager=request.manager, subresource=subresource
            )
        return self._commit(rt, key, old, new, dry_run=request.dry_run)

    def _commit(
        self, rt: ResourceType, key: Key, old: Object, new: Object, *, dry_run: bool
    ) -> Object:
        meta = new["metadata"]
        meta["resourceVersion"] = old["metadata"]["resourceVersion"]
        if new == old or dry_run:
            return new if dry_run else old
        finished = (
            meta.get("deletionTimestamp")
            and not meta.get("finalizers")
            and not meta.get("deletionGracePeriodSeconds")
            and not _held(rt, new)
        )
        stored = self.store.replace(rt.storage, key, new)
        if finished:
            return self.store.remove(rt.storage, key)
        return stored

    def _check_preconditions(self, rt: ResourceType, key: Key, old: Object, new: Object) -> None:
        meta = new["metadata"]
        if meta.get("name") != key[1]:
            raise errors.bad_request(
                f"the name of the object ({meta.get('name')}) does not match the name on the URL "
                f"({key[1]})"
            )
        if rt.namespaced and meta.setdefault("namespace", key[0]) != key[0]:
            raise errors.bad_request(
                "the namespace of the object does not match the namespace on the request"
            )
        if (uid := meta.get("uid")) and uid != old["metadata"]["uid"]:
            raise errors.conflict(
                rt.plural,
                rt.group,
                key[1],
                f"Precondition failed: UID in precondition: {uid}, UID in object meta: "
                f"{old['metadata']['uid']}",
            )
        version = meta.get("resourceVersion")
        if version and version != old["metadata"]["resourceVersion"]:
            raise errors.conflict(rt.plural, rt.group, key[1])

    # -- delete

    def delete(
        self, rt: ResourceType, key: Key, options: Any, request: Request
    ) -> tuple[Object, bool]:
        """Deletes, or marks for deletion; the second value tells whether the object is gone."""
        old = self.get(rt, key)
        options = options if isinstance(options, dict) else {}
        merged = {**request.query, **options}
        check_deletion(merged)
        if rt.storage == "namespaces" and key[1] in _IMMORTAL:
            raise errors.forbidden(rt.plural, "", key[1], "this namespace may not be deleted")
        preconditions = options.get("preconditions") or {}
        meta = old["metadata"]
        for name in ("uid", "resourceVersion"):
            if (wanted := preconditions.get(name)) and wanted != meta[name]:
                shown = "UID" if name == "uid" else "ResourceVersion"
                lately = "deleted and then recreated" if name == "uid" else "modified"
                raise errors.conflict(
                    rt.kind,
                    rt.group,
                    key[1],
                    f"the {shown} in the precondition ({wanted}) does not match the {shown} in "
                    f"record ({meta[name]}). The object might have been {lately}",
                )
        self.warnings += self.admission.policies.validate("DELETE", rt, None, old, request)
        if "All" in merged.get("dryRun", ()):  # client-go says it in the body, kubectl in the query
            return old, True
        finalizers = _deletion_finalizers(meta, merged)
        grace = _grace(rt, old, merged)
        if not finalizers and not grace and not _held(rt, old):
            return self.store.remove(rt.storage, key), True
        ending = meta.get("deletionTimestamp") and finalizers == (meta.get("finalizers") or [])
        if ending and grace >= (meta.get("deletionGracePeriodSeconds") or 0):
            return old, False
        new = clone(old)
        when = datetime.now(UTC) + timedelta(seconds=grace)
        new["metadata"]["deletionTimestamp"] = when.strftime("%Y-%m-%dT%H:%M:%SZ")
        new["metadata"]["deletionGracePeriodSeconds"] = grace
        if rt.generation:
            new["metadata"]["generation"] = meta.get("generation", 0) + 1
        if finalizers:
            new["metadata"]["finalizers"] = finalizers
        if rt.storage == "namespaces":
            new["status"] = {**new.get("status", {}), "phase": "Terminating"}
        return self.store.replace(rt.storage, key, new), False

    # -- shared

    def _prepare(self, rt: ResourceType, obj: Object, old: Object | None, request: Request) -> None:
        if rt.custom is not None:
            unknown = rt.custom.prepare(obj)
            self._report_unknown(rt, unknown, request.query.get("fieldValidation", "Warn"))
            return
        try:
            if old is None:
                strategies.prepare_create(rt.storage, obj)
            else:
                strategies.prepare_update(rt.storage, obj)
        except (TypeError, AttributeError, KeyError, IndexError) as error:
            raise _malformed(rt, error) from error

    def _mutated(
        self, rt: ResourceType, obj: Object, old: Object | None, request: Request
    ) -> Object:
        """What admission policies make of an object, with the defaults of what they added."""
        new = self.admission.policies.mutate(rt, obj, old, request)
        if new is not obj:
            self._prepare(rt, new, old, request)
        return new

    def _report_unknown(self, rt: ResourceType, unknown: list[str], policy: str) -> None:
        if not unknown or policy == "Ignore":
            return
        texts = [f'unknown field "{path}"' for path in unknown]
        if policy == "Strict":
            raise errors.bad_request(
                f'{rt.kind} in version "{rt.version}" cannot be handled as a {rt.kind}: '
                "strict decoding error: " + ", ".join(texts)
            )
        self.warnings.extend(texts)

    def _validate(self, rt: ResourceType, obj: Object, old: Object | None) -> None:
        causes = strategies.metadata_causes(rt.storage, obj)
        if not causes:
            try:
                if rt.custom is not None:
                    causes = rt.custom.validate(obj, old)
                else:
                    causes = strategies.validate(rt.storage, obj, old)
            except (TypeError, AttributeError, KeyError, IndexError) as error:
                raise _malformed(rt, error) from error
        if causes:
            raise errors.invalid(rt.kind, rt.group, obj["metadata"].get("name", ""), causes)


def _malformed(rt: ResourceType, error: Exception) -> errors.StatusError:
    return errors.bad_request(
        f"{rt.kind} in version {rt.version!r} cannot be handled as a {rt.kind}: a field is "
        f"missing or of the wrong type ({type(error).__name__}: {error})"
    )


def _only(applied: Object, subresource: str) -> Object:
    """What of an applied configuration an endpoint may change."""
    if subresource == "status":
        meta = applied["metadata"]
        kept = ("name", "namespace", "resourceVersion", "uid")
        return {
            "apiVersion": applied["apiVersion"],
            "kind": applied["kind"],
            "metadata": {k: meta[k] for k in kept if k in meta},
            **({"status": applied["status"]} if "status" in applied else {}),
        }
    return {k: v for k, v in applied.items() if k != "status"}


def _isolate(rt: ResourceType, old: Object, new: Object, subresource: str) -> Object:
    """The status endpoint changes the status alone, the main endpoint everything else."""
    if subresource == "status":
        kept = {k: v for k, v in old.items() if k not in ("status", "metadata")}
        meta = dict(old["metadata"])
        if rt.custom is None:
            for name in ("labels", "annotations"):
                if name in new["metadata"]:
                    meta[name] = new["metadata"][name]
        meta["managedFields"] = new["metadata"].get("managedFields")
        if "status" in new:
            kept["status"] = new["status"]
        return {**kept, "metadata": meta}
    if rt.has_status and subresource != "binding":
        new = {k: v for k, v in new.items() if k != "status"}
        if "status" in old:
            new["status"] = old["status"]
    return new


def _specification(rt: ResourceType, obj: Object) -> Object:
    """What ``metadata.generation`` counts changes of."""
    left_out = {"metadata", "status"} if rt.has_status else {"metadata"}
    return {k: v for k, v in obj.items() if k not in left_out}


def _deletion_finalizers(meta: Object, options: Any) -> list[str]:
    finalizers = [
        f for f in meta.get("finalizers") or [] if f not in ("orphan", "foregroundDeletion")
    ]
    match options.get("propagationPolicy"):
        case "Orphan":
            finalizers.append("orphan")
        case "Foreground":
            finalizers.append("foregroundDeletion")
        case None if meta.get("finalizers"):
            finalizers = list(meta["finalizers"])
    return finalizers


def _grace(rt: ResourceType, obj: Object, options: Any) -> int:
    """Seconds until a pod may be removed; other objects go at once. A pod that no kubelet has
    seen, or that has finished, needs no grace."""
    if rt.storage != "pods":
        return 0
    asked = options.get("gracePeriodSeconds")
    spec = obj["spec"]
    grace = int(asked) if asked is not None else spec.get("terminationGracePeriodSeconds", 30)
    finished = (obj.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    if not spec.get("nodeName") or finished:
        return 0
    return max(grace, 0)


def _held(rt: ResourceType, obj: Object) -> bool:
    """A namespace stays until its own finalizer is released (``NamespaceEnd``)."""
    return rt.storage == "namespaces" and bool((obj.get("spec") or {}).get("finalizers"))
