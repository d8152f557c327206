"""The directories of snapshots that are no layer of the store: ``snapshots/<id>/{fs,work}``, and their short names."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from imagedist.errors import storage_error
from imagedist.snapshotter.snapshot import Usage

_LOG = logging.getLogger(__name__)

_ASIDE, _GONE = "new-", "gone-"
_BLOCK_BYTES = 512  # of st_blocks


class Directories:
    """Each is made aside and renamed, and renamed before it is removed: none is ever half there under its id.

    Args:
        directory: where they are. links: where the committed ones have a short name, beside lent layers.
    """

    def __init__(self, directory: Path, links: Path) -> None:
        self.directory = directory
        self.links = links

    def prepare(self) -> None:
        """Raises StorageError: the disk failed."""
        with _mapped("prepare the directory of the snapshots"):
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def has_any(self) -> bool:
        """Whether snapshots lie here. Raises StorageError."""
        with _mapped("look at the directories of the snapshots"):
            return any(name.isdecimal() for name in os.listdir(self.directory))

    def at(self, number: int) -> Path:
        return self.directory / str(number)

    def link(self, number: int) -> Path:
        """The short name of a committed snapshot's ``fs``."""
        return self.links / str(number)

    def make(self, number: int, *, is_writable: bool, owner: tuple[int, int] | None) -> None:
        """An empty snapshot.

        Args:
            is_writable: it is active: overlayfs needs a work directory beside it.
            owner: of the root directory; None: root.

        Raises:
            StorageError: the disk failed; nothing is left.
        """
        aside = self.directory / f"{_ASIDE}{number}"
        with _mapped("make the directory of a snapshot"):
            try:
                aside.mkdir(mode=0o700)
                _make(aside / "fs", 0o755)
                if is_writable:
                    _make(aside / "work", 0o711)
                if owner is not None:
                    os.chown(aside / "fs", *owner)
                aside.rename(self.at(number))
            except OSError:
                shutil.rmtree(aside, ignore_errors=True)
                raise

    def publish(self, number: int) -> None:
        """Gives a snapshot that is being committed its short name; harmless when it has it."""
        with _mapped("name a committed snapshot"), contextlib.suppress(FileExistsError):
            self.link(number).symlink_to(f"../{self.directory.name}/{number}/fs")

    def discard(self, number: int) -> Path:
        """Takes a snapshot's directory and short name away; returns what is left to ``empty``."""
        gone = self.directory / f"{_GONE}{number}"
        with _mapped("remove the directory of a snapshot"):
            self.link(number).unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                self.at(number).rename(gone)
        return gone

    def empty(self, gone: Path) -> None:
        """Removes what ``discard`` took away. What cannot be removed now stays for the next cleaning."""
        try:
            shutil.rmtree(gone)
        except FileNotFoundError:
            pass
        except OSError as error:
            _LOG.warning("cannot remove %s yet: %s", gone, error.strerror)

    def strays(self, known: Collection[int]) -> list[Path]:
        """Takes away what belongs to no snapshot: killed processes left it. The caller lets nobody make any meanwhile.

        Returns:
            What is left to ``empty``.
        """
        found: list[Path] = []
        with _mapped("clean the directories of the snapshots"):
            for name in os.listdir(self.directory):
                if name.startswith((_ASIDE, _GONE)):
                    found.append(self.directory / name)
                elif name.isdecimal() and int(name) not in known:
                    found.append(self.discard(int(name)))
            for name in os.listdir(self.links):
                if name.isdecimal() and int(name) not in known:
                    (self.links / name).unlink(missing_ok=True)
        return found

    def usage(self, number: int) -> Usage:
        """Raises StorageError: it cannot be read, or is not there."""
        with _mapped("count the bytes of a snapshot"):
            return disk_usage(self.at(number) / "fs")


def owner_of(directory: Path) -> tuple[int, int]:
    """User and group. Raises StorageError: it is not there."""
    with _mapped("read a snapshot's owner"):
        status = directory.stat()
    return status.st_uid, status.st_gid


def disk_usage(root: Path) -> Usage:
    """What the file system has allocated for a directory with all it holds; a file with several names counts once.

    What vanishes meanwhile counts nothing. Raises OSError.
    """
    seen: set[tuple[int, int]] = set()
    size_bytes = 0
    status, todo = os.lstat(root), [os.fspath(root)]
    seen.add((status.st_dev, status.st_ino))
    size_bytes += status.st_blocks * _BLOCK_BYTES
    while todo:
        with contextlib.suppress(FileNotFoundError), os.scandir(todo.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                size_bytes += status.st_blocks * _BLOCK_BYTES
                if stat.S_ISDIR(status.st_mode):
                    todo.append(entry.path)
    return Usage(size_bytes, len(seen))


def _make(directory: Path, mode: int) -> None:
    """Whatever the process's umask is."""
    directory.mkdir()
    directory.chmod(mode)


@contextlib.contextmanager
def _mapped(action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(action, error) from error
