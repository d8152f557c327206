"""What an image consists of, found by reading its manifests from the top."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from imagedist.errors import UnacceptableError
from imagedist.oci.contents import choose_children, parse_contents
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import Descriptor
from imagedist.oci.platform import Platform

_DEPTH = 4
"""An index of indexes of manifests; one that names itself ends here."""
_MAX_MANIFESTS = 10_000

ReadManifest = Callable[[Digest], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Parts:
    """For the wanted platforms, each once. ``skipped``: manifests of indexes that are for others. ``manifest_bytes``:
    of those that were read."""

    blobs: tuple[Descriptor, ...]
    skipped: tuple[Digest, ...]
    manifest_bytes: int


async def find_parts(read: ReadManifest, digest: Digest, platforms: Collection[Platform], about: str) -> Parts:
    """
    Args:
        platforms: empty: all. about: for messages.

    Raises:
        NotFoundError: nothing for any of the platforms. UnacceptableError: no image. Whatever ``read`` raises.
    """
    blobs: dict[Digest, Descriptor] = {}
    skipped: set[Digest] = set()
    seen: set[Digest] = set()
    size_bytes = 0
    wave = {digest}
    for _ in range(_DEPTH):
        following: set[Digest] = set()
        for each in sorted(wave - seen):
            seen.add(each)
            body = await read(each)
            size_bytes += len(body)
            contents = parse_contents(body, about if each == digest else f"{about}, {each}")
            choice = choose_children(contents.children, platforms, about)
            following.update(child.digest for child in choice.taken)
            skipped.update(child.digest for child in choice.skipped)
            blobs.update({blob.digest: blob for blob in contents.blobs})
        if len(seen) + len(following) > _MAX_MANIFESTS:
            raise UnacceptableError(f"{about} names more than {_MAX_MANIFESTS} manifests")
        wave = following
    return Parts(tuple(blobs.values()), tuple(skipped - seen), size_bytes)
