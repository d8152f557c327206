"""An OCI image layout directory (image-layout.md): blobs by digest, and the names of an index."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

from imagedist.errors import InputError, IntegrityError, NotFoundError, UnacceptableError, storage_error
from imagedist.locking import locked
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import MANIFEST_LIMIT_BYTES, OCI_INDEX, Descriptor, Index, parse_document

REFERENCE_NAME = "org.opencontainers.image.ref.name"
_INDEX, _MARKER, _LOCK = "index.json", "oci-layout", ".lock"
_VERSION = b'{"imageLayoutVersion":"1.0.0"}'


class Layout:
    """One layout. Blobs and index are written aside and renamed; several processes may add to one. Blocking."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def blob_path(self, digest: Digest) -> Path:
        return self.directory / "blobs" / digest.algorithm / digest.hex

    def find(self, name: str | None) -> Descriptor:
        """The index entry of a name; without one, the only entry.

        Raises:
            InputError: no layout. NotFoundError: no such name, or several to choose from. UnacceptableError: malformed.
        """
        entries = self._index().manifests
        names = [(entry.annotations or {}).get(REFERENCE_NAME, "") for entry in entries]
        found = [entry for entry, given in zip(entries, names, strict=True) if name is None or given == name]
        if len(found) == 1 or (found and name is not None):
            return found[-1]
        wanted = f"no image {name}" if name else f"{len(entries)} images"
        there = ", ".join(filter(None, names)) or "none with a name"
        raise NotFoundError(f"{self.directory} has {wanted}; name one as oci:DIR:NAME, there are: {there}")

    def read(self, digest: Digest, limit_bytes: int) -> bytes:
        """A small blob, checked.

        Raises:
            NotFoundError, IntegrityError, StorageError. UnacceptableError: larger than the limit.
        """
        try:
            with self.blob_path(digest).open("rb") as file:
                content = file.read(limit_bytes + 1)
        except FileNotFoundError as error:
            raise NotFoundError(f"{self.directory} has no blob {digest}: copy the image again") from error
        except OSError as error:
            raise storage_error(f"read blob {digest} of {self.directory}", error) from error
        if len(content) > limit_bytes:
            raise UnacceptableError(f"blob {digest} of {self.directory} has more than {limit_bytes} bytes")
        if Digest.of(content, digest.algorithm) != digest:
            raise IntegrityError(f"blob {digest} of {self.directory} was changed: copy the image again")
        return content

    def has(self, digest: Digest) -> bool:
        return self.blob_path(digest).exists()

    def put(self, digest: Digest, content: Path | bytes) -> None:
        """Adds a blob whose digest was checked; a file is moved in, it must be on the same file system.

        Raises:
            StorageError: the disk failed.
        """
        path = self.blob_path(digest)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                content.rename(path)
            elif not path.exists():
                _write(path, content)
        except OSError as error:
            raise storage_error(f"write blob {digest} into {self.directory}", error) from error

    def name(self, name: str, descriptor: dict[str, Any]) -> None:
        """Gives a manifest or index a name, which it is taken from whatever had it before.

        Args:
            descriptor: in wire form.

        Raises:
            InputError: the directory has another program's index.json. StorageError: the disk failed.
        """
        try:
            with locked(self.directory / _LOCK):
                before: dict[str, Any] = {}
                if (self.directory / _INDEX).exists():
                    if not (self.directory / _MARKER).exists():
                        raise InputError(f"{self.directory} has an index.json and is no OCI image layout: name another")
                    self._index()
                    before = json.loads((self.directory / _INDEX).read_bytes())
                kept: list[dict[str, Any]] = before.get("manifests") or []
                kept = [entry for entry in kept if (entry.get("annotations") or {}).get(REFERENCE_NAME) != name]
                named = {**descriptor, "annotations": {REFERENCE_NAME: name}}
                index = {**before, "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*kept, named]}
                _write(self.directory / _MARKER, _VERSION)
                _write(self.directory / _INDEX, json.dumps(index, separators=(",", ":")).encode())
        except OSError as error:
            raise storage_error(f"write the index of {self.directory}", error) from error

    def _index(self) -> Index:
        try:
            with (self.directory / _INDEX).open("rb") as file:
                content = file.read(MANIFEST_LIMIT_BYTES + 1)
        except FileNotFoundError as error:
            raise InputError(f"{self.directory} is not an OCI image layout: it has no index.json") from error
        except OSError as error:
            raise storage_error(f"read the image layout {self.directory}", error) from error
        index = parse_document(OCI_INDEX, content, str(self.directory))
        assert isinstance(index, Index)
        return index


def _write(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        aside.write_bytes(content)
        os.replace(aside, path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
