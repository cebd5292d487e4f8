"""What every namespace has, and how one ends; likewise the objects of a CRD that ends."""

from __future__ import annotations

from collections.abc import Hashable

from egress_gateway_lab.apiserver.controllers.loop import Controller
from egress_gateway_lab.apiserver.objects import Object, key_of
from egress_gateway_lab.apiserver.requests import system_request
from egress_gateway_lab.apiserver.storage.registry import Registry, ResourceType
from egress_gateway_lab.apiserver.storage.store import Event
from egress_gateway_lab.apiserver.writes import crds

_ROOT_CA = "kube-root-ca.crt"
_ACCOUNT = "default"
_OWN = {"serviceaccounts": _ACCOUNT, "configmaps": _ROOT_CA}


class NamespaceContents(Controller):
    """The ``default`` ServiceAccount and the cluster's CA, in every namespace."""

    def start(self) -> None:
        for obj in self.store.list("namespaces"):
            # At once, not in the loop's turn: the first pod may be created right after start.
            self.reconcile(obj["metadata"]["name"])

    def touched(self, event: Event) -> None:
        if event.storage == "namespaces" and event.type == "ADDED":
            self.mark(event.obj["metadata"]["name"])
        elif event.storage in _OWN and event.type != "ADDED":
            namespace, name = key_of(event.obj)
            if name == _OWN[event.storage]:
                self.mark(namespace)

    def reconcile(self, key: Hashable) -> None:
        namespace = str(key)
        found = self.store.get("namespaces", ("", namespace))
        if found is None or found["metadata"].get("deletionTimestamp"):
            return
        if self.store.get("serviceaccounts", (namespace, _ACCOUNT)) is None:
            self._create("serviceaccounts", "ServiceAccount", namespace, _ACCOUNT, {})
        wanted = {"ca.crt": self.api.ca_pem}
        bundle = self.store.get("configmaps", (namespace, _ROOT_CA))
        if bundle is None:
            self._create("configmaps", "ConfigMap", namespace, _ROOT_CA, {"data": wanted})
        elif bundle.get("data") != wanted:
            rt = self.api.registry.find("", "v1", "configmaps")
            assert rt is not None
            self.crud.modify(
                rt,
                key_of(bundle),
                lambda obj: obj.update(data=wanted),
                system_request("PATCH", manager="kube-controller-manager"),
            )

    def _create(self, plural: str, kind: str, namespace: str, name: str, rest: Object) -> None:
        rt = self.api.registry.find("", "v1", plural)
        assert rt is not None
        obj = {
            "apiVersion": "v1",
            "kind": kind,
            "metadata": {"name": name, "namespace": namespace},
            **rest,
        }
        self.crud.create(rt, namespace, obj, system_request("POST"))


class NamespaceEnd(Controller):
    """Empties namespaces that are being deleted, then lets them go."""

    def touched(self, event: Event) -> None:
        if event.storage == "namespaces" and event.obj["metadata"].get("deletionTimestamp"):
            if event.type != "DELETED":
                self.mark(event.obj["metadata"]["name"])
        elif event.type == "DELETED" and (name := event.obj["metadata"].get("namespace")):
            found = self.store.get("namespaces", ("", name))
            if found is not None and found["metadata"].get("deletionTimestamp"):
                self.mark(name)

    def reconcile(self, key: Hashable) -> None:
        namespace = str(key)
        found = self.store.get("namespaces", ("", namespace))
        if found is None or not found["metadata"].get("deletionTimestamp"):
            return
        left = 0
        for stored in _stored(self.api.registry):
            for obj in list(self.store.list(stored.storage, namespace)):
                if not obj["metadata"].get("deletionTimestamp"):
                    self.crud.delete(stored, key_of(obj), None, system_request("DELETE"))
                left += self.store.get(stored.storage, key_of(obj)) is not None
        if left or not (found.get("spec") or {}).get("finalizers"):
            return
        rt = self.api.registry.find("", "v1", "namespaces")
        assert rt is not None

        def release(obj: Object) -> None:
            obj["spec"]["finalizers"] = []

        self.crud.modify(rt, ("", namespace), release, system_request("PATCH"))


class DefinitionEnd(Controller):
    """Deletes the objects of a CRD that is being deleted, then lets it go."""

    def touched(self, event: Event) -> None:
        if event.storage == crds.STORAGE and event.obj["metadata"].get("deletionTimestamp"):
            if event.type != "DELETED":
                self.mark(event.obj["metadata"]["name"])
        elif event.type == "DELETED":
            definition = self.store.get(crds.STORAGE, ("", event.storage))
            if definition is not None and definition["metadata"].get("deletionTimestamp"):
                self.mark(event.storage)

    def reconcile(self, key: Hashable) -> None:
        name = str(key)
        definition = self.store.get(crds.STORAGE, ("", name))
        rt = self.api.registry.by_storage(name)
        if definition is None or not definition["metadata"].get("deletionTimestamp"):
            return
        left = 0
        for obj in list(self.store.list(name)):
            if rt is not None and not obj["metadata"].get("deletionTimestamp"):
                self.crud.delete(rt, key_of(obj), None, system_request("DELETE"))
            left += self.store.get(name, key_of(obj)) is not None
        if left:
            return
        own = self.api.registry.by_storage(crds.STORAGE)
        assert own is not None

        def release(obj: Object) -> None:
            kept = [f for f in obj["metadata"].get("finalizers") or [] if f != crds.CLEANUP]
            obj["metadata"]["finalizers"] = kept

        self.crud.modify(own, ("", name), release, system_request("PATCH"))


def _stored(registry: Registry) -> list[ResourceType]:
    """Namespaced resources by storage: one of several versions is enough."""
    found: dict[str, ResourceType] = {}
    for rt in registry:
        if rt.namespaced and rt.verbs != ("create",):
            found.setdefault(rt.storage, rt)
    return list(found.values())
