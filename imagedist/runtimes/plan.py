"""What would be written: every file read, every edit tried, before anything is touched."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagedist.errors import ConfigError, storage_error
from imagedist.runtimes.report import Edit, Found

_SIZE_LIMIT_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file to be replaced, or to be made if ``before`` is None.

    Attributes:
        keys: the runtimes it is for.
        needs_snapshotter: with it, they depend on ours.
    """

    path: Path
    before: bytes | None
    after: bytes
    keys: tuple[str, ...]
    needs_snapshotter: bool = False

    def diff(self) -> str:
        before, after = ((content or b"").decode().splitlines() for content in (self.before, self.after))
        lines = difflib.unified_diff(before, after, str(self.path), str(self.path), lineterm="", n=2)
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Plan:
    files: tuple[FileChange, ...]
    directories: tuple[tuple[Path, tuple[str, ...]], ...]
    """Missing ones, each with the runtimes that need it."""


def plan(founds: Sequence[Found], named: Container[str]) -> Plan:
    """All edits of these runtimes, several to one file as one change; files that are right already are left out.

    Args:
        named: keys of runtimes that the user named: only for these, what hides something is written.

    Raises:
        ConfigError: a file is malformed, of a kind that is not edited, or a symbolic link. StorageError: unreadable.
    """
    edits: dict[Path, list[tuple[str, Edit]]] = {}
    for found in founds:
        for edit in found.edits:
            if not edit.is_by_name_only or found.key in named:
                edits.setdefault(edit.path, []).append((found.key, edit))
    files = []
    for path, here in edits.items():
        before = read(path)
        after = _edited(path, before, [edit.change for _, edit in here])
        if after != before:
            keys = tuple(dict.fromkeys(key for key, _ in here))
            files.append(FileChange(path, before, after, keys, any(edit.is_snapshotters for _, edit in here)))
    missing: dict[Path, list[str]] = {}
    for found in founds:
        for directory in found.directories:
            if not directory.is_dir():
                missing.setdefault(directory, []).append(found.key)
    return Plan(tuple(files), tuple((directory, tuple(keys)) for directory, keys in missing.items()))


def read(path: Path) -> bytes | None:
    """A configuration file's content; None if there is none.

    Raises:
        ConfigError: a symbolic link or no file. StorageError: it cannot be read.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if path.is_symlink():
            target = os.readlink(path)
            raise ConfigError(
                f"{path} is a symbolic link to {target}: put a file in its place, or edit it by hand"
            ) from error
        raise storage_error(f"read {path}", error) from error
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _SIZE_LIMIT_BYTES:
            raise ConfigError(f"{path} is not a configuration file: it is no regular file, or larger than 4 MiB")
        with os.fdopen(file, "rb", closefd=False) as content:
            return content.read()
    except OSError as error:
        raise storage_error(f"read {path}", error) from error
    finally:
        os.close(file)


def _edited(path: Path, before: bytes | None, changes: Sequence[Callable[[str], str]]) -> bytes:
    try:
        text = (before or b"").decode()
        for change in changes:
            text = change(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text") from error
    except ConfigError as error:
        raise ConfigError(f"{path} {error}") from error
    return text.encode()
