"""The image half of a containers/storage store: ``overlay-images``."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagedist.errors import InputError, NotFoundError, storage_error
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import Image
from imagedist.oci.reference import Reference
from imagedist.overlay.records import Record, Records, big_file_name, now, write_aside

_ID_PREFIX = re.compile(r"[0-9a-f]{4,64}\Z")


@dataclass(frozen=True)
class StoredImage:
    """An image of the store.

    Attributes:
        id: the config's digest in hex.
        digest: of the manifest, ``sha256:…``.
        layer_ids: base first.
        size_bytes: of its layers' uncompressed tars.
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

    def put(self, image: Image, top_layer: str, names: Sequence[str]) -> None:
        """Records an image, or adds names to it. A name belongs to one image: the others lose it."""
        documents: list[tuple[str, bytes, Digest]] = [
            (str(image.id), image.config_bytes, image.id),
            (f"manifest-{image.manifest_digest}", image.manifest_bytes, image.manifest_digest),
            ("manifest", image.manifest_bytes, image.manifest_digest),
        ]
        if image.index_bytes is not None and image.index_digest is not None:
            documents.append((f"manifest-{image.index_digest}", image.index_bytes, image.index_digest))
        with self.records.changing() as records:
            for name, content, _ in documents:
                write_aside(self._directory / image.id.hex / big_file_name(name), content, self._is_durable)
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
        try:
            full = str(Reference.parse(name_or_id))
        except InputError:
            full = name_or_id
        for record in records:
            if full in (record.get("names") or ()):
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

    def remove(self, image_id: str) -> None:
        with self.records.changing() as records:
            records[:] = [record for record in records if record.get("id") != image_id]
        shutil.rmtree(self._directory / image_id, ignore_errors=True)
