"""Writes one layer blob as registries hold them: a deterministic PAX tar in one gzip member, hashed on both sides."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import IO

from imagedist.demo.layer import WrittenLayer
from imagedist.oci.digest import Digest

GZIP_LEVEL = 6
"""What docker, buildah and gzip(1) use unless told otherwise."""
_GZIP_WINDOW = 31
_COPY_BYTES = 1 << 20


class LayerTar:
    """A layer being written. Owners are numeric, times are the entries' own: the same entries give the same bytes."""

    def __init__(self, path: Path, level: int = GZIP_LEVEL) -> None:
        self._path = path
        self._file = path.open("wb")
        self._compress = zlib.compressobj(level, zlib.DEFLATED, _GZIP_WINDOW)
        self._blob_hash, self._diff_hash = hashlib.sha256(), hashlib.sha256()
        self.size_bytes = 0
        """Compressed bytes so far; the compressor holds a little back."""

    def __enter__(self) -> LayerTar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def add(self, entry: tarfile.TarInfo, content: IO[bytes] | None = None) -> None:
        """Adds one entry with, for a file, the ``entry.size`` bytes that ``content`` has next.

        Raises:
            OSError: the content is shorter, or one of the files failed.
        """
        entry.uname = entry.gname = ""
        self._write(entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        left_bytes = entry.size if content else 0
        while content and left_bytes:
            chunk = content.read(min(left_bytes, _COPY_BYTES))
            if not chunk:
                raise OSError(f"{entry.name} ends {left_bytes} bytes early")
            self._write(chunk)
            left_bytes -= len(chunk)
        if content:
            self._write(bytes(-entry.size % tarfile.BLOCKSIZE))

    def finish(self) -> WrittenLayer:
        """Ends the archive and closes the file."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._put(self._compress.flush())
        self._file.close()
        digest = Digest("sha256", self._blob_hash.hexdigest())
        return WrittenLayer(self._path, digest, Digest("sha256", self._diff_hash.hexdigest()), self.size_bytes)

    def _write(self, plain: bytes) -> None:
        self._diff_hash.update(plain)
        self._put(self._compress.compress(plain))

    def _put(self, compressed: bytes) -> None:
        self._blob_hash.update(compressed)
        self._file.write(compressed)
        self.size_bytes += len(compressed)


def write_tree(tree: Path, path: Path, latest_mtime: int) -> WrittenLayer:
    """Writes a directory's contents as a layer: sorted, hard links kept, times clamped to ``latest_mtime``.

    Raises:
        OSError: a file could not be read, or the layer not written.
    """
    links: dict[tuple[int, int], str] = {}
    with LayerTar(path) as layer:
        for name in _names(tree):
            entry = _entry(tree / name, name, latest_mtime, links)
            if entry.isreg():
                with (tree / name).open("rb") as content:
                    layer.add(entry, content)
            else:
                layer.add(entry)
        return layer.finish()


def _names(tree: Path) -> list[str]:
    """Every path below, parents first, in the same order on every machine."""
    found: list[str] = []
    for directory, below, files in os.walk(tree):
        inside = os.path.relpath(directory, tree)
        found.extend(os.path.normpath(os.path.join(inside, name)) for name in (*below, *files))
    return sorted(found, key=lambda name: name.split("/"))


def _entry(path: Path, name: str, latest_mtime: int, links: dict[tuple[int, int], str]) -> tarfile.TarInfo:
    status = path.lstat()
    entry = tarfile.TarInfo(name)
    entry.mode, entry.uid, entry.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    entry.mtime = min(int(status.st_mtime), latest_mtime)
    first = links.setdefault((status.st_dev, status.st_ino), name) if status.st_nlink > 1 else name
    if stat.S_ISDIR(status.st_mode):
        entry.type = tarfile.DIRTYPE
    elif first != name:
        entry.type, entry.linkname = tarfile.LNKTYPE, first
    elif stat.S_ISLNK(status.st_mode):
        entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        entry.size = status.st_size
    elif stat.S_ISFIFO(status.st_mode):
        entry.type = tarfile.FIFOTYPE
    else:
        raise OSError(f"{path} is a device or a socket: an image made of packages has none")
    return entry
