"""Writes a planned layer into a fresh directory; runs in a worker process.

Safe by construction: the directory is private, every name is created below a descriptor of its parent with ``O_EXCL``
or ``mkdir``, and nothing of the layer's own is ever followed.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imagedist.errors import StorageError, UnacceptableError, storage_error
from imagedist.unpack import tarsplit
from imagedist.unpack.entries import Entry, entries
from imagedist.unpack.plan import LowerLink, Node, Whiteout, plan

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE_BYTES = 8 << 20
_NO_XATTRS = (errno.ENOTSUP, errno.EPERM, errno.ENOSPC, errno.E2BIG, errno.EACCES)


@dataclass(frozen=True)
class ExtractedLayer:
    """A layer on disk that does not know its lower layers yet. Paths are from its root; the root is ``""``.

    Attributes:
        directory: holds ``diff/`` and ``tar-split.gz``.
        undescribed: directories no entry described, parents first: they take the lower layers' metadata at merge.
        whiteouts: in the order of the entries; nothing of them is on disk before the merge.
        no_symlinks: as of ``Plan``.
        opaque: directories in the place of a file of this layer.
        unmarked_opaque: of them, those without the mark, as the file system takes no such xattr: at merge each
            lower child gets a whiteout instead.
        lower_links: hard links to files of lower layers.
        skipped: what could not be had without root, by kind: ``owner``, ``device``, ``xattr``.
    """

    directory: Path
    tar_bytes: int
    undescribed: tuple[str, ...]
    whiteouts: tuple[Whiteout, ...]
    no_symlinks: tuple[str, ...]
    opaque: tuple[str, ...]
    unmarked_opaque: tuple[str, ...]
    lower_links: tuple[LowerLink, ...]
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    skipped: Mapping[str, int]


def extract_layer(tar_path: Path, directory: Path) -> ExtractedLayer:
    """Extracts a staged tar into ``directory``, which is empty. Sets the process's umask to 0 meanwhile.

    Raises:
        UnacceptableError: the layer is unsafe or unsupported. StorageError: the disk failed.
    """
    umask = os.umask(0)
    try:
        with tar_path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return _extract(memoryview(b""), directory)
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as tar:
                return _extract(tar, directory)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ):
            raise UnacceptableError(f"layer has a name that this file system cannot hold: {error}") from error
        raise storage_error(f"extract a layer into {directory}", error) from error
    finally:
        os.umask(umask)


def _extract(tar: memoryview, directory: Path) -> ExtractedLayer:
    members = list(entries(tar))
    planned = plan(members)
    extraction = _Extraction(tar, directory / "diff")
    extraction.run(planned.root)
    tarsplit.write(directory / "tar-split.gz", tar, members, planned.kept)
    return ExtractedLayer(
        directory,
        len(tar),
        tuple(extraction.undescribed),
        planned.whiteouts,
        planned.no_symlinks,
        tuple(extraction.opaque),
        tuple(extraction.unmarked_opaque),
        planned.lower_links,
        tuple(sorted({member.uid for member in members})),
        tuple(sorted({member.gid for member in members})),
        extraction.skipped,
    )


class _Extraction:
    def __init__(self, tar: memoryview, root: Path) -> None:
        self._tar = tar
        self._is_root = os.geteuid() == 0
        self._opaque_mark = "trusted.overlay.opaque" if self._is_root else "user.overlay.opaque"
        self._owner = (os.geteuid(), os.getegid())
        self._first_path: dict[int, str] = {}
        self.undescribed: list[str] = []
        self.opaque: list[str] = []
        self.unmarked_opaque: list[str] = []
        self.skipped: dict[str, int] = {}
        root.mkdir(mode=0o755)
        self._root_fd = os.open(root, _OPEN_DIRECTORY)

    def run(self, root: Node) -> None:
        try:
            self._fill(root, "", self._root_fd)
        finally:
            os.close(self._root_fd)

    def _fill(self, node: Node, path: str, descriptor: int) -> None:
        """One directory: what it holds, then its own metadata, its times last."""
        assert node.children is not None
        prefix = f"{path}/" if path else ""
        if node.takes_lower_metadata:
            self.undescribed.append(path)
        for name, child in node.children.items():
            if child.children is not None:
                os.mkdir(name, 0o755, dir_fd=descriptor)
                inner = os.open(name, _OPEN_DIRECTORY, dir_fd=descriptor)
                try:
                    self._fill(child, prefix + name, inner)
                    if child.is_opaque:
                        self._mark_opaque(inner, prefix + name)
                finally:
                    os.close(inner)
            elif child.lower_target is not None:
                continue  # made at merge
            elif child.entry is not None:
                self._create(child.entry, name, prefix + name, descriptor)
        if node.entry is not None:
            self._describe(descriptor, node.entry, 0o755)
            os.utime(descriptor, ns=(node.entry.mtime_ns, node.entry.mtime_ns))

    def _create(self, entry: Entry, name: str, path: str, parent: int) -> None:
        first = self._first_path.get(entry.number)
        if first is not None:
            os.link(first, name, src_dir_fd=self._root_fd, dst_dir_fd=parent, follow_symlinks=False)
        elif entry.is_regular:
            self._create_file(entry, name, parent)
            self._first_path[entry.number] = path
        elif entry.is_device and not self._is_root:
            self._skip("device")
        else:
            self._create_special(entry, name, parent)
            self._first_path[entry.number] = path

    def _create_file(self, entry: Entry, name: str, parent: int) -> None:
        descriptor = os.open(name, _CREATE, entry.mode, dir_fd=parent)
        try:
            position, end = entry.offset, entry.offset + entry.size_bytes
            while position < end:
                position += os.write(descriptor, self._tar[position : min(end, position + _WRITE_BYTES)])
            self._describe(descriptor, entry, entry.mode & 0o777)
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(descriptor)

    def _create_special(self, entry: Entry, name: str, parent: int) -> None:
        """Symlinks, FIFOs, devices: nothing that could be opened safely, so by name below the parent's descriptor."""
        if entry.is_symlink:
            if not entry.link:
                raise UnacceptableError(f"malformed layer: symlink {entry.name!r} points nowhere")
            os.symlink(entry.link, name, dir_fd=parent)
        elif entry.is_fifo:
            os.mkfifo(name, entry.mode, dir_fd=parent)
        else:
            kind = stat.S_IFCHR if entry.is_character_device else stat.S_IFBLK
            os.mknod(name, kind | entry.mode, os.makedev(*entry.device), dir_fd=parent)
        if self._owner != (entry.uid, entry.gid):
            if self._is_root:
                os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
                if not entry.is_symlink and entry.mode & 0o7000:
                    os.chmod(name, entry.mode, dir_fd=parent)
            else:
                self._skip("owner")
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _describe(self, descriptor: int, entry: Entry, mode: int) -> None:
        """Owner, mode (it has ``mode`` now) and xattrs of an open file or directory."""
        if self._owner != (entry.uid, entry.gid):
            if self._is_root:
                os.fchown(descriptor, entry.uid, entry.gid)
            else:
                self._skip("owner")
        if entry.mode != mode:
            os.fchmod(descriptor, entry.mode)  # after chown, which drops set-id bits
        for name, value in entry.xattrs.items():
            if _is_allowed(name):
                try:
                    os.setxattr(descriptor, name, value)
                except OSError as error:
                    if error.errno in (errno.EINVAL, errno.ERANGE):
                        raise UnacceptableError(f"malformed layer: {entry.name!r} has a bad xattr {name!r}") from error
                    if error.errno not in _NO_XATTRS:
                        raise
                    if self._is_root and error.errno != errno.ENOTSUP:
                        raise StorageError(
                            f"cannot set {name} of {entry.name!r}: {error.strerror}; put the store on ext4 or xfs"
                        ) from error
                    self._skip("xattr")

    def _mark_opaque(self, descriptor: int, path: str) -> None:
        self.opaque.append(path)
        times = os.fstat(descriptor)
        try:
            os.setxattr(descriptor, self._opaque_mark, b"y")
        except OSError as error:
            if error.errno not in _NO_XATTRS:
                raise
            self.unmarked_opaque.append(path)
        os.utime(descriptor, ns=(times.st_atime_ns, times.st_mtime_ns))

    def _skip(self, what: str) -> None:
        self.skipped[what] = self.skipped.get(what, 0) + 1


def _is_allowed(name: str) -> bool:
    """File capabilities and user attributes; never overlayfs' own marks, which a layer could forge."""
    if name == "security.capability":
        return True
    return name.startswith("user.") and not name.startswith("user.overlay.")
