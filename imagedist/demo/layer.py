"""Writes one gzip layer of an image from real files, hashing both sides on the way."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from isal import isal_zlib

from imagedist.oci.digest import Digest

_BLOCK = 512
_LEVEL = 2
"""isal's level 2: 355 MB/s a core, output 13 % larger than zlib's level 6, which writes 24 MB/s."""
_GZIP_WINDOW = 31


@dataclass(frozen=True, slots=True)
class WrittenLayer:
    """A finished layer blob and what it uncompresses to."""

    path: Path
    digest: Digest
    diff_id: Digest
    size_bytes: int


class LayerWriter:
    """A tar stream in PAX format, compressed into a file. Owners are 0:0; the same entries give the same bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._compress = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
        self._diff_hash = hashlib.sha256()
        self._blob_hash = hashlib.sha256()
        self._links: dict[tuple[int, int], str] = {}
        self._directories: set[str] = set()
        self.size_bytes = 0

    def __enter__(self) -> LayerWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def add_directory(self, name: str, mode: int = 0o755, mtime: int = 0) -> None:
        """Adds a directory once; a second call for the same name does nothing."""
        if name in self._directories:
            return
        self._directories.add(name)
        self._add(name, tarfile.DIRTYPE, mode, mtime)

    def add_bytes(self, name: str, content: bytes, mode: int = 0o644, mtime: int = 0) -> None:
        self._add(name, tarfile.REGTYPE, mode, mtime, content=content)

    def add_symlink(self, name: str, target: str, mtime: int = 0) -> None:
        self._add(name, tarfile.SYMTYPE, 0o777, mtime, target=target)

    def add_hard_link(self, name: str, target: str, mode: int = 0o644) -> None:
        """``target`` is the name of a file added to this layer before."""
        self._add(name, tarfile.LNKTYPE, mode, 0, target=target)

    def has_directory(self, name: str) -> bool:
        return name in self._directories

    def add_path(self, path: str, name: str) -> bool:
        """Adds a directory, symbolic link or file of this machine; further names of one inode become hard links.

        Returns:
            Whether it was added: what is unreadable, special or has no UTF-8 name is left out.
        """
        try:
            found = os.lstat(path)
            target = os.readlink(path) if stat.S_ISLNK(found.st_mode) else ""
            content = Path(path).read_bytes() if stat.S_ISREG(found.st_mode) else b""
            (name + target).encode()
        except (OSError, UnicodeEncodeError):
            return False
        mode, mtime, inode = stat.S_IMODE(found.st_mode), int(found.st_mtime), (found.st_dev, found.st_ino)
        if stat.S_ISDIR(found.st_mode):
            self.add_directory(name, mode, mtime)
        elif stat.S_ISLNK(found.st_mode):
            self.add_symlink(name, target, mtime)
        elif stat.S_ISREG(found.st_mode) and inode in self._links:
            self._add(name, tarfile.LNKTYPE, mode, mtime, target=self._links[inode])
        elif stat.S_ISREG(found.st_mode):
            self.add_bytes(name, content, mode, mtime)
            if found.st_nlink > 1:
                self._links[inode] = name
        else:
            return False
        return True

    def finish(self) -> WrittenLayer:
        """Ends the archive and closes the file."""
        self._write(bytes(2 * _BLOCK))
        self._put(self._compress.flush())
        self._file.close()
        digest = Digest("sha256", self._blob_hash.hexdigest())
        return WrittenLayer(self._path, digest, Digest("sha256", self._diff_hash.hexdigest()), self.size_bytes)

    def _add(self, name: str, kind: bytes, mode: int, mtime: int, *, content: bytes = b"", target: str = "") -> None:
        header = tarfile.TarInfo(name)
        header.type, header.mode, header.mtime = kind, mode, mtime
        header.size, header.linkname = len(content), target
        self._write(header.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict"))
        if content:
            self._write(content)
            self._write(bytes(-len(content) % _BLOCK))

    def _write(self, content: bytes) -> None:
        self._diff_hash.update(content)
        self._put(self._compress.compress(content))

    def _put(self, compressed: bytes) -> None:
        if compressed:
            self._blob_hash.update(compressed)
            self._file.write(compressed)
            self.size_bytes += len(compressed)
