"""The image half of a containers/storage store: ``overlay-images``."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagedist.errors import InputError, NotFoundError, storage_error
from imagedist.oci.digest import Digest
from imagedist.oci.image import Image
from imagedist.oci.reference import Reference
from imagedist.overlay.records import Record, Records, big_file_name, now, write_aside

_ID_PREFIX = re.compile(r"[0-9a-f]{4,64}\Z")


_Document = tuple[str, bytes, Digest]
"""Name, content, and the content's digest."""


@dataclass(frozen=True)
class StoredImage:
    """An image of the store.

    Attributes:
        id: the config's digest in hex.
        digest: of the manifest, ``sha256:…``.
        layer_ids: base first.
        size_bytes: of its layers' uncompressed tars, as podman counts.
        created: when it was stored, RFC 3339.
    """

    id: str
    names: tuple[str, ...]
    digest: str
    layer_ids: tuple[str, ...]
    size_bytes: int
    created: str


class Images:
    """Image records and the manifests and configs that belong to them."""

    def __init__(self, root: Path, is_durable: bool) -> None:
        self._directory = root / "overlay-images"
        self._is_durable = is_durable
        self.records = Records(self._directory / "images.json", is_durable)

    def write_documents(self, image: Image) -> bool:
        """Writes the manifest and the config of an image that has no record yet. The caller holds the image's lock.

        Returns:
            Whether anything was written. It is not synced.
        """
        with self.records.changing() as records:  # not the records; but one writer at a time
            if any(record.get("id") == image.id.hex for record in records):
                return False  # they belong to that record, and change with it
            return self._write(_documents(image), image.id.hex, is_durable=False)

    def _write(self, documents: Sequence[_Document], image_id: str, is_durable: bool) -> bool:
        paths = [(self.directory(image_id) / big_file_name(name), content) for name, content, _ in documents]
        changed = [(path, content) for path, content in paths if not _has(path, content)]
        for path, content in changed:
            write_aside(path, content, is_durable)
        return bool(changed)

    def record(self, image: Image, top_layer: str, names: Sequence[str]) -> None:
        """Records an image, or adds names to it. A name belongs to one image: the others lose it."""
        documents = _documents(image)
        with self.records.changing() as records:
            self._write(documents, image.id.hex, self._is_durable)
            record = next((one for one in records if one.get("id") == image.id.hex), None)
            if record is None:
                record = {"id": image.id.hex, "created": now(), "metadata": "{}"}
                records.append(record)
            for other in records:
                if other is not record and not set(names).isdisjoint(other.get("names") or ()):
                    other["names"] = [name for name in other["names"] if name not in names]
            record["digest"] = str(image.manifest_digest)
            record["layer"] = top_layer
            for key in ("names", "names-history"):
                record[key] = list(dict.fromkeys([*names, *(record.get(key) or ())]))
            record["big-data-names"] = list(
                dict.fromkeys([*(record.get("big-data-names") or ()), *(name for name, _, _ in documents)])
            )
            sizes, digests = record.setdefault("big-data-sizes", {}), record.setdefault("big-data-digests", {})
            for name, content, digest in documents:
                sizes[name], digests[name] = len(content), str(digest)

    def find(self, name_or_id: str) -> Record:
        """By a stored name, a reference as users type it, or an id (also its first characters).

        Raises:
            NotFoundError: there is none; names what there is. InputError: several begin like that.
        """
        records = self.records.read()
        for record in records:
            if name_or_id in (record.get("names") or ()) or name_or_id == record["id"]:
                return record
        prefix = name_or_id.removeprefix("sha256:")
        if _ID_PREFIX.match(prefix):
            found = [record for record in records if str(record["id"]).startswith(prefix)]
            if len(found) > 1:
                raise InputError(f"{name_or_id} is the beginning of {len(found)} image ids: give more characters")
            if found:
                return found[0]
        with contextlib.suppress(InputError):
            reference = Reference.parse(name_or_id)
            full = stored_name(name_or_id)
            for record in records:
                if full in (record.get("names") or ()):
                    return record
            for record in records:
                if _is_at(record, reference):
                    return record
        names = sorted(name for record in records for name in record.get("names") or (str(record["id"])[:12],))
        there = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        raise NotFoundError(f"no image {name_or_id} in the store; there is: {there or 'none'}", "NAME_UNKNOWN")

    def document(self, record: Record, name: str) -> bytes:
        """A stored manifest (``manifest``) or config (``sha256:<id>``)."""
        try:
            return (self._directory / str(record["id"]) / big_file_name(name)).read_bytes()
        except OSError as error:
            raise storage_error(f"read {name} of image {record['id']}", error) from error

    def untag(self, image_id: str, name: str) -> bool:
        """Takes a name off. True: it was not the last one and the image stays."""
        with self.records.changing() as records:
            for record in records:
                names = record.get("names") or []
                if record.get("id") == image_id and name in names and len(names) > 1:
                    record["names"] = [one for one in names if one != name]
                    return True
        return False

    def remove(self, image_id: str, trash: Path) -> None:
        """Its record first, then its documents go to ``trash``, a private directory on the same file system."""
        with self.records.changing() as records:
            records[:] = [record for record in records if record.get("id") != image_id]
        self.drop_documents(image_id, trash)

    def drop_documents(self, image_id: str, trash: Path) -> None:
        directory = self.directory(image_id)
        try:
            if directory.exists():
                directory.rename(trash / f"image-{image_id}")
                shutil.rmtree(trash / f"image-{image_id}")
        except OSError as error:
            raise storage_error(f"remove image {image_id}", error) from error

    def directory(self, image_id: str) -> Path:
        """Where its documents are."""
        return self._directory / image_id


def stored_name(name: str) -> str:
    """As podman keeps it: complete, and of a tag with a digest only the digest."""
    try:
        reference = Reference.parse(name)
    except InputError:
        return name
    return str(reference.at(reference.digest) if reference.digest else reference)


def _documents(image: Image) -> list[_Document]:
    """What containers/storage keeps of an image."""
    documents = [
        (str(image.id), image.config_bytes, image.id),
        (f"manifest-{image.manifest_digest}", image.manifest_bytes, image.manifest_digest),
        ("manifest", image.manifest_bytes, image.manifest_digest),
    ]
    if image.index_bytes is not None and image.index_digest is not None:
        documents.append((f"manifest-{image.index_digest}", image.index_bytes, image.index_digest))
    return documents


def _has(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def _is_at(record: Record, reference: Reference) -> bool:
    """Whether a record is what a digest of a repository means, by whatever tag it was pulled."""
    if reference.digest is None:
        return False
    digests = {record.get("digest"), *(record.get("big-data-digests") or {}).values()}
    if str(reference.digest) not in digests:
        return False
    prefixes = (f"{reference.name}:", f"{reference.name}@")
    return any(str(name).startswith(prefixes) for name in record.get("names") or ())
