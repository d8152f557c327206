"""Manifests on disk: content-addressed bytes with their media type beside, and records of what tags meant. Blocking.

Layout: ``manifests/<algorithm>/<hex>`` and ``….json``; ``tags/<upstream>/<repository>/_tags/<tag>.json`` (no
repository component begins with ``_``), and ``_purged`` beside ``_tags``, replaced at every purge: what any process
learned from upstream before is not written any more, and not believed. Everything is written aside and renamed.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from imagedist.distribution.backend import ManifestAnswer
from imagedist.errors import InputError, storage_error
from imagedist.locking import locked
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import MANIFEST_LIMIT_BYTES
from imagedist.store.inventory import ALGORITHMS
from imagedist.store.ledger import Ledger

_TOUCH_SECONDS = 60.0


class _Described(BaseModel):
    format: int = 1
    media_type: str
    private_to: frozenset[str] | None = None


class KeptManifest(NamedTuple):
    """``private_to``: the private upstreams, or repositories of such, that are known to have it; None: everyone may
    have it."""

    answer: ManifestAnswer
    private_to: frozenset[str] | None


class TagRecord(BaseModel):
    """What a tag meant when the upstream was last asked. ``checked_at``: seconds since the epoch."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    digest: Digest
    media_type: str
    checked_at: float


_MAX_OWNERS = 256
"""Of one manifest. Who is not noted any more is asked about again."""

Generation = tuple[int, int]
"""Of a repository: inode and time of its last purge."""


class KeptTag(NamedTuple):
    """``record`` and ``manifest``: None where there is none. ``generation``: of the repository's last purge."""

    record: TagRecord | None
    manifest: KeptManifest | None
    generation: Generation


class ManifestFile(NamedTuple):
    """A manifest on the disk. ``paths``: the body first; one of the two is missing after a kill."""

    digest: Digest
    read_at: float
    size_bytes: int
    paths: tuple[Path, ...]


class TagFile(NamedTuple):
    """The record of a tag on the disk."""

    upstream: str
    repository: str
    tag: str
    digest: Digest
    checked_at: float
    size_bytes: int
    path: Path


