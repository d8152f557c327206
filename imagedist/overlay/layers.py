"""The layer half of a containers/storage store: ``overlay/<id>``, ``overlay/l``, ``overlay-layers``."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from imagedist.errors import StorageError, storage_error
from imagedist.locking import remove_tree
from imagedist.oci.image import Layer
from imagedist.overlay.footprint import footprint_bytes
from imagedist.overlay.merge import Extracted
from imagedist.overlay.records import Record, Records, now

_COMPRESSIONS = {"none": 0, "gzip": 2, "zstd": 4}  # pkg/archive/archive.go, type Compression


class Layers:
    """Layer directories and their records. The caller holds the layer's lock of the chain it builds or removes.

    Attributes:
        notes: has an empty file for each layer that we (no other tool) put here, once it was counted with its bytes.
    """

    def __init__(self, root: Path, own: Path, is_durable: bool) -> None:
        self.overlay = root / "overlay"
        self.splits = root / "overlay-layers"
        self.notes = own / "layers"
        # Durable by itself although the layers are synced together: of a list that was renamed before its content
        # reached the disk, a power cut leaves nothing, and every layer of the store with it.
        self.records = Records(self.splits / "layers.json", is_durable)

    def prepare(self) -> None:
        """Creates the directories of an empty store."""
        self.notes.mkdir(exist_ok=True, mode=0o700)
        self.overlay.mkdir(exist_ok=True, mode=0o700)
        (self.overlay / "l").mkdir(exist_ok=True, mode=0o700)
        self.splits.mkdir(exist_ok=True, mode=0o700)

    def diff(self, layer_id: str) -> Path:
        return self.overlay / layer_id / "diff"

    def present(self) -> dict[str, Record]:
        """The records of the layers that are really there, by id."""
        return {
            str(record["id"]): record
            for record in self.records.read()
            if record.get("id") and not _is_incomplete(record) and self.diff(str(record["id"])).is_dir()
        }

    def volatile(self) -> dict[str, Record]:
        """By id, the layers of others' volatile containers (``podman run --rm``, Buildah's): a list of their own.

        containers/storage, store.go and layers.go: ``volatile-layers.json`` beside ``layers.json``.

        Raises:
            StorageError: it cannot be read.
        """
        path = self.splits / "volatile-layers.json"
        try:
            records = json.loads(path.read_bytes() or b"[]")
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise storage_error("read the layers of volatile containers", error) from error
        except ValueError as error:
            raise StorageError(f"{path} is no list of layers: {error}") from error
        return {str(one["id"]): one for one in records or () if isinstance(one, dict) and one.get("id")}

    def link(self, layer_id: str) -> str:
        """The layer's name below ``overlay/l``."""
        try:
            return (self.overlay / layer_id / "link").read_text()
        except OSError as error:
            raise storage_error(f"read the short link of layer {layer_id}", error) from error

    def commit(self, layer: Layer, layer_id: str, below: Sequence[str], extracted: Extracted) -> None:
        """Renames a completed layer into place and records it.

        Whatever is cut off by a crash has no record yet, and ``discard`` removes it before the next build.

        Args:
            below: ids of the layers below, base first.

        Raises:
            StorageError: the disk failed; what is in place by then has no record.
        """
        private = extracted.directory
        link = _short_link(layer_id)
        try:
            (private / "link").write_text(link)
            (private / "work").mkdir(mode=0o700)
            (private / "merged").mkdir(mode=0o700)
            if below:
                lower = ":".join(f"l/{self.link(one)}" for one in reversed(below))
                (private / "lower").write_text(lower)
            else:
                (private / "empty").mkdir(mode=0o700)  # overlayfs wants two lower directories
            (self.notes / layer_id).touch(mode=0o600)
            (private / "tar-split.gz").rename(self.tar_split(layer_id))
            private.rename(self.overlay / layer_id)
            short = self.overlay / "l" / link
            short.unlink(missing_ok=True)
            short.symlink_to(f"../{layer_id}/diff")
        except OSError as error:
            raise storage_error(f"commit layer {layer.descriptor.digest}", error) from error
        record: Record = {"id": layer_id}
        if below:
            record["parent"] = below[-1]
        record |= {
            "created": now(),
            "compressed-diff-digest": str(layer.descriptor.digest),
            "compressed-size": layer.descriptor.size_bytes,
            "diff-digest": str(layer.diff_id),
            "diff-size": extracted.tar_bytes,
            "compression": _COMPRESSIONS[layer.descriptor.compression],
            "uidset": list(extracted.uids),
            "gidset": list(extracted.gids),
        }
        with self.records.changing() as records:
            records[:] = [other for other in records if other.get("id") != layer_id] + [record]

    def discard(self, layer_id: str, trash: Path) -> None:
        """Removes a layer or what a crash left of one: its record first, so that nobody trusts the rest.

        Args:
            trash: a private directory on the same file system, where the layer's goes in one step.
        """
        with self.records.changing() as records:
            records[:] = [record for record in records if record.get("id") != layer_id]
        directory = self.overlay / layer_id
        try:
            if (directory / "link").exists():
                (self.overlay / "l" / self.link(layer_id)).unlink(missing_ok=True)
            self.tar_split(layer_id).unlink(missing_ok=True)
            if directory.exists():
                gone = trash / layer_id
                directory.rename(gone)
                remove_tree(gone)
            (self.notes / layer_id).unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(f"remove layer {layer_id}", error) from error

    def size_bytes(self, layer_id: str) -> int:
        """What the layer takes of the disk, with its tar-split. It never changes, so it is counted once."""
        note = self.notes / layer_id
        try:
            known = note.read_text() if note.exists() else ""
            if known.endswith("\n"):  # else cut off, or not counted yet
                return int(known)
            size_bytes = footprint_bytes(self.overlay / layer_id) + footprint_bytes(self.tar_split(layer_id))
            if note.exists():
                note.write_text(f"{size_bytes}\n")
        except OSError as error:
            raise storage_error(f"count the bytes of layer {layer_id}", error) from error
        return size_bytes

    def is_ours(self, layer_id: str) -> bool:
        return (self.notes / layer_id).exists()

    def tar_split(self, layer_id: str) -> Path:
        return self.splits / f"{layer_id}.tar-split.gz"


def _short_link(layer_id: str) -> str:
    """26 characters, as containers/storage has; made of the id, so that a layer built again keeps its name in the
    ``lower`` files of those above it."""
    return base64.b32encode(bytes.fromhex(layer_id)[:16]).decode().rstrip("=")


def _is_incomplete(record: Record) -> bool:
    flags = record.get("flags")
    return isinstance(flags, dict) and bool(flags.get("incomplete"))
