"""What the puller asks of a source of images."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from imagedist.oci.image import Image
from imagedist.oci.manifest import Descriptor
from imagedist.oci.platform import Platform
from imagedist.oci.reference import Reference


class Source(Protocol):
    """References become resolved images, descriptors become bytes."""

    async def resolve(self, reference: Reference, platform: Platform) -> Image: ...

    def chunks(self, reference: Reference, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        """The blob's bytes in order, as they arrive. The reader checks size and digest."""