class ManifestStore:
    """
    Args:
        ledger: of the store at ``root``, which counts these files as well.
    """

    def __init__(self, root: Path, ledger: Ledger) -> None:
        self._manifests = root / "manifests"
        self._tags = root / "tags"
        self._ledger = ledger

    def get(self, digest: Digest) -> KeptManifest | None:
        """None: not here, or damaged (a crash of the machine), which is as good as not here.

        Raises:
            StorageError: the disk failed.
        """
        path = self._path(digest)
        try:
            described = _Described.model_validate_json(path.with_name(f"{path.name}.json").read_bytes())
            with path.open("rb") as file:
                body = file.read(MANIFEST_LIMIT_BYTES + 1)
                _touch(file.fileno())
        except (FileNotFoundError, ValidationError):
            return None
        except OSError as error:
            raise storage_error(f"read manifest {digest}", error) from error
        if Digest.of(body, digest.algorithm) != digest:
            return None
        return KeptManifest(ManifestAnswer(digest, described.media_type, body), described.private_to)

    def body(self, digest: Digest) -> bytes | None:
        """A manifest's bytes, unchecked, and not marked as read. None: not here. Raises StorageError."""
        try:
            with self._path(digest).open("rb") as file:
                return file.read(MANIFEST_LIMIT_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(f"read manifest {digest}", error) from error

    def files(self) -> Iterator[ManifestFile]:
        """Every manifest on the disk. Raises StorageError."""
        for algorithm in ALGORITHMS:
            found: dict[str, dict[str, os.stat_result]] = {}
            for entry, status in _entries(self._manifests / algorithm):
                found.setdefault(entry.name.removesuffix(".json"), {})[entry.name] = status
            for name, statuses in found.items():
                with contextlib.suppress(InputError):
                    digest = Digest.parse(f"{algorithm}:{name}")
                    read_at = statuses[name].st_atime if name in statuses else statuses[f"{name}.json"].st_mtime
                    size_bytes = sum(status.st_size for status in statuses.values())
                    paths = tuple(self._manifests / algorithm / each for each in sorted(statuses))
                    yield ManifestFile(digest, read_at, size_bytes, paths)

    def tag_files(self) -> Iterator[TagFile]:
        """The record of every tag. Raises StorageError."""
        for directory, _, names in os.walk(self._tags):
            path = Path(directory)
            if path.name != "_tags":
                continue
            upstream, *repository = path.parent.relative_to(self._tags).parts
            for name in names:
                try:
                    content = (path / name).read_bytes()
                    record = TagRecord.model_validate_json(content)
                except (FileNotFoundError, ValidationError):
                    continue
                except OSError as error:
                    raise storage_error(f"read {path / name}", error) from error
                where = (upstream, "/".join(repository), name.removesuffix(".json"))
                yield TagFile(*where, record.digest, record.checked_at, len(content), path / name)

    def put(self, manifest: ManifestAnswer, owner: str | None) -> None:
        """The description first: a manifest that is there can be served.

        Args:
            owner: the private upstream, or repository of one, that has it; None: everyone may have it. That stays so.

        Raises:
            StorageError: the disk failed or is full.
        """
        kept = self.get(manifest.digest)
        if kept is not None and (kept.private_to is None or owner in kept.private_to):
            return
        others = kept.private_to or frozenset() if kept is not None else frozenset()
        noted = random.sample(sorted(others), min(len(others), _MAX_OWNERS - 1))
        private_to = None if owner is None else frozenset({*noted, owner})
        path = self._path(manifest.digest)
        described = _Described(media_type=manifest.media_type, private_to=private_to)
        self._ledger.write(path.with_name(f"{path.name}.json"), described.model_dump_json().encode())
        self._ledger.write(path, manifest.body)

    def get_tag(self, upstream: str, repository: str, tag: str) -> KeptTag:
        """What the tag meant when upstream was last asked, and the manifest if it is here. Raises StorageError."""
        generation = self.generation(upstream, repository)
        try:
            content = self._tag_path(upstream, repository, tag).read_bytes()
            record = TagRecord.model_validate_json(content)
        except (FileNotFoundError, ValidationError):
            return KeptTag(None, None, generation)
        except OSError as error:
            raise storage_error(f"read the record of tag {upstream}/{repository}:{tag}", error) from error
        return KeptTag(record, self.get(record.digest), generation)

    def put_tag(self, upstream: str, repository: str, tag: str, record: TagRecord, generation: Generation) -> None:
        """Nothing happens if the repository was purged since that generation. Raises StorageError."""
        with locked(self._tags / ".lock"):
            if self.generation(upstream, repository) == generation:
                self._ledger.write(self._tag_path(upstream, repository, tag), record.model_dump_json().encode())

    def drop_tag(self, upstream: str, repository: str, tag: str) -> bool:
        """Whether there was a record. Raises StorageError."""
        return self._ledger.unlink(self._tag_path(upstream, repository, tag)) > 0

    def generation(self, upstream: str, repository: str) -> Generation:
        """Changes with every purge. One stat."""
        try:
            status = (self._tags / upstream / repository / "_purged").stat()
        except FileNotFoundError:
            return 0, 0
        except OSError as error:
            raise storage_error(f"look up {upstream}/{repository}", error) from error
        return status.st_ino, status.st_mtime_ns

    def purge(self, upstream: str, repository: str, tag: str | None) -> int:
        """Forgets what a tag, or every tag of the repository, meant. Returns how many records there were.

        Raises:
            StorageError: the directory cannot be changed.
        """
        directory = self._tags / upstream / repository
        with locked(self._tags / ".lock"):
            self._ledger.write(directory / "_purged", f"{time.time_ns()}\n".encode(), durable=True)
            tags = [tag] if tag is not None else [path.stem for path in (directory / "_tags").glob("*.json")]
            return sum(self.drop_tag(upstream, repository, each) for each in tags)

    def _path(self, digest: Digest) -> Path:
        return self._manifests / digest.algorithm / digest.hex

    def _tag_path(self, upstream: str, repository: str, tag: str) -> Path:
        return self._tags / upstream / repository / "_tags" / f"{tag}.json"


def _entries(directory: Path) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    try:
        for entry in os.scandir(directory):
            with contextlib.suppress(FileNotFoundError):
                yield entry, entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError as error:
        raise storage_error(f"read {directory}", error) from error


def _touch(descriptor: int) -> None:
    """Marks a manifest as read, at most once a minute: only the order of eviction depends on it."""
    status = os.fstat(descriptor)
    if time.time() - status.st_atime > _TOUCH_SECONDS:
        with contextlib.suppress(OSError):
            os.utime(descriptor, ns=(time.time_ns(), status.st_mtime_ns))
