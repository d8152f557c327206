"""Tags that the site's seeder keeps in sync: the proxy's read-only copy. Blocking.

Layout: ``synced/<sha256 of the tag's name>.json``. What they mean stays whatever the quota says, as with pins; what
came from another site is what pullers are told.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from imagedist.errors import PreconditionError, UnacceptableError, storage_error
from imagedist.oci.contents import parse_contents
from imagedist.oci.digest import Digest
from imagedist.site_sync import KeptTag, SyncedTag
from imagedist.store.blobs import BlobStore
from registry_proxy.manifests import ManifestStore

_LOG = logging.getLogger(__name__)

_DEPTH = 4
"""An index of indexes of manifests; one that names itself ends here."""
_NAMED = 3
"""How many of the missing a message names."""


class SyncedTags:
    """All processes of the site's host write and read them."""

    def __init__(self, store: BlobStore, manifests: ManifestStore) -> None:
        self.directory = store.root / "synced"
        self._store = store
        self._manifests = manifests

    def get(self, upstream: str, repository: str, tag: str) -> SyncedTag | None:
        """Raises StorageError: it cannot be read."""
        return self._read(self._path(upstream, repository, tag))

    def put(self, upstream: str, repository: str, tag: str, meant: SyncedTag) -> None:
        """Sets the tag, once all that it needs is here; on the disk when it returns.

        Raises:
            PreconditionError: something is missing; names it. UnacceptableError: no image. StorageError.
        """
        missing = list(self._missing(meant))
        if missing:
            named = ", ".join(map(str, missing[:_NAMED])) + (" …" if len(missing) > _NAMED else "")
            raise PreconditionError(
                f"{upstream}/{repository}:{tag} is not set: {len(missing)} of its blobs are not in the site ({named}); "
                "fetch them first"
            )
        kept = KeptTag(upstream=upstream, repository=repository, tag=tag, **meant.model_dump())
        path = self._path(upstream, repository, tag)
        self._store.ledger.write(path, kept.model_dump_json().encode(), durable=True)

    def drop(self, upstream: str, repository: str, tag: str) -> bool:
        """Whether it was there. Raises StorageError."""
        return self._store.ledger.unlink(self._path(upstream, repository, tag)) > 0

    def all(self) -> Iterator[KeptTag]:
        """One that cannot be read is told in the log, and keeps nothing. Raises StorageError."""
        try:
            for path in self.directory.glob("*.json"):
                if (kept := self._read(path)) is not None:
                    yield kept
        except OSError as error:
            raise storage_error(f"read {self.directory}", error) from error

    def answers(self, upstream: str, repository: str) -> list[str]:
        """The repository's tags that pullers are told of by us, not by the registry. Raises StorageError."""
        place = (upstream, repository)
        return [kept.tag for kept in self.all() if kept.is_answer and (kept.upstream, kept.repository) == place]

    def _missing(self, meant: SyncedTag) -> Iterator[Digest]:
        seen = set(meant.skipped)
        wave = {meant.digest}
        for _ in range(_DEPTH):
            following: set[Digest] = set()
            for digest in sorted(wave - seen):
                seen.add(digest)
                body = self._manifests.body(digest)
                if body is None:
                    yield digest
                    continue
                contents = parse_contents(body, str(digest))
                following.update(child.digest for child in contents.children)
                for blob in contents.blobs:
                    if not self._store.has(blob.digest):
                        yield blob.digest
                    elif self._store.size_bytes(blob.digest) != blob.size_bytes:
                        raise UnacceptableError(f"manifest {digest} states another size of {blob.digest} than it has")
            wave = following

    def _read(self, path: Path) -> KeptTag | None:
        try:
            return KeptTag.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            _LOG.error("%s is no synced tag: what it keeps may be evicted; remove it and sync again", path)
            return None
        except OSError as error:
            raise storage_error(f"read {path}", error) from error

    def _path(self, upstream: str, repository: str, tag: str) -> Path:
        key = hashlib.sha256(f"{upstream}/{repository}:{tag}".encode()).hexdigest()
        return self.directory / f"{key}.json"
