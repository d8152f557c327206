"""What the puller asks of a source of images."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Protocol

from imagedist.oci.bulk import Consume
from imagedist.oci.image import Image
from imagedist.oci.manifest import Descriptor
from imagedist.oci.platform import Platform
from imagedist.oci.reference import Reference


class Source(Protocol):
    """References become resolved images, descriptors become bytes.

    Attributes:
        is_verified: what is delivered has the size and digest that were asked for, or ends in an error. Else the
            consumer checks that; it checks a layer's diff ID in any case.
    """

    @property
    def is_verified(self) -> bool: ...

    async def resolve(self, reference: Reference, platform: Platform) -> Image: ...

    async def deliver(self, reference: Reference, descriptor: Descriptor, consume: Consume, threads: Executor) -> None:
        """Hands a blob's bytes to ``consume`` as they arrive, in order, in a thread of ``threads``.

        A slow consumer slows the source down, nothing piles up.
        """
