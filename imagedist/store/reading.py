"""How a blob is read while it may still be arriving: the one interface of server, decoder and tests."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class OpenBlob(Protocol):
    """One reader's view of a blob, committed or in flight.

    In flight, ``read`` gives bytes as they arrive, but never the last byte before size and digest
    were checked (design.md §4.1); pieces of the swarm are given only after their own hash matched.
    """

    @property
    def size_bytes(self) -> int: ...

    @property
    def path(self) -> Path | None:
        """The committed file, when there is one: it may be sent by ``sendfile``."""

    async def read(self, offset: int, limit_bytes: int) -> bytes:
        """At least one and at most ``limit_bytes`` bytes at ``offset``; waits for them. Empty only at the end.

        Raises:
            SourceError, IntegrityError, StorageError: the blob will not be completed.
        """

    async def close(self) -> None: ...
