"""The differences between two places, one by one: tags first, then whether what the tags mean is there whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from imagedist.errors import IntegrityError, UnacceptableError
from imagedist.oci.contents import parse_contents
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import Descriptor
from imagedist.verify.place import Found, Place

_AT_ONCE = 16
_DEPTH = 4
"""An index of indexes of manifests; one that names itself ends here."""

Kind = Literal["tag-missing", "tag-differs", "manifest-missing", "blob-missing", "wrong-size", "wrong-bytes", "bad"]


@dataclass(frozen=True, slots=True)
class Difference:
    """``place``: where something is missing or wrong; of a tag that differs, the second one."""

    kind: Kind
    place: str
    name: str
    what: str


@dataclass(slots=True)
class Counts:
    """What was looked at, at both places together."""

    tags: int = 0
    manifests: int = 0
    blobs: int = 0
    bytes: int = 0


class Comparison:
    """
    Args:
        wanted: whether a repository is to be compared.
        is_deep: blobs are read and hashed, not only asked about.
    """

    def __init__(self, one: Place, other: Place, wanted: Callable[[str], bool], *, is_deep: bool = False) -> None:
        self._places = (one, other)
        self._wanted = wanted
        self._is_deep = is_deep
        self._seen: set[tuple[int, str, Digest]] = set()
        self.counts = Counts()

    async def differences(self, named: Sequence[str] = ()) -> AsyncIterator[Difference]:
        """
        Args:
            named: repositories that are compared whether or not a place tells of them.

        Raises:
            SourceError: a place cannot be asked, or does not tell its repositories.
        """
        names = set(named)
        if not named:
            for place in self._places:
                names.update(filter(self._wanted, await place.repositories()))
        for name in sorted(names):
            async for difference in self._of_repository(name):
                yield difference

    async def _of_repository(self, name: str) -> AsyncIterator[Difference]:
        both = [await place.tags(name) for place in self._places]
        for tag in sorted(both[0].keys() | both[1].keys()):
            self.counts.tags += 1
            found = [tags.get(tag) for tags in both]
            for place, here in zip(self._places, found, strict=True):
                if here is None:
                    yield Difference("tag-missing", str(place), f"{name}:{tag}", "no such tag")
            one, other = found
            if one is not None and other is not None and one.digest != other.digest:
                what = f"{other.digest}, not {one.digest} as at {self._places[0]}"
                yield Difference("tag-differs", str(self._places[1]), f"{name}:{tag}", what)
            for number, here in enumerate(found):
                if here is not None:
                    for difference in await self._of_image(number, name, tag, here):
                        yield difference

    async def _of_image(self, number: int, name: str, tag: str, found: Found) -> list[Difference]:
        """What is missing of a tag's image at one place."""
        place = self._places[number]
        differences: list[Difference] = []

        def note(kind: Kind, what: str) -> None:
            differences.append(Difference(kind, str(place), f"{name}:{tag}", what))

        blobs: dict[Digest, Descriptor] = {}
        wave = {found.digest}
        for _ in range(_DEPTH):
            following: set[Digest] = set()
            for digest in sorted(each for each in wave - found.skipped if self._is_new(number, name, each)):
                self.counts.manifests += 1
                try:
                    body = await place.manifest(name, digest)
                    if body is None:
                        note("manifest-missing", f"manifest {digest}")
                        continue
                    contents = parse_contents(body, str(digest))
                except (IntegrityError, UnacceptableError) as error:
                    note("bad", str(error))
                    continue
                following.update(child.digest for child in contents.children)
                blobs.update({blob.digest: blob for blob in contents.blobs})
            wave = following
        new = [blob for blob in blobs.values() if self._is_new(number, name, blob.digest)]
        for at in range(0, len(new), _AT_ONCE):
            some = new[at : at + _AT_ONCE]
            answers = await asyncio.gather(*(self._of_blob(place, name, blob) for blob in some))
            for answer in filter(None, answers):
                note(*answer)
        return differences

    async def _of_blob(self, place: Place, name: str, blob: Descriptor) -> tuple[Kind, str] | None:
        self.counts.blobs += 1
        size_bytes = await place.blob_size(name, blob.digest)
        if size_bytes is None:
            return "blob-missing", f"blob {blob.digest}, {blob.size_bytes} bytes"
        if size_bytes != blob.size_bytes:
            return "wrong-size", f"blob {blob.digest} has {size_bytes} bytes, not {blob.size_bytes}"
        if self._is_deep:
            self.counts.bytes += size_bytes
            if (read := await place.read(name, blob.digest)) != str(blob.digest):
                return "wrong-bytes", f"blob {blob.digest} reads as {read}"
        return None

    def _is_new(self, number: int, name: str, digest: Digest) -> bool:
        """Each is looked at once at each place."""
        key = (number, name, digest)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True
