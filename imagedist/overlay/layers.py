"""The layer half of a containers/storage store: ``overlay/<id>``, ``overlay/l``, ``overlay-layers``."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Sequence
from pathlib import Path

from imagedist.errors import StorageError, storage_error
from imagedist.locking import remove_tree
from imagedist.oci.manifest import Layer
from imagedist.overlay.merge import Extracted
from imagedist.overlay.records import Record, Records, now

_COMPRESSIONS = {"none": 0, "gzip": 2, "zstd": 4}  # pkg/archive/archive.go, type Compression


class Layers:
    """Layer directories and their records. The caller holds the layer's lock of the chain it builds or removes."""

    def __init__(self, root: Path) -> None:
        self.overlay = root / "overlay"
        self._splits = root / "overlay-layers"
        self.records = Records(self._splits / "layers.json", is_durable=False)  # synced with what it records

    def prepare(self) -> None:
        """Creates the directories of an empty store."""
        self.overlay.mkdir(exist_ok=True, mode=0o700)
        (self.overlay / "l").mkdir(exist_ok=True, mode=0o700)
        self._splits.mkdir(exist_ok=True, mode=0o700)

    def diff(self, layer_id: str) -> Path:
        return self.overlay / layer_id / "diff"

    def present(self) -> dict[str, Record]:
        """The records of the layers that are really there, by id."""
        return {
            str(record["id"]): record
            for record in self.records.read()
            if record.get("id") and not _is_incomplete(record) and self.diff(str(record["id"])).is_dir()
        }

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
            (private / "tar-split.gz").rename(self._tar_split(layer_id))
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
        try:
            with self.records.changing() as records:
                records[:] = [other for other in records if other.get("id") != layer_id] + [record]
        except BaseException:
            with contextlib.suppress(StorageError):  # the first error is the one to tell
                self.discard(layer_id)  # a full disk gets its space back
            raise

    def discard(self, layer_id: str) -> None:
        """Removes a layer or what a crash left of one: its record first, so that nobody trusts the rest."""
        with self.records.changing() as records:
            records[:] = [record for record in records if record.get("id") != layer_id]
        directory = self.overlay / layer_id
        try:
            if (directory / "link").exists():
                (self.overlay / "l" / self.link(layer_id)).unlink(missing_ok=True)
            self._tar_split(layer_id).unlink(missing_ok=True)
            if directory.exists():
                remove_tree(directory)
        except OSError as error:
            raise storage_error(f"remove layer {layer_id}", error) from error

    def _tar_split(self, layer_id: str) -> Path:
        return self._splits / f"{layer_id}.tar-split.gz"


def _short_link(layer_id: str) -> str:
    """26 characters, as containers/storage has; made of the id, so that a layer built again keeps its name in the
    ``lower`` files of those above it."""
    return base64.b32encode(bytes.fromhex(layer_id)[:16]).decode().rstrip("=")


def _is_incomplete(record: Record) -> bool:
    flags = record.get("flags")
    return isinstance(flags, dict) and bool(flags.get("incomplete"))
