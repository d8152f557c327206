"""Pins: what stays in the site whatever the quota says, by whom and why. They outlive the process. Blocking.

Layout: ``pins/<sha256 of owner and name>.json``. A pin names one digest, of a blob or of a manifest; of a manifest
everything that it refers to stays as well (``keeping``), what is here and what comes later.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from imagedist.errors import storage_error
from imagedist.oci.digest import Digest
from imagedist.store.ledger import Ledger

_LOG = logging.getLogger(__name__)


class Pin(BaseModel):
    """One owner's wish.

    Attributes:
        name: as it is listed and unpinned: ``upstream/repository:tag``, ``upstream/repository@digest``, or a digest.
        digest: what that meant when it was pinned.
        upstream, repository: where it can be fetched again; empty when nobody said.
        owner: who pinned it (``operator``, a preheat, …): one owner's unpinning leaves another's pin.
        created_at: seconds since the epoch.
    """

    model_config = ConfigDict(frozen=True)

    format: int = 1
    name: str
    digest: Digest
    upstream: str = ""
    repository: str = ""
    owner: str
    reason: str = ""
    created_at: float


class Pins:
    """The pins of one store; all processes of the site's host write and read them.

    Args:
        root: the store's. ledger: counts these files as well.
    """

    def __init__(self, root: Path, ledger: Ledger, *, clock: Callable[[], float] = time.time) -> None:
        self.directory = root / "pins"
        self._ledger = ledger
        self._clock = clock

    def put(
        self, name: str, digest: Digest, owner: str, reason: str, *, upstream: str = "", repository: str = ""
    ) -> Pin:
        """Pins; again moves the pin to what the name means now. On the disk when it returns.

        Raises:
            StorageError: it cannot be written.
        """
        pin = Pin(
            name=name,
            digest=digest,
            upstream=upstream,
            repository=repository,
            owner=owner,
            reason=reason,
            created_at=self._clock(),
        )
        self._ledger.write(self._path(owner, name), pin.model_dump_json().encode(), durable=True)
        return pin

    def drop(self, name: str, owner: str) -> bool:
        """Whether there was such a pin. Raises StorageError."""
        return self._ledger.unlink(self._path(owner, name)) > 0

    def all(self) -> list[Pin]:
        """By name and owner. One that cannot be read is told in the log, and pins nothing.

        Raises:
            StorageError: the directory cannot be read.
        """
        found = []
        try:
            for path in self.directory.glob("*.json"):
                try:
                    found.append(Pin.model_validate_json(path.read_bytes()))
                except FileNotFoundError:
                    continue
                except ValidationError:
                    _LOG.error("%s is no pin: what it pinned may be evicted; remove it and pin again", path)
        except OSError as error:
            raise storage_error(f"read {self.directory}", error) from error
        return sorted(found, key=lambda pin: (pin.name, pin.owner))

    def _path(self, owner: str, name: str) -> Path:
        key = hashlib.sha256(f"{owner}\n{name}".encode()).hexdigest()
        return self.directory / f"{key}.json"
