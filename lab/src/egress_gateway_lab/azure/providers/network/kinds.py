"""What all resources of Microsoft.Network have in common.

A PUT replaces the whole document. What Azure assigned (address, prefix, GUID) stays with the
resource; what refers to it is computed when it is read.
"""

from __future__ import annotations

import copy
import re
import uuid

from egress_gateway_lab.azure.arm import errors, ids
from egress_gateway_lab.azure.arm.errors import ArmError
from egress_gateway_lab.azure.arm.kinds import Answer, Azure, Call, Kind
from egress_gateway_lab.azure.arm.store import Document


class NetworkKind(Kind):
    """ETag in the document, a resource GUID, and full replacement."""

    def draft(self, call: Call, old: Document | None) -> Document:
        document = super().draft(call, old)
        guid = old["properties"].get("resourceGuid") if old else None
        document["properties"]["resourceGuid"] = guid or str(uuid.uuid4())
        document["properties"].pop("provisioningState", None)
        return document

    def view(self, document: Document) -> Document:
        entry = self.azure.store.entry(document["id"])
        return {**document, "etag": entry.etag} if entry else document

    def check_busy(self, call: Call) -> None:
        """Networks and their subnets are written one at a time, together."""
        super().check_busy(call)
        at = call.id.text
        for operation in self.azure.operations.under_way():
            if ids.within(at, operation.target) or ids.within(operation.target, at):
                raise self.busy(call, operation)


class PlainNetworkKind(NetworkKind):
    """Kept as given: types that the lab's network does not act on. ``section`` names what would
    make a packet go another way, or nowhere."""

    section: str

    def complete(self, call: Call, body: Document, old: Document | None) -> Document:
        if body["properties"].get(self.section):
            raise errors.not_modelled(f"{self.section} of {self.type}", "")
        return super().complete(call, body, old)


class SecurityGroups(PlainNetworkKind):
    """Network security groups."""

    type = "Microsoft.Network/networkSecurityGroups"
    section = "securityRules"


class RouteTables(PlainNetworkKind):
    """Route tables."""

    type = "Microsoft.Network/routeTables"
    section = "routes"


class Children(Kind):
    """Children that live inside their parent's document: readable on their own."""

    tracked = False

    def __init__(self, azure: Azure, parent_type: str, word: str) -> None:
        super().__init__(azure)
        self.type = f"{parent_type}/{word}"  # type: ignore[misc]
        self._parent_type = parent_type
        self._word = word

    def _items(self, call: Call) -> list[Document]:
        parent = ids.parse(call.id.text.lower().rpartition(f"/{self._word.lower()}")[0])
        document = self.azure.store.get(parent.text)
        if document is None:
            raise self.missing(call.id.parent or call.id)
        items = self.azure.view(self._parent_type, document)["properties"].get(self._word)
        return list(items or [])

    async def get(self, call: Call) -> Answer:
        for item in self._items(call):
            if item["name"].lower() == call.id.name.lower():
                return Answer(200, copy.deepcopy(item))
        raise ArmError(404, "NotFound", f"Resource {call.id.text} not found.")

    async def list(self, call: Call) -> Answer:
        return Answer(200, {"value": self._items(call)})

    async def put(self, call: Call) -> Answer:
        raise errors.method_not_allowed("PUT", self.type)

    patch = delete = put


ZONES = frozenset("123")


def check_zones(old: Document | None, new: Document) -> None:
    """There are three. Zones are chosen once; a write that leaves them out asks for none.
    https://learn.microsoft.com/azure/reliability/availability-zones-overview"""
    before, after = (sorted((d or {}).get("zones") or []) for d in (old, new))
    if not ZONES.issuperset(after):
        raise errors.invalid(
            f"The zone(s) '{','.join(after)}' for resource '{new.get('id', new.get('name'))}' is "
            "not supported. The supported zones are '1,2,3'.",
            code="InvalidAvailabilityZone",
        )
    if old is not None and before != after:
        raise errors.invalid(
            f"Resource {new['id']} has an existing availability zone constraint "
            f"{', '.join(before) or 'NoZone'} and the request has availability zone constraint "
            f"{', '.join(after) or 'NoZone'}, which do not match. Zones cannot be added/updated/"
            "removed once the resource is created. The resource cannot be updated from regional "
            "to zonal or vice-versa.",
            code="ResourceAvailabilityZonesCannotBeModified",
        )


_ITEM = re.compile(r"\w(?:[\w.-]{0,78}\w)?", re.ASCII)


def check_item_names(owner: str, section: str, items: list[Document]) -> None:
    """What lies inside a document has a good name of its own."""
    names = [str(i.get("name") or "") for i in items]
    for name in names:
        if not _ITEM.fullmatch(name):
            raise errors.invalid(
                f"Resource name '{name}' in {section} of {owner} is invalid. The name can be up to "
                "80 characters long. It must begin with a word character, and it must end with a "
                "word character or with '_'. The name may contain word characters or '.', '-', "
                "'_'.",
                code="InvalidResourceName",
            )
    if len({n.lower() for n in names}) != len(names):
        raise errors.invalid(
            f"Resource {owner} has more than one item of the same name in {section}.",
            code="DuplicateResourceName",
        )
