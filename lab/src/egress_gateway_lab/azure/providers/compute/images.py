"""Images of the marketplace: every one that somebody asks for exists, in one version."""

from __future__ import annotations

from egress_gateway_lab.azure.arm.kinds import Answer, Call, Kind
from egress_gateway_lab.azure.arm.store import Document

VERSION = "1.0.0"


class PlatformImages(Kind):
    """Versions of images, which the lab's machines do not boot."""

    type = "Microsoft.Compute/locations/publishers/artifacttypes/offers/skus/versions"

    async def get(self, call: Call) -> Answer:
        return Answer(200, self._image(call.id.text, call.id.name))

    async def list(self, call: Call) -> Answer:
        return Answer(200, [self._image(f"{call.id.text}/{VERSION}", VERSION)])

    def _image(self, image_id: str, version: str) -> Document:
        return {
            "id": image_id,
            "name": version,
            "location": self.azure.location,
            "properties": {
                "osDiskImage": {"operatingSystem": "Linux"},
                "dataDiskImages": [],
                "hyperVGeneration": "V2",
                "architecture": "Arm64" if "arm64" in image_id.lower() else "x64",
            },
        }
