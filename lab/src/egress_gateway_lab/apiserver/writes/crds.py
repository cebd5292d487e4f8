"""CustomResourceDefinitions become resources.

A definition whose schema or rules this server cannot hold objects to is refused when it is created
or changed: an object must never pass because nobody looked.
"""

from __future__ import annotations

from egress_gateway_lab.apiserver import errors
from egress_gateway_lab.apiserver.cel.rules import CelRefusedError
from egress_gateway_lab.apiserver.objects import Object, now
from egress_gateway_lab.apiserver.storage.registry import Registry, ResourceType
from egress_gateway_lab.apiserver.storage.store import Event
from egress_gateway_lab.apiserver.writes.schema import CustomSchema

STORAGE = "customresourcedefinitions.apiextensions.k8s.io"
CLEANUP = "customresourcecleanup.apiextensions.k8s.io"


def check(crd: Object) -> None:
    """Raises ``StatusError`` with every reason why the definition cannot be served."""
    spec = crd.get("spec") or {}
    names = spec.get("names") or {}
    causes = []
    for field in ("group", "scope"):
        if not spec.get(field):
            causes.append(errors.Cause(f"spec.{field}", "Required value", "FieldValueRequired"))
    for field in ("plural", "kind"):
        if not names.get(field):
            causes.append(
                errors.Cause(f"spec.names.{field}", "Required value", "FieldValueRequired")
            )
    expected = f"{names.get('plural')}.{spec.get('group')}"
    name = crd["metadata"].get("name", "")
    if name != expected:
        causes.append(
            errors.Cause(
                "metadata.name",
                f'Invalid value: "{name}": must be spec.names.plural+"."+spec.group',
            )
        )
    versions = spec.get("versions") or []
    if sum(bool(v.get("storage")) for v in versions) != 1:
        causes.append(
            errors.Cause(
                "spec.versions",
                "Invalid value: must have exactly one version marked as storage version",
            )
        )
    for i, version in enumerate(versions):
        causes += _schema_causes(version, f"spec.versions[{i}].schema")
    if causes:
        raise errors.invalid("CustomResourceDefinition", "apiextensions.k8s.io", name, causes)


def _schema_causes(version: Object, at: str) -> list[errors.Cause]:
    schema = (version.get("schema") or {}).get("openAPIV3Schema")
    if not isinstance(schema, dict):
        return [errors.Cause(f"{at}.openAPIV3Schema", "Required value: schemas are required")]
    try:
        CustomSchema(schema)
    except (CelRefusedError, ValueError) as error:
        field, _, message = str(error).partition(": ")
        return [errors.Cause(f"{at}.{field}", message)]
    return []


def establish(crd: Object) -> None:
    """Status, finalizer and defaults of a definition that is served from its creation on."""
    names = crd["spec"]["names"]
    names.setdefault("singular", names["kind"].lower())
    names.setdefault("listKind", f"{names['kind']}List")
    crd["spec"].setdefault("conversion", {"strategy": "None"})
    meta = crd["metadata"]
    meta["finalizers"] = sorted({*(meta.get("finalizers") or []), CLEANUP})
    stored = [v["name"] for v in crd["spec"]["versions"] if v.get("storage")]
    crd["status"] = {
        "conditions": [
            {
                "type": kind,
                "status": "True",
                "reason": reason,
                "message": message,
                "lastTransitionTime": now(),
            }
            for kind, reason, message in (
                ("NamesAccepted", "NoConflicts", "no conflicts found"),
                ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
            )
        ],
        "acceptedNames": names,
        "storedVersions": stored,
    }


def resource_types(crd: Object) -> list[ResourceType]:
    """A resource per served version."""
    spec = crd["spec"]
    names = spec["names"]
    found = []
    for version in spec["versions"]:
        if not version.get("served"):
            continue
        subresources = version.get("subresources") or {}
        found.append(
            ResourceType(
                group=spec["group"],
                version=version["name"],
                plural=names["plural"],
                kind=names["kind"],
                namespaced=spec["scope"] == "Namespaced",
                short_names=tuple(names.get("shortNames") or ()),
                categories=tuple(names.get("categories") or ()),
                has_status="status" in subresources,
                generation=True,
                fields=tuple(
                    f["jsonPath"].lstrip(".") for f in version.get("selectableFields") or ()
                ),
                custom=CustomSchema(version["schema"]["openAPIV3Schema"]),
                columns=tuple(version.get("additionalPrinterColumns") or ()),
            )
        )
    return found


def follow(registry: Registry, event: Event) -> None:
    """A store listener that keeps the registry in step with the definitions."""
    if event.storage != STORAGE:
        return
    spec = event.obj["spec"]
    unchanged = event.previous is not None and event.previous["spec"] == spec
    if event.type == "MODIFIED" and unchanged:
        return
    registry.remove_custom(spec["group"], spec["names"]["plural"])
    if event.type == "DELETED":
        return
    for rt in resource_types(event.obj):
        registry.add(rt)
        if event.type == "MODIFIED":
            registry.replaced.add(rt.storage)
