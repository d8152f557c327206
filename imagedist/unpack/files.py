"""Makes the files of a layer below its private directory, and describes them: owner, mode, times, xattrs.

Safe by construction: the directory is private, every name is created below a descriptor of its parent with ``O_EXCL``
or ``mkdir``, and nothing of the layer's own is ever followed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imagedist.errors import StorageError, UnacceptableError, storage_error
from imagedist.privileges import is_machine_root, may_give_away, opaque_mark
from imagedist.unpack import extension
from imagedist.unpack.entries import Entry, Tar
from imagedist.unpack.limits import Devices
from imagedist.unpack.window import BUFFER_BYTES

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_OPEN_DIRECTORIES = 256
_NO_XATTRS = (errno.ENOTSUP, errno.EPERM, errno.ENOSPC, errno.E2BIG, errno.EACCES)

Parts = tuple[str, ...]


class Files:
    """Below one directory, which is there. Expects a umask of 0.

    Attributes:
        owner / may_give_away: the ids that new files have, and whether they may get others.
        makes_devices: else they are left out, and counted.
        skipped: what could not be had, by kind: ``owner``, ``device``, ``xattr``.
    """

    def __init__(self, root: Path, devices: Devices) -> None:
        self._create = extension.compiled.create if extension.compiled else None
        self.may_give_away = may_give_away()
        self.makes_devices = is_machine_root() and devices == "keep"
        self._opaque_mark = opaque_mark()
        self.owner = (os.geteuid(), os.getegid())
        self._directories: dict[Parts, int] = {}
        self._root = os.open(root, _OPEN_DIRECTORY)
        self.skipped: dict[str, int] = {}

    def directory(self, path: Parts) -> int:
        """A descriptor of a directory, valid until the next call; it and those above are made if they are missing."""
        descriptor = self._directories.get(path)
        if descriptor is not None:
            return descriptor
        if not path:
            return self._root
        if len(self._directories) >= _MAX_OPEN_DIRECTORIES:
            self.forget()
        above = self.directory(path[:-1])
        try:
            descriptor = os.open(path[-1], _OPEN_DIRECTORY, dir_fd=above)
        except FileNotFoundError:
            os.mkdir(path[-1], 0o755, dir_fd=above)
            descriptor = os.open(path[-1], _OPEN_DIRECTORY, dir_fd=above)
        self._directories[path] = descriptor
        return descriptor

    def forget(self) -> None:
        """Closes what is open of directories: one of them is about to go elsewhere."""
        while self._directories:
            os.close(self._directories.popitem()[1])

    def close(self) -> None:
        self.forget()
        os.close(self._root)

    def create(self, path: Parts, entry: Entry, tar: Tar) -> None:
        """Makes what is no directory; a file with its content, all of which ``tar`` has."""
        if not entry.is_regular:
            self._create_special(path, entry)
            return
        if entry.sparse is None and entry.size_bytes <= BUFFER_BYTES:
            content = tar[entry.offset : entry.offset + entry.size_bytes] if entry.size_bytes else b""
            self.create_file(path, entry, content)
            return
        descriptor = self.open_file(path, entry)
        try:
            self.write(descriptor, entry, tar)
            self.describe_file(descriptor, entry)
        finally:
            os.close(descriptor)

    def create_file(self, path: Parts, entry: Entry, content: memoryview | bytes) -> None:
        """Makes an ordinary file, all of whose content is at hand: most of a layer, so nothing is done in vain."""
        is_ours = self.owner == (entry.uid, entry.gid)
        if self._create is not None and not entry.xattrs and (is_ours or self.may_give_away):
            owner = None if is_ours else (entry.uid, entry.gid)
            self._create(self.directory(path[:-1]), path[-1], content, entry.mode, owner, entry.mtime_ns)
            return
        descriptor = os.open(path[-1], _CREATE, entry.mode, dir_fd=self.directory(path[:-1]))
        try:
            written = os.write(descriptor, content)
            while written < len(content):
                written += os.write(descriptor, content[written:])
            if entry.xattrs or entry.mode > 0o777 or not is_ours:
                self._describe(descriptor, entry, entry.mode & 0o777)
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(descriptor)

    def open_file(self, path: Parts, entry: Entry) -> int:
        return os.open(path[-1], _CREATE, entry.mode, dir_fd=self.directory(path[:-1]))

    def write(self, descriptor: int, entry: Entry, tar: Tar) -> None:
        """A new file's whole content; what no extent of a sparse file has becomes a hole."""
        if entry.sparse is None:
            position, end = entry.offset, entry.offset + entry.size_bytes
            while position < end:
                position += os.write(descriptor, tar[position : min(end, position + BUFFER_BYTES)])
            return
        os.ftruncate(descriptor, entry.sparse.size_bytes)
        position = entry.offset
        for place, length in entry.sparse.extents:
            end = position + length
            while position < end:
                written = os.pwrite(descriptor, tar[position : min(end, position + BUFFER_BYTES)], place)
                position, place = position + written, place + written

    def describe_file(self, descriptor: int, entry: Entry) -> None:
        self._describe(descriptor, entry, entry.mode & 0o777)
        os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))

    def describe_directory(self, path: Parts, entry: Entry) -> None:
        """Last of all: whatever is made in it changes its times."""
        descriptor = self.directory(path)
        self._describe(descriptor, entry, 0o755)
        os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))

    def link(self, target: Parts, path: Parts) -> None:
        os.link(
            "/".join(target),
            path[-1],
            src_dir_fd=self._root,
            dst_dir_fd=self.directory(path[:-1]),
            follow_symlinks=False,
        )

    def link_from(self, source: Path, path: Parts) -> None:
        os.link(source, path[-1], dst_dir_fd=self.directory(path[:-1]), follow_symlinks=False)

    def move(self, path: Parts, place: Path) -> bool:
        """Moves what is at ``path`` out of the layer; False: nothing is there."""
        descriptor = os.dup(self._root)
        try:
            for name in path[:-1]:
                inner = os.open(name, _OPEN_DIRECTORY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
            os.rename(path[-1], place, src_dir_fd=descriptor)
        except (FileNotFoundError, NotADirectoryError):
            return False
        finally:
            os.close(descriptor)
        return True

    def mark_opaque(self, path: Parts) -> bool:
        """Whether the file system takes the mark; the directory's times stay."""
        descriptor = self.directory(path)
        times = os.fstat(descriptor)
        try:
            os.setxattr(descriptor, self._opaque_mark, b"y")
        except OSError as error:
            if error.errno not in _NO_XATTRS:
                raise
            return False
        os.utime(descriptor, ns=(times.st_atime_ns, times.st_mtime_ns))
        return True

    def _create_special(self, path: Parts, entry: Entry) -> None:
        """Symlinks, FIFOs, devices: nothing that could be opened safely, so by name below the parent's descriptor."""
        name, parent = path[-1], self.directory(path[:-1])
        if entry.is_symlink:
            if not entry.link:
                raise UnacceptableError(f"malformed layer: symlink {entry.name!r} points nowhere")
            os.symlink(entry.link, name, dir_fd=parent)
        elif entry.is_fifo:
            os.mkfifo(name, entry.mode, dir_fd=parent)
        elif not self.makes_devices:
            self._skip("device")
            return
        else:
            kind = stat.S_IFCHR if entry.is_character_device else stat.S_IFBLK
            os.mknod(name, kind | entry.mode, os.makedev(*entry.device), dir_fd=parent)
        if self.owner != (entry.uid, entry.gid):
            if self.may_give_away:
                os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
                if not entry.is_symlink and entry.mode & 0o7000:
                    os.chmod(name, entry.mode, dir_fd=parent)
            else:
                self._skip("owner")
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _describe(self, descriptor: int, entry: Entry, mode: int) -> None:
        """Owner, mode (it has ``mode`` now) and xattrs of an open file or directory."""
        if self.owner != (entry.uid, entry.gid):
            if self.may_give_away:
                os.fchown(descriptor, entry.uid, entry.gid)
            else:
                self._skip("owner")
        if entry.mode != mode:
            os.fchmod(descriptor, entry.mode)  # after chown, which drops set-id bits
        for name, value in entry.xattrs.items():
            if _is_allowed(name):
                self._set_xattr(descriptor, entry, name, value)

    def _set_xattr(self, descriptor: int, entry: Entry, name: str, value: bytes) -> None:
        try:
            os.setxattr(descriptor, name, value)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ERANGE):
                raise UnacceptableError(f"malformed layer: {entry.name!r} has a bad xattr {name!r}") from error
            if error.errno not in _NO_XATTRS:
                raise
            if self.may_give_away and error.errno != errno.ENOTSUP:
                raise StorageError(
                    f"cannot set {name} of {entry.name!r}: {error.strerror}; put the store on ext4 or xfs"
                ) from error
            self._skip("xattr")

    def _skip(self, what: str) -> None:
        self.skipped[what] = self.skipped.get(what, 0) + 1


def _is_allowed(name: str) -> bool:
    """File capabilities and user attributes; never overlayfs' own marks, which a layer could forge."""
    if name == "security.capability":
        return True
    return name.startswith("user.") and not name.startswith("user.overlay.")


@contextmanager
def explained(directory: Path) -> Iterator[None]:
    """Maps the errors of the file system; the umask is 0 meanwhile."""
    umask = os.umask(0)
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ):
            raise UnacceptableError(f"layer has a name that this file system cannot hold: {error}") from error
        if error.errno == errno.EINVAL and not is_machine_root():
            raise StorageError(
                "a file of the layer has an owner that this user namespace does not map: "
                "give the user more ids in /etc/subuid and /etc/subgid"
            ) from error
        raise storage_error(f"extract a layer into {directory}", error) from error
    finally:
        os.umask(umask)
