"""Manifests on disk: content-addressed bytes with their media type beside, and records of what tags meant. Blocking.

Layout: ``manifests/<algorithm>/<hex>`` and ``….json``; ``tags/<upstream>/<repository>/_tags/<tag>.json`` (no
repository component begins with ``_``). Everything is written aside and renamed.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from imagedist.distribution.backend import ManifestAnswer
from imagedist.errors import storage_error
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import MANIFEST_LIMIT_BYTES
from imagedist.store.files import write_aside


class _Described(BaseModel):
    format: int = 1
    media_type: str
    private_to: frozenset[str] | None = None


class KeptManifest(NamedTuple):
    """``private_to``: the private upstreams that are known to have it; None: everyone may have it."""

    answer: ManifestAnswer
    private_to: frozenset[str] | None


class TagRecord(BaseModel):
    """What a tag meant when the upstream was last asked. ``checked_at``: seconds since the epoch."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    digest: Digest
    media_type: str
    checked_at: float


class ManifestStore:
    def __init__(self, root: Path) -> None:
        self._manifests = root / "manifests"
        self._tags = root / "tags"

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
        except (FileNotFoundError, ValidationError):
            return None
        except OSError as error:
            raise storage_error(f"read manifest {digest}", error) from error
        if Digest.of(body, digest.algorithm) != digest:
            return None
        return KeptManifest(ManifestAnswer(digest, described.media_type, body), described.private_to)

    def put(self, manifest: ManifestAnswer, private_upstream: str | None) -> None:
        """The description first: a manifest that is there can be served.

        Args:
            private_upstream: the upstream that has it, if a private one. What everyone may have stays so.

        Raises:
            StorageError: the disk failed or is full.
        """
        path = self._path(manifest.digest)
        private_to: frozenset[str] | None = None
        if private_upstream is not None:
            kept = self.get(manifest.digest)
            if kept is not None and kept.private_to is None:
                return
            private_to = (kept.private_to or frozenset() if kept else frozenset()) | {private_upstream}
        described = _Described(media_type=manifest.media_type, private_to=private_to)
        write_aside(path.with_name(f"{path.name}.json"), described.model_dump_json().encode())
        write_aside(path, manifest.body)

    def get_tag(self, upstream: str, repository: str, tag: str) -> TagRecord | None:
        try:
            return TagRecord.model_validate_json(self._tag_path(upstream, repository, tag).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        except OSError as error:
            raise storage_error(f"read the record of tag {upstream}/{repository}:{tag}", error) from error

    def put_tag(self, upstream: str, repository: str, tag: str, record: TagRecord) -> None:
        write_aside(self._tag_path(upstream, repository, tag), record.model_dump_json().encode())

    def _path(self, digest: Digest) -> Path:
        return self._manifests / digest.algorithm / digest.hex

    def _tag_path(self, upstream: str, repository: str, tag: str) -> Path:
        return self._tags / upstream / repository / "_tags" / f"{tag}.json"
