"""What stays in the site: what pins reach through manifests, and how manifests and tags queue up to go. Blocking.

Manifests and the records of tags are evicted in one queue with the blobs, by their last use and a week of grace: they
take next to nothing, and fetching one again counts against the limits of public registries. A manifest was used when
it was read or when a tag was seen to mean it; a record when it was checked or its manifest was read. A tag that a rule
keeps for ever (``policy = "pin"``) stays, with its manifest; so does the record of a tag whose manifest is pinned.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from imagedist.errors import InputError, storage_error
from imagedist.oci.digest import Digest
from imagedist.store.inventory import ALGORITHMS, Item
from registry_proxy.manifests import ManifestStore
from registry_proxy.pins import Pins
from registry_proxy.synced import SyncedTags

_SETTLED_SECONDS = 0.1
"""A directory that changed so lately may change again within the same tick of its clock."""
_GRACE_SECONDS = 7 * 24 * 3600.0
_DEPTH = 4
"""An index of indexes of manifests; one that names itself ends here."""

IsForEver = Callable[[str, str, str], bool]
"""Whether a rule keeps the tag of (upstream, repository, tag) until it is purged."""


class Keeping:
    """
    Args:
        root: the store's.
        synced: tags of sync rules, which keep what they mean as pins do.
    """

    def __init__(
        self, root: Path, manifests: ManifestStore, pins: Pins, synced: SyncedTags, is_for_ever: IsForEver
    ) -> None:
        self._manifests = manifests
        self._pins = pins
        self._synced = synced
        self._is_for_ever = is_for_ever
        self._watched = [
            pins.directory,
            synced.directory,
            *(root / "manifests" / algorithm for algorithm in ALGORITHMS),
        ]
        self._known: tuple[list[int], frozenset[Digest]] | None = None

    def keeps(self) -> frozenset[Digest]:
        """Every digest that a pin or a synced tag reaches. Quick when neither pins nor manifests changed.

        Raises:
            StorageError: the pins cannot be read.
        """
        stamps = [_mtime_ns(directory) for directory in self._watched]
        if self._known is not None and self._known[0] == stamps:
            return self._known[1]
        kept = self.reached([*(pin.digest for pin in self._pins.all()), *(tag.digest for tag in self._synced.all())])
        is_settled = max(stamps) < time.time_ns() - _SETTLED_SECONDS * 1e9
        self._known = (stamps, kept) if is_settled else None
        return kept

    def reached(self, roots: Iterable[Digest]) -> frozenset[Digest]:
        """The digests, and what those of them that are manifests here refer to."""
        reached: set[Digest] = set()
        wave = set(roots)
        for _ in range(_DEPTH):
            reached |= wave
            wave = {digest for root in wave for digest in self._references(root)} - reached
        return frozenset(reached)

    def others(self) -> list[Item]:
        """What may be evicted beside blobs. Raises StorageError."""
        tags = list(self._manifests.tag_files())
        stay = {tag.path for tag in tags if self._is_for_ever(tag.upstream, tag.repository, tag.tag)}
        last_meant: dict[Digest, float] = {}
        for tag in tags:
            checked_at = float("inf") if tag.path in stay else tag.checked_at
            last_meant[tag.digest] = max(checked_at, last_meant.get(tag.digest, 0.0))
        items, last_read = [], {}
        for manifest in self._manifests.files():
            digest = manifest.digest
            last_read[digest] = manifest.read_at
            used_at = max(manifest.read_at, last_meant.get(digest, 0.0)) + _GRACE_SECONDS
            if used_at < float("inf"):
                items.append(Item(used_at, manifest.size_bytes, f"manifest {digest}", digest, manifest.paths))
        for tag in tags:
            if tag.path not in stay:
                used_at = max(tag.checked_at, last_read.get(tag.digest, 0.0)) + _GRACE_SECONDS
                name = f"record of {tag.upstream}/{tag.repository}:{tag.tag}"
                items.append(Item(used_at, tag.size_bytes, name, tag.digest, (tag.path,)))
        return items

    def _references(self, digest: Digest) -> Iterator[Digest]:
        """What a manifest or an index here refers to; nothing for what is no such document."""
        body = self._manifests.body(digest)
        if body is None:
            return
        with contextlib.suppress(ValueError, RecursionError):
            document = json.loads(body)
            if isinstance(document, dict):
                for field in ("manifests", "layers", "blobs", "config"):
                    value = document.get(field)
                    for descriptor in value if isinstance(value, list) else [value]:
                        if isinstance(descriptor, dict):
                            with contextlib.suppress(InputError):
                                yield Digest.parse(str(descriptor.get("digest")))


def _mtime_ns(directory: Path) -> int:
    try:
        return directory.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise storage_error(f"look up {directory}", error) from error
