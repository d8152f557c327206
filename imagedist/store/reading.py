"""How a blob is read while it may still be arriving: the one interface of server, decoder and tests."""

from __future__ import annotations

from io import FileIO
from typing import NamedTuple, Protocol


class Span(NamedTuple):
    """Where bytes lie that may be given away: ``file`` from the asked offset up to ``end``.

    Sent by ``sendfile`` a thousand readers of one arriving blob cost no memory; the position of the file is not
    used, so that readers may share it.
    """

    file: FileIO
    end: int


class OpenBlob(Protocol):
    """One reader's view of a blob, committed or in flight.

    In flight, bytes are given as they arrive, but never the last byte before size and digest were checked
    (design.md §4.1); pieces of the swarm are given only after their own hash matched. The last byte of a *part* of
    a blob is the caller's to hold back: ``wait_verified`` first, unless it ``is_verified``.
    """

    @property
    def size_bytes(self) -> int: ...

    @property
    def is_verified(self) -> bool:
        """Whether size and digest of the whole blob were checked."""

    async def span(self, offset: int) -> Span | None:
        """The file that has the bytes at ``offset``, once there are any. None: they are in no file, ``read`` them.

        Raises:
            SourceError, IntegrityError, StorageError: the blob will not be completed.
        """

    async def read(self, offset: int, limit_bytes: int) -> bytes:
        """At least one and at most ``limit_bytes`` bytes at ``offset``; waits for them. Empty only at the end.

        Raises as ``span``.
        """

    async def wait_verified(self) -> None:
        """Returns once it ``is_verified``. Raises as ``span``."""

    async def close(self) -> None: ...
